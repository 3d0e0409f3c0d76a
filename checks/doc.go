// Package checks tests files for machines: the OpenAPI document against a running server, and the files for
// deployment. It is a separate Go module, because its tests need libraries that the product must not depend on.
package checks
