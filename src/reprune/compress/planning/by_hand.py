"""Widths and blocks that a person set: obeyed exactly, or refused with the reason."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from reprune.compress.planning.terms import Rungs
from reprune.core.artifacts import block_key
from reprune.core.errors import CompressionError, nearest

WIDTHS = "params.yaml (plan.widths)"
REMOVED = "params.yaml (plan.removed_blocks)"


@dataclass(frozen=True, kw_only=True)
class ByHand:
    """`widths` by group; `removed`, where it is not None, are exactly the blocks that go.

    `reasons` say why layers that are no groups, and blocks that may not go, are left alone.
    """

    widths: Mapping[str, int] = field(default_factory=dict)
    removed: tuple[str, ...] | None = None
    reasons: Mapping[str, str] = field(default_factory=dict)


def obeyed(
    hand: ByHand, rungs: Rungs, blocks: Mapping[str, tuple[str, ...]], *, depth: bool
) -> Rungs:
    """`rungs` with one rung for each option that is set by hand; the others keep theirs.

    A width need not be one that an allocator would choose, only one that the group can have. A block with
    such a width inside it stays, where it is not said which blocks go. Raises
    CompressionError for an unknown group or block (with the nearest one), an impossible width, a block
    that may not go, and a width inside a block that goes.
    """
    groups = {name: widths[-1] for name, widths in rungs.items() if name not in blocks}
    for name, width in hand.widths.items():
        if name not in groups:
            raise _unknown(name, "group", groups, hand, WIDTHS)
        if not 0 < width <= groups[name]:
            raise CompressionError(
                f"{name} cannot have {width} channels: it has {groups[name]}, and keeps at least 1",
                where=WIDTHS,
                fix=f"set a width from 1 to {groups[name]}, or take the line out",
            )
    fixed = {**rungs, **{name: (width,) for name, width in hand.widths.items()}}
    if hand.removed is None:
        cut = {name for name, width in hand.widths.items() if width < groups[name]}
        return fixed | {block: (1,) for block, within in blocks.items() if cut & set(within)}
    if hand.removed and not depth:
        raise CompressionError(
            "blocks are named that are to go, and plan.depth is off: none was measured",
            where=REMOVED,
            fix="set plan.depth to true and run `reprune sensitivity` again, or take plan.removed_blocks out",
        )
    keys = {key.removeprefix(block_key("")): key for key in blocks}
    for name in hand.removed:
        if name not in keys:
            raise _unknown(name, "block", keys, hand, REMOVED)
        for group in blocks[keys[name]]:
            if hand.widths.get(group, groups[group]) != groups[group]:
                raise CompressionError(
                    f"{group} lies inside the block {name}, which goes: its width does nothing",
                    where=WIDTHS,
                    fix=f"take {group} out of plan.widths, or {name} out of plan.removed_blocks",
                )
    return {**fixed, **{key: (int(name not in hand.removed),) for name, key in keys.items()}}


def _unknown(
    name: str, what: str, known: Mapping[str, object], hand: ByHand, where: str
) -> CompressionError:
    """With the reason where the layer or block is there and is left alone."""
    reason = hand.reasons.get(name)
    verb = "cut" if what == "group" else "removed"
    return CompressionError(
        f"{name} cannot be {verb}: {reason}" if reason else f"there is no {what} '{name}'",
        where=where,
        fix=f"take {name} out; known: {', '.join(sorted(known)) or 'none'}"
        if reason
        else nearest(name, known),
    )
