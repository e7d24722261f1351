#!/bin/sh
# Installs what a bare Debian machine with a Rust toolchain lacks: a C compiler and make (ring, zstd and the allocator are built
# from C), a C++ compiler (libFuzzer, for the search in `make soak`), python3 (the demo's independent totals, the licence check, the
# network shaper) with cbor2 and cryptography (the kit's sample node), and for the tests of faults: file systems to cut off (e2fsprogs, xfsprogs, mount), strace, iproute2, libfaketime.
# What is there is left alone, so a second run does nothing.
set -eu

packages=""
command -v cc >/dev/null 2>&1 || packages="$packages gcc libc6-dev"
command -v c++ >/dev/null 2>&1 || packages="$packages g++"
command -v make >/dev/null 2>&1 || packages="$packages make"
command -v python3 >/dev/null 2>&1 || packages="$packages python3"
# The first Python may be another than the system's: the system's is good enough for the sample.
{ python3 -c "import cbor2, cryptography" || /usr/bin/python3 -c "import cbor2, cryptography"; } >/dev/null 2>&1 ||
    packages="$packages python3 python3-cbor2 python3-cryptography"
command -v mkfs.ext4 >/dev/null 2>&1 || packages="$packages e2fsprogs"
command -v xfs_io >/dev/null 2>&1 || packages="$packages xfsprogs"
command -v mount >/dev/null 2>&1 || packages="$packages mount"
command -v strace >/dev/null 2>&1 || packages="$packages strace"
command -v ip >/dev/null 2>&1 || packages="$packages iproute2"
ls /usr/lib/*/faketime/libfaketime.so.1 >/dev/null 2>&1 || packages="$packages libfaketime"
[ -n "$packages" ] || exit 0

command -v apt-get >/dev/null 2>&1 || {
    echo "missing and not installed, because there is no apt-get:$packages" >&2
    exit 1
}
as_root=""
if [ "$(id -u)" -ne 0 ]; then
    command -v sudo >/dev/null 2>&1 || {
        echo "missing, and neither root nor sudo to install it:$packages" >&2
        exit 1
    }
    as_root="sudo"
fi
echo "installing:$packages" >&2
$as_root apt-get update -q
# The list is meant to be split into words.
# shellcheck disable=SC2086
$as_root env DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends $packages
