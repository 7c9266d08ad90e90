#!/usr/bin/env bash
# Fuzzes what is read of a guest, each for as long:  tools/fuzz.sh [SECONDS] [TARGET]
#   frames    what a peer sends to the agent, and the daemon to it: frames and the messages in them
#   volumes   what a guest sends to the server of its volumes: FUSE messages, on a directory in memory
# The coverage instrumentation is asked of rustc as `cargo fuzz` does; it needs no nightly toolchain.
set -euo pipefail
cd "$(dirname "$(readlink -f "$0")")/.."
seconds=${1:-60}
targets=${2:-frames volumes}
usage() { echo "usage: tools/fuzz.sh [SECONDS] [frames|volumes]" >&2; exit 2; }
[[ $seconds =~ ^[0-9]{1,6}$ ]] || usage
[[ $targets =~ ^(frames|volumes|frames volumes)$ ]] || usage
target=$(uname -m)-unknown-linux-gnu
# What is found goes into .cache; a crash is worth a file in native/fuzz/corpus/TARGET.
work=$PWD/.cache/fuzz
scratch=$(mktemp -d /dev/shm/tb-fuzz-XXXXXX)
trap 'rm -rf "$scratch"' EXIT
# The agent's own flags (static) are for its directory and below: libFuzzer wants the usual linking.
RUSTFLAGS="--cfg fuzzing -Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
-Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table \
-Cllvm-args=-sanitizer-coverage-trace-compares -Cdebug-assertions -Ccodegen-units=1" \
  cargo build --quiet --release --locked --manifest-path native/fuzz/Cargo.toml --target "$target" --target-dir "$work/target"
for name in $targets; do
  echo "fuzz: $name, $seconds s"
  mkdir -p "$work/corpus/$name" "$work/artifacts/$name"
  TMPDIR=$scratch "$work/target/$target/release/$name" -max_total_time="$seconds" -seed=7 -timeout=5 -rss_limit_mb=512 \
    -artifact_prefix="$work/artifacts/$name/" "$work/corpus/$name" "native/fuzz/corpus/$name"
done
