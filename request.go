package caddysse

import (
	"errors"
	"fmt"
	"math"
	"net/http"
	"net/netip"
	"net/url"
	"regexp"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"go.uber.org/zap"

	"github.com/ea766355/caddy-sse/hub"
)

// request turns an HTTP request into a request for a connection, or into the
// status and the reason of a refusal.
func (h *Handler) request(r *http.Request) (req hub.Request, status int, err error) {
	query, err := streamQuery(r)
	if err != nil {
		return req, http.StatusBadRequest, err
	}
	repl := r.Context().Value(caddy.ReplacerCtxKey).(*caddy.Replacer)
	req = hub.Request{
		Settings: h.settings,
		Position: position(r, query),
		Previous: query.Get("previous"),
		State:    query.Has("state"),
		Poll:     query.Has("poll"),
		Protocol: "h" + strconv.Itoa(r.ProtoMajor),
	}
	for _, name := range [...]string{"poll", "state"} {
		if value := query.Get(name); query.Has(name) && value != "1" {
			return req, http.StatusBadRequest, fmt.Errorf("%s%s: it must be 1, or absent", name, shown(value))
		}
	}
	req.User, err = fill(repl, h.User)
	if req.User == "" {
		h.logger.Debug("no user", zap.Error(err)) // which names the empty placeholder
	}
	if req.User == "" && !h.Anonymous {
		return req, http.StatusUnauthorized, errors.New("no user: put an authentication directive before sse, " +
			"set its option user to the placeholder that it fills, or allow anonymous")
	}
	session, _ := fill(repl, h.Session)
	for _, name := range [...]struct{ of, value string }{{"user", req.User}, {"session", session}} {
		if len(name.value) > hub.MaxNameLength {
			return req, http.StatusBadRequest, fmt.Errorf("%s is %d bytes long, at most %d are allowed", name.of, len(name.value), hub.MaxNameLength)
		}
	}
	if session != "" {
		req.Session = hashSession(session)
	}
	if h.Expires != "" {
		expires, _ := fill(repl, h.Expires)
		if req.Expires, err = loginEnd(expires, time.Now()); err != nil {
			return req, http.StatusUnauthorized, fmt.Errorf("expires: %w", err)
		}
	}
	if req.Topics, status, err = h.topics(repl, query["topic"]); err != nil {
		return req, status, err
	}
	if ip, ok := caddyhttp.GetVar(r.Context(), caddyhttp.ClientIPVarKey).(string); ok {
		req.Addr, _ = netip.ParseAddr(ip)
	}
	if req.Network = network(req.Addr); !req.Network.IsValid() && h.noAddress != nil {
		h.noAddress()
	}
	req.Full = outOfFiles(r.Context())
	return req, 0, nil
}

// streamParameters are the query parameters of a stream. Others are the site's own.
var streamParameters = []string{"topic", "last_event_id", "lastEventId", "lastEventID", "previous", "poll", "state"}

var errQuery = errors.New("invalid query string: percent-encode names and values, and separate parameters with &, not with ;")

// streamQuery reads a query strictly: what is misspelt would be more than was
// asked for, without a word.
func streamQuery(r *http.Request) (url.Values, error) {
	if r.URL.RawQuery == "" {
		return nil, nil
	}
	query, err := url.ParseQuery(r.URL.RawQuery)
	if err != nil {
		return nil, errQuery
	}
names:
	for name := range query {
		meant := ""
		for _, parameter := range streamParameters {
			if name == parameter {
				continue names
			}
			if meant == "" && bare(name) == bare(parameter) {
				meant = parameter
			}
		}
		if meant != "" {
			return nil, fmt.Errorf("unknown query parameter%s: did you mean %s?", shown(name), meant)
		}
	}
	return query, nil
}

// bare is what names have in common that are easily taken for each other: topic,
// Topics, topic[] and topic[0].
func bare(name string) string {
	letters := strings.Map(func(r rune) rune {
		if r < 'a' || r > 'z' {
			return -1
		}
		return r
	}, strings.ToLower(name))
	return strings.TrimSuffix(letters, "s")
}

// shown is a space and a client's text in quotes, or empty if there is anything in
// the text that could be markup: a site may put a refusal into a page.
func shown(text string) string {
	if !harmless.MatchString(text) {
		return ""
	}
	return ` "` + text + `"`
}

var harmless = regexp.MustCompile(`^[\w./:@,*\[\]-]{1,100}$`)

// position is where the client wants to go on. The header wins, since a native
// EventSource keeps its first URL for ever.
func position(r *http.Request, query url.Values) string {
	for _, s := range [...]string{r.Header.Get("Last-Event-ID"), query.Get("last_event_id"), query.Get("lastEventId"), query.Get("lastEventID")} {
		if s != "" {
			return s
		}
	}
	return ""
}

// maxAskedTopics bounds what one request may make the hub look up for each event.
const maxAskedTopics = 100

// topics are those the client asked for, if it may have them, else all that it
// may have.
func (h *Handler) topics(repl *caddy.Replacer, asked []string) (topics []hub.Target, status int, err error) {
	if len(asked) > maxAskedTopics {
		return nil, http.StatusBadRequest, fmt.Errorf("%d topics asked for, at most %d are served on one stream", len(asked), maxAskedTopics)
	}
	for i, name := range asked {
		if err := exactTopic(name); err != nil {
			return nil, http.StatusBadRequest, fmt.Errorf("topic %d of the query%s: %w", i+1, shown(name), err)
		}
	}
	allowed, err := h.allowedTopics(repl)
	if err != nil {
		return nil, http.StatusBadRequest, err
	}
	granted, err := h.grantedTopics(repl)
	if err != nil {
		return nil, http.StatusForbidden, err
	}
	allowed = append(allowed, granted...)
	if len(asked) == 0 {
		return allowed, 0, nil
	}
	topics = make([]hub.Target, len(asked))
next:
	for i, name := range asked {
		for _, target := range allowed {
			if target.Matches(name) {
				// A copy, since name may be a part of the whole URL.
				topics[i] = hub.Target{Kind: hub.Topic, Name: strings.Clone(name)}
				continue next
			}
		}
		return nil, http.StatusForbidden, fmt.Errorf("topic %d of the query%s: you may not subscribe to it here", i+1, shown(name))
	}
	return topics, 0, nil
}

// exactTopic says what keeps a name from being the name of a topic.
func exactTopic(name string) error {
	switch {
	case name == "":
		return errors.New("a topic must not be empty")
	case strings.Contains(name, "*"):
		return errors.New("it must be an exact name, only the config may hold *")
	case len(name) > hub.MaxNameLength:
		return fmt.Errorf("it is %d bytes long, at most %d are allowed", len(name), hub.MaxNameLength)
	case !utf8.ValidString(name):
		return errors.New("it must be valid UTF-8")
	}
	return nil
}

// allowedTopics are the route's, with values in the place of placeholders.
func (h *Handler) allowedTopics(repl *caddy.Replacer) ([]hub.Target, error) {
	var allowed []hub.Target
	for _, topic := range h.Topics {
		filled, err := repl.ReplaceFunc(topic, func(name string, value any) (any, error) {
			s := caddy.ToString(value)
			if looksLikeList(s) {
				h.warnOfList(name)
			}
			if s == "" || strings.ContainsAny(s, "*/") {
				return nil, fmt.Errorf("{%s} does not make a segment of a topic", name)
			}
			return value, nil
		})
		if err != nil {
			continue // it matches nothing
		}
		target, err := hub.ParseTopic(filled)
		if err != nil {
			return nil, err
		}
		if len(filled) > hub.MaxNameLength {
			return nil, fmt.Errorf("a topic of yours is %d bytes long, at most %d are allowed", len(filled), hub.MaxNameLength)
		}
		allowed = append(allowed, target)
	}
	return allowed, nil
}

// maxLogin is how far ahead a login may end. What is later was not meant so.
const maxLogin = 10 * 365 * 24 * time.Hour

// loginEnd reads when a login ends, which must be after now.
func loginEnd(s string, now time.Time) (time.Time, error) {
	end, err := parseTime(s)
	switch {
	case err != nil:
		return end, err
	case !end.After(now):
		return end, errors.New("the login has ended")
	case end.After(now.Add(maxLogin)):
		return end, errors.New("the login ends in more than ten years: give Unix seconds, not milliseconds")
	}
	return end, nil
}

// parseTime reads Unix seconds or RFC 3339.
func parseTime(s string) (time.Time, error) {
	// A claim of a token that was read as a JSON number is printed with an exponent.
	if seconds, err := strconv.ParseFloat(s, 64); err == nil && math.Abs(seconds) < 9e18 {
		return time.Unix(int64(seconds), 0), nil
	}
	t, err := time.Parse(time.RFC3339, s)
	if err != nil {
		return t, fmt.Errorf("the value%s is neither Unix seconds nor RFC 3339", shown(s))
	}
	return t, nil
}
