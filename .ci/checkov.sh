#!/usr/bin/env bash
# Renders the chart with each of its values files and asks checkov ($CHECKOV) about it, without network.
# Fails on a finding, except where the reason is given here.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

helm="$(.ci/helm.sh)"
[ -n "$helm" ] || exit 1
out="$(mktemp -d)"
trap 'rm -rf "$out"' EXIT

render() { # FOLDER VALUES ARGUMENT...
  local to="$out/$1"
  mkdir -p "$to"
  "$helm" template r charts/reprune --namespace models --kube-version 1.37.0 -f "$2" "${@:3}" \
    >"$to/$(basename "$2")"
}

ask() { # FOLDER CHECKS_TO_SKIP
  "${CHECKOV:-checkov}" -d "$out/$1" --framework kubernetes --compact --quiet --skip-download \
    ${2:+--skip-check "$2"} || bad=1
}

for values in charts/reprune/ci/*-values.yaml; do
  case "$(basename "$values")" in
    tag-values.yaml) folder=tag ;;
    secrets-values.yaml) folder=secrets ;;
    open-values.yaml) folder=open ;;
    *) folder=rest ;;
  esac
  render "$folder" "$values" --set tests.enabled=false
done
render once charts/reprune/ci/minimal-values.yaml --show-only templates/tests/readyz.yaml \
  --show-only templates/networkpolicy.yaml

bad=0
ask rest ""
# CKV_K8S_43, a digest: these are the values of somebody who has none.
ask tag CKV_K8S_43
# CKV_K8S_35, secrets as files: all are, except what somebody puts into secrets.env.
ask secrets CKV_K8S_35
# CKV2_K8S_6, a NetworkPolicy: the cluster has its own, say these values.
ask open CKV2_K8S_6
# CKV_K8S_8 and 9, probes: this pod asks one question and ends.
ask once CKV_K8S_8,CKV_K8S_9
[ "$bad" -eq 0 ] || exit 1
echo "checkov: nothing found but what is accepted" >&2
