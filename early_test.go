package caddysse

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

// TestEarlyData: sse_api executes no request that changes something before the TLS handshake is
// complete. An attacker can send a copy of such a request again. A publish that is refused for that is
// counted.
func TestEarlyData(t *testing.T) {
	early := &pooledHub{Hub: openHub(t), publishesRefused: newCounters(publishRefusals)}
	hubs.LoadOrStore("early", early)
	defer func() {
		if _, err := hubs.Delete("early"); err != nil {
			t.Error(err)
		}
	}()
	for _, test := range []struct {
		method, path string
		complete     bool
		headers      string // the values of the header that a proxy sets
		status       int
	}{
		{http.MethodDelete, "/sse/connections?user=alice", false, "", http.StatusTooEarly},
		{http.MethodPatch, "/sse/connections?user=alice", false, "", http.StatusTooEarly},
		{http.MethodPost, "/sse/broadcast", false, "", http.StatusTooEarly},
		{http.MethodPost, "/sse/broadcast", true, "1", http.StatusTooEarly},
		{http.MethodPost, "/sse/broadcast", true, "0", http.StatusTooEarly}, // not valid, so it means 1
		{http.MethodPost, "/sse/broadcast", true, "0 1", http.StatusTooEarly},
		{http.MethodPost, "/sse/broadcast", true, "", http.StatusUnsupportedMediaType},
		{http.MethodGet, "/sse/connections", false, "1", http.StatusOK},
		{http.MethodHead, "/sse/connections", false, "1", http.StatusOK},
	} {
		r := httptest.NewRequest(test.method, "https://localhost"+test.path, nil)
		q := r.URL.Query()
		q.Set("hub", "early")
		r.URL.RawQuery = q.Encode()
		r.TLS.HandshakeComplete = test.complete
		for value := range strings.FieldsSeq(test.headers) {
			r.Header.Add("Early-Data", value)
		}
		w := httptest.NewRecorder()
		if err := new(API).ServeHTTP(w, r, nil); err != nil || w.Code != test.status {
			t.Errorf("%s %s, handshake complete %t, Early-Data %q: got %d %v, want %d", test.method, test.path, test.complete, test.headers, w.Code, err, test.status)
		}
	}
	if got := early.publishesRefused["early_data"].Load(); got != 4 {
		t.Errorf("%d publishes were counted as early data, want 4", got)
	}
}
