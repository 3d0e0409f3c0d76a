package hub

import (
	"slices"
	"strings"
	"time"
)

// rightsChanges are the latest changes of rights that this hub has carried out. A client
// whose request began before one of them may have been authenticated before it, and would
// keep the old rights. The history cannot tell: a disconnect is no record in a store that
// nodes do not share, and a record does not say when this hub came to it. Guarded by Hub.mu.
type rightsChanges struct {
	ring []rightsChange
	n    int // number of changes since the hub began; the last one is at n-1, modulo maxRightsChanges
}

// rightsChange is a disconnect or a change of topics.
type rightsChange struct {
	at     time.Time // when the hub began to carry it out
	filter Filter    // chooses the connections that it concerns
}

const (
	maxRightsChanges = 1000

	// maxRightsNames and maxRightsBytes bound the memory of a filter: one with more names, or
	// with more bytes in all names, is kept as one that chooses all connections.
	maxRightsNames = 100
	maxRightsBytes = 8 << 10

	// maxRightsChecks bounds the work for one request, which holds Hub.mu meanwhile. A unit
	// is the comparison of a topic, or of ten names: about half a microsecond.
	maxRightsChecks = 1000
)

// add remembers a change. The caller holds Hub.mu for writing, and searches for the
// connections that the change concerns after that. So a request either finds the change
// here or has become a connection that the search finds.
func (r *rightsChanges) add(f Filter) {
	lists := [...]*[]string{&f.IDs, &f.Users, &f.Sessions, &f.Topics}
	names, bytes := 0, 0
	for _, list := range lists {
		if names += len(*list); names > maxRightsNames {
			break
		}
		for _, name := range *list {
			bytes += len(name)
		}
	}
	if names > maxRightsNames || bytes > maxRightsBytes {
		f = Filter{}
	}
	for _, list := range lists { // a name may be a part of a long URL, and the caller may change the lists
		*list = slices.Clone(*list)
		for i, name := range *list {
			(*list)[i] = strings.Clone(name)
		}
	}
	change := rightsChange{time.Now(), f}
	if r.n < maxRightsChanges {
		r.ring = append(r.ring, change)
	} else {
		r.ring[r.n%maxRightsChanges] = change
	}
	r.n++
}

// concern reports whether a change since the request began concerns its client, or may
// do so: older changes are forgotten, and not all of very many are compared. The caller
// holds Hub.mu.
func (r *rightsChanges) concern(req Request) bool {
	if req.Began.IsZero() {
		return false
	}
	checks := 0
	for i := r.n - 1; i >= 0; i-- {
		if i < r.n-maxRightsChanges {
			return true
		}
		change := &r.ring[i%maxRightsChanges]
		if change.at.Before(req.Began) {
			return false
		}
		f := &change.filter
		checks += 1 + (len(f.Users)+len(f.Sessions))/10 + len(f.Topics)*len(req.Topics)
		if checks > maxRightsChecks || f.concerns(req) {
			return true
		}
	}
	return false
}

// concerns reports whether the filter would choose the connection of a request.
func (f *Filter) concerns(req Request) bool {
	fits := func(names []string, name string) bool {
		return len(names) == 0 || name != "" && slices.Contains(names, name)
	}
	return len(f.IDs) == 0 && fits(f.Users, req.User) && fits(f.Sessions, req.Session) &&
		(len(f.Topics) == 0 || slices.ContainsFunc(f.Topics, func(name string) bool {
			return slices.ContainsFunc(req.Topics, func(t Target) bool { return t.Matches(name) })
		}))
}
