package caddysse

import (
	"errors"
	"fmt"
	"math"
	"net/http"
	"net/netip"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"go.uber.org/zap"

	"github.com/ea766355/caddy-sse/hub"
)

// parseRequest turns an HTTP request into a request for a connection, or into the
// status and the reason of a refusal.
func (h *Handler) parseRequest(r *http.Request) (req hub.Request, status int, err error) {
	query, err := streamQuery(r)
	if err != nil {
		return req, http.StatusBadRequest, err
	}
	repl := r.Context().Value(caddy.ReplacerCtxKey).(*caddy.Replacer)
	req = hub.Request{
		Settings: h.settings,
		Position: requestedPosition(r, query),
		Previous: query.Get("previous"),
		State:    query.Has("state"),
		Poll:     query.Has("poll"),
		Protocol: "h" + strconv.Itoa(r.ProtoMajor),
	}
	for _, name := range [...]string{"poll", "state"} {
		if value := query.Get(name); query.Has(name) && value != "1" {
			return req, http.StatusBadRequest, fmt.Errorf("invalid value%s of the query parameter %s: it must be 1, or leave the parameter out", quoteIfHarmless(value), name)
		}
	}
	req.User, err = fillPlaceholders(repl, h.User)
	if req.User == "" {
		h.logger.Debug("no user", zap.Error(err)) // err names the empty placeholder
	}
	if req.User == "" && !h.Anonymous {
		return req, http.StatusUnauthorized, errors.New("no authenticated user: put an authentication directive before sse, " +
			"set `user` to the placeholder that it fills, or enable `anonymous`")
	}
	session, err := fillPlaceholders(repl, h.Session)
	if err != nil {
		h.logger.Debug("no session", zap.Error(err))
	}
	for _, name := range [...]struct{ of, value string }{{"user", req.User}, {"session", session}} {
		if len(name.value) > hub.MaxNameLength {
			return req, http.StatusBadRequest, fmt.Errorf("%s has %d bytes: at most %d are allowed", name.of, len(name.value), hub.MaxNameLength)
		}
		if !utf8.ValidString(name.value) { // no publisher could name it
			return req, http.StatusForbidden, fmt.Errorf("%s: it must be valid UTF-8; an ASCII id is safest, since servers encode headers in different ways", name.of)
		}
	}
	if session != "" {
		req.Session = hashSession(session)
	}
	if h.Expires != "" {
		expires, err := fillPlaceholders(repl, h.Expires)
		if err != nil {
			h.logger.Debug("no expires", zap.Error(err))
		}
		if req.Expires, err = parseLoginEnd(expires, time.Now()); err != nil {
			return req, http.StatusUnauthorized, fmt.Errorf("expires: %w", err)
		}
	}
	if req.Topics, status, err = h.requestedTopics(repl, query["topic"]); err != nil {
		return req, status, err
	}
	if ip, ok := caddyhttp.GetVar(r.Context(), caddyhttp.ClientIPVarKey).(string); ok {
		req.Addr, _ = netip.ParseAddr(ip)
	}
	if req.Network = networkOf(req.Addr); !req.Network.IsValid() && h.warnNoAddress != nil {
		h.warnNoAddress()
	}
	req.Full = outOfFiles(r.Context())
	req.Began, _ = caddyhttp.GetVar(r.Context(), "start_time").(time.Time)
	return req, 0, nil
}

// streamParameters are the query parameters of a stream. A site may use others for
// itself.
var streamParameters = []string{"topic", "last_event_id", "lastEventId", "lastEventID", "previous", "poll", "state"}

// misspellings maps what [normalizeName] makes of a parameter's name to that name.
var misspellings = func() map[string]string {
	m := make(map[string]string)
	for _, parameter := range slices.Backward(streamParameters) { // the first of several wins
		m[normalizeName(parameter)] = parameter
	}
	return m
}()

var errQuery = errors.New("invalid query string: percent-encode names and values, and separate parameters with &, not with ;")

// streamQuery parses the query and rejects misspelt parameters. Without this check a
// client that misspells ?topic= would silently get more events than it asked for.
func streamQuery(r *http.Request) (url.Values, error) {
	if r.URL.RawQuery == "" {
		return nil, nil
	}
	query, err := url.ParseQuery(r.URL.RawQuery)
	if err != nil {
		return nil, errQuery
	}
	for name := range query {
		if slices.Contains(streamParameters, name) {
			continue
		}
		if meant, ok := misspellings[normalizeName(name)]; ok {
			return nil, fmt.Errorf("unknown query parameter%s: did you mean %s?", quoteIfHarmless(name), meant)
		}
	}
	return query, nil
}

// normalizeName maps names that are easily confused to the same string: topic, Topics,
// topic[] and topic[0].
func normalizeName(name string) string {
	letters := strings.Map(func(r rune) rune {
		if r < 'a' || r > 'z' {
			return -1
		}
		return r
	}, strings.ToLower(name))
	return strings.TrimSuffix(letters, "s")
}

// quoteIfHarmless returns a space and the text in quotes, or nothing if the text holds
// characters that could be markup. The text comes from a client, and a site may put a
// refusal into a page.
func quoteIfHarmless(text string) string {
	if !harmless.MatchString(text) {
		return ""
	}
	return ` "` + text + `"`
}

var harmless = regexp.MustCompile(`^[\w./:@,*\[\]-]{1,100}$`)

// isHEAD reports whether the client has sent HEAD, for which the server drops a body. A route may
// have changed the method.
func isHEAD(r *http.Request) bool {
	original, ok := r.Context().Value(caddyhttp.OriginalRequestCtxKey).(http.Request)
	return r.Method == http.MethodHead || ok && original.Method == http.MethodHead
}

// requestedPosition returns the position after which the client wants to continue. The
// header takes precedence, since a native EventSource never changes its URL.
func requestedPosition(r *http.Request, query url.Values) string {
	for _, s := range [...]string{r.Header.Get("Last-Event-ID"), query.Get("last_event_id"), query.Get("lastEventId"), query.Get("lastEventID")} {
		if s != "" {
			return s
		}
	}
	return ""
}

// maxAskedTopics is the most topics that one request may name. The hub looks up each of
// them for the stream.
const maxAskedTopics = 100

// requestedTopics returns the topics that the client asked for, or all that it may have
// if it asked for none. A topic that it may not have is an error.
func (h *Handler) requestedTopics(repl *caddy.Replacer, asked []string) (topics []hub.Target, status int, err error) {
	if len(asked) > maxAskedTopics {
		return nil, http.StatusBadRequest, fmt.Errorf("the query has %d topics: at most %d are allowed on one stream; open more streams, or leave topics out", len(asked), maxAskedTopics)
	}
	for i, name := range asked {
		if err := validateExactTopic(name); err != nil {
			return nil, http.StatusBadRequest, fmt.Errorf("topic %d of the query%s: %w", i+1, quoteIfHarmless(name), err)
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
				// name may be a slice of the URL, which a stream must not keep in memory.
				topics[i] = hub.Target{Kind: hub.Topic, Name: strings.Clone(name)}
				continue next
			}
		}
		return nil, http.StatusForbidden, fmt.Errorf("topic %d of the query%s: not allowed on this stream; the options topics and grants of the route say which are", i+1, quoteIfHarmless(name))
	}
	return topics, 0, nil
}

// validateExactTopic rejects a name that cannot be the exact name of a topic.
func validateExactTopic(name string) error {
	switch {
	case name == "":
		return errors.New("it must not be empty")
	case strings.Contains(name, "*"):
		return errors.New("it must be an exact name; only the option topics of the config may hold *")
	case len(name) > hub.MaxNameLength:
		return fmt.Errorf("it has %d bytes: at most %d are allowed", len(name), hub.MaxNameLength)
	case !utf8.ValidString(name):
		return errors.New("it must be valid UTF-8")
	}
	return nil
}

// allowedTopics returns the topics of the option topics, with the placeholders replaced.
func (h *Handler) allowedTopics(repl *caddy.Replacer) ([]hub.Target, error) {
	var allowed []hub.Target
	for _, topic := range h.Topics {
		filled, err := repl.ReplaceFunc(topic, func(name string, value any) (any, error) {
			s := caddy.ToString(value)
			if isListLike(s) {
				h.warnOfList(name)
			}
			if s == "" || strings.ContainsAny(s, "*/") {
				return nil, fmt.Errorf("{%s} is no segment of a topic", name)
			}
			return value, nil
		})
		if err != nil {
			continue // the pattern matches nothing
		}
		target, err := hub.ParseTopic(filled)
		if err != nil {
			return nil, err
		}
		if len(filled) > hub.MaxNameLength {
			return nil, fmt.Errorf("a topic of this route has %d bytes with its placeholders replaced: at most %d are allowed", len(filled), hub.MaxNameLength)
		}
		allowed = append(allowed, target)
	}
	return allowed, nil
}

// maxLogin is how far ahead a login may end. A later time is a mistake, such as
// milliseconds in place of seconds.
const maxLogin = 10 * 365 * 24 * time.Hour

// parseLoginEnd parses the time at which a login ends. It must be after now.
func parseLoginEnd(s string, now time.Time) (time.Time, error) {
	end, err := parseTime(s)
	switch {
	case err != nil:
		return end, err
	case !end.After(now):
		return end, fmt.Errorf("the login ended at %s: log in again", end.UTC().Format(time.RFC3339))
	case end.After(now.Add(maxLogin)):
		return end, errors.New("the login ends more than ten years ahead: give Unix seconds, not milliseconds")
	}
	return end, nil
}

// parseTime parses Unix seconds or RFC 3339.
func parseTime(s string) (time.Time, error) {
	// Caddy prints a JSON number, such as a claim of a token, with an exponent.
	if seconds, err := strconv.ParseFloat(s, 64); err == nil && math.Abs(seconds) < 9e18 {
		return time.Unix(int64(seconds), 0), nil
	}
	t, err := time.Parse(time.RFC3339, s)
	if err != nil {
		return t, fmt.Errorf("invalid value%s: it must be Unix seconds or RFC 3339", quoteIfHarmless(s))
	}
	return t, nil
}
