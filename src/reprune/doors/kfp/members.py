"""The members of a set as a cluster fetches them: each with the secret that may read its model."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Annotated, Any, NamedTuple

import msgspec
from msgspec import Meta

from reprune.core.documents import Document, decode_yaml
from reprune.core.errors import DocumentError, InputError, UnknownName, nearest
from reprune.core.lock import Name
from reprune.core.params import PARAMS_FILE, Params
from reprune.doors.kfp.run import told

MEMBERS = "members"


class ClusterMember(Document, kw_only=True):
    """`read_secret` names the secret with the credentials for this member's model; empty: the run's own."""

    name: Name
    read_secret: Annotated[str, Meta(max_length=253)] = ""


class ChosenMember(NamedTuple):
    """Which part of the set the task fetches ("0/3"), and with which secret."""

    shard: str
    read_secret: str


def choose_member(params: str, member: dict[str, Any], read_secret: str) -> ChosenMember:
    """The settings of one entry, checked against params.yaml; ends the process as any component does."""
    with told("choose-member"):
        entry = read_member(member)
        known = sorted(decode_yaml(params, Params, name=PARAMS_FILE).members or ())
        where = f"parameter '{MEMBERS}'"
        _refuse_single(known, where)
        _refuse_unknown(entry.name, known, where)
        return ChosenMember(
            shard=f"{known.index(entry.name)}/{len(known)}",
            read_secret=entry.read_secret or read_secret,
        )


def read_member(member: Any) -> ClusterMember:
    """One entry of the list, decoded. Raises DocumentError."""
    try:
        return msgspec.convert(member, ClusterMember)
    except msgspec.ValidationError as error:
        raise DocumentError(
            str(error),
            where=f"parameter '{MEMBERS}'",
            fix="docs/kubeflow.md says what an entry holds",
        ) from error


def every_member(known: Iterable[str]) -> list[dict[str, Any]]:
    """The parameter for a set whose members all have the run's own secret."""
    return [{"name": name} for name in sorted(known)]


def check_members(given: Sequence[Any], known: Iterable[str]) -> None:
    """Returns only if `given` are the members that params.yaml names, each once.

    Raises DocumentError, UnknownName for an entry that is none, InputError for a member left out.
    """
    where = f"parameter '{MEMBERS}'"
    wanted = sorted(known)
    _refuse_single(wanted, where)
    names = [read_member(each).name for each in given]
    for name in names:
        _refuse_unknown(name, wanted, where)
        if names.count(name) > 1:
            raise DocumentError(f"the member '{name}' stands there twice", where=where)
    left = sorted(set(wanted) - set(names))
    if left:
        raise InputError(
            f"the member '{left[0]}' is left out",
            where=where,
            fix="name every member of params.yaml, or leave the parameter to Reprune",
        )


def _refuse_single(known: Sequence[str], where: str) -> None:
    if not known:
        raise InputError(
            f"{PARAMS_FILE} names no members: this is one model, and no set",
            where=where,
            fix="run it through the pipeline continuous_compression",
        )


def _refuse_unknown(name: str, known: Sequence[str], where: str) -> None:
    if name not in known:
        raise UnknownName(f"the set has no member '{name}'; {nearest(name, known)}", where=where)
