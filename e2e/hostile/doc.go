// Package hostile attacks a server and measures what that costs others.
//
// Each attack runs in a process of its own, beside innocent clients: 20 streams of
// all protocols, and a publisher for them. They must get everything, once and in
// order, and in the end nothing must be left of the attack. With -full, the time that
// they wait is compared too: quiet and under attack, in turn, in the same run. `make
// hostile` does that, and writes the figures into e2e/RESULTS.md.
package hostile
