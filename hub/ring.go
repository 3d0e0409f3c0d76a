package hub

// blockSize is the number of entries in a block.
const blockSize = 128

// ring has the entries of consecutive positions, in blocks. So it grows and shrinks without
// moving entries. Hub.mu guards it.
type ring struct {
	blocks []*[blockSize]entry
	first  uint64 // seq / blockSize of blocks[0]
}

// at returns the entry of a position, which must be retained. The pointer stays valid until
// drop. The caller holds Hub.mu.
func (r *ring) at(seq uint64) *entry {
	return &r.blocks[seq/blockSize-r.first][seq%blockSize]
}

// push adds an entry for seq, the position after the head, and returns it. The first seq of
// an empty ring may be any. The caller overwrites the entry. The caller holds Hub.mu for
// writing.
func (r *ring) push(seq uint64) *entry {
	if len(r.blocks) == 0 {
		r.first = seq / blockSize
	}
	if seq/blockSize-r.first == uint64(len(r.blocks)) {
		r.blocks = append(r.blocks, new([blockSize]entry))
	}
	return r.at(seq)
}

// drop clears and removes the entry of seq, which must be the oldest position. The caller
// holds Hub.mu for writing.
func (r *ring) drop(seq uint64) {
	*r.at(seq) = entry{}
	if seq%blockSize == blockSize-1 {
		r.blocks[0] = nil
		r.blocks = r.blocks[1:]
		r.first++
	}
}
