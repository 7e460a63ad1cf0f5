#!/usr/bin/env bash
# Prints the path of axe-core, which judges how accessible the HTML report is: $REPRUNE_AXE, else the pinned
# one, which is fetched from npm into .cache/ once and checked against its sha256 each time. For tests only.
# Where it cannot be had, says how, and fails only under CI.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

if [ -n "${REPRUNE_AXE:-}" ]; then
  echo "$REPRUNE_AXE"
  exit 0
fi

package=axe-core@4.10.3
digest=880970c081707360e64f34cea25ff91892f5bc95675b0776925b9709dd8a68bb
axe="$PWD/.cache/axe/4.10.3/axe.min.js"

is_right() { echo "$digest  $1" | sha256sum --check --status 2>/dev/null; }

fetch() {
  local aside
  mkdir -p "$(dirname "$axe")"
  aside="$(mktemp -d "$(dirname "$axe")/fetch.XXXXXX")"
  # shellcheck disable=SC2064  # the folder is known now
  trap "rm -rf '$aside'" EXIT
  npm install --prefix "$aside" --ignore-scripts --no-save --no-audit --no-fund --loglevel=error \
    "$package" >&2 || return 1
  if ! is_right "$aside/node_modules/axe-core/axe.min.js"; then
    echo "axe: $package is not what it was when it was pinned; it is not used" >&2
    exit 1
  fi
  mv "$aside/node_modules/axe-core/axe.min.js" "$axe" || return 1
}

why="this needs npm"
if is_right "$axe"; then
  echo "$axe"
  exit 0
fi
if command -v npm >/dev/null; then
  if fetch; then
    echo "$axe"
    exit 0
  fi
  why="npm could not install $package"
fi

cat >&2 <<MESSAGE
axe: not there ($why). The tests of the HTML report need axe.min.js of axe-core 4.10 or newer.
Fetch it (https://registry.npmjs.org/axe-core) and say where it is: export REPRUNE_AXE=/path/to/axe.min.js
MESSAGE
[ -z "${CI:-}" ]
