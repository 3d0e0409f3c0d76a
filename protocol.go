package caddysse

import (
	"net/http"

	"go.uber.org/zap"
)

// The cost of a stream depends on its protocol. It is lowest over HTTP/1.1, where the hub
// writes to the socket, and highest over HTTP/3. Caddy advertises HTTP/3 in every
// answer.

// keepHTTP1 removes the advertisement of HTTP/3 from an answer over HTTP/1.1, so that the
// browser reconnects over HTTP/1.1. The value "clear" stays, since it makes a browser
// forget advertisements. [RFC 7838 3]
func keepHTTP1(w http.ResponseWriter, r *http.Request) {
	if r.ProtoMajor == 1 && w.Header().Get("Alt-Svc") != "clear" {
		w.Header().Del("Alt-Svc")
	}
}

// minStreamsToWarn is the number of streams from which on their protocol matters.
const minStreamsToWarn = 100

// warnOfHTTP3 logs once for each hub that more than half of its streams come over
// HTTP/3.
func (h *Handler) warnOfHTTP3(protocol string) {
	pooled := h.app.held[h.Hub]
	if protocol != "h3" || pooled.warnedOfHTTP3.Load() {
		return
	}
	total := int64(0)
	connections := pooled.Stats().Connections
	for _, n := range connections {
		total += n
	}
	if total < minStreamsToWarn || 2*connections["h3"] <= total || pooled.warnedOfHTTP3.Swap(true) {
		return
	}
	h.logger.Warn("most streams use HTTP/3, where a stream needs several times the memory and CPU of a stream over HTTP/1.1: "+
		"serve them on a port of their own with the global option servers :8443 { protocols h1 }, or turn HTTP/3 off "+
		"with servers { protocols h1 h2 }; docs/http-versions.md says how",
		zap.String("hub", h.Hub), zap.Int64("http3", connections["h3"]), zap.Int64("streams", total))
}
