// Command centrifuge serves the SSE handler of github.com/centrifugal/centrifuge as its documentation shows
// it: server-side subscriptions with recovery, the memory broker, and a handler to publish.
package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"net/http"
	"os"
	"runtime/debug"
	"time"

	"github.com/centrifugal/centrifuge"
)

const (
	everyone = "everyone"
	personal = "user:"
)

func main() {
	listen := flag.String("listen", "", "cleartext `address`")
	listenTLS := flag.String("tls", "", "TLS `address`")
	cert := flag.String("cert", "", "certificate `file`")
	key := flag.String("key", "", "key `file`")
	flag.Parse()
	if err := run(*listen, *listenTLS, *cert, *key); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run(listen, listenTLS, cert, key string) error {
	node, err := centrifuge.New(centrifuge.Config{
		// Do not drop slow readers in a run at full speed.
		ClientQueueMaxSize: 64 << 20,
	})
	if err != nil {
		return err
	}
	node.OnConnecting(func(ctx context.Context, _ centrifuge.ConnectEvent) (centrifuge.ConnectReply, error) {
		channel := everyone
		cred, _ := centrifuge.GetCredentials(ctx)
		if cred.UserID != "" {
			channel = personal + cred.UserID
		}
		return centrifuge.ConnectReply{
			Subscriptions: map[string]centrifuge.SubscribeOptions{channel: {EnableRecovery: true}},
		}, nil
	})
	if err := node.Run(); err != nil {
		return err
	}

	stream := centrifuge.NewSSEHandler(node, centrifuge.SSEConfig{
		PingPongConfig: centrifuge.PingPongConfig{PingInterval: 5 * time.Minute, PongTimeout: -1},
	})
	mux := http.NewServeMux()
	mux.HandleFunc("GET /events", func(w http.ResponseWriter, r *http.Request) {
		cred := &centrifuge.Credentials{UserID: r.Header.Get("X-User")}
		stream.ServeHTTP(w, r.WithContext(centrifuge.SetCredentials(r.Context(), cred)))
	})
	mux.HandleFunc("POST /publish", func(w http.ResponseWriter, r *http.Request) {
		publish(node, w, r)
	})
	mux.HandleFunc("POST /settle", func(http.ResponseWriter, *http.Request) { debug.FreeOSMemory() })

	failed := make(chan error, 2)
	go func() { failed <- http.ListenAndServe(listen, mux) }()
	go func() { failed <- http.ListenAndServeTLS(listenTLS, cert, key, mux) }()
	return <-failed
}

func publish(node *centrifuge.Node, w http.ResponseWriter, r *http.Request) {
	data, err := io.ReadAll(r.Body)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	channel := everyone
	if user := r.URL.Query().Get("user"); user != "" {
		channel = personal + user
	}
	result, err := node.Publish(channel, data, centrifuge.WithHistory(10_000, 24*time.Hour))
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	_ = json.NewEncoder(w).Encode(map[string]any{"offset": result.Offset, "epoch": result.Epoch})
}
