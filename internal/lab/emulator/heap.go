package emulator

import "time"

// waiting is a frame that waits for its time.
type waiting struct {
	at   time.Duration
	seq  uint64 // keeps frames of the same time in order
	data *[]byte
	n    int
	vnet vnetHeader
}

// waitHeap is a binary heap, the earliest first. (container/heap would allocate
// for each packet.)
type waitHeap []waiting

func (h waitHeap) before(i, j int) bool {
	return h[i].at < h[j].at || h[i].at == h[j].at && h[i].seq < h[j].seq
}

func (h *waitHeap) push(w waiting) {
	*h = append(*h, w)
	s := *h
	for i := len(s) - 1; i > 0; {
		up := (i - 1) / 2
		if !s.before(i, up) {
			break
		}
		s[i], s[up] = s[up], s[i]
		i = up
	}
}

func (h *waitHeap) pop() waiting {
	s := *h
	top, n := s[0], len(s)-1
	s[0], s[n] = s[n], waiting{}
	s = s[:n]
	*h = s
	for i := 0; ; {
		small := i
		for _, c := range [2]int{2*i + 1, 2*i + 2} {
			if c < n && s.before(c, small) {
				small = c
			}
		}
		if small == i {
			return top
		}
		s[i], s[small] = s[small], s[i]
		i = small
	}
}
