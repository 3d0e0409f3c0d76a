// Package checks tests what machines read: the OpenAPI document of the API, against a
// running server, and the files with which caddy-sse is deployed. It is a Go module
// of its own since its tests need libraries that the product must not depend on.
package checks
