package disk

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"hash/fnv"
	"io"
)

// headers are the two headers of a bbolt file. A transaction writes the one that
// is not in use, and it counts when that is complete.
type headers struct {
	pageSize int64
	raw      [2][headerSize]byte
}

const (
	headerSize     = 80 // 16 bytes of the page's own header, 64 of bbolt's, the last 8 its sum
	headerMagic    = 0xED0CDAED
	headerVersion  = 2
	noFreePageList = 1<<64 - 1
)

// readHeaders reads the headers of a file of which nothing is known.
func readHeaders(file io.ReaderAt) (headers, error) {
	var first [headerSize]byte
	n, err := file.ReadAt(first[:], 0)
	if err != nil && err != io.EOF {
		return headers{}, err
	}
	if valid(first[:]) {
		return headersAt(file, pageSizeOf(first[:]))
	}
	for size := int64(1 << 10); size <= 1<<24; size <<= 1 {
		if h, err := headersAt(file, size); err == nil && valid(h.raw[1][:]) && pageSizeOf(h.raw[1][:]) == size {
			return h, nil
		}
	}
	if !mayBeHeader(first[:n]) {
		return headers{}, errNoHistory
	}
	return headers{}, fmt.Errorf("%w: it has no header", errDamaged)
}

// mayBeHeader reports whether a file that begins like this may have been one of
// bbolt: all of it is there, but for a wrong byte, or all is zero.
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

func valid(raw []byte) bool {
	sum := fnv.New64a()
	sum.Write(raw[pageHeader : headerSize-8])
	return binary.NativeEndian.Uint32(raw[16:]) == headerMagic && sum.Sum64() == binary.NativeEndian.Uint64(raw[headerSize-8:])
}

func pageSizeOf(raw []byte) int64 { return int64(binary.NativeEndian.Uint32(raw[24:])) }

// intact reports whether both headers are valid. If one is not, its transaction
// is lost.
func (h *headers) intact() bool { return valid(h.raw[0][:]) && valid(h.raw[1][:]) }

// header is the header that counts.
type header struct {
	bucket []byte // of all others
	end    int64  // the first page that is not in use
	tx     uint64
}

// current returns the header that counts.
func (h *headers) current() (header, error) {
	a, b := h.raw[0][:], h.raw[1][:]
	if !valid(a) || valid(b) && txOf(b) > txOf(a) {
		a = b
	}
	if version := binary.NativeEndian.Uint32(a[20:]); version != headerVersion {
		return header{}, fmt.Errorf("%w of bbolt, %d; this is %d", errLater, version, headerVersion)
	}
	if txOf(a) > 1 && binary.NativeEndian.Uint64(a[48:]) != noFreePageList {
		return header{}, errNoHistory // this package writes no list of free pages
	}
	return header{
		bucket: bytes.Clone(a[32:48]),
		end:    int64(binary.NativeEndian.Uint64(a[56:])),
		tx:     txOf(a),
	}, nil
}

func txOf(raw []byte) uint64 { return binary.NativeEndian.Uint64(raw[64:]) }
