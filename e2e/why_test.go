package e2e

import "testing"

// TestWhyOfOneNode: the answer has the reason for each cause.
func TestWhyOfOneNode(t *testing.T) {
	s := Start(t, WhyConfig(""))
	WhyTest{Publish: s, Serve: s, Ask: s}.Run(t)
}

// TestWhyAfterRestart: after a restart the event is on disk, and the connections of the previous
// process are unknown.
func TestWhyAfterRestart(t *testing.T) {
	s := Start(t, Config{Hub: "store disk", Routes: "sse_api /sse/*"})
	WhyTest{Publish: s, Serve: s, Ask: s}.RunRestarted(t)
}
