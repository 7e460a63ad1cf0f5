#!/usr/bin/env bash
# A container engine for the tests of the images, and a base image that comes from no registry.
#
#   .ci/docker.sh install     makes sure of dockerd and debootstrap (apt-get, as root); else says how
#   .ci/docker.sh start DIR   starts a dockerd of its own on DIR/docker.sock, its data below DIR
#   .ci/docker.sh base NAME   makes the image NAME, a minimal Debian, unless it is there ($DOCKER_HOST)
#   .ci/docker.sh stop DIR    stops that dockerd; images stay below DIR for the next time
set -euo pipefail

install() {
  if command -v dockerd >/dev/null && command -v debootstrap >/dev/null; then return; fi
  if [ "$(id -u)" -ne 0 ] || ! command -v apt-get >/dev/null; then
    echo "docker: dockerd or debootstrap is missing, and installing them needs root and apt-get:" >&2
    echo "  sudo apt-get install docker.io debootstrap" >&2
    exit 1
  fi
  echo "docker: installing docker.io and debootstrap with apt-get" >&2
  export DEBIAN_FRONTEND=noninteractive
  { apt-get update -qq && apt-get install -y -qq --no-install-recommends docker.io debootstrap; } >&2
}

# A dockerd that was killed leaves its file behind, and its number goes to another process.
alive() {
  [ -s "$1/dockerd.pid" ] && [ "$(cat "/proc/$(cat "$1/dockerd.pid")/comm" 2>/dev/null)" = dockerd ]
}

# Without a bridge and firewall rules, so that it runs inside a container too: containers get no network
# or the host's.
start() {
  mkdir -p "$1"
  local at
  at="$(cd "$1" && pwd)"
  if ! alive "$at"; then
    nohup dockerd --data-root "$at/data" --exec-root "$at/exec" -p "$at/dockerd.pid" \
      -H "unix://$at/docker.sock" --bridge=none --iptables=false >"$at/dockerd.log" 2>&1 &
  fi
  for _ in $(seq 60); do
    if DOCKER_HOST="unix://$at/docker.sock" docker version >/dev/null 2>&1; then return; fi
    sleep 1
  done
  tail -20 "$at/dockerd.log" >&2
  echo "docker: dockerd did not come up within a minute" >&2
  exit 1
}

base() {
  if docker image inspect "$1" >/dev/null 2>&1; then return; fi
  local root
  root="$(mktemp -d)"
  # shellcheck disable=SC2064  # the folder is known now
  trap "rm -rf '$root'" EXIT
  debootstrap --variant=minbase --include=ca-certificates bookworm "$root/debian" >"$root/log" 2>&1 ||
    { tail -20 "$root/log" >&2; exit 1; }
  # Lists and packages that apt can fetch again.
  rm -rf "$root/debian/var/lib/apt/lists/"* "$root/debian/var/cache/apt/"*.bin
  rm -rf "$root/debian/var/cache/apt/archives/"*.deb
  tar -C "$root/debian" -c . | docker import -c 'CMD ["/bin/bash"]' - "$1" >/dev/null
}

stop() {
  alive "$1" || return 0
  local pid
  pid="$(cat "$1/dockerd.pid")"
  kill "$pid"
  for _ in $(seq 30); do
    kill -0 "$pid" 2>/dev/null || return 0
    sleep 1
  done
  echo "docker: dockerd (process $pid) does not stop" >&2
  exit 1
}

case "${1:-}" in
  install) install ;;
  start | base | stop) "$1" "${2:?names a folder or an image}" ;;
  *)
    sed -n '2,7s/^# \{0,1\}//p' "$0" >&2
    exit 2
    ;;
esac
