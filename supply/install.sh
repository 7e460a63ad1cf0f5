#!/usr/bin/env bash
# Makes the environment FOLDER hold what is locked, and Reprune itself, editable:
#
#   supply/install.sh FOLDER           everything that is locked, for development
#   supply/install.sh FOLDER EXTRAS    what these extras of Reprune take (local,kfp)
#
# pip takes a file only if its digest is in constraints.lock, resolves nothing, and builds what comes as
# sources alone with the locked tools. By environment: PYTHON makes the environment if there is none;
# TORCH is the build of torch: `cpu`, which is on PyTorch's own index; `any`, which is PyPI's, by digest too
# but with the libraries that it asks for by version alone (CUDA's, on Linux); without it, cpu where pip
# finds that and any where it finds none. One with another digest is refused.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

folder="${1:?names the folder of an environment}"
extras="${2:-}"
python="$folder/bin/python"
test -x "$python" || "${PYTHON:-python3}" -m venv "$folder"

aside="$(mktemp -d)"
trap 'rm -rf "$aside"' EXIT

part() { "$python" supply/closure.py constraints.lock supply/packages.json; } # of the names on stdin
locked() { "$python" -m pip install --require-hashes --no-deps --no-build-isolation -r "$1"; }

printf '%s\n' editables hatchling setuptools | part >"$aside/builders.lock"
if [ -n "$extras" ]; then
  "$python" images/needs.py pyproject.toml "$extras" | part >"$aside/wanted.lock"
else
  cp constraints.lock "$aside/wanted.lock"
fi

locked "$aside/builders.lock"
# torch goes first, alone: then nothing pulls in another build.
if grep -q '^torch==' "$aside/wanted.lock"; then
  torch="${TORCH:-}"
  found=1
  if [ "$torch" != any ]; then
    locked supply/torch-cpu.lock 2>"$aside/said" || found=
    cat "$aside/said" >&2
  fi
  if [ -z "$found" ]; then
    # Only a build that is nowhere may be replaced: another file in its place is refused, as everywhere.
    if ! grep -q 'No matching distribution found for torch' "$aside/said"; then
      cat >&2 <<MESSAGE
install: what pip found as the locked CPU build of torch is not it, or could not be installed: nothing is taken in
its place. If the lock lists no build for this Python and machine (supply/torch-cpu.lock), say TORCH=any.
MESSAGE
      exit 1
    fi
    cat >&2 <<MESSAGE
install: the locked CPU build of torch is nowhere. It is not on PyPI: tell pip of PyTorch's own
index of CPU builds (PIP_EXTRA_INDEX_URL, or a folder in PIP_FIND_LINKS), or say TORCH=any.
MESSAGE
    if [ "$torch" = cpu ]; then exit 1; fi
    echo "install: taking PyPI's build instead; on Linux it brings gigabytes of CUDA's libraries" >&2
    torch=any
  fi
  if [ "$torch" = any ]; then
    sed -n '/^torch==/,/[^\\]$/p' constraints.lock >"$aside/torch.lock"
    locked "$aside/torch.lock"
    "$python" -m pip install -c constraints.txt torch
  fi
fi
locked "$aside/wanted.lock"
"$python" -m pip install --no-deps --no-build-isolation -e .
