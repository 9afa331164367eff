#!/bin/sh
# Make .venv: a Python of at least 3.11 with this project and its tools, editable.
#
# Does nothing when .venv is there and pyproject.toml has not changed since. As root on Debian it
# installs the few system packages that this needs, else it prints the exact command. What the
# tests need beyond that is `python -m tests.lab.setup`.
set -eu
cd "$(dirname "$0")/.."

fail() {
    printf '\n%s\n' "$*" >&2
    exit 1
}

stamp=.venv/.orchd-stamp
wanted=$(cksum pyproject.toml tools/bootstrap.sh)
if [ -x .venv/bin/python ] && [ "$(cat "$stamp" 2>/dev/null)" = "$wanted" ]; then
    exit 0
fi

find_python() {
    for name in python3 python3.11 python3.12 python3.13 python3.14; do
        if command -v "$name" >/dev/null 2>&1 &&
            "$name" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
            command -v "$name"
            return
        fi
    done
}

# systemd-python has no wheels: it is compiled against libsystemd and this Python's headers.
whole() {
    python=$(find_python)
    [ -n "$python" ] || return 1
    "$python" -c 'import ensurepip, venv' 2>/dev/null || return 1
    headers=$("$python" -c 'import sysconfig; print(sysconfig.get_paths()["include"])')
    [ -f "$headers/Python.h" ] || return 1
    command -v cc >/dev/null 2>&1 || return 1
    command -v git >/dev/null 2>&1 || return 1 # a check lists the repository's own files
    pkg-config --exists libsystemd 2>/dev/null || return 1
}

if command -v apt-get >/dev/null 2>&1 && [ -e /etc/debian_version ]; then
    packages="apt-get install -y --no-install-recommends \
python3 python3-dev python3-venv gcc libc6-dev pkg-config libsystemd-dev git ca-certificates"
elif command -v pacman >/dev/null 2>&1; then
    packages="pacman -S --needed --noconfirm python gcc pkgconf systemd-libs git"
else
    packages="(your package manager): Python 3.11+ with venv and headers, a C compiler, \
pkg-config, libsystemd's headers, git"
fi

if ! whole; then
    if [ "$(id -u)" -ne 0 ] || [ "${packages#(}" != "$packages" ]; then
        fail "Some system packages are missing. As root, run:
    $packages"
    fi
    echo "installing system packages: $packages"
    case $packages in
    apt-get*)
        export DEBIAN_FRONTEND=noninteractive
        apt-get -qq update && $packages -qq >/dev/null
        ;;
    pacman*) $packages ;;
    esac </dev/null || fail "That did not work. As root, run by hand:
    $packages"
    whole || fail "Python 3.11 or newer with venv and headers, cc, git and libsystemd's headers are
needed, and this system's packages did not bring them all. Install them, then try again."
fi

echo "setting up .venv with $python ($("$python" -V))"
# A venv of another Python, or one that was cut short, is made anew. PYTHONPATH would hide faults.
.venv/bin/python -c 'import sys, pip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null ||
    "$python" -m venv --clear .venv
.venv/bin/python -m pip install --quiet --disable-pip-version-check --use-pep517 -e '.[dev]' ||
    fail "pip could not install the Python packages (see above): check the network, then try again."
printf '%s\n' "$wanted" >"$stamp"
