#!/bin/bash
# A poor public network between two nodes: 100 Mbit/s, 100 ms there and back, 1 % of packets lost each way. wan.sh [--json]
# Prints what jincai and the kernel's TCP (CUBIC, BBR) carry over it, and what each leaves of one line to a TCP neighbour.
# Needs root: two network namespaces, joined by tests/network/shaper.py. JINCAI names the program (default: what cargo builds).
set -euo pipefail

root=$(cd "$(dirname "$0")/../.." && pwd)
"$root/tests/install.sh" >&2
command -v curl >/dev/null || { apt-get update -q && apt-get install -q -y --no-install-recommends curl; } >&2
if [ -z "${JINCAI:-}" ]; then
    (cd "$root" && cargo build --release --locked --workspace --bin jincai) >&2
    JINCAI=${CARGO_TARGET_DIR:-$root/target}/release/jincai
fi
JINCAI=$(realpath "$JINCAI") exec python3 "$root/tests/peers/wan/measure.py" "$@"
