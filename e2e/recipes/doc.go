// Package recipes tests docs/apps.md and docs/beside-an-app.md: it takes the
// Caddyfiles, the configs of other proxies, the commands and the code of apps from
// their text, and runs them. It needs what `make test` installs.
package recipes
