#!/usr/bin/env bash
# Makes sure that a Chromium is on PATH for the tests of the HTML report.
# Installs it with apt-get where that is possible; otherwise says how, and fails only under CI.
set -euo pipefail

for name in chromium chromium-browser google-chrome; do
  if command -v "$name" >/dev/null; then
    exit 0
  fi
done

why="this needs root and apt-get"
if [ "$(id -u)" -eq 0 ] && command -v apt-get >/dev/null; then
  echo "chromium: not found, installing it with apt-get" >&2
  export DEBIAN_FRONTEND=noninteractive
  if { apt-get update -qq && apt-get install -y -qq --no-install-recommends chromium; } >&2 &&
    command -v chromium >/dev/null; then
    exit 0
  fi
  why="apt-get could not install it"
fi

cat >&2 <<EOF
chromium: not installed ($why). The tests of the HTML report need it. Install it with one of
  Debian, Ubuntu:  sudo apt-get install chromium
  Fedora:          sudo dnf install chromium
  macOS:           brew install --cask chromium
EOF
[ -z "${CI:-}" ]
