.PHONY: test recipes test-go test-client test-browser check lint vuln build build-with page site bench soak soak-cluster hostile release-dry-run

# Runs all tests. Installs or downloads what they need.
test: test-go test-client test-browser

# Installs the Debian packages of the apps, proxies and tools that e2e/recipes and checks run.
RECIPES = default-jdk-headless haproxy nginx php-cli prometheus python3-django python3-flask ruby-sinatra ruby-webrick systemd
recipes:
	dpkg -s $(RECIPES) >/dev/null 2>&1 || { apt-get update && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-upgrade --no-install-recommends $(RECIPES); }

# Tests one package after the other: some measure processes or use fixed ports. LONGEST is how long the
# tests of a package may take on a busy machine.
LONGEST = 60m
test-go: recipes
	go test -race -shuffle=on -timeout=$(LONGEST) -p 1 ./...
	go test -race -shuffle=on -timeout=$(LONGEST) -p 1 . ./e2e -takeover=off
	cd store/nats && go test -race -shuffle=on -timeout=$(LONGEST) -p 1 ./...
	cd bench && go test -race -timeout=$(LONGEST) ./...
	cd checks && go test -timeout=$(LONGEST) ./...

test-client: client/node_modules
	cd client && npm test

# Tests the client against the real server, in Debian's Chromium, Firefox and WebKit, and
# behind Debian's nginx. The embedded page must be the one built from the sources.
BROWSERS = chromium firefox-esr webkit2gtk-driver libnss3-tools xvfb xauth nginx
test-browser: page e2e/browser/node_modules
	git diff --exit-code testpage/dist
	dpkg -s $(BROWSERS) >/dev/null 2>&1 || { apt-get update && apt-get install -y --no-install-recommends $(BROWSERS); }
	go build -o tmp/caddy-plain ./cmd/caddy
	cd e2e/browser && CADDY_BIN="$(CURDIR)/tmp/caddy-plain" npm run test:browser

%/node_modules: %/package-lock.json
	cd $* && npm ci --no-audit --no-fund
	touch $@

# Builds the page of sse_test, which is embedded.
page: client/node_modules
	cd client && npm run build

# Builds the docs as a static site into site/dist. It fails if a link in them leads nowhere.
site: client/node_modules site/node_modules
	cd site && npm run build

# Measures this module and its peers. Needs an idle machine. See bench/README.md.
bench:
	command -v nginx || { apt-get update && apt-get install -y --no-install-recommends nginx libnginx-mod-nchan; }
	cd bench && go run .

# Tries to lose events: make soak DURATION=20m SEED=1. Writes its section of
# e2e/RESULTS.md, and heap profiles to tmp if the memory of the server has grown.
DURATION ?= 20m
SEED ?= 0
soak:
	mkdir -p tmp
	go test -count=1 -timeout=0 -artifacts -outputdir="$(CURDIR)/tmp" -v -run '^TestChaos$$' ./e2e/chaos -duration=$(DURATION) -seed=$(SEED) -clients=150 -rate=40 -results=../RESULTS.md

# Does the same with three nodes and three NATS servers.
soak-cluster:
	cd store/nats && go test -count=1 -timeout=0 -v -run '^TestClusterLosesNothing$$' ./e2e -duration=$(DURATION) -seed=$(SEED) -results=../../../e2e/RESULTS.md

# Attacks a server, and compares the waiting times of innocent clients with and without
# the attack. Needs an idle machine. Writes its section of e2e/RESULTS.md.
hostile:
	go test -count=1 -timeout=0 -v ./e2e/hostile -full -results=../RESULTS.md

# Runs the checks that CI runs after the tests.
check: lint build site

lint: client/node_modules e2e/browser/node_modules
	go vet ./...
	go vet -tags holds ./hub
	go tool -modfile=tools.mod staticcheck ./...
	@test -z "$$(go tool -modfile=tools.mod gofumpt -l $$(git ls-files '*.go') | tee /dev/stderr)"
	@test -z "$$(go fix -diff ./... 2>&1 | tee /dev/stderr)"
	cd store/nats && go vet ./... && go fix -diff ./...
	cd bench && go vet ./... && go fix -diff ./...
	cd checks && go vet ./... && go fix -diff ./...
	go tool -modfile=tools.mod actionlint
	for script in scripts/* .ci/run; do bash -n $$script || exit 1; done
	GOOS=windows go vet ./...
	GOOS=darwin go vet ./...
	cd client && npm run build && npm run check
	cd e2e/browser && npm run check

# Looks for known vulnerabilities of dependencies in an online database.
vuln:
	go tool -modfile=tools.mod govulncheck ./...
	cd store/nats && go tool -modfile=../../tools.mod govulncheck ./...

# Builds Caddy as users do: with this module, and with both modules.
CADDY ?= $(shell scripts/caddy-version)
SSE = github.com/ea766355/caddy-sse
build: tmp/xcaddy
	tmp/xcaddy build $(CADDY) --with $(SSE)@v0.0.0="$(CURDIR)" --output tmp/caddy
	tmp/caddy list-modules | grep -x http.handlers.sse

build-with: build
	tmp/xcaddy build $(CADDY) --with $(SSE)@v0.0.0="$(CURDIR)" --with $(SSE)/store/nats@v0.0.0="$(CURDIR)/store/nats" --output tmp/caddy-nats
	tmp/caddy-nats list-modules | grep -x sse.stores.nats

tmp/xcaddy: tools.mod
	go build -modfile=tools.mod -o $@ github.com/caddyserver/xcaddy/cmd/xcaddy

# Does the steps of a release on this machine, without publishing. See CONTRIBUTING.md.
release-dry-run: client/node_modules
	scripts/release-dry-run
