"""Which addresses of remote files are asked at all, and what is told of it. Pure: nothing is looked up.

Whoever may write to a registry says where the files of a version lie. MLflow's clients ask the host that
such an address names, and hand it the credentials that they have; so the host must be the server that we
asked ourselves, or belong to the store that the address speaks of.
"""

from __future__ import annotations

import re
from pathlib import PurePosixPath
from urllib.parse import SplitResult, unquote, urlsplit

from reprune.core.addresses import shown
from reprune.core.errors import MissingExtra, RegistryError

SERVED = "mlflow-artifacts"

_AZURE = ("core.windows.net", "core.usgovcloudapi.net", "core.chinacloudapi.cn")
# What comes after the host names a bucket or an account, so that only the end of a host can be known.
_HOSTS: dict[str, tuple[str, ...]] = {
    "r2": (".r2.cloudflarestorage.com",),
    "b2": (".backblazeb2.com",),
    "wasbs": tuple(f".blob.{each}" for each in _AZURE),
    "abfss": tuple(f".dfs.{each}" for each in _AZURE),
}
_BUCKETS = frozenset({"s3", "gs"})
STORES = frozenset({*_HOSTS, *_BUCKETS, "hdfs", "dbfs"})

# What reads each of them; none comes with MLflow.
CLIENTS = {
    "s3": "boto3",
    "r2": "boto3",
    "b2": "boto3",
    "gs": "google-cloud-storage",
    "wasbs": "azure-storage-blob azure-identity",
    "abfss": "azure-storage-file-datalake azure-identity",
    "hdfs": "pyarrow",
    "dbfs": "databricks-sdk",
}
# The value of a setting or of a query, and a word as long as a key: neither is told.
_SETTING = re.compile(r"=.*")
_LONGEST = 60

# The last label of a name has a letter in front; that of an address, however written, has a digit.
_NAME = re.compile(r"(?:[a-z0-9_-]+\.)*[a-z][a-z0-9_-]*", re.IGNORECASE)
_OWN_NAMES = ("localhost", "metadata", "metadata.google.internal")


def check_address(uri: str, tracking_uri: str, *, where: str) -> None:
    """Returns only if `uri` leads to `tracking_uri`'s own host, or into a store, and not out of it again.

    Raises RegistryError, which says nothing of the address beyond its scheme.
    """
    try:
        parts = urlsplit(uri)
        path = unquote(parts.path, errors="strict")
        host, good_port = parts.hostname or "", parts.port is None or parts.port > 0
    except ValueError:
        raise _refused("what is no address", where) from None
    plain = not (parts.query or parts.fragment) and path.isprintable() and good_port
    if not plain or not uri.isprintable() or ".." in PurePosixPath(path).parts or "\\" in path:
        raise _refused("what is no plain path in a store", where)
    if not _right_host(parts, host, tracking_uri):
        raise _refused(f"a host that is not asked ({parts.scheme})", where)


def missing_client(uri: str, *, where: str) -> MissingExtra:
    """What to install where the client of the store that `uri` names is not there; MLflow brings none."""
    scheme = urlsplit(uri).scheme
    packages = CLIENTS.get(scheme, "mlflow")
    return MissingExtra(
        f"its files lie in a store ({scheme}) whose client is not installed",
        where=where,
        fix=f"pip install {packages}",
    )


def said(error: Exception) -> str:
    """What a store's client died of, on one line, in which no address and no setting shows a secret."""
    words = [_SETTING.sub("=...", shown(word)) for word in str(error).split()]
    short = [word if len(word) <= _LONGEST else "..." for word in words]
    return f"{type(error).__name__}: {' '.join(short)}"[:300]


def _right_host(parts: SplitResult, host: str, tracking_uri: str) -> bool:
    scheme = parts.scheme
    if scheme == SERVED:
        return parts.netloc in ("", urlsplit(tracking_uri).netloc.rpartition("@")[2])
    if scheme in _HOSTS:
        return _NAME.fullmatch(host) is not None and host.endswith(_HOSTS[scheme])
    if scheme in _BUCKETS:
        return "@" not in parts.netloc and re.fullmatch(r"[0-9.]*", parts.netloc) is None
    if scheme == "hdfs":
        return not parts.netloc or (_NAME.fullmatch(host) is not None and host not in _OWN_NAMES)
    return scheme == "dbfs" and (not parts.netloc or host == "databricks")


def _refused(what: str, where: str) -> RegistryError:
    return RegistryError(
        f"its files are said to lie at {what}",
        where=where,
        fix="register files that the server stores, or the address of a bucket of your own",
    )
