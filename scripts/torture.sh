#!/usr/bin/env bash
# Torments routers of several processes and real servers, and judges what they
# did. Exit code 0: nothing was wrong.
#
#   scripts/torture.sh [--seed S] [--minutes M] [--preset P]
#   scripts/torture.sh --seed S --preset P --again    judges what it kept
#
# Presets: ci (a little of everything), kills, network, clocks, memory, changes,
# all, single (one replica), majority (most members away at times), rolling
# (members restarted empty, one after the other). The history is kept in target/torture/SEED-PRESET/. Needs redis-server and cc.
set -euo pipefail
cd "$(dirname "$0")/.."

seed=$(od -An -N4 -tu4 /dev/urandom | tr -d ' ')
minutes=1
preset=ci
again=
while [ $# -gt 0 ]; do
  if [ "$1" = --again ]; then again=1; shift; continue; fi
  [ $# -ge 2 ] || { echo "$1 needs a value" >&2; exit 2; }
  case $1 in
    --seed) seed=$2 ;;
    --minutes) minutes=$2 ;;
    --preset) preset=$2 ;;
    *) echo "$1 is unknown: --seed, --minutes, --preset, --again" >&2; exit 2 ;;
  esac
  shift 2
done

out=${CARGO_TARGET_DIR:-$PWD/target}/torture/$seed-$preset
[ -n "$again" ] || rm -rf "$out"
export TORTURE_SEED=$seed TORTURE_MINUTES=$minutes TORTURE_PRESET=$preset TORTURE_OUT=$out TORTURE_AGAIN=$again
exec cargo test --release --test torture -- --exact one_run --nocapture
