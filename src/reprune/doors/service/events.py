"""What a signed delivery says: perhaps that there is news of a model, never more than that. Pure.

It is a hint. Its name is compared with those of the watches and then forgotten; version, source, tags
and all else in it are not read.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeVar

import msgspec

from reprune.orchestrate.reconcile_watch import COMPRESSED
from reprune.registry.compressed import compressed_name

T = TypeVar("T")

CREATED = ("model_version", "created")
# The last thing that promote does: it tags what it registered as promoted.
TAGGED = ("model_version_tag", "set")


class NotAnEvent(Exception):
    """A body that says nothing: not UTF-8, not JSON, nested too deeply, or without what it must have."""


class _Data(msgspec.Struct, frozen=True, kw_only=True):
    name: str


class _Delivery(msgspec.Struct, frozen=True, kw_only=True):
    entity: str
    action: str
    data: _Data
    workspace: str = ""


@dataclass(frozen=True, kw_only=True)
class Hint:
    """News of the model `name`: a version, or what became of one. An empty `workspace`: none is named."""

    name: str
    workspace: str


def of_mlflow(body: bytes) -> Hint | None:
    """The hint in a webhook of MLflow; None for an event that is none of our business.

    Raises NotAnEvent.
    """
    found = _decoded(body, _Delivery)
    event = (found.entity, found.action)
    # Tags of the dense model are other people's: they change nothing here.
    if event != CREATED and not (event == TAGGED and found.data.name.endswith(COMPRESSED)):
        return None
    return Hint(name=found.data.name, workspace=found.workspace)


class _Named(msgspec.Struct, frozen=True, kw_only=True):
    name: str
    workspace: str = ""


def of_cloudevent(body: bytes) -> Hint:
    """The hint in a CloudEvent's data: an object with `name`. Raises NotAnEvent."""
    found = _decoded(body, _Named)
    return Hint(name=found.name, workspace=found.workspace)


def concerns(hint: Hint, name: str, workspace: str) -> bool:
    """Whether a watch on the model `name` should look now: at a new version, or at what was judged."""
    if hint.workspace and hint.workspace != workspace:
        return False
    return hint.name in (name, compressed_name(name))


def _decoded(body: bytes, kind: type[T]) -> T:
    try:
        # It stops at a depth of its own, in what it skips as well.
        return msgspec.json.decode(body, type=kind)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise NotAnEvent("is no event") from error
