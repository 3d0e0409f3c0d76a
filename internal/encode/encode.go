// Package encode is for tests. Its response writer has the same package and type name as
// that of Caddy's directive encode, but is another type, and it changes the body.
package encode

import (
	"bytes"
	"net/http"
)

type responseWriter struct{ http.ResponseWriter }

// Censor returns a response writer that replaces "secret" in what is written to w.
func Censor(w http.ResponseWriter) http.ResponseWriter { return &responseWriter{w} }

func (w *responseWriter) Write(p []byte) (int, error) {
	if _, err := w.ResponseWriter.Write(bytes.ReplaceAll(p, []byte("secret"), []byte("XXXXXX"))); err != nil {
		return 0, err
	}
	return len(p), nil
}

func (w *responseWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }
