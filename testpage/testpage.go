// Package testpage holds the built page of the sse_test directive.
//
// It is built from client/ with npm run build; dist is committed so that the module builds without Node.
package testpage

import "embed"

// Files holds index.html, its assets (with hashed names, so they may be cached for ever) and the icon, below "dist".
//
//go:embed all:dist
var Files embed.FS
