# Installs packages by whichever package manager the system has. Sourced.

as_root() {
  if [ "$(id -u)" = 0 ]; then "$@"; else sudo "$@"; fi
}

# install_package APT DNF APK BREW: its name for each package manager; several names,
# separated by spaces, are tried in turn.
install_package() {
  local name
  if command -v apt-get >/dev/null; then
    as_root apt-get update -qq
    for name in $1; do
      # No server of the system's own is to be started beside the tests'.
      as_root env DEBIAN_FRONTEND=noninteractive RUNLEVEL=1 apt-get install -y -qq "$name" && return
    done
  elif command -v dnf >/dev/null; then
    for name in $2; do as_root dnf install -y -q "$name" && return; done
  elif command -v apk >/dev/null; then
    for name in $3; do as_root apk add -q "$name" && return; done
  elif command -v brew >/dev/null; then
    for name in $4; do brew install "$name" && return; done
  fi
  echo "$1 is missing, and no package manager here installs it: install it" >&2
  return 1
}
