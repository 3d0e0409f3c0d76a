package disk

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"hash/fnv"
	"io"
)

// headers are the two headers of a bbolt file. A transaction overwrites the older
// one. It is committed when that header is complete.
type headers struct {
	pageSize int64
	raw      [2][headerSize]byte
}

const (
	headerSize     = 80 // 16 bytes of page header, then 64 of bbolt's header; the last 8 are its checksum
	headerMagic    = 0xED0CDAED
	headerVersion  = 2
	noFreePageList = 1<<64 - 1
)

// readHeaders reads the headers of a file whose page size is not known.
func readHeaders(file io.ReaderAt) (headers, error) {
	var first [headerSize]byte
	n, err := file.ReadAt(first[:], 0)
	if err != nil && err != io.EOF {
		return headers{}, err
	}
	if isValid(first[:]) {
		return headersAt(file, pageSizeOf(first[:]))
	}
	for size := int64(1 << 10); size <= 1<<24; size <<= 1 {
		if h, err := headersAt(file, size); err == nil && isValid(h.raw[1][:]) && pageSizeOf(h.raw[1][:]) == size {
			return h, nil
		}
	}
	if !mayBeHeader(first[:n]) {
		return headers{}, errNoHistory
	}
	return headers{}, fmt.Errorf("%w: both headers are invalid", errDamaged)
}

// mayBeHeader reports whether the first bytes of a file can be those of a damaged
// bbolt file: they differ from a header in one byte at most, or all are zero.
func mayBeHeader(begin []byte) bool {
	header := binary.NativeEndian.AppendUint64(nil, 0)   // the page's id
	header = binary.NativeEndian.AppendUint16(header, 4) // its kind
	header = append(header, make([]byte, 6)...)
	header = binary.NativeEndian.AppendUint32(header, headerMagic)
	wrong, zero := 0, true
	for i, b := range begin[:min(len(begin), len(header))] {
		zero = zero && b == 0
		if b != header[i] {
			wrong++
		}
	}
	return zero || wrong <= 1
}

func headersAt(file io.ReaderAt, pageSize int64) (headers, error) {
	h := headers{pageSize: pageSize}
	if pageSize < 1<<10 || pageSize > 1<<24 {
		return h, errNoHistory
	}
	for i := range h.raw {
		if err := readAt(file, h.raw[i][:], int64(i)*pageSize); err != nil {
			return h, err
		}
	}
	return h, nil
}

// isValid reports whether a header has bbolt's magic number and a right checksum.
func isValid(raw []byte) bool {
	sum := fnv.New64a()
	sum.Write(raw[pageHeader : headerSize-8])
	return binary.NativeEndian.Uint32(raw[16:]) == headerMagic && sum.Sum64() == binary.NativeEndian.Uint64(raw[headerSize-8:])
}

func pageSizeOf(raw []byte) int64 { return int64(binary.NativeEndian.Uint32(raw[24:])) }

// intact reports whether both headers are valid. The transaction of an invalid header
// is lost.
func (h *headers) intact() bool { return isValid(h.raw[0][:]) && isValid(h.raw[1][:]) }

// header is the valid header of the latest transaction.
type header struct {
	bucket []byte // the root bucket, which has all others
	end    int64  // id of the first page beyond those in use
	tx     uint64
}

// current returns the valid header of the latest transaction.
func (h *headers) current() (header, error) {
	a, b := h.raw[0][:], h.raw[1][:]
	if !isValid(a) || isValid(b) && txOf(b) > txOf(a) {
		a = b
	}
	if version := binary.NativeEndian.Uint32(a[20:]); version != headerVersion {
		return header{}, fmt.Errorf("%w %d of the bbolt format (supported: %d)", errLater, version, headerVersion)
	}
	if txOf(a) > 1 && binary.NativeEndian.Uint64(a[48:]) != noFreePageList {
		return header{}, errNoHistory // only other programs write a list of free pages
	}
	return header{
		bucket: bytes.Clone(a[32:48]),
		end:    int64(binary.NativeEndian.Uint64(a[56:])),
		tx:     txOf(a),
	}, nil
}

// follows reports whether one transaction made h of before: it overwrote the older header,
// and left the other as it was.
func (h *headers) follows(before *headers) bool {
	newer := 0
	if a, b := before.raw[0][:], before.raw[1][:]; !isValid(a) || isValid(b) && txOf(b) > txOf(a) {
		newer = 1
	}
	return h.raw[newer] == before.raw[newer]
}

func txOf(raw []byte) uint64 { return binary.NativeEndian.Uint64(raw[64:]) }
