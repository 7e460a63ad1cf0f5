"""What the members of a set say beside the protocol of a task, as the set says it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from reprune.core.errors import TaskError
from reprune.task.bases.set_module import SetModule

if TYPE_CHECKING:
    from reprune.task.bases.sets import TaskSet
    from reprune.task.protocol import Task


def refuse_wrong(given: TaskSet, tasks: Mapping[str, Task]) -> None:
    """Raises TaskError for members and names of members that no set can have, and for a second optimizer."""
    for what, names in (("weighs", given.weights), ("has the labels of", (given.labels_of,))):
        unknown = sorted(set(names) - {*tasks, ""})
        if unknown:
            _refuse(given, f"{what} '{unknown[0]}', which is no member", tasks)
    if not tasks:
        _refuse(given, "names no member", tasks)
    for member, weight in given.weights.items():
        if not weight > 0:
            _refuse(given, f"the weight of '{member}' is not above 0", tasks)
    for member, task in tasks.items():
        if hasattr(SetModule({}, {}), member):
            raise TaskError(
                f"a member is called '{member}', which is something of every module in torch",
                where=type(given).__name__,
                fix="give it another name, here and in params.yaml",
            )
        if hasattr(task, "optimizer") and not hasattr(given, "optimizer"):
            raise TaskError(
                f"'{member}' has an optimizer of its own, and all members are trained by one",
                where=type(given).__name__,
                fix="give the set `optimizer(params)`",
            )


def give_options(given: TaskSet, tasks: Mapping[str, Task]) -> None:
    """Sets `keep`, `features`, `heads` and `blocks` to what the set's own class says, and the members below
    their names; `blocks_sought` are members whose blocks are looked for though others name theirs.
    """
    made: Any = given
    for option in ("keep", "features"):
        found = (*(getattr(given, option, None) or ()), *_named(tasks, option))
        if found:
            setattr(made, option, found)
    heads = {
        f"{member}.{module}": count
        for member, task in tasks.items()
        for module, count in (getattr(task, "heads", None) or {}).items()
    } | dict(getattr(given, "heads", None) or {})
    if heads:
        made.heads = heads
    own = getattr(given, "blocks", None)
    silent = tuple(name for name, task in tasks.items() if getattr(task, "blocks", None) is None)
    if own is not None or len(silent) < len(tasks):
        made.blocks = (*(own or ()), *_named(tasks, "blocks"))
        made.blocks_sought = silent if own is None else ()


def _named(tasks: Mapping[str, Task], option: str) -> tuple[str, ...]:
    return tuple(
        f"{member}.{name}"
        for member, task in tasks.items()
        for name in (getattr(task, option, None) or ())
    )


def _refuse(given: TaskSet, what: str, tasks: Mapping[str, Task]) -> None:
    known = ", ".join(tasks) or "none"
    raise TaskError(what, where=type(given).__name__, fix=f"its members are: {known}")
