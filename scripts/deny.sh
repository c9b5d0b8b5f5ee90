#!/usr/bin/env bash
# Licences, sources and doubles of the dependencies, by cargo-deny (deny.toml).
# Known vulnerabilities need a database that is fetched from elsewhere: ask for
# them with `scripts/deny.sh advisories` where that is within reach.
set -euo pipefail
cd "$(dirname "$0")/.."

if ! command -v cargo-deny >/dev/null; then
  cargo install --locked --quiet cargo-deny
fi
cargo deny --all-features --log-level error check "${@:-bans}" licenses sources
