#!/bin/bash
# Looks for inputs that break a property: libFuzzer, on the stable compiler, every target for so many seconds.
#
#   tests/fuzz/search.sh SECONDS [TARGET …]
#
# What it finds is left in tests/fuzz/corpus/TARGET/found-…, where `cargo test -p jincai-fuzz` shows it until it is mended;
# give it the name of what went wrong then, and keep it. Inputs that reach new code are kept in the build folder and used by the next search.
set -euo pipefail

seconds=${1:?how many seconds a target?}
shift
here=$(cd "$(dirname "$0")" && pwd)
build=${CARGO_TARGET_DIR:-$here/../../target}/fuzz
mkdir -p "$build"
build=$(cd "$build" && pwd)
host=$(rustc -vV | sed -n 's/^host: //p')

# Coverage as libFuzzer wants it. Naming a target keeps these flags away from build scripts and macros.
CARGO_TARGET_DIR="$build" RUSTFLAGS="--cfg fuzzing -C codegen-units=1 -C passes=sancov-module \
    -C llvm-args=-sanitizer-coverage-level=4 -C llvm-args=-sanitizer-coverage-inline-8bit-counters \
    -C llvm-args=-sanitizer-coverage-pc-table -C llvm-args=-sanitizer-coverage-trace-compares" \
    cargo build --release --locked --manifest-path "$here/search/Cargo.toml" --target "$host"
search="$build/$host/release/jincai-fuzz-search"

[ $# -gt 0 ] || set -- $(ls "$here/corpus")
for target in "$@"; do
    [ -d "$here/corpus/$target" ] || { echo "there is no corpus of «$target»" >&2; exit 1; }
done

# Searches against one target; leaves one line, and how many executions there were.
search_one() {
    local target=$1 corpus="$here/corpus/$1" reached="$build/reached/$1" log="$build/$1.log" result="nothing found"
    mkdir -p "$reached"
    JINCAI_FUZZ_TARGET="$target" "$search" "$reached" "$corpus" -max_total_time="$seconds" -max_len=65536 -timeout=10 \
        -rss_limit_mb=2048 -malloc_limit_mb=512 -print_final_stats=1 -artifact_prefix="$corpus/found-" >"$log" 2>&1 ||
        result="FOUND: $(sed -n 's/.*Test unit written to //p' "$log" | tail -1) (the log: $log)"
    local executions coverage
    executions=$(sed -n 's/^stat::number_of_executed_units: *//p' "$log" | tail -1)
    coverage=$(sed -n 's/.* cov: \([0-9]*\) ft: \([0-9]*\) .*/\1 edges, \2 features/p' "$log" | tail -1)
    echo "$target: ${executions:-?} executions, ${coverage:-no coverage}, $result" | tee "$build/$target.result"
}

# As many at once as there are processors.
rm -f "$build"/*.result
for target in "$@"; do
    while [ "$(jobs -rp | wc -l)" -ge "$(nproc)" ]; do wait -n; done
    search_one "$target" &
done
wait
results=$(cd "$build" && cat *.result)
found=$(grep -c 'FOUND: ' <<<"$results" || true)
all=$(awk '{ sum += $2 } END { print sum + 0 }' <<<"$results")
[ "$(wc -l <<<"$results")" -eq $# ] || { echo "search: not every target has a result" >&2; exit 1; }
echo "search: $# targets, $all executions, $found with a finding"
[ "$found" -eq 0 ]
