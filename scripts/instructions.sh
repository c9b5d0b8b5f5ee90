#!/usr/bin/env bash
# The instructions of a pair of acquire and release in the client, counted by
# callgrind: nearly the same on a busy machine as on a quiet one. With one task,
# what is asked by the clock counts several times as much as without callgrind.
#
#   scripts/instructions.sh
#
# Fails where a pair takes more than its budget. Builds the bench again below
# target/instructions: valgrind does not emulate the clock that rustix reads.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/packages.sh

command -v valgrind >/dev/null || install_package valgrind valgrind valgrind valgrind

# nodes, replicas, tasks, the most instructions of a pair
budgets=(
  "1 1 1 32000"
  "1 1 16 17000"
  "1 1 512 14500"
  "5 5 256 45000"
)

export CARGO_TARGET_DIR=$PWD/target/instructions
export RUSTFLAGS="--cfg rustix_use_libc"
bench=$(cargo bench --bench cost --no-run --message-format=json |
  sed -n 's/.*"name":"cost".*"executable":"\([^"]*\)".*/\1/p')

# Those of a run of this many pairs per task.
count() {
  valgrind --tool=callgrind --callgrind-out-file=/dev/null "$bench" \
    --bench --nodes "$1" --replicas "$2" --tasks "$3" --pairs "$4" 2>&1 |
    sed -n 's/.*Collected : //p'
}

result=0
for budget in "${budgets[@]}"; do
  read -r nodes replicas tasks most <<<"$budget"
  pairs=$((2000 / tasks + 2))
  # The difference of two runs has no start-up in it.
  once=$(count "$nodes" "$replicas" "$tasks" "$pairs")
  twice=$(count "$nodes" "$replicas" "$tasks" $((2 * pairs)))
  each=$(((twice - once) / (tasks * pairs)))
  printf '%s of %s nodes, %4s tasks: %6s instructions a pair (of %s)\n' \
    "$replicas" "$nodes" "$tasks" "$each" "$most"
  [ "$each" -le "$most" ] || result=1
done
exit "$result"
