#!/usr/bin/env bash
# Builds queuelib-test/redis:local and queuelib-test/rabbitmq:local from this machine's own Debian (or Ubuntu) packages,
# for places where the official images cannot be pulled. One root file system, imported twice with different commands.
# Images that carry the hash of this recipe are kept as they are; --force builds them anew.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
label=queuelib.recipe

. /etc/os-release
recipe=$(cat "$here/build-images.sh" "$here/start-rabbitmq.sh" /etc/os-release | sha256sum | cut -c1-16)

say() { echo "images: $*"; }
fail() { say "$*" >&2; exit 1; }
is_built() { [ "$(docker image inspect -f "{{index .Config.Labels \"$label\"}}" "$1" 2>/dev/null)" = "$recipe" ]; }

if [ "${1:-}" != --force ] && is_built queuelib-test/redis:local && is_built queuelib-test/rabbitmq:local; then
    say "up to date (recipe $recipe)"
    exit 0
fi
docker info >/dev/null 2>&1 || fail "no docker engine answers: start one (as root: dockerd), then try again"
command -v debootstrap >/dev/null || fail "debootstrap is missing: apt-get install debootstrap"
[ "$(id -u)" = 0 ] || fail "debootstrap needs root"

# apt knows its sources in every form and place; ask it instead of reading files.
mirror=${QUEUELIB_TEST_MIRROR:-$(apt-get indextargets --format '$(RELEASE) $(CODENAME) $(COMPONENT) $(REPO_URI)' 'Created-By: Packages' |
    awk -v release="$VERSION_CODENAME" '($1 == release || $2 == release) && $3 == "main" { print $4; exit }')}
[ -n "$mirror" ] || fail "apt names no source for $VERSION_CODENAME main: set QUEUELIB_TEST_MIRROR"
case $ID in ubuntu) components=main,universe ;; *) components=main ;; esac

# debootstrap fetches with wget: hand it apt's proxy, and apt's certificate for a mirror behind https.
eval "$(apt-config shell http_proxy Acquire::http::Proxy https_proxy Acquire::https::Proxy certificate Acquire::https::CAInfo)"
[ -z "${http_proxy:-}" ] || export http_proxy
[ -z "${https_proxy:-}" ] || export https_proxy
options=(--variant=minbase "--components=$components" --include=redis-server,rabbitmq-server)
case $mirror in https:*)
    certificate=${certificate:-${SSL_CERT_FILE:-}}
    [ -z "$certificate" ] || options+=("--ca-certificate=$certificate")
    ;;
esac

work=$(mktemp -d)
trap 'rm -rf --one-file-system "$work"' EXIT
chmod 755 "$work"
say "building from $VERSION_CODENAME packages, about a minute"
debootstrap "${options[@]}" "$VERSION_CODENAME" "$work/root" "$mirror" >"$work/log" 2>&1 || {
    tail -n 20 "$work/log" "$work/root/debootstrap/debootstrap.log" 2>/dev/null >&2 || true
    fail "debootstrap failed; its last lines are above"
}
install -m 755 "$here/start-rabbitmq.sh" "$work/root/usr/local/bin/start-rabbitmq"

import() { # NAME USER PORT COMMAND
    tar -C "$work/root" --one-file-system --exclude=./proc/* --exclude=./sys/* --exclude=./dev/* \
        --exclude=./var/cache/apt/* --exclude=./var/lib/apt/lists/* --exclude=./usr/share/doc/* --exclude=./usr/share/man/* \
        --exclude=./usr/share/locale/* --exclude=./etc/apt/sources.list --exclude=./var/log/*.log -c . |
        docker import -c "LABEL $label=$recipe" -c "USER $2" -c "EXPOSE $3" -c "CMD $4" - "queuelib-test/$1:local" >/dev/null
    say "queuelib-test/$1:local is built (recipe $recipe)"
}
# `--protected-mode no`: as in the official image, where the port is published by the engine only on request.
import redis redis 6379 '["redis-server", "--bind", "0.0.0.0", "--protected-mode", "no", "--save", "", "--dir", "/tmp"]'
import rabbitmq rabbitmq 5672 '["/usr/local/bin/start-rabbitmq"]'
