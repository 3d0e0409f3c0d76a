package e2e

import "testing"

// TestWhyOfOneNode brings about one cause at a time, and asks for it.
func TestWhyOfOneNode(t *testing.T) {
	s := Start(t, WhyConfig(""))
	Whys{Publish: s, Serve: s, Ask: s}.Run(t)
}

// TestWhyAfterRestart: the event is on disk; the connections of the process before are not known.
func TestWhyAfterRestart(t *testing.T) {
	s := Start(t, Config{Hub: "store disk", Routes: "sse_api /sse/*"})
	Whys{Publish: s, Serve: s, Ask: s}.RunRestarted(t)
}
