// Package recipes tests docs/apps.md, docs/beside-an-app.md, docs/http-versions.md and
// docs/monitoring.md: it takes the Caddyfiles, the configs of other programs, the commands
// and the code of apps from their text, and runs them. It also tests the alerts and the
// dashboard. It needs what `make test` installs.
package recipes
