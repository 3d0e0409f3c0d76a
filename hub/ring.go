package hub

// blockSize is the number of entries in a block.
const blockSize = 128

// ring has the entries of consecutive positions, in blocks. So it grows and shrinks
// without moving entries. It is guarded by Hub.mu.
type ring struct {
	blocks []*[blockSize]entry
	first  uint64 // seq / blockSize of blocks[0]
}

// at returns the entry of a position, which must be retained.
func (r *ring) at(seq uint64) *entry {
	return &r.blocks[seq/blockSize-r.first][seq%blockSize]
}

// push adds an entry for the position after the head.
func (r *ring) push(seq uint64) *entry {
	if len(r.blocks) == 0 {
		r.first = seq / blockSize
	}
	if seq/blockSize-r.first == uint64(len(r.blocks)) {
		r.blocks = append(r.blocks, new([blockSize]entry))
	}
	return r.at(seq)
}

// drop removes the entry of the oldest position.
func (r *ring) drop(seq uint64) {
	*r.at(seq) = entry{}
	if seq%blockSize == blockSize-1 {
		r.blocks[0] = nil
		r.blocks = r.blocks[1:]
		r.first++
	}
}
