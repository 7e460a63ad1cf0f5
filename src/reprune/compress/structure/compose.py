"""Two cuts, one after the other, as one cut of the first model."""

from __future__ import annotations

from reprune.compress.structure.architecture import Architecture, AttributeChange, ModuleCut
from reprune.compress.structure.bypass import inside
from reprune.core.errors import CompressionError


def compose(first: Architecture, second: Architecture) -> Architecture:
    """The architecture with `apply(m, it)` bit-equal to `apply(apply(m, first), second)`.

    `second` is relative to the model that `first` leaves. What `first` did inside blocks that `second`
    removes is gone with them. Raises CompressionError where the two do not fit each other.
    """
    gone = [removal.module for removal in second.removed]
    cuts = {(cut.module, cut.axis): cut for cut in first.cuts if not inside(cut.module, gone)}
    for cut in second.cuts:
        before = cuts.get((cut.module, cut.axis))
        cuts[cut.module, cut.axis] = cut if before is None else _cut_again(before, cut)
    changes = {
        (change.module, change.attribute): change
        for change in first.attributes
        if not inside(change.module, gone)
    }
    for change in second.attributes:
        earlier = changes.get((change.module, change.attribute))
        changes[change.module, change.attribute] = (
            change if earlier is None else _changed_again(earlier, change)
        )
    kept_removals = tuple(removal for removal in first.removed if not inside(removal.module, gone))
    separated = (*first.separated, *second.separated)
    return Architecture(
        cuts=tuple(cuts.values()),
        removed=(*kept_removals, *second.removed),
        attributes=tuple(changes.values()),
        separated=tuple(dict.fromkeys(name for name in separated if not inside(name, gone))),
    )


def _cut_again(first: ModuleCut, second: ModuleCut) -> ModuleCut:
    if second.size != len(first.keep):
        raise CompressionError(
            f"the first cut leaves {len(first.keep)} positions, the second is for {second.size}",
            where=f"{first.module} ({first.axis})",
        )
    keep = tuple(first.keep[index] for index in second.keep)
    return ModuleCut(module=first.module, axis=first.axis, size=first.size, keep=keep)


def _changed_again(first: AttributeChange, second: AttributeChange) -> AttributeChange:
    if first.after != second.before:
        raise CompressionError(
            f"the first cut leaves {first.attribute} = {first.after}, the second is for "
            f"{second.before}",
            where=first.module,
        )
    return AttributeChange(
        module=first.module,
        attribute=first.attribute,
        before=first.before,
        after=second.after,
    )
