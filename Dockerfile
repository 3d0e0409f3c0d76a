# syntax=docker/dockerfile:1
# Caddy with this module and store/nats, from a checkout: docs/deploying.md.
FROM --platform=$BUILDPLATFORM golang:1.26.8-bookworm AS build
ARG TARGETOS TARGETARCH
# What the status and `caddy list-modules --versions` show.
ARG VERSION=0.0.0
WORKDIR /src
COPY . .
RUN --mount=type=cache,target=/go/pkg/mod --mount=type=cache,target=/root/.cache/go-build \
	go build -modfile=tools.mod -o /usr/local/bin/xcaddy github.com/caddyserver/xcaddy/cmd/xcaddy && \
	CGO_ENABLED=0 GOOS=$TARGETOS GOARCH=$TARGETARCH xcaddy build "$(scripts/caddy-version)" \
		--with "github.com/ea766355/caddy-sse@v$VERSION=/src" \
		--with "github.com/ea766355/caddy-sse/store/nats@v$VERSION=/src/store/nats" \
		--output /out/caddy

FROM alpine:3.22
RUN apk add --no-cache ca-certificates mailcap && \
	addgroup -g 1000 -S caddy && adduser -u 1000 -S -D -H -G caddy -h /data caddy && \
	mkdir -p /data/caddy /config/caddy && chown -R caddy:caddy /data /config
COPY --from=build /out/caddy /usr/bin/caddy
COPY deploy/Caddyfile /etc/caddy/Caddyfile
COPY LICENSE /usr/share/licenses/caddy-sse/LICENSE
# Certificates and histories, and the config that was last in force: mount volumes.
# Nothing else is written.
ENV XDG_DATA_HOME=/data XDG_CONFIG_HOME=/config
WORKDIR /data
USER 1000:1000
EXPOSE 80 443 443/udp 2112 8080
HEALTHCHECK --interval=10s --timeout=3s --start-period=30s \
	CMD ["wget", "-q", "-O", "/dev/null", "http://127.0.0.1:2019/sse/ready"]
CMD ["caddy", "run", "--config", "/etc/caddy/Caddyfile", "--adapter", "caddyfile"]
