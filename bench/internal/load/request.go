package load

import (
	"bytes"
	"fmt"
	"net/http"
	"strings"
)

// Request is a request to a hub: a GET that opens a stream, or, with a Body, a POST that publishes.
type Request struct {
	Path   string
	Header []string // name, value, name, value...
	Body   []byte
}

// browser is the headers that a browser's EventSource sends. Servers keep some of them.
var browser = []string{
	"User-Agent", "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/140.0.0.0 Safari/537.36",
	"Accept", "text/event-stream",
	"Accept-Encoding", "gzip, deflate, br, zstd",
	"Accept-Language", "en-GB,en;q=0.9,de;q=0.8",
	"Cache-Control", "no-cache",
	"Cookie", "session=5f0c7a1e9b3d4c6f8a2e1d0b9c8f7a6e",
	"Origin", "https://app.example.com",
	"Referer", "https://app.example.com/dashboard",
}

func (r Request) method() string {
	if r.Body != nil {
		return http.MethodPost
	}
	return http.MethodGet
}

// http1 encodes the request as HTTP/1.1.
func (r Request) http1(host string) []byte {
	var b bytes.Buffer
	fmt.Fprintf(&b, "%s %s HTTP/1.1\r\nHost: %s\r\n", r.method(), r.Path, host)
	header := r.Header
	if r.Body != nil {
		fmt.Fprintf(&b, "Content-Length: %d\r\n", len(r.Body))
	} else {
		header = append(browser[:len(browser):len(browser)], header...)
	}
	for i := 0; i+1 < len(header); i += 2 {
		fmt.Fprintf(&b, "%s: %s\r\n", header[i], header[i+1])
	}
	b.WriteString("\r\n")
	b.Write(r.Body)
	return b.Bytes()
}

// http2 returns the same GET for HTTP/2 and HTTP/3.
func (r Request) http2(host string) (*http.Request, error) {
	req, err := http.NewRequest(r.method(), "https://"+host+r.Path, nil)
	if err != nil {
		return nil, err
	}
	header := append(browser[:len(browser):len(browser)], r.Header...)
	for i := 0; i+1 < len(header); i += 2 {
		req.Header.Set(strings.TrimSpace(header[i]), header[i+1])
	}
	return req, nil
}
