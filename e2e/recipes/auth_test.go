package recipes

import (
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/ea766355/caddy-sse/e2e"
)

// TestLogins: what docs/auth.md says of each login. What the app answers, and how rights
// change, is in TestContract, TestRightsChange and TestLogout.
func TestLogins(t *testing.T) {
	page := recipes(t, "auth.md")
	for _, elsewhere := range []string{"logout", "ban", "move", "check", "logins", "from_python", "calls"} {
		take(t, page, elsewhere)
	}
	app := newStub(t)
	app.respond(http.StatusNotFound)
	forward, handle := take(t, page, "forward_auth"), take(t, page, "handle_response")
	configs := map[string]string{
		"basic":     take(t, page, "basic"),
		"server":    replace(t, take(t, page, "server"), "auth:9091", app.addr()),
		"anonymous": take(t, page, "anonymous"),
		"expires":   take(t, page, "expires"),
		// The letter case of headers does not matter.
		"small letters": replace(t, forward, "X-SSE-User", "x-sse-user"),
		"short":         replace(t, handle, "{http.reverse_proxy.header.X-SSE-User}", "{rp.header.x-Sse-uSER}"),
	}
	wantAllTaken(t, page)
	var text strings.Builder
	sites := make(map[string]visitor)
	for name, config := range configs {
		port := e2e.FreePort(t)
		sites[name] = visitor{t: t, base: fmt.Sprintf("https://example.com:%d", port)}
		text.WriteString(localize(config, app.addr(), port, ""))
	}
	serve(t, "", text.String())
	forged := []string{"X-SSE-User", "mallory", "Remote-User", "mallory"}

	site := sites["basic"]
	site.refused("/events", http.StatusUnauthorized, forged...)
	site.open("/events", "alice", append(forged, "Authorization", "Basic YWxpY2U6d29uZGVybGFuZA==")...).close()

	site = sites["server"]
	app.respond(http.StatusOK, "Remote-User", "alice")
	site.open("/events", "alice", forged...).close()
	app.respond(http.StatusOK)
	site.refused("/events", http.StatusUnauthorized, forged...)
	app.respond(http.StatusFound, "Location", "https://auth.example.com/")
	site.refused("/events", http.StatusFound, forged...)

	site = sites["anonymous"]
	site.open("/events?topic=news", "", forged...).close()
	site.refused("/events?topic=other", http.StatusForbidden)

	for _, name := range []string{"small letters", "short"} {
		app.respond(http.StatusNoContent, "x-sse-USER", "alice")
		sites[name].open("/events", "alice", forged...).close()
	}

	site = sites["expires"]
	expire := func(at time.Time) {
		app.respond(http.StatusNoContent, "X-SSE-User", "alice", "X-SSE-Expires", fmt.Sprint(at.Unix()))
	}
	expire(time.Now().Add(-time.Second))
	site.refused("/events", http.StatusUnauthorized)
	app.respond(http.StatusNoContent, "X-SSE-User", "alice", "X-SSE-Expires", fmt.Sprint(time.Now().Add(time.Hour).UnixMilli()))
	site.refused("/events", http.StatusUnauthorized)
	app.respond(http.StatusNoContent, "X-SSE-User", "alice")
	site.refused("/events", http.StatusUnauthorized, "X-SSE-Expires", "4102444800")
	expire(time.Now().Add(e2e.Patience / 6))
	s := site.open("/events", "alice")
	if event, data := s.next(); event != "sse.closing" || !strings.Contains(data, `"reason":"expired"`) {
		t.Errorf("event at the end of the login: got %s %s, want sse.closing expired", event, data)
	}
	s.close()
}
