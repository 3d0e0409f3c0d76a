package e2e

import "testing"

// TestWhyOfOneNode seeds one cause at a time, and asks.
func TestWhyOfOneNode(t *testing.T) {
	s := Start(t, WhyConfig(""))
	Whys{Publish: s, Serve: s, Ask: s}.Run(t)
}

// TestWhyAfterRestart: the event is on disk, and who was connected is not.
func TestWhyAfterRestart(t *testing.T) {
	s := Start(t, Config{Hub: "store disk", Routes: "sse_api /sse/*"})
	Whys{Publish: s, Serve: s, Ask: s}.RunRestarted(t)
}
