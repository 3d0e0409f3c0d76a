package e2e

import (
	"bufio"
	"fmt"
	"io"
	"net/http"
	"net/textproto"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// Curl returns a client that sends its requests with curl, through a proxy's address unless
// that is empty. For H1 and H2.
func (s *Server) Curl(addr string, p Protocol) *Client {
	c := s.client(p, addr, false)
	args := []string{
		"--silent", "--no-buffer", "--include",
		"--cacert", filepath.Join(s.dir, "data/caddy/pki/authorities/local/root.crt"),
		"--resolve", fmt.Sprintf("localhost:%d:127.0.0.1", s.HTTPS),
	}
	if addr != "" {
		args = append(args, "--connect-to", "::"+addr)
	}
	c.http, c.close = &http.Client{Transport: curl(args)}, func() {}
	return c
}

// curl runs curl with these arguments for each request.
type curl []string

// RoundTrip implements http.RoundTripper.
func (c curl) RoundTrip(req *http.Request) (*http.Response, error) {
	args := slices.Clone(c)
	for name, values := range req.Header {
		for _, value := range values {
			args = append(args, "--header", name+": "+value)
		}
	}
	cmd := exec.CommandContext(req.Context(), "curl", append(args, req.URL.String())...)
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	r := bufio.NewReader(out)
	resp, err := readHead(r)
	if err != nil {
		_ = cmd.Process.Kill()
		return nil, fmt.Errorf("curl: %w, %w", err, cmd.Wait())
	}
	resp.Body, resp.Request = &output{Reader: r, cmd: cmd}, req
	return resp, nil
}

// readHead parses a response header of any protocol, as printed by curl.
func readHead(r *bufio.Reader) (*http.Response, error) {
	text := textproto.NewReader(r)
	line, err := text.ReadLine()
	if err != nil {
		return nil, err
	}
	fields := strings.Fields(line)
	if len(fields) < 2 {
		return nil, fmt.Errorf("%q is no status", line)
	}
	code, err := strconv.Atoi(fields[1])
	if err != nil {
		return nil, fmt.Errorf("%q: %w", line, err)
	}
	header, err := text.ReadMIMEHeader()
	if err != nil {
		return nil, err
	}
	return &http.Response{Status: strings.Join(fields[1:], " "), StatusCode: code, Header: http.Header(header)}, nil
}

// output is a response body that a command writes.
type output struct {
	io.Reader
	cmd   *exec.Cmd
	ended bool
}

// Read implements io.Reader. It returns io.EOF only if the command succeeded.
func (o *output) Read(p []byte) (int, error) {
	n, err := o.Reader.Read(p)
	if err != nil && !o.ended {
		o.ended = true
		if o.cmd.Wait() != nil {
			return n, io.ErrUnexpectedEOF
		}
	}
	return n, err
}

// Close implements io.Closer.
func (o *output) Close() error {
	if !o.ended {
		o.ended = true
		_ = o.cmd.Process.Kill()
		_ = o.cmd.Wait() // it was killed
	}
	return nil
}
