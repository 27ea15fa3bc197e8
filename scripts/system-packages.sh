#!/bin/bash
# Installs the Debian packages that building (and, with "test", testing) needs,
# where they are missing. Usage: scripts/system-packages.sh build|test
#
# Asks for nothing when everything is there. Needs root or sudo without a
# password otherwise; when it may not install, it says what to install and fails.
set -euo pipefail

missing=()

need() { # package, test command...
    local package=$1
    shift
    "$@" >/dev/null 2>&1 || missing+=("$package")
}

has_libclang() {
    compgen -G '/usr/lib/llvm-*/lib/libclang*.so*' || compgen -G '/usr/lib/*/libclang*.so*' \
        || { [ -n "${LIBCLANG_PATH:-}" ] && compgen -G "$LIBCLANG_PATH/libclang*.so*"; }
}

has_library() {
    compgen -G "/usr/lib/*/$1" || compgen -G "/lib/*/$1"
}

has_venv() {
    python3 -c 'import ensurepip, venv'
}

need build-essential command -v c++
need build-essential command -v make
need clang command -v clang                # bindgen asks it for the system's header paths
need libclang-dev has_libclang             # bindgen loads it
need ccache command -v ccache              # RocksDB is compiled once and reused
if [ "${1:-build}" = test ]; then
    need python3 command -v python3
    need python3-venv has_venv             # the Python client of the interop tests
    need systemd command -v systemd-analyze # judges the unit; nothing is run by it
    need libpcre2-8-0 has_library libpcre2-8.so.0 # nginx, which is unpacked and not installed
    need libssl3 has_library libssl.so.3
    need libmagic1 has_library libmagic.so.1 # matrix-commander names the types of files by it
    need iproute2 command -v ip            # networks of their own for the tests of a lossy link
fi

[ ${#missing[@]} -gt 0 ] || exit 0
mapfile -t missing < <(printf '%s\n' "${missing[@]}" | sort -u)

refuse() {
    echo "causeway: missing system packages: ${missing[*]}" >&2
    echo "causeway: $1; install them with: apt-get install -y ${missing[*]}" >&2
    exit 1
}

command -v apt-get >/dev/null || refuse "this system has no apt-get"
as_root=()
if [ "$(id -u)" -ne 0 ]; then
    sudo -n true 2>/dev/null || refuse "this user may not install packages (no root, no sudo without a password)"
    as_root=(sudo -n)
fi

echo "causeway: installing ${missing[*]}"
export DEBIAN_FRONTEND=noninteractive
"${as_root[@]}" apt-get update -q >/dev/null || echo "causeway: apt-get update failed, trying with what is known" >&2
"${as_root[@]}" apt-get install -y -q --no-install-recommends "${missing[@]}" >/dev/null \
    || refuse "apt-get could not install them"
