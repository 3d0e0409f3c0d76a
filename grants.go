package caddysse

import (
	"encoding/json"
	"fmt"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/caddyserver/caddy/v2"
	"go.uber.org/zap"

	"github.com/ea766355/caddy-sse/hub"
)

// maxGrants is the most topics that the option grants may give to one client.
const maxGrants = 1000

// grantedTopics returns the topics that the option grants gives to this client.
func (h *Handler) grantedTopics(repl *caddy.Replacer) ([]hub.Target, error) {
	if h.Grants == "" {
		return nil, nil
	}
	list, err := fillPlaceholders(repl, h.Grants)
	if err != nil {
		h.logger.Debug("no grants", zap.Error(err)) // err names the placeholder that is empty and grants nothing
	}
	names, err := splitList(list)
	if err != nil {
		return nil, fmt.Errorf("grants: %w", err)
	}
	if len(names) > maxGrants {
		return nil, fmt.Errorf("grants: the list has %d topics: at most %d are allowed; grant only what the client shows, or use patterns in the option topics", len(names), maxGrants)
	}
	granted := make([]hub.Target, len(names))
	for i, name := range names {
		if err := validateExactTopic(name); err != nil {
			return nil, fmt.Errorf("grants: topic %d%s: %w", i+1, quoteIfHarmless(name), err)
		}
		granted[i] = hub.Target{Kind: hub.Topic, Name: strings.Clone(name)}
	}
	return granted, nil
}

// splitList splits a list that is separated by commas or spaces, or decodes a JSON array
// of strings.
func splitList(list string) (names []string, err error) {
	list = strings.TrimSpace(list)
	if list != "" && strings.Contains(`[{"`, list[:1]) { // an app that writes JSON may not write an array
		return decodeList(list)
	}
	return strings.FieldsFunc(list, func(r rune) bool { return r == ',' || unicode.IsSpace(r) }), nil
}

// decodeList decodes a JSON array of strings. It rejects names that are not valid text:
// encoding/json replaces the invalid parts by U+FFFD, so several names would become one.
func decodeList(list string) (names []string, err error) {
	if err := json.Unmarshal([]byte(list), &names); err != nil {
		return nil, fmt.Errorf("the value begins with %s but is not a JSON array of strings: %w", list[:1], err)
	}
	for i, name := range names {
		if strings.ContainsRune(name, utf8.RuneError) {
			return nil, fmt.Errorf("topic %d is not valid UTF-8, has half of a surrogate pair, or has U+FFFD, which stands for a lost character", i+1)
		}
	}
	return names, nil
}

// isListLike reports whether the value of a placeholder looks like more than one name.
func isListLike(s string) bool { return strings.HasPrefix(s, "[") || strings.ContainsAny(s, ", ") }

// warnOfList logs once that a list in a placeholder of topics is taken for one name.
func (h *Handler) warnOfList(placeholder string) {
	h.listWarning.Do(func() {
		h.logger.Warn("a placeholder of the option topics has a value that looks like a list, but is taken for one name: use the option grants for lists",
			zap.String("placeholder", "{"+placeholder+"}"))
	})
}
