#!/usr/bin/env bash
# Installs lock libraries of other languages below target/peers, once, for
# `cargo bench --bench modes -- --foreign`: redis-py by pip and, where node is
# installed, node-redlock by npm.
set -euo pipefail
cd "$(dirname "$0")/.."

redis_py=redis[hiredis]==8.1.0
# The last release of 4 is older; this one sends fewer commands and is faster.
redlock=redlock@5.0.0-beta.2
ioredis=ioredis@5

home="$PWD/target/peers"
mkdir -p "$home"
# Two runs may ask at the same time: one installs.
exec 9>"$home/lock"
if command -v flock >/dev/null; then flock 9; fi

if [ ! -f "$home/python.done" ]; then
  python3 -m venv "$home/venv"
  "$home/venv/bin/python" -m pip install --quiet --disable-pip-version-check "$redis_py"
  touch "$home/python.done"
fi
"$home/venv/bin/python" -c 'import redis; print("redis-py", redis.__version__)'

if ! command -v node >/dev/null || ! command -v npm >/dev/null; then
  echo "node and npm are not installed: node-redlock is left out" >&2
  exit
fi
if [ ! -f "$home/node.done" ]; then
  npm install --silent --no-fund --no-audit --ignore-scripts --prefix "$home" "$redlock" "$ioredis"
  touch "$home/node.done"
fi
echo "node-redlock ${redlock#*@}, ioredis $(node -p "require('$home/node_modules/ioredis/package.json').version")"
