package disk

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
)

// pages reads the trees of a bbolt file and checks every page of them. bbolt itself
// may loop for ever in pages that form no tree. When it looks for free pages, it panics
// in a goroutine of its own, which ends the process.
type pages struct {
	file     io.ReaderAt
	pageSize int64
	end      int64 // id of the first page beyond those in use
	seen     map[int64]bool
}

// A page begins with its id, its kind, the number of its elements, and the number of
// its overflow pages. The elements follow, then their keys and values.
const (
	pageHeader  = 16
	pageElement = 16
	branchPage  = 1
	leafPage    = 2

	bucketHeader  = 16 // id of the bucket's root page, and its sequence
	bucketElement = 1  // flag: the value of this element is a bucket
)

// leaf is an element of a leaf page.
type leaf struct {
	bucket     bool
	key, value []byte
}

func newPages(file io.ReaderAt, pageSize, end int64) *pages {
	return &pages{file, pageSize, end, make(map[int64]bool)}
}

// bucket visits the elements of a bucket in order. stored is the bucket's value in its
// parent.
func (p *pages) bucket(stored []byte, visit func(leaf) error) error {
	if len(stored) < bucketHeader {
		return fmt.Errorf("%w: the header of a bucket is too short", errDamaged)
	}
	root := int64(binary.NativeEndian.Uint64(stored))
	if root != 0 {
		_, err := p.tree(root, nil, nil, visit)
		return err
	}
	inline := stored[bucketHeader:] // a small bucket is stored in its parent's page
	if len(inline) < pageHeader || binary.NativeEndian.Uint16(inline[8:]) != leafPage {
		return p.damaged(0)
	}
	_, err := p.page(0, inline, nil, nil, visit)
	return err
}

// tree visits the tree below a page and returns its last key. The keys must be at least
// least, and less than bound unless bound is nil.
func (p *pages) tree(id int64, least, bound []byte, visit func(leaf) error) (last []byte, err error) {
	page, err := p.read(id)
	if err != nil {
		return nil, err
	}
	return p.page(id, page, least, bound, visit)
}

// page is tree for a page that was read.
func (p *pages) page(id int64, page, least, bound []byte, visit func(leaf) error) (last []byte, err error) {
	kind, count := binary.NativeEndian.Uint16(page[8:]), int(binary.NativeEndian.Uint16(page[10:]))
	elements := make([]leaf, count)
	children := make([]int64, count)
	for i := range count {
		at := pageHeader + i*pageElement
		if at+pageElement > len(page) {
			return nil, p.damaged(id)
		}
		element := page[at : at+pageElement]
		// Element of a branch: begin and size of the key, id of the child page.
		// Element of a leaf: flags, begin and size of the key, size of the value, which
		// follows the key.
		var begin, size, value uint32
		if kind == leafPage {
			elements[i].bucket = binary.NativeEndian.Uint32(element)&bucketElement != 0
			begin, size = binary.NativeEndian.Uint32(element[4:]), binary.NativeEndian.Uint32(element[8:])
			value = binary.NativeEndian.Uint32(element[12:])
		} else {
			begin, size = binary.NativeEndian.Uint32(element), binary.NativeEndian.Uint32(element[4:])
			children[i] = int64(binary.NativeEndian.Uint64(element[8:]))
		}
		from := int64(at) + int64(begin)
		middle := from + int64(size)
		to := middle + int64(value)
		if to > int64(len(page)) {
			return nil, p.damaged(id)
		}
		elements[i].key, elements[i].value = page[from:middle:middle], page[middle:to:to]
	}
	if kind == branchPage && count == 0 {
		return nil, p.damaged(id)
	}
	last = least
	for i, e := range elements {
		order := bytes.Compare(e.key, last)
		if order < 0 || i > 0 && order == 0 || bound != nil && bytes.Compare(e.key, bound) >= 0 {
			return nil, p.damaged(id)
		}
		last = e.key
		if kind == leafPage {
			err = visit(e)
		} else {
			next := bound
			if i+1 < count {
				next = elements[i+1].key
			}
			last, err = p.tree(children[i], e.key, next, visit)
		}
		if err != nil {
			return nil, err
		}
	}
	return last, nil
}

// read reads a page with its overflow pages. A page that was read before is damage.
func (p *pages) read(id int64) ([]byte, error) {
	header := make([]byte, pageHeader)
	if id < 2 || id >= p.end {
		return nil, p.damaged(id)
	}
	if err := readAt(p.file, header, id*p.pageSize); err != nil {
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
	return page, readAt(p.file, page, id*p.pageSize)
}

// readAt fills buf. It returns errDamaged if the file ends too early.
func readAt(file io.ReaderAt, buf []byte, offset int64) error {
	_, err := file.ReadAt(buf, offset)
	if err == io.EOF {
		return fmt.Errorf("%w: it ends too early, in the block at offset %d", errDamaged, offset)
	}
	return err
}

func (*pages) damaged(id int64) error {
	return fmt.Errorf("%w: page %d is invalid", errDamaged, id)
}
