package hub

import (
	"bufio"
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"math/big"
	"net"
	"net/http/httputil"
	"strings"
	"sync"
	"testing"
	"time"
)

// certificate is the certificate of the server's end of TLS.
var certificate = sync.OnceValue(func() tls.Certificate {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		panic(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		panic(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
})

// connPair returns a connection over loopback: the client's end, the connection for TakeOver, and
// its TCP connection.
func connPair(t testing.TB, kind writerKind) (clientEnd, conn net.Conn, tcp *net.TCPConn) {
	t.Helper()
	clientEnd, tcp = tcpPair(t)
	if kind != overTLS {
		return clientEnd, tcp, tcp
	}
	server := tls.Server(tcp, &tls.Config{Certificates: []tls.Certificate{certificate()}})
	client := tls.Client(clientEnd, &tls.Config{InsecureSkipVerify: true})
	shaken := make(chan error)
	go func() { shaken <- server.Handshake() }()
	if err := errors.Join(client.Handshake(), <-shaken); err != nil {
		t.Fatal(err)
	}
	return client, server, tcp
}

func tcpPair(t testing.TB) (clientEnd, serverEnd *net.TCPConn) {
	t.Helper()
	l, err := net.ListenTCP("tcp", &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if clientEnd, err = net.DialTCP("tcp", nil, l.Addr().(*net.TCPAddr)); err != nil {
		t.Fatal(err)
	}
	if serverEnd, err = l.AcceptTCP(); err != nil {
		t.Fatal(err)
	}
	// A small buffer fills up quickly.
	if err := serverEnd.SetWriteBuffer(128 << 10); err != nil {
		t.Fatal(err)
	}
	return clientEnd, serverEnd
}

// realClient is a client of a connection that was taken over, on a real socket.
type realClient struct {
	*servedConn
	net.Conn
	tcp *net.TCPConn // the client's end
	raw bytes.Buffer
	in  *bufio.Reader
}

// dial connects and lets the hub take the connection over, until the test ends. With the default
// settings a client may take nothing for an hour, because a test may take minutes on a busy machine.
func dial(t testing.TB, h *Hub, r Request, kind writerKind) *realClient {
	t.Helper()
	if r.Settings == defaultSettings {
		patient := *defaultSettings
		patient.Timeout = time.Hour
		r.Settings = &patient
	}
	p := &realClient{servedConn: &servedConn{Pending: connect(t, h, r), ended: make(chan struct{})}}
	p.endOnClosed()
	clientEnd, conn, tcp := connPair(t, kind)
	p.attach(clientEnd)
	p.servedConn.TakeOver(conn, tcp)
	t.Cleanup(func() {
		clientEnd.Close()
		<-p.ended
	})
	return p
}

func (p *realClient) attach(clientEnd net.Conn) {
	p.Conn = clientEnd
	p.tcp, _ = clientEnd.(*net.TCPConn)
	if c, ok := clientEnd.(*tls.Conn); ok {
		p.tcp = c.NetConn().(*net.TCPConn)
	}
	p.in = bufio.NewReader(httputil.NewChunkedReader(bufio.NewReader(io.TeeReader(clientEnd, &p.raw))))
}

// block reads the next block.
func (p *realClient) block() (string, error) {
	var block strings.Builder
	for {
		line, err := p.in.ReadString('\n')
		block.WriteString(line)
		if err != nil || line == "\n" || block.String() == ":\n" {
			return block.String(), err
		}
	}
}

// readUntil reads blocks until one contains s.
func (p *realClient) readUntil(t testing.TB, s string) {
	t.Helper()
	for {
		block, err := p.block()
		if err != nil {
			t.Fatalf("no %q: %v", s, err)
		}
		if strings.Contains(block, s) {
			return
		}
	}
}

// readRest reads to the end, and returns a client that has read the whole stream.
func (p *realClient) readRest(t testing.TB) *client {
	t.Helper()
	if _, err := io.Copy(io.Discard, p.in); err != nil {
		t.Errorf("the stream did not end with a final chunk: %v", err)
	}
	want(t, "final chunk", final(p.raw.Bytes()), true)
	if n, err := p.Conn.Read(make([]byte, 1)); n > 0 || err != io.EOF {
		t.Errorf("after the end: %d, %v", n, err)
	}
	return (&client{t: t}).read(dechunk(p.raw.Bytes()))
}

func overEachTransport(t *testing.T, test func(t *testing.T, kind writerKind)) {
	for _, kind := range []writerKind{overTCP, overTLS} {
		t.Run(string(kind), func(t *testing.T) { test(t, kind) })
	}
}
