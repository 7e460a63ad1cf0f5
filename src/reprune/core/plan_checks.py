"""What of `params.yaml` a plan could not obey, or would never read: refused when the file is read.

A knob that does nothing is a wish that nobody granted; and whatever only `plan` would refuse has cost a
profile and a sensitivity by then.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from msgspec import UNSET

from reprune.core.errors import DocumentError, nearest
from reprune.core.limits import check_limits
from reprune.core.plugins import misspelt, registered

if TYPE_CHECKING:
    from reprune.core.documents import Document
    from reprune.core.params import Params, PlanParams

# The allocators that come with Reprune: those that add up single cuts, those that try joint ones, and those
# that look at neither. Packages may add more (entry points of `reprune.allocators`).
SUMS = ("sensitivity", "latency")
TRYING = ("search", "amc", "evolutionary", "netadapt")
BLIND = ("uniform", "global")
ALLOCATORS = (*SUMS, *TRYING, *BLIND)
# The one method of `plan` that reads a knob; every other knob of it is about channels.
PLAN_KNOBS = {
    "plan.sparsity": "weights",
    "plan.sparsities": "weights",
    "plan.scope": "weights",
    "plan.pattern": "n:m",
}
# What is read only where channels are cut, and what only a calibrated sensitivity reads.
CUT_KNOBS = tuple(
    f"prune.{knob}"
    for knob in (
        "reduction",
        "normalizer",
        "sparse_learning",
        "ladder",
        "refit",
        "ridge",
        "equality_max_abs",
    )
)
CALIBRATED_KNOBS = tuple(
    f"sensitivity.{knob}" for knob in ("budget", "precision", "joint_fraction")
)


@dataclass(frozen=True, kw_only=True)
class _Wrong:
    what: str
    key: str
    fix: str


def check_plan(params: Params, path: Path) -> None:
    """Raises DocumentError for knobs of `plan` that are misspelt, cannot be obeyed, or do nothing beside the
    others; for knobs of other sections, too, that the plan's method does not read.
    """
    _check_idle(params, path)
    check_limits(params, path)
    for wrong in _wrongs(params):
        raise DocumentError(wrong.what, where=f"{path} ({wrong.key})", fix=wrong.fix)


def planned_by_tables(plan: PlanParams) -> bool:
    """Whether latency tables, where there are any, say what this plan's latencies are."""
    limited = any("@" in name for name in plan.limits or ())
    by_tables = plan.allocator in ("latency", *TRYING) and plan.latency_model != "in-model"
    return limited or (plan.budget == "latency" and by_tables)


def _wrongs(params: Params) -> Iterator[_Wrong]:
    plan = params.plan
    yield from _unknown_floors(params)
    meant = misspelt("allocators", plan.allocator, ALLOCATORS)
    if meant:
        yield _Wrong(
            what=f"there is no allocator called '{plan.allocator}'; did you mean '{meant}'?",
            key="plan.allocator",
            fix=f"use one of: {', '.join(sorted({*ALLOCATORS, *registered('allocators')}))}",
        )
    for name, width in (plan.widths or {}).items():
        if width < 1:
            yield _Wrong(
                what=f"{name} cannot have {width} channels",
                key=f"plan.widths.{name}",
                fix="set at least 1, or take the line out",
            )
    if plan.removed_blocks and not plan.depth:
        yield _Wrong(
            what="blocks are named that are to go, and plan.depth is off, so that none is measured",
            key="plan.removed_blocks",
            fix="set plan.depth to true, or take plan.removed_blocks out",
        )
    if plan.sparsities and plan.scope == "global":
        yield _Wrong(
            what="shares of single tensors are set by hand, and with plan.scope 'global' the scores of all "
            "tensors together decide what is masked of each",
            key="plan.sparsities",
            fix="set plan.scope to 'local' or 'sensitivity', or take plan.sparsities out",
        )
    tables = params.profile.tables
    if tables and planned_by_tables(plan) and plan.round_to % tables.step:
        yield _Wrong(
            what=f"widths are to be multiples of {plan.round_to}, and the latency tables that the plan is "
            f"made by will know multiples of {tables.step}",
            key="plan.round_to",
            fix="set it to a multiple of profile.tables.step, or set that to "
            f"{plan.round_to}, or to what divides it",
        )
    if plan.head_dimensions and planned_by_tables(plan) and tables and not tables.head_dimensions:
        yield _Wrong(
            what="head dimensions are to be cut, and the latency tables that the plan is made by will know "
            "whole heads only",
            key="profile.tables.head_dimensions",
            fix="set profile.tables.head_dimensions to true, or plan.head_dimensions to false",
        )
    yield from _idle_latency(plan)
    yield from _idle_trials(plan)


def _unknown_floors(params: Params) -> Iterator[_Wrong]:
    members = params.members or {}
    for name in params.plan.floors or ():
        if name not in members:
            yield _Wrong(
                what=f"there is no member '{name}'; {nearest(name, members)}"
                if members
                else f"'{name}' is no member: this is no set",
                key="plan.floors",
                fix=f"use one of: {', '.join(members)}" if members else "take plan.floors out",
            )


def _idle_latency(plan: PlanParams) -> Iterator[_Wrong]:
    if plan.budget == "latency":
        return
    for key, given in (
        ("latency_target", plan.latency_target),
        ("latency_model", plan.latency_model if plan.latency_model != "macs" else ""),
    ):
        if given:
            yield _Wrong(
                what=f"{given} is asked for a latency budget, and plan.budget is {plan.budget}",
                key=f"plan.{key}",
                fix="set plan.budget to latency, or take it out",
            )


def _idle_trials(plan: PlanParams) -> Iterator[_Wrong]:
    """Evaluations are for allocators that try, and for the sums that are checked by them; those of a package
    get none. How "search" looks matters where it is, or may become, the one that chooses.
    """
    checked = plan.allocator in SUMS and bool(plan.evaluations)
    for key in ("evaluations", "evaluation_examples"):
        if getattr(plan, key) and not checked and plan.allocator not in TRYING:
            summed = plan.allocator in SUMS
            yield _Wrong(
                what=f"the allocator '{plan.allocator}' measures no joint cuts"
                + (" unless plan.evaluations is set" if summed else ", so that this does nothing"),
                key=f"plan.{key}",
                fix=f"set plan.evaluations too, or take plan.{key} out"
                if summed
                else f"take it out, or set plan.allocator to one of: {', '.join(SUMS + TRYING)}",
            )
    if plan.search and plan.allocator != "search" and not checked:
        yield _Wrong(
            what=f"this is how the allocator 'search' looks, and '{plan.allocator}' chooses",
            key="plan.search",
            fix="set plan.allocator to search"
            + (
                ", or plan.evaluations, with which search may take over"
                if plan.allocator in SUMS
                else ""
            )
            + ", or take it out",
        )


def _check_idle(params: Params, path: Path) -> None:
    """Refuses knobs, set to other than their defaults, that only a method which is not chosen reads."""
    method = params.plan.method
    readers = {
        knob: PLAN_KNOBS.get(knob, "channels")
        for knob in _changed("plan", params.plan)
        if knob != "plan.method"
    }
    measured = _changed("sensitivity", params.sensitivity)
    if method != "channels":
        for_cuts = [knob for knob in _changed("prune", params.prune) if knob in CUT_KNOBS]
        for_cuts += [knob for knob in measured if knob != "sensitivity.examples"]
        readers |= dict.fromkeys(for_cuts, "channels")
    idle: dict[str, tuple[str, str, str]] = {
        knob: ("plan.method", method, reader)
        for knob, reader in readers.items()
        if reader != method
    }
    if method == "channels" and params.sensitivity.method == "full":
        unread = [knob for knob in measured if knob in CALIBRATED_KNOBS]
        idle |= dict.fromkeys(unread, ("sensitivity.method", "full", "calibrated"))
    if not idle:
        return
    raise DocumentError(
        "; ".join(f"{by} '{chosen}' does not read {knob}" for knob, (by, chosen, _) in idle.items())
        + f": {'it' if len(idle) == 1 else 'they'} would do nothing",
        where=f"{path} ({', '.join(idle)})",
        fix=f"take {'it' if len(idle) == 1 else 'them'} out, or set "
        + " or ".join(dict.fromkeys(f"{by} to '{reader}'" for by, _, reader in idle.values())),
    )


def _changed(name: str, section: Document) -> list[str]:
    """The knobs of the section `name` that differ from their defaults; what is empty counts as not set."""
    plain = type(section)()
    values = {
        knob: (getattr(section, knob), getattr(plain, knob)) for knob in section.__struct_fields__
    }
    return [
        f"{name}.{knob}"
        for knob, (value, default) in values.items()
        if value != default and (value or default is not UNSET)
    ]
