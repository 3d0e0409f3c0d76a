// Package hostile attacks a server and measures the effect on others.
//
// Each attack runs in its own process, beside innocent clients: 20 streams of all protocols and a
// publisher for them. They must get everything, once and in order, and at the end the attack must
// leave nothing behind. With -full, their waiting times are compared, without and under attack in
// turn, in the same run. `make hostile` does this and writes the figures to e2e/RESULTS.md.
package hostile
