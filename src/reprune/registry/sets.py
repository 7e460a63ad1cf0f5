"""Sets: several models that are compressed, judged and promoted as one, each retrained on its own.

A version of a set is one version of every member, written `depth=7+detector=4`. Whoever registers a
member registers a version of the set as well: that member's new version beside what was the newest of
the others at the time.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import msgspec

from reprune.core.errors import VersionNotFound
from reprune.core.lock import label_of
from reprune.registry.dense import find_dense
from reprune.registry.protocol import Registry, VersionInfo, known_versions
from reprune.registry.weights import check_weights, read_header

# Where the data begins, as safetensors itself lays it.
ALIGNMENT = 8
_PART = re.compile(r"([A-Za-z0-9][A-Za-z0-9._-]{0,199})=([^\s=+]+)")


def parts_of(label: str) -> dict[str, str]:
    """The version of each member that a label names: the inverse of `label_of`.

    Raises VersionNotFound for a text that is none.
    """
    parts: dict[str, str] = {}
    for text in label.split("+"):
        found = _PART.fullmatch(text)
        if found is None or found[1] in parts:
            raise VersionNotFound(
                f"'{label}' is no version of a set: it names its members, as in depth=7+detector=4",
                fix="name a version for each member that is not to be the newest",
            )
        parts[found[1]] = found[2]
    return parts


def find_members(
    registry: Registry, members: Mapping[str, str], label: str | None = None
) -> dict[str, VersionInfo]:
    """The newest dense version of each member, or the one that `label` names for it.

    `members` maps each member to the name of its model. Raises VersionNotFound.
    """
    wanted = parts_of(label) if label else {}
    unknown = sorted(set(wanted) - set(members))
    if unknown:
        raise VersionNotFound(
            f"the set has no member '{unknown[0]}'",
            where=f"params.yaml (members: {', '.join(sorted(members))})",
            fix="name its members as params.yaml does",
        )
    return {
        member: find_dense(registry, model, wanted.get(member))
        for member, model in sorted(members.items())
    }


def set_versions(
    registry: Registry, name: str, members: Mapping[str, str]
) -> tuple[VersionInfo, ...]:
    """The versions that the set called `name` has had, oldest first, none before all members had one.

    Each is as new as the member's version that made it. A registry that does not say when a version was
    registered gives no time here either, and the order in which members were registered is then unknown:
    such versions come last, in the order of the members' names.
    """
    newest: dict[str, VersionInfo] = {}
    found = []
    for member, info in _in_time(registry, members):
        newest[member] = info
        if len(newest) == len(members):
            label = label_of({each: info.version for each, info in newest.items()})
            found.append(replace(info, name=name, version=label, tags={}))
    return tuple(found)


def _in_time(registry: Registry, members: Mapping[str, str]) -> Iterator[tuple[str, VersionInfo]]:
    """Every member's versions by time; of one time by member, each member's in their own order."""
    queues = {
        member: list(known_versions(registry, model)) for member, model in sorted(members.items())
    }
    while any(queues.values()):
        # Clocks may run backwards between two versions of a model; their numbers do not.
        heads = [(_time(queue[0]), member) for member, queue in queues.items() if queue]
        _, member = min(heads)
        yield member, queues[member].pop(0)


def _time(info: VersionInfo) -> float:
    return float("inf") if info.registered_s is None else info.registered_s


def join_weights(parts: Mapping[str, Path], out: Path) -> None:
    """Writes the tensors of all `parts` (checked safetensors) to `out`, each under `<member>.<its name>`,
    bit for bit. Raises what `check_weights` raises: the whole has the limits of a single model.
    """
    header: dict[str, object] = {}
    copies: list[tuple[Path, int]] = []
    end = 0
    for member, path in sorted(parts.items()):
        tensors, start = read_header(path)
        for name, tensor in sorted(tensors.items(), key=lambda each: each[1].data_offsets):
            first, last = tensor.data_offsets
            header[f"{member}.{name}"] = {
                "dtype": tensor.dtype,
                "shape": tensor.shape,
                "data_offsets": (end, end + last - first),
            }
            end += last - first
        copies.append((path, start))
    raw = msgspec.json.encode(header)
    raw += b" " * (-len(raw) % ALIGNMENT)
    with out.open("wb") as stream:
        stream.write(len(raw).to_bytes(8, "little") + raw)
        for path, start in copies:
            with path.open("rb") as part:
                part.seek(start)
                shutil.copyfileobj(part, stream)
    check_weights(out)
