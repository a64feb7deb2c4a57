#!/bin/sh
# Installs what tests on a fresh Debian or Ubuntu machine need beyond Python: a C compiler for the simulated NVIDIA
# driver and the recorder of power cuts, the shells whose completion is tested, what boots a systemd of its own, and a
# Docker engine, which the tests start privately: no service is started or left to start at boot. Run as root; elsewhere
# it says so and changes nothing, and the tests that need a package skip with its name (under CI=true they fail).
set -eu

packages="gcc libc6-dev make zsh fish debootstrap debian-archive-keyring systemd-container util-linux iptables busybox-static"
# An engine that is here already stays: Debian's and Docker's own packages displace each other.
services=
if ! command -v dockerd >/dev/null; then
    packages="$packages docker.io"
    services="docker.service docker.socket"
    command -v containerd >/dev/null || services="$services containerd.service"
fi

if ! command -v apt-get >/dev/null; then
    echo "install-packages: nothing done: apt-get is not here; install the equivalents of: $packages" >&2
    exit 0
fi
missing=
for package in $packages; do
    [ "$(dpkg-query --show --showformat='${db:Status-Status}' "$package" 2>/dev/null)" = installed ] ||
        missing="$missing $package"
done
if [ -z "$missing" ]; then
    echo "install-packages: all there"
    exit 0
fi
if [ "$(id -u)" -ne 0 ]; then
    echo "install-packages: nothing done: needs root to install:$missing" >&2
    exit 0
fi
export DEBIAN_FRONTEND=noninteractive
policy=/usr/sbin/policy-rc.d  # what a package asks before it starts its service; 101 is no
if [ ! -e "$policy" ]; then
    trap 'rm -f "$policy"' EXIT
    printf '#!/bin/sh\nexit 101\n' >"$policy"
    chmod 755 "$policy"
fi
apt-get update -q
# shellcheck disable=SC2086  # a list of words
apt-get install -q -y --no-install-recommends $missing
if [ -n "$services" ] && command -v systemctl >/dev/null; then
    # shellcheck disable=SC2086  # a list of words
    systemctl --quiet disable $services
    # shellcheck disable=SC2086
    [ ! -d /run/systemd/system ] || systemctl stop $services  # where another policy let them start
fi
