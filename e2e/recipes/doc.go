// Package recipes tests the pages of docs that have code: it takes the Caddyfiles, the
// configs of other programs, the commands and the code of apps from their text, and runs
// them. Before a block of code stands a comment: <!-- run: name -->, by which a test
// takes it, or <!-- not run: reason -->. It also tests the alerts and the dashboard. It
// needs what `make test` installs.
package recipes
