#!/usr/bin/env bash
# What takes too long for every change: the wide model, all benches in test mode
# (each checks its own results), the instructions of a pair, whether the fuzz targets
# compile, and ten minutes of each torture preset.
#
#   scripts/nightly.sh [MINUTES]    minutes of each preset, 10 by default
set -euo pipefail
cd "$(dirname "$0")/.."

minutes=${1:-10}
export RINGLOCK_VALKEY_SERVER=${RINGLOCK_VALKEY_SERVER:-$(scripts/server.sh valkey)}
export RINGLOCK_REDIS_62_SERVER=${RINGLOCK_REDIS_62_SERVER:-$(scripts/server.sh redis-6.2)}

scripts/model.sh
cargo test --workspace --all-features --benches
scripts/instructions.sh
# The fuzz targets are no part of the workspace.
RUSTFLAGS="--cfg fuzzing" CARGO_TARGET_DIR=target/fuzz cargo check --manifest-path fuzz/Cargo.toml
for preset in all kills network clocks memory changes single majority rolling; do
  scripts/torture.sh --minutes "$minutes" --preset "$preset"
done
