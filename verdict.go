package caddysse

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/ea766355/caddy-sse/hub"
)

// What GET /sse/why says in words.

// conclude finds the words: for each row, and then for all of them.
func (a *whyAnswer) conclude(who subject) {
	for i := range a.Answers {
		row := &a.Answers[i]
		row.Summary = a.wordsFor(row)
	}
	a.State, a.Summary = a.verdict(who)
	if a.State == stateNoEvent { // so nobody waits for it
		a.Answers = slices.DeleteFunc(a.Answers, func(row whyRow) bool { return row.Fate != fateNoAnswer })
		clear(a.Fates)
	}
	if n := a.Repeats; n > 0 {
		a.Summary += fmt.Sprintf(" It is also the answer to %s with the same key, the last one at %s, which stored nothing: "+
			"an event that is another one needs a key of its own.", counted(n, "duplicate"), clock(a.Repeated))
	}
}

// verdict is what became of the event for who is asked about.
func (a *whyAnswer) verdict(who subject) (state, words string) {
	e := &a.Event
	state, words = a.verdictOnEvent()
	certain := state == stateNoEvent && e.Known != hub.KnownAhead && e.Known != hub.KnownEpoch
	if state == "" {
		state, words = a.verdictOnFates()
		certain = a.Fates[hub.FateDelivered]+a.Fates[hub.FatePending]+a.Fates[hub.FateBehind] > 0
	}
	if state == "" && a.isForOthers(who) {
		state, words = string(hub.FateNotAddressed), fmt.Sprintf("Not for %s: the event was for %s.", who, audience(e))
		certain = true
	}
	if state == "" && a.Fates[hub.FateNotAddressed] > 0 {
		state, words = string(hub.FateNotAddressed), a.notAddressed(who)
	}
	if state == "" {
		state, words = a.absence(who)
	}
	switch {
	case len(a.Missing) == 0:
	case !certain:
		return stateNoAnswer, fmt.Sprintf("Not known: %s. On the other nodes: %s", silent(a.Missing), words)
	default:
		words += fmt.Sprintf(" (%s.)", capital(silent(a.Missing)))
	}
	return state, words
}

// silent says which nodes do not answer.
func silent(nodes []string) string {
	if len(nodes) == 1 {
		return "node " + nodes[0] + " does not answer"
	}
	return "nodes " + strings.Join(nodes, ", ") + " do not answer"
}

// verdictOnEvent is for what is no event any more, or never was.
func (a *whyAnswer) verdictOnEvent() (state, words string) {
	e := &a.Event
	head := a.Nodes[0].Head
	switch e.Known {
	case hub.KnownEpoch:
		return stateNoEvent, fmt.Sprintf("There is no event %s: it is of another epoch than the history, whose last position is %s. "+
			"The history began anew since, as one in memory does when Caddy starts, or the id is from another hub.", e.ID, head)
	case hub.KnownEnded:
		return stateNoEvent, fmt.Sprintf("There is no event %s any more: its epoch has ended, and clients were told by sse.gap. "+
			"The last position now is %s.", e.ID, head)
	case hub.KnownAhead:
		for _, n := range a.Nodes {
			if n.Problem != "" {
				return string(hub.FateUnknown), fmt.Sprintf("Not known: node %s does not reach its store (%s), and its history ends at %s, before the event.",
					n.Node, n.Problem, n.Head)
			}
		}
		return stateNoEvent, fmt.Sprintf("There is no event %s: it was never published here. The last position is %s.", e.ID, head)
	case hub.KnownOther:
		return stateNoEvent, fmt.Sprintf("There is no event %s: another record has its place, so the store was put back to an earlier state, "+
			"or the id was changed.", e.ID)
	case hub.KnownStart:
		return stateNoEvent, fmt.Sprintf("There is no event %s: it is the beginning of the history.", e.ID)
	case hub.KnownCommand:
		return stateNoEvent, fmt.Sprintf("%s is no event: it is a change of topics or an end of connections, or a record that cannot be read.", e.ID)
	case hub.KnownHole:
		return stateNoEvent, fmt.Sprintf("There is no event %s any more: the store has lost the record, and clients were told by sse.gap.", e.ID)
	case hub.KnownEvicted:
		return stateEvicted, a.evicted()
	}
	return "", ""
}

// evicted is for an event that has left the history.
func (a *whyAnswer) evicted() string {
	e := &a.Event
	words := fmt.Sprintf("Event %s is no longer in history, and no longer known: ", e.ID)
	switch e.Bound {
	case hub.BoundCount:
		words += "it was evicted by count, by " + clock(e.Evicted) + ". A larger `history` keeps more events."
	case hub.BoundSize:
		words += "it was evicted by size, by " + clock(e.Evicted) + ". A larger `history_size` keeps more."
	case hub.BoundAge:
		words += "it was evicted by age, by " + clock(e.Evicted) + ". A longer `history` keeps events longer."
	default:
		words += "what evicted it is not known, since that was long ago, or before this node began at " + clock(a.Nodes[0].Began) + "."
	}
	for _, row := range a.Answers {
		if row.Fate != fateNoAnswer {
			return words + " " + row.Summary
		}
	}
	return words
}

// fatesInWords are the fates of an event that was for somebody, the best first.
var fatesInWords = []struct {
	fate  hub.Fate
	words string
}{
	{hub.FateDelivered, "delivered"},
	{hub.FatePending, "still to be written"},
	{hub.FateBehind, "not yet received by the node"},
	{hub.FateReplaced, "replaced by a newer one of its slot"},
	{hub.FateExpired, "over before it was written, by its ttl"},
	{hub.FateLost, "evicted before it was written"},
	{hub.FateCut, "not written when the connection ended"},
	{hub.FateUnknown, "for the connection, and perhaps written"},
}

// verdictOnFates is for an event that was for somebody who was there.
func (a *whyAnswer) verdictOnFates() (state, words string) {
	var others []string
	for _, f := range fatesInWords {
		switch n := a.Fates[f.fate]; {
		case n == 0:
		case state != "":
			others = append(others, fmt.Sprintf("For %d %s it is %s.", n, plural(n, "other"), f.words))
		default:
			state = string(f.fate)
			i := slices.IndexFunc(a.Answers, func(row whyRow) bool { return row.Fate == f.fate })
			switch {
			case i < 0: // it did not fit into the answer of its node
				words = fmt.Sprintf("For %s the event is %s.", counted(n, "connection"), f.words)
			case n == 1:
				words = a.Answers[i].Summary
			default:
				words = fmt.Sprintf("For %s the event is %s. The newest: %s", counted(n, "connection"), f.words, a.Answers[i].Summary)
			}
		}
	}
	if others != nil {
		words += " " + strings.Join(others, " ")
	}
	if n := a.Fates[hub.FateRefused]; n > 0 && state != "" {
		i := slices.IndexFunc(a.Answers, func(row whyRow) bool { return row.Fate == hub.FateRefused })
		if i >= 0 {
			words += " " + a.Answers[i].Summary
		}
	}
	return state, words
}

// isForOthers reports whether the event could not be for who is asked about, whatever
// connections there were.
func (a *whyAnswer) isForOthers(who subject) bool {
	t := a.Event.Targets
	return len(t) > 0 && len(t) == a.Event.Count && !slices.ContainsFunc(t, func(t hub.TargetInfo) bool {
		return t.Kind != who.kind || t.Name == who.name
	})
}

// notAddressed is for an event that was for none of the connections that were there.
func (a *whyAnswer) notAddressed(who subject) string {
	n := a.Fates[hub.FateNotAddressed]
	for _, row := range a.Answers {
		switch {
		case row.Fate == hub.FateNotAddressed && n == 1:
			return row.Summary
		case row.Fate == hub.FateNotAddressed:
			return fmt.Sprintf("For none of %s of %s that were open. The newest: %s", counted(n, "connection"), who, row.Summary)
		}
	}
	return fmt.Sprintf("For none of %s of %s that were open: it was for %s.", counted(n, "connection"), who, audience(&a.Event))
}

// absence is for an event that nobody was there for.
func (a *whyAnswer) absence(who subject) (state, words string) {
	e := &a.Event
	published := clock(e.Published)
	var came, refused, ended *whyRow // the last of each
	for i := range a.Answers {
		for _, last := range []struct {
			row  **whyRow
			fate hub.Fate
		}{{&came, hub.FateCameLater}, {&refused, hub.FateRefused}, {&ended, hub.FateEndedEarlier}} {
			if a.Answers[i].Fate == last.fate && *last.row == nil {
				*last.row = &a.Answers[i]
			}
		}
	}
	state = stateNotConnected
	before := fmt.Sprintf("Nobody was connected as %s when it was published at %s.", who, published)
	if ended != nil {
		before = fmt.Sprintf("Nobody was connected as %s when it was published at %s: connection %s had ended (%s) at %s.",
			who, published, ended.Connection, ended.Reason, clock(ended.Ended))
	}
	if i := slices.IndexFunc(a.Nodes, func(n whyNode) bool { return n.Since.After(e.Published) }); i >= 0 {
		n := &a.Nodes[i]
		state = string(hub.FateUnknown)
		before = fmt.Sprintf("Not known: node %s started at %s, after the event was published at %s, and does not know who was connected then.",
			n.Node, clock(n.Began), published)
		if n.Since.After(n.Began) {
			before = fmt.Sprintf("Not known: node %s remembers no connections that ended before %s, and the event was published at %s.",
				n.Node, clock(n.Since), published)
		}
	}
	switch {
	case came != nil && (refused == nil || came.Since.After(refused.Since)):
		return state, before + " " + came.Summary
	case refused != nil:
		return string(hub.FateRefused), before + " " + refused.Summary
	case e.Known == hub.KnownExpired && state == stateNotConnected:
		return string(hub.FateExpired), before + " Nobody came for it before its ttl passed at " + clock(e.Expires) + "."
	}
	before += " Nobody has come since."
	if who.kind != "connection" {
		before += " A client that comes back with its position, or asks for `earliest`, gets what was for it."
	}
	return state, before
}

// wordsFor is what became of the event for one connection.
func (a *whyAnswer) wordsFor(row *whyRow) string {
	e := &a.Event
	conn := "connection " + row.Connection
	switch row.Fate {
	case fateNoAnswer:
		return fmt.Sprintf("Not known: node %s does not answer.", row.Node)
	case hub.FateDelivered:
		words := fmt.Sprintf("Delivered to %s: written to its socket by %s.", conn, clock(row.By))
		if row.Replayed {
			words = fmt.Sprintf("Delivered to %s, which came at %s with a position before the event: replayed, written to its socket by %s.",
				conn, clock(row.Since), clock(row.By))
		}
		if !row.Ended.IsZero() {
			words += fmt.Sprintf(" It ended (%s) at %s: what the client had not read by then, it gets when it comes back with its position.",
				row.Reason, clock(row.Ended))
		}
		return words
	case hub.FatePending:
		return fmt.Sprintf("Pending for %s, which lags by %s: its client does not read, or not fast enough. It is written as the client reads.",
			conn, counted(row.Lag, "event"))
	case hub.FateBehind:
		return fmt.Sprintf("Pending for %s, whose node %s has not received the event yet.%s", conn, row.Node, a.headOf(row.Node))
	case hub.FateReplaced:
		return fmt.Sprintf("Not sent to %s: replaced by %s, the newest of its slot, before it was written.", conn, orUnknown(e.Newer))
	case hub.FateExpired:
		return fmt.Sprintf("Not sent to %s: its ttl passed at %s, before it was written.", conn, clock(e.Expires))
	case hub.FateLost:
		return fmt.Sprintf("Perhaps lost to %s: something for it was evicted before it was written. The client is told by sse.gap, "+
			"and must load anew what it shows.", conn)
	case hub.FateCut:
		return fmt.Sprintf("Not written, or not in whole, to %s, which ended (%s) at %s. A client that comes back with its position gets it.",
			conn, row.Reason, clock(row.Ended))
	case hub.FateUnknown:
		if row.Removed != "" {
			return fmt.Sprintf("Not known for %s: the topic was removed from it at %s, after the event, which may have been written by then.", conn, row.Removed)
		}
		words := fmt.Sprintf("Not known for %s: it is past the event, which was written before it was %s, or not at all.", conn, e.Known)
		if e.Newer != "" {
			words += fmt.Sprintf(" It gets the newest of the slot, %s.", e.Newer)
		}
		return words
	case hub.FatePassed:
		return fmt.Sprintf("For %s all that was for it is written, up to %s: if the event was for it and not over, that is written too.", conn, row.Position)
	case hub.FateNotAddressed:
		return a.wordsForOther(row, conn)
	case hub.FateRefused:
		return fmt.Sprintf("A connection was refused (%s) at %s.%s", row.Reason, clock(row.Since), remedies[row.Reason])
	case hub.FateEndedEarlier:
		return fmt.Sprintf("The event came after %s, which ended (%s) at %s.", conn, row.Reason, clock(row.Ended))
	}
	return fmt.Sprintf("%s came at %s, after the event, %s", capital(conn), clock(row.Since), cameInWords(row))
}

// remedies are what to do about a refusal.
var remedies = map[hub.Reason]string{
	hub.TooMany:        " The cap is `max_connections`, or the process was short of file descriptors.",
	hub.TooManyPerUser: " Close other connections of the user, or raise `max_connections_per_user`.",
	hub.TooManyPerAddr: " Close other connections from the address, or raise `max_connections_per_ip`.",
	hub.Starting:       " The history was not open yet, or behind the client's position.",
}

func cameInWords(row *whyRow) string {
	switch {
	case row.Gap != "":
		return fmt.Sprintf("with a position that could not be served in full: it was told by sse.gap (%s), and began at %s.", row.Gap, row.Start)
	case row.StartedFrom == hub.StartedFromState:
		return "for the newest state of each slot."
	case row.StartedFrom == hub.StartedFromHead:
		return "without a position: it began at the head. A client that sends Last-Event-ID gets what it missed; a page opened anew must load it."
	case row.StartedFrom == hub.StartedFromEarliest:
		return "when history no longer had it."
	}
	return fmt.Sprintf("with the position %s, which is past the event: the client has had it, or said so.", row.Start)
}

// wordsForOther is for an event that was not for the connection.
func (a *whyAnswer) wordsForOther(row *whyRow, conn string) string {
	e := &a.Event
	if e.Known == hub.KnownEvicted {
		return fmt.Sprintf("Not for %s, or over before it was evicted: nothing that was for it is lost from there on.", conn)
	}
	words := fmt.Sprintf("Not for %s: the event was for %s.", conn, audience(e))
	if !slices.ContainsFunc(e.Targets, func(t hub.TargetInfo) bool { return t.Kind == "topic" }) {
		return words
	}
	switch {
	case row.Added != "":
		return words + fmt.Sprintf(" It was given that topic at %s, after the event.", row.Added)
	case row.Removed != "":
		return words + fmt.Sprintf(" That topic was removed from it at %s.", row.Removed)
	case len(row.Topics) == 0:
		return words + " It has no topics."
	}
	return words + " It has the topics " + strings.Join(row.Topics, ", ") + "."
}

// headOf says where the history of a node ends, and what keeps it there.
func (a *whyAnswer) headOf(node string) string {
	for _, n := range a.Nodes {
		if n.Node == node && n.Problem != "" {
			return fmt.Sprintf(" Its history ends at %s, and it does not reach its store: %s.", n.Head, n.Problem)
		}
		if n.Node == node {
			return fmt.Sprintf(" Its history ends at %s.", n.Head)
		}
	}
	return ""
}

func (who subject) String() string {
	if who.kind == "user" {
		return fmt.Sprintf("user %q", who.name)
	}
	return who.kind + " " + who.name
}

// audience is whom an event was for.
func audience(e *whyEvent) string {
	var names []string
	for _, t := range e.Targets {
		if t.Kind == "all" {
			return "everybody"
		}
		names = append(names, fmt.Sprintf("%s %q", t.Kind, t.Name))
	}
	if more := e.Count - len(names); more > 0 {
		return fmt.Sprintf("%s and %d more", strings.Join(names, ", "), more)
	}
	return strings.Join(names, ", ")
}

// clock is a time as people read it.
func clock(t time.Time) string { return t.UTC().Format("2006-01-02 15:04:05.000 UTC") }

func orUnknown(s string) string {
	if s == "" {
		return "a newer event"
	}
	return s
}

func capital(s string) string { return strings.ToUpper(s[:1]) + s[1:] }

// counted is a number of things.
func counted(n int, thing string) string { return fmt.Sprintf("%d %s", n, plural(n, thing)) }

func plural(n int, thing string) string {
	if n == 1 {
		return thing
	}
	return thing + "s"
}
