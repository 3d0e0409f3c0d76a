.PHONY: test check lint build

# All tests, with what they need installed or fetched.
test:
	go test -race -shuffle=on -timeout=600s ./...

# What CI runs after the tests.
check: lint build

lint:
	go vet ./...
	go tool -modfile=tools.mod staticcheck ./...
	@test -z "$$(go tool -modfile=tools.mod gofumpt -l $$(git ls-files '*.go') | tee /dev/stderr)"
	@test -z "$$(go fix -diff ./... 2>&1 | tee /dev/stderr)"
	GOOS=windows go vet ./...
	GOOS=darwin go vet ./...

# Caddy with this module, as users build it.
build:
	go build -modfile=tools.mod -o tmp/xcaddy github.com/caddyserver/xcaddy/cmd/xcaddy
	tmp/xcaddy build v2.11.9 --with github.com/ea766355/caddy-sse@v0.0.0="$(CURDIR)" --output tmp/caddy
	tmp/caddy list-modules | grep -x http.handlers.sse
