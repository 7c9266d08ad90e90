#!/usr/bin/env bash
# Fuzzes the decoder of what a peer sends to the agent:  tools/fuzz.sh [SECONDS]
# The coverage instrumentation is asked of rustc as `cargo fuzz` does; it needs no nightly toolchain.
set -euo pipefail
cd "$(dirname "$(readlink -f "$0")")/.."
seconds=${1:-60}
[[ $seconds =~ ^[0-9]{1,6}$ ]] || { echo "usage: tools/fuzz.sh [SECONDS]" >&2; exit 2; }
target=$(uname -m)-unknown-linux-gnu
# What is found goes into .cache; a crash is worth a file in native/fuzz/corpus/frames.
work=$PWD/.cache/fuzz
mkdir -p "$work/corpus" "$work/artifacts"
# The agent's own flags (static) are for its directory and below: libFuzzer wants the usual linking.
RUSTFLAGS="--cfg fuzzing -Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
-Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table \
-Cllvm-args=-sanitizer-coverage-trace-compares -Cdebug-assertions -Ccodegen-units=1" \
  cargo build --quiet --release --locked --manifest-path native/fuzz/Cargo.toml --target "$target" --target-dir "$work/target"
exec "$work/target/$target/release/frames" -max_total_time="$seconds" -seed=7 -timeout=5 -rss_limit_mb=512 \
  -artifact_prefix="$work/artifacts/" "$work/corpus" native/fuzz/corpus/frames
