#!/bin/sh
# setup.sh - makes sure that the compiler and the libraries are here, then builds the programs.
#
#     pipelines/setup.sh [MAKE ARGUMENTS]
#
# BUILD and BIN in the environment name other folders than build/ and bin/.
#
# Missing Debian packages are installed when this is root or sudo asks no password; otherwise the one line to run
# is printed and the exit code is 69.
set -eu
cd "$(dirname "$0")/.."

case ${1:-} in
-h | --help) sed -n '2,/^set -eu/{/^set -eu/d;s/^# \{0,1\}//;p;}' pipelines/setup.sh; exit 0 ;;
esac

packages='gcc libc6-dev make pkg-config libzmq3-dev libmsgpack-dev libopenblas-dev libsqlite3-dev libjansson-dev
libpcre2-dev libutf8proc-dev libsodium-dev zlib1g-dev'

missing=
if command -v dpkg-query >/dev/null; then
    for package in $packages; do
        case $(dpkg-query -W -f='${db:Status-Status}' "$package" 2>/dev/null || true) in
        installed) ;;
        *) missing="$missing $package" ;;
        esac
    done
elif ! pkg-config --exists libzmq msgpack openblas sqlite3 jansson libpcre2-8 libutf8proc libsodium zlib; then
    echo "vas-setup: some libraries are missing; this system's names of the following packages are needed:" >&2
    echo $packages >&2
    exit 69
fi

if [ -n "$missing" ]; then
    root=
    if [ "$(id -u)" != 0 ]; then
        if command -v sudo >/dev/null && sudo -n true 2>/dev/null; then
            root='sudo -n'
        else
            echo "vas-setup: packages are missing; as root run" >&2
            echo "apt-get install -y --no-install-recommends$missing" >&2
            exit 69
        fi
    fi
    echo "vas-setup: installing$missing" >&2
    log=$(mktemp)
    if ! { $root apt-get update && DEBIAN_FRONTEND=noninteractive $root apt-get install -y --no-install-recommends $missing; } \
        >"$log" 2>&1; then
        tail -n 5 "$log" >&2
        echo "vas-setup: could not install$missing; the log is $log" >&2
        exit 69
    fi
    rm -f "$log"
fi

make -s -j"$(nproc)" ${BUILD:+BUILD="$BUILD"} ${BIN:+BIN="$BIN"} "$@"
