#!/usr/bin/env bash
# Builds the named images (control, compress, tensorrt) with docker's BuildKit and prints what each is.
#
# By environment: PREFIX (before the name, default "reprune/"), TAG (default: Reprune's version),
# BASE (what control and compress are built on), EXTRAS (of Reprune, instead of compress' own),
# TORCH_INDEX (pip's index for compress' torch); of tensorrt alone TENSORRT_BASE, TENSORRT_EXTRAS,
# TENSORRT_TORCH_INDEX (one with torch for CUDA), TENSORRT_VERSION, NVIDIA_INDEX (for TensorRT's libraries),
# BUILD_CA and BUILD_PIP (files: a proxy's CA, pip's configuration; secrets of the build, in no layer),
# BUILD_OPTIONS (more for `docker build`), PUSH=1 (push afterwards; the digest is then printed).
# `images/build.sh --client` prints the docker client that builds; `--list NAME...` builds nothing and
# prints what is there.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

version="$(sed -n 's/^__version__ = "\(.*\)"/\1/p' src/reprune/__init__.py)"
prefix="${PREFIX-reprune/}"
tag="${TAG:-$version}"
revision="$(git rev-parse HEAD 2>/dev/null || echo unknown)"
# The commit's time, not the clock's: the same commit gives the same files.
epoch="${SOURCE_DATE_EPOCH:-$(git log -1 --format=%ct 2>/dev/null || echo 0)}"

# A client that builds with BuildKit: one with buildx, or one old enough to have it built in.
docker=""
for candidate in ${DOCKER:-docker /usr/bin/docker}; do
  command -v "$candidate" >/dev/null || continue
  major="$("$candidate" --version | sed -n 's/^Docker version \([0-9]*\)\..*/\1/p')"
  if "$candidate" buildx version >/dev/null 2>&1 || [ "${major:-99}" -lt 23 ]; then
    docker="$candidate"
    break
  fi
done
if [ -z "$docker" ]; then
  echo "images: no docker client that can build with BuildKit; install docker with buildx, or set DOCKER" >&2
  exit 2
fi
if [ "${1:-}" = --client ]; then
  echo "$docker"
  exit
fi
only_list=
if [ "${1:-}" = --list ]; then
  only_list=1
  shift
fi
export DOCKER_BUILDKIT=1

secrets=()
if [ -n "${BUILD_CA:-}" ]; then secrets+=(--secret "id=ca,src=$BUILD_CA"); fi
if [ -n "${BUILD_PIP:-}" ]; then secrets+=(--secret "id=pip,src=$BUILD_PIP"); fi

build() {
  local name="$1" image="$2" base="${BASE:-}" extras="${EXTRAS:-}" index="${TORCH_INDEX:-}"
  # What is said of compress is wrong here: its torch is for CPUs, and its extras have no TensorRT.
  if [ "$name" = tensorrt ]; then
    base="${TENSORRT_BASE:-}" extras="${TENSORRT_EXTRAS:-}" index="${TENSORRT_TORCH_INDEX:-}"
  fi
  local own
  own="$(sed -n 's/^FROM \(.*\) AS default$/\1/p' "images/$name.Containerfile")"
  local arguments=(
    --label "org.opencontainers.image.base.name=${base:-$own}"
    --build-arg "VERSION=$version" --build-arg "REVISION=$revision"
    --build-arg "SOURCE_DATE_EPOCH=$epoch"
    --build-arg "CREATED=$(date -u -d "@$epoch" +%Y-%m-%dT%H:%M:%SZ)"
  )
  if [ -n "$base" ]; then arguments+=(--build-arg "BASE=$base"); fi
  if [ "$name" != control ]; then
    if [ -n "$index" ]; then arguments+=(--build-arg "TORCH_INDEX=$index"); fi
    if [ -n "$extras" ]; then arguments+=(--build-arg "EXTRAS=$extras"); fi
  fi
  if [ "$name" = tensorrt ]; then
    if [ -n "${TENSORRT_VERSION:-}" ]; then arguments+=(--build-arg "TENSORRT=$TENSORRT_VERSION"); fi
    if [ -n "${NVIDIA_INDEX:-}" ]; then arguments+=(--build-arg "NVIDIA_INDEX=$NVIDIA_INDEX"); fi
  fi
  # shellcheck disable=SC2086  # several options in one variable
  "$docker" build ${BUILD_OPTIONS:-} "${secrets[@]}" "${arguments[@]}" \
    --file "images/$name.Containerfile" --tag "$image" . >&2
  if [ "${PUSH:-}" = 1 ]; then "$docker" push "$image" >&2; fi
}

for name in "$@"; do
  image="$prefix$name:$tag"
  if [ -z "$only_list" ]; then build "$name" "$image"; fi
  "$docker" image inspect "$image" --format \
    "$image {{.Id}} {{.Size}} bytes{{range .RepoDigests}} {{.}}{{end}}"
done
