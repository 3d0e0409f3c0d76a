package caddysse

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/ea766355/caddy-sse/hub"
)

// The sentences of GET /sse/why.

// summarize writes a sentence for each row and one for the whole answer.
func (a *whyAnswer) summarize(who subject) {
	for i := range a.Answers {
		row := &a.Answers[i]
		row.Summary = a.describeRow(row)
	}
	a.State, a.Summary = a.verdict(who)
	if a.State == stateNoEvent { // the rows say nothing about an event that does not exist
		a.Answers = slices.DeleteFunc(a.Answers, func(row whyRow) bool { return row.Fate != fateNoAnswer })
		clear(a.Fates)
	}
	if n := a.Repeats; n > 0 {
		a.Summary += fmt.Sprintf(" It is also the answer to %s with the same key, the last one at %s, which stored nothing: "+
			"an event that is another one needs a key of its own.", countOf(n, "duplicate"), formatTime(a.Repeated))
	}
}

// verdict says what became of the event for the subject.
func (a *whyAnswer) verdict(who subject) (state, words string) {
	e := &a.Event
	state, words = a.verdictOnEvent()
	certain := state == stateNoEvent && e.Known != hub.KnownAhead && e.Known != hub.KnownEpoch
	if state == "" {
		state, words = a.verdictOnFates()
		certain = a.Fates[hub.FateDelivered]+a.Fates[hub.FatePending]+a.Fates[hub.FateBehind] > 0
	}
	if state == "" && a.isOnlyForOthers(who) {
		state, words = string(hub.FateNotAddressed), fmt.Sprintf("Not for %s: the event was for %s.", who, describeTargets(e))
		certain = true
	}
	if state == "" && a.Fates[hub.FateNotAddressed] > 0 {
		state, words = string(hub.FateNotAddressed), a.verdictNotAddressed(who)
	}
	if state == "" {
		state, words = a.verdictOnAbsence(who)
	}
	switch {
	case len(a.Missing) == 0:
	case !certain:
		return stateNoAnswer, fmt.Sprintf("Not known: %s. On the other nodes: %s", describeSilentNodes(a.Missing), words)
	default:
		words += fmt.Sprintf(" (%s.)", capitalize(describeSilentNodes(a.Missing)))
	}
	return state, words
}

// describeSilentNodes says which nodes do not answer.
func describeSilentNodes(nodes []string) string {
	if len(nodes) == 1 {
		return "node " + nodes[0] + " does not answer"
	}
	return "nodes " + strings.Join(nodes, ", ") + " do not answer"
}

// verdictOnEvent is the verdict if the event does not exist or is no longer in history, and
// empty otherwise.
func (a *whyAnswer) verdictOnEvent() (state, words string) {
	e := &a.Event
	head := a.Nodes[0].Head
	switch e.Known {
	case hub.KnownEpoch:
		return stateNoEvent, fmt.Sprintf("There is no event %s: it is of another epoch than the history, whose last position is %s. "+
			"The history was reset since then, as a history in memory is when Caddy starts, or the id is from another hub.", e.ID, head)
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
		return stateNoEvent, fmt.Sprintf("%s is not an event: it is a change of topics or an end of connections, or a record that cannot be read.", e.ID)
	case hub.KnownHole:
		return stateNoEvent, fmt.Sprintf("There is no event %s any more: the store has lost the record, and clients were told by sse.gap.", e.ID)
	case hub.KnownEvicted:
		return stateEvicted, a.describeEvicted()
	}
	return "", ""
}

// describeEvicted says why the event is no longer in history.
func (a *whyAnswer) describeEvicted() string {
	e := &a.Event
	words := fmt.Sprintf("Event %s is no longer in history, and no longer known: ", e.ID)
	switch e.Bound {
	case hub.BoundCount:
		words += "it was evicted by count, by " + formatTime(e.Evicted) + ". A larger `history` keeps more events."
	case hub.BoundSize:
		words += "it was evicted by size, by " + formatTime(e.Evicted) + ". A larger `history_size` keeps more."
	case hub.BoundAge:
		words += "it was evicted by age, by " + formatTime(e.Evicted) + ". A longer `history` keeps events longer."
	default:
		words += "what evicted it is not known, since that was long ago, or before this node began at " + formatTime(a.Nodes[0].Began) + "."
	}
	for _, row := range a.Answers {
		if row.Fate != fateNoAnswer {
			return words + " " + row.Summary
		}
	}
	return words
}

// fatesInWords are the fates of an event that was for an open connection, the best first.
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

// verdictOnFates is the verdict if the event was for an open connection of the subject, and
// empty otherwise.
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
			case i < 0: // the row did not fit into the answer of its node
				words = fmt.Sprintf("For %s the event is %s.", countOf(n, "connection"), f.words)
			case n == 1:
				words = a.Answers[i].Summary
			default:
				words = fmt.Sprintf("For %s the event is %s. The newest: %s", countOf(n, "connection"), f.words, a.Answers[i].Summary)
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

// isOnlyForOthers reports whether the event cannot be for the subject, whatever connections
// were open.
func (a *whyAnswer) isOnlyForOthers(who subject) bool {
	t := a.Event.Targets
	return len(t) > 0 && len(t) == a.Event.Count && !slices.ContainsFunc(t, func(t hub.TargetInfo) bool {
		return t.Kind != who.kind || t.Name == who.name
	})
}

// verdictNotAddressed is the verdict if the event was for none of the open connections.
func (a *whyAnswer) verdictNotAddressed(who subject) string {
	n := a.Fates[hub.FateNotAddressed]
	for _, row := range a.Answers {
		switch {
		case row.Fate == hub.FateNotAddressed && n == 1:
			return row.Summary
		case row.Fate == hub.FateNotAddressed:
			return fmt.Sprintf("For none of %s of %s that were open. The newest: %s", countOf(n, "connection"), who, row.Summary)
		}
	}
	return fmt.Sprintf("For none of %s of %s that were open: it was for %s.", countOf(n, "connection"), who, describeTargets(&a.Event))
}

// verdictOnAbsence is the verdict if the subject had no open connection.
func (a *whyAnswer) verdictOnAbsence(who subject) (state, words string) {
	e := &a.Event
	published := formatTime(e.Published)
	var came, refused, ended *whyRow // the latest row of each fate
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
			who, published, ended.Connection, ended.Reason, formatTime(ended.Ended))
	}
	if i := slices.IndexFunc(a.Nodes, func(n whyNode) bool { return n.Since.After(e.Published) }); i >= 0 {
		n := &a.Nodes[i]
		state = string(hub.FateUnknown)
		before = fmt.Sprintf("Not known: node %s started at %s, after the event was published at %s, and does not know who was connected then.",
			n.Node, formatTime(n.Began), published)
		if n.Since.After(n.Began) {
			before = fmt.Sprintf("Not known: node %s remembers no connections that ended before %s, and the event was published at %s.",
				n.Node, formatTime(n.Since), published)
		}
	}
	switch {
	case came != nil && (refused == nil || came.Since.After(refused.Since)):
		return state, before + " " + came.Summary
	case refused != nil:
		return string(hub.FateRefused), before + " " + refused.Summary
	case e.Known == hub.KnownExpired && state == stateNotConnected:
		return string(hub.FateExpired), before + " Nobody came for it before its ttl passed at " + formatTime(e.Expires) + "."
	}
	before += " Nobody has come since."
	if who.kind != "connection" {
		before += " A client that comes back with its position, or asks for `earliest`, gets what was for it."
	}
	return state, before
}

// describeRow says what became of the event for one connection.
func (a *whyAnswer) describeRow(row *whyRow) string {
	e := &a.Event
	conn := "connection " + row.Connection
	switch row.Fate {
	case fateNoAnswer:
		return fmt.Sprintf("Not known: node %s does not answer.", row.Node)
	case hub.FateDelivered:
		words := fmt.Sprintf("Delivered to %s: written to its socket by %s.", conn, formatTime(row.By))
		if row.Replayed {
			words = fmt.Sprintf("Delivered to %s, which came at %s with a position before the event: replayed, written to its socket by %s.",
				conn, formatTime(row.Since), formatTime(row.By))
		}
		if !row.Ended.IsZero() {
			words += fmt.Sprintf(" It ended (%s) at %s: what the client had not read by then, it gets when it comes back with its position.",
				row.Reason, formatTime(row.Ended))
		}
		return words
	case hub.FatePending:
		return fmt.Sprintf("Pending for %s, which lags by %s: its client does not read, or not fast enough. It is written as the client reads.",
			conn, countOf(row.Lag, "event"))
	case hub.FateBehind:
		return fmt.Sprintf("Pending for %s, whose node %s has not received the event yet.%s", conn, row.Node, a.describeHead(row.Node))
	case hub.FateReplaced:
		return fmt.Sprintf("Not sent to %s: replaced by %s, the newest of its slot, before it was written.", conn, orUnknown(e.Newer))
	case hub.FateExpired:
		return fmt.Sprintf("Not sent to %s: its ttl passed at %s, before it was written.", conn, formatTime(e.Expires))
	case hub.FateLost:
		return fmt.Sprintf("Perhaps lost to %s: something for it was evicted before it was written. The client is told by sse.gap, "+
			"and must reload what it shows.", conn)
	case hub.FateCut:
		return fmt.Sprintf("Not written, or not in whole, to %s, which ended (%s) at %s. A client that comes back with its position gets it.",
			conn, row.Reason, formatTime(row.Ended))
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
		return a.describeNotAddressed(row, conn)
	case hub.FateRefused:
		return fmt.Sprintf("A connection was refused (%s) at %s.%s", row.Reason, formatTime(row.Since), refusalRemedies[row.Reason])
	case hub.FateEndedEarlier:
		return fmt.Sprintf("The event came after %s, which ended (%s) at %s.", conn, row.Reason, formatTime(row.Ended))
	}
	return fmt.Sprintf("%s came at %s, after the event, %s", capitalize(conn), formatTime(row.Since), describeStart(row))
}

// refusalRemedies say what to do about a refusal.
var refusalRemedies = map[hub.Reason]string{
	hub.TooMany:        " The cap is `max_connections`, or the process was short of file descriptors.",
	hub.TooManyPerUser: " Close other connections of the user, or raise `max_connections_per_user`.",
	hub.TooManyPerAddr: " Close other connections from the address, or raise `max_connections_per_ip`.",
	hub.Starting:       " The history was not open yet, or behind the client's position.",
}

// describeStart says where the connection began, which was after the event.
func describeStart(row *whyRow) string {
	switch {
	case row.Gap != "":
		return fmt.Sprintf("with a position that could not be served in full: it was told by sse.gap (%s), and began at %s.", row.Gap, row.Start)
	case row.StartedFrom == hub.StartedFromState:
		return "for the newest state of each slot."
	case row.StartedFrom == hub.StartedFromHead:
		return "without a position: it began at the head. A client that sends Last-Event-ID gets what it missed; a page that was just opened must load it."
	case row.StartedFrom == hub.StartedFromEarliest:
		return "when history no longer had it."
	}
	return fmt.Sprintf("with the position %s, which is past the event: the client has had it, or said so.", row.Start)
}

// describeNotAddressed says why the event was not for the connection.
func (a *whyAnswer) describeNotAddressed(row *whyRow, conn string) string {
	e := &a.Event
	if e.Known == hub.KnownEvicted {
		return fmt.Sprintf("Not for %s, or over before it was evicted: nothing that was for it is lost from there on.", conn)
	}
	words := fmt.Sprintf("Not for %s: the event was for %s.", conn, describeTargets(e))
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

// describeHead says where the history of a node ends, and why it does not grow.
func (a *whyAnswer) describeHead(node string) string {
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

// describeTargets names the targets of an event.
func describeTargets(e *whyEvent) string {
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

// formatTime formats a time for people.
func formatTime(t time.Time) string { return t.UTC().Format("2006-01-02 15:04:05.000 UTC") }

func orUnknown(s string) string {
	if s == "" {
		return "a newer event"
	}
	return s
}

func capitalize(s string) string { return strings.ToUpper(s[:1]) + s[1:] }

// countOf formats a number of things.
func countOf(n int, thing string) string { return fmt.Sprintf("%d %s", n, plural(n, thing)) }

func plural(n int, thing string) string {
	if n == 1 {
		return thing
	}
	return thing + "s"
}
