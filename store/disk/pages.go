package disk

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"io"

	"go.etcd.io/bbolt"
)

// pages checks that the pages of a file form trees. In those that do not, bbolt
// may never come to an end, and when it looks for free pages it panics in a
// goroutine of its own, which ends the process.
type pages struct {
	file     io.ReaderAt
	pageSize int64
	end      int64 // the first page that is not in use
	seen     map[int64]bool
}

// A page begins with its id, what it is, how many elements it has, and on how
// many more pages it goes on. Its elements follow, and then the keys.
const (
	pageHeader  = 16
	pageElement = 16
	branchPage  = 1
	leafPage    = 2
)

func newPages(file io.ReaderAt, pageSize int, size int64) *pages {
	return &pages{file, int64(pageSize), size / int64(pageSize), make(map[int64]bool)}
}

func (p *pages) check(bucket *bbolt.Bucket) error {
	root := int64(bucket.Root())
	if root == 0 { // so small that it is a part of another page
		return nil
	}
	_, err := p.tree(root, nil, nil)
	return err
}

// tree checks the tree below a page, whose keys must be from least on and less
// than bound, if that is not nil. It returns the last of them.
func (p *pages) tree(id int64, least, bound []byte) (last []byte, err error) {
	page, err := p.read(id)
	if err != nil {
		return nil, err
	}
	kind, count := binary.NativeEndian.Uint16(page[8:]), int(binary.NativeEndian.Uint16(page[10:]))
	keys, children := make([][]byte, count), make([]int64, count)
	for i := range count {
		at := pageHeader + i*pageElement
		if at+pageElement > len(page) {
			return nil, p.damaged(id)
		}
		element := page[at : at+pageElement]
		begin, size := binary.NativeEndian.Uint32(element), binary.NativeEndian.Uint32(element[4:])
		if kind == leafPage { // which has its flags first
			begin, size = binary.NativeEndian.Uint32(element[4:]), binary.NativeEndian.Uint32(element[8:])
		}
		from, to := int64(at)+int64(begin), int64(at)+int64(begin)+int64(size)
		if to > int64(len(page)) {
			return nil, p.damaged(id)
		}
		keys[i], children[i] = page[from:to], int64(binary.NativeEndian.Uint64(element[8:]))
	}
	last = least
	for i, key := range keys {
		order := bytes.Compare(key, last)
		if order < 0 || i > 0 && order == 0 || bound != nil && bytes.Compare(key, bound) >= 0 {
			return nil, p.damaged(id)
		}
		last = key
		if kind == branchPage {
			next := bound
			if i+1 < count {
				next = keys[i+1]
			}
			if last, err = p.tree(children[i], key, next); err != nil {
				return nil, err
			}
		}
	}
	return last, nil
}

// read reads a page that was not read before.
func (p *pages) read(id int64) ([]byte, error) {
	header := make([]byte, pageHeader)
	if id < 2 || id >= p.end {
		return nil, p.damaged(id)
	}
	if _, err := p.file.ReadAt(header, id*p.pageSize); err != nil {
		return nil, err
	}
	kind, n := binary.NativeEndian.Uint16(header[8:]), 1+int64(binary.NativeEndian.Uint32(header[12:]))
	if binary.NativeEndian.Uint64(header) != uint64(id) || kind != branchPage && kind != leafPage || id+n > p.end {
		return nil, p.damaged(id)
	}
	for i := range n {
		if p.seen[id+i] {
			return nil, p.damaged(id)
		}
		p.seen[id+i] = true
	}
	page := make([]byte, n*p.pageSize)
	_, err := p.file.ReadAt(page, id*p.pageSize)
	return page, err
}

func (*pages) damaged(id int64) error {
	return fmt.Errorf("%w: page %d makes no sense", errDamaged, id)
}
