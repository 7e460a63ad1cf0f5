"""The API of the cluster that this process is a pod of, over HTTP and with the pod's own account."""

from __future__ import annotations

import http.client
import json
import os
import ssl
import time
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from reprune.core.errors import (
    AccessDenied,
    InputError,
    OrchestratorError,
    OrchestratorUnreachable,
    RepruneError,
)

ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
MAX_REPLY_BYTES = 4_000_000
MAX_SAID = 500
PASSING = frozenset({408, 429, 500, 502, 503, 504})


@dataclass(frozen=True, kw_only=True)
class Cluster:
    """The API of a Kubernetes cluster, as a pod in it finds it. `token_file` is read for each request,
    because it is renewed; `patience_s` is how long the API may stay away.
    """

    url: str
    namespace: str
    token_file: Path | None = None
    trust: ssl.SSLContext | None = None
    timeout_s: float = 30.0
    poll_s: float = 5.0
    patience_s: float = 300.0


def this_cluster() -> Cluster:
    """The cluster that this process is a pod of. Raises InputError where it is none."""
    host, port = (os.environ.get(f"KUBERNETES_SERVICE_{part}", "") for part in ("HOST", "PORT"))
    try:
        namespace = (ACCOUNT / "namespace").read_text(encoding="utf-8").strip()
        trust = ssl.create_default_context(cafile=str(ACCOUNT / "ca.crt"))
    except OSError as error:
        raise InputError(
            f"a TrainJob can be made only from a pod with a service account: {error}",
            where="parameter 'trainer'",
            fix="leave the trainer empty to train where the step runs, or run it in a pipeline",
        ) from error
    shown = f"[{host}]" if ":" in host else host
    return Cluster(
        url=f"https://{shown}:{port or 443}",
        namespace=namespace,
        token_file=ACCOUNT / "token",
        trust=trust,
    )


def ask(
    cluster: Cluster, method: str, path: str, body: dict[str, Any] | None = None
) -> dict[str, Any] | None:
    """The API's answer; None for what is not there (404), or is there already (409).

    Asks again while the API is away or says "not now": what a lost answer did create is there already then.
    Raises AccessDenied, OrchestratorError, OrchestratorUnreachable.
    """
    ends = time.monotonic() + cluster.patience_s
    while True:
        try:
            return _once(cluster, method, path, body)
        except urllib.error.HTTPError as error:
            with error:
                said = _message(error)
            if error.code == 409 or (error.code == 404 and method != "POST"):
                return None
            if error.code not in PASSING:
                raise _refusal(cluster, error.code, said) from error
            what = f"answered {error.code}: {said}"
        except (OSError, http.client.HTTPException, ValueError) as error:
            what = clean(f"{type(error).__name__} {error}")
        if time.monotonic() > ends:
            raise OrchestratorUnreachable(
                f"the Kubernetes API stays away: {what}",
                where=cluster.url,
                fix="what was started goes on; run the step again to wait for it",
            )
        time.sleep(cluster.poll_s)


def _once(cluster: Cluster, method: str, path: str, body: dict[str, Any] | None) -> dict[str, Any]:
    # Strict: a cluster that does not know a field says so, instead of leaving it out.
    query = "?fieldValidation=Strict" if method == "POST" else ""
    request = urllib.request.Request(
        cluster.url + path + query,
        data=None if body is None else json.dumps(body).encode(),
        headers={"Accept": "application/json", "Content-Type": "application/json"},
        method=method,
    )
    if cluster.token_file is not None:
        token = cluster.token_file.read_text(encoding="ascii").strip()
        request.add_unredirected_header("Authorization", f"Bearer {token}")
    opener = urllib.request.OpenerDirector()
    opener.add_handler(
        urllib.request.HTTPSHandler(context=cluster.trust)
        if cluster.trust is not None
        else urllib.request.HTTPHandler()
    )
    opener.add_handler(urllib.request.HTTPDefaultErrorHandler())
    opener.add_handler(urllib.request.HTTPErrorProcessor())
    with opener.open(request, timeout=cluster.timeout_s) as reply:
        raw = reply.read(MAX_REPLY_BYTES + 1)
    found = json.loads(raw)  # half an answer does not decode, and is asked for again
    if not isinstance(found, dict):
        raise http.client.HTTPException("the answer is no object")
    return found


def _refusal(cluster: Cluster, code: int, said: str) -> RepruneError:
    where = f"{cluster.url} (namespace {cluster.namespace})"
    if code in (401, 403):
        return AccessDenied(
            f"answered {code}: {said}",
            where=where,
            fix="let the pod's service account create, get and delete trainjobs.trainer.kubeflow.org, "
            "and get pods",
        )
    if code == 404:
        return OrchestratorError(
            f"does not know what it is asked for: {said}",
            where=where,
            fix="install Kubeflow Trainer 2.2 or newer",
        )
    return OrchestratorError(
        f"refuses it ({code}): {said}",
        where=where,
        fix="use Kubeflow Trainer 2.2 or newer, and a runtime that is there",
    )


def _message(error: urllib.error.HTTPError) -> str:
    try:
        raw = error.read(65_536)
        value = json.loads(raw)
    except (OSError, http.client.HTTPException, ValueError):
        return clean(str(error.reason))
    said = value.get("message") if isinstance(value, dict) else None
    return clean(str(said or error.reason))


def clean(text: str) -> str:
    """A stranger's words, fit for a terminal."""
    words = " ".join("".join(each if each.isprintable() else " " for each in text).split())
    return words if len(words) <= MAX_SAID else f"{words[:MAX_SAID]}..."
