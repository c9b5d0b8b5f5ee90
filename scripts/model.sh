#!/usr/bin/env bash
# The protocol's model within wider bounds than the tests': every interleaving.
#
#   scripts/model.sh          all scenarios, wide ones too, and all mutants
#   scripts/model.sh NAME     those whose name has NAME in it
#
# Prints a row per scenario (bounds, unique states, seconds) and per mutant
# (which claim it breaks, in how many steps), then how many mutants were caught.
# Scenarios run one after the other: the wide ones take some GB of memory.
set -euo pipefail
cd "$(dirname "$0")/.."

model=(cargo test --quiet --release --package ringlock-proto --test model --)
rows=$(mktemp)
trap 'rm -f "$rows"' EXIT

mutants=$("${model[@]}" --list "$@" | grep -c '^mutants::' || true)
result=0
"${model[@]}" --include-ignored --nocapture --test-threads 1 "$@" \
  | grep --line-buffered -E ' states +[0-9.]+ s$|survives in|^test result' | tee "$rows" || result=$?
printf 'mutants caught: %s of %s\n' "$(grep -c ' breaks ' "$rows" || true)" "$mutants"
exit "$result"
