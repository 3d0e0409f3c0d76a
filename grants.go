package caddysse

import (
	"encoding/json"
	"fmt"
	"strings"
	"unicode"

	"github.com/caddyserver/caddy/v2"
	"go.uber.org/zap"

	"github.com/ea766355/caddy-sse/hub"
)

// maxGrants is how many topics one client may be granted.
const maxGrants = 1000

// grantedTopics are those that the app gives to this client.
func (h *Handler) grantedTopics(repl *caddy.Replacer) ([]hub.Target, error) {
	if h.Grants == "" {
		return nil, nil
	}
	list, _ := fill(repl, h.Grants) // an empty placeholder grants nothing
	names, err := splitList(list)
	if err != nil {
		return nil, fmt.Errorf("grants: %w", err)
	}
	if len(names) > maxGrants {
		return nil, fmt.Errorf("grants: %d topics, at most %d are allowed: let the client ask for those that it shows, or use patterns in topics", len(names), maxGrants)
	}
	granted := make([]hub.Target, len(names))
	for i, name := range names {
		if err := exactTopic(name); err != nil {
			return nil, fmt.Errorf("grants: topic %d%s: %w", i+1, shown(name), err)
		}
		granted[i] = hub.Target{Kind: hub.Topic, Name: strings.Clone(name)}
	}
	return granted, nil
}

// splitList reads a list that is separated by commas or spaces, or a JSON array of
// strings.
func splitList(list string) (names []string, err error) {
	list = strings.TrimSpace(list)
	if strings.HasPrefix(list, "[") {
		if err := json.Unmarshal([]byte(list), &names); err != nil {
			return nil, fmt.Errorf("the value begins with [ and is no JSON array of strings: %w", err)
		}
		return names, nil
	}
	return strings.FieldsFunc(list, func(r rune) bool { return r == ',' || unicode.IsSpace(r) }), nil
}

// looksLikeList reports whether the value of a placeholder is more than one name.
func looksLikeList(s string) bool { return strings.HasPrefix(s, "[") || strings.ContainsAny(s, ", ") }

// warnOfList says once that a placeholder of topics is taken for one name.
func (h *Handler) warnOfList(placeholder string) {
	h.warned.Do(func() {
		h.logger.Warn("a placeholder of topics holds what looks like a list, and is taken for one name: use the option grants for lists",
			zap.String("placeholder", "{"+placeholder+"}"))
	})
}
