#!/bin/sh
# Installs what tests on a fresh Debian or Ubuntu machine need beyond Python: a C compiler for the simulated NVIDIA
# driver, and what boots a systemd of its own. Run as root; elsewhere it says so and changes nothing, and the tests that
# need a package skip with its name (under CI=true they fail).
set -eu

packages="gcc libc6-dev make debootstrap debian-archive-keyring systemd-container util-linux"

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
apt-get update -q
# shellcheck disable=SC2086  # a list of words
apt-get install -q -y --no-install-recommends $missing
