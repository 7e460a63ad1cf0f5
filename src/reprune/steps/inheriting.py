"""What `sensitivity` takes over from the champion's generation: its table, after a spot check, or nothing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from msgspec import UNSET, UnsetType
from msgspec.structs import replace

from reprune.core import store
from reprune.core.artifacts import (
    JointTrial,
    ModelBundle,
    Plan,
    Previous,
    RowCheck,
    Sensitivity,
    TableReuse,
)
from reprune.core.errors import ArtifactError, InputError
from reprune.core.params import GenerationsParams
from reprune.core.step import Context
from reprune.core.store import MANIFEST, Artifact, M
from reprune.steps.measuring import CutWork, Work
from reprune.steps.spot_question import champions_widths, planned, problem_of

if TYPE_CHECKING:
    from reprune.compress.sensitivity.reuse import Moved
    from reprune.compress.sensitivity.spot import Spot

NO_CHAMPION = "there is no champion yet"
IN_SHARDS = "it was measured in shards, which always measure everything"


def looked_up(
    work: Work,
    dense: Artifact[ModelBundle],
    previous: Artifact[Previous],
    generations: GenerationsParams | UnsetType,
    ctx: Context,
) -> Sensitivity | TableReuse | UnsetType:
    """The champion's table with its checked rows renewed, where it still holds; else why everything is to
    be measured, and what finding that out took. UNSET where nobody asked for reuse.
    """
    if generations is UNSET or not generations.reuse:
        return UNSET
    found = _inherited(work, dense, previous, generations)
    if isinstance(found, str):
        ctx.say(f"sensitivity: everything is measured: {found}")
        return TableReuse(how="measured", why=found)
    result = _checked(found, generations, ctx)
    reuse = result.reuse if isinstance(result, Sensitivity) else result
    if reuse is not UNSET:
        verb = "the champion's table is used again" if reuse.how == "reused" else "all is measured"
        ctx.say(f"sensitivity: {verb}: {reuse.why}")
    return result


def with_reuse(measured: Sensitivity, reuse: TableReuse | UnsetType) -> Sensitivity:
    """A table that was measured whole, with why, and with what asking for an older one took."""
    if reuse is UNSET:
        return measured
    full = measured.cost or 0
    told = replace(reuse, full_cost=full)
    return replace(measured, cost=full + reuse.check_cost, reuse=told)


def in_shards(
    previous: Artifact[Previous], generations: GenerationsParams | UnsetType
) -> TableReuse | UnsetType:
    """What a table says that was measured in shards."""
    if generations is UNSET or not generations.reuse:
        return UNSET
    first = previous.manifest.champion is None
    return TableReuse(how="measured", why=NO_CHAMPION if first else IN_SHARDS)


def stored_part(previous: Artifact[Previous], part: str, kind: type[M]) -> Artifact[M] | None:
    """What was stored with the champion; None where it was not, or cannot be read any more."""
    if previous.manifest.champion is None or f"{part}/{MANIFEST}" not in previous.manifest.payload:
        return None
    try:
        return store.read(previous.path / part, kind)
    except ArtifactError:
        return None


def age_of(previous: Previous, before: int) -> int:
    """How many generations lie between the one that measured something and this one, where it was `before`
    generations old in the champion's.
    """
    since: list[str] = []
    versions = [one.compressed_version for one in previous.history]
    champion = previous.champion
    if champion is not None and champion.version in versions:
        later = previous.history[versions.index(champion.version) + 1 :]
        since = [one.dense_version for one in later]
    others = set(since) - {previous.dense_version}
    return before + len(others) + 1


@dataclass(frozen=True, kw_only=True)
class _Inherited:
    """The champion's table with the `age` that the new one would have, its plan and itself."""

    work: CutWork
    table: Artifact[Sensitivity]
    age: int
    plan: Plan | None
    champion: Artifact[ModelBundle]
    seed: int


def _inherited(
    work: Work,
    dense: Artifact[ModelBundle],
    previous: Artifact[Previous],
    params: GenerationsParams,
) -> _Inherited | str:
    """What there is to check, or in words why there is nothing."""
    if previous.manifest.champion is None or not isinstance(work, CutWork):
        masks = previous.manifest.champion is not None
        return "tables of masks are not used again" if masks else NO_CHAMPION
    table = stored_part(previous, "sensitivity", Sensitivity)
    if table is None or table.manifest.basis != work.basis:
        other = (
            "the champion's table is of other groups, cuts, criterion, repairs or another method"
        )
        return "the registry holds no table of the champion's" if table is None else other
    age = age_of(previous.manifest, table.manifest.reuse.age if table.manifest.reuse else 0)
    if age >= params.cold_every:
        return f"that was last done {age} generations ago (generations.cold_every)"
    plan = stored_part(previous, "plan", Plan)
    champion = stored_part(previous, "champion", ModelBundle)
    if champion is None:  # then nobody knows whether the task's code is still the same
        return "the champion cannot be read"
    if champion.manifest.task.digest != dense.manifest.task.digest:
        return "the task's code is another than the champion's"
    return _Inherited(
        work=work,
        table=table,
        age=age,
        plan=plan.manifest if plan is not None else None,
        champion=champion,
        seed=int(dense.digest.removeprefix("sha256:")[:8], 16),
    )


def _checked(
    found: _Inherited, params: GenerationsParams, ctx: Context
) -> Sensitivity | TableReuse:
    from reprune.compress.sensitivity.reuse import alarms, moved, spliced
    from reprune.compress.sensitivity.spot import Spot

    old = found.table.manifest
    work, knobs = found.work, found.work.knobs
    spot = Spot(
        subject=work.subject,
        prune=knobs.prune,
        seed=knobs.seed,
        examples=params.examples,
        blocks=work.blocks,
        calibrated=knobs.sensitivity if knobs.sensitivity.method == "calibrated" else None,
    )
    rows = _rows(found, params, spot)
    change = moved(rows, spot.base.mean)
    p_values = {"rows": change.p_value, "champion": _champion_p(found, spot, ctx)}
    groups, blocks = spliced(old, rows, change.level, work.subject.cost)
    fresh = replace(old, groups=groups, blocks=blocks or UNSET)
    wrong = alarms(p_values, params.false_alarm)
    if change.apart and "rows" not in wrong:
        wrong = ["level", *wrong]
    trial = None if wrong else _trial(found, fresh, spot, params)
    holds = not wrong and (trial is None or trial.holds)
    reuse = TableReuse(
        how="reused" if holds else "measured",
        why=_why(wrong, change, trial, len(rows)),
        age=found.age if holds else 0,
        source=found.table.digest,
        level=_rounded(change.level),
        checked=rows,
        p_rows=_rounded(change.p_value),
        p_champion=None if p_values["champion"] is None else _rounded(p_values["champion"]),
        trial=trial,
        check_cost=spot.spent,
        full_cost=_full_cost(old),
    )
    if not holds:
        return reuse
    return Sensitivity(
        criterion=old.criterion,
        base_loss=spot.base.mean,
        examples=spot.base.examples,
        groups=groups,
        blocks=blocks or UNSET,
        joint=old.joint,
        cost=spot.spent,
        basis=work.basis,
        reuse=reuse,
    )


def _rows(found: _Inherited, params: GenerationsParams, spot: Spot) -> tuple[RowCheck, ...]:
    """The rows that are measured again, in the order of the table."""
    from reprune.compress.sensitivity.reuse import nearest, row_of, units_to_check

    old = found.table.manifest
    problem = problem_of(found.work, old, found.plan)
    widths = planned(problem)
    ranked = nearest(problem, widths)
    units = units_to_check(old, ranked, widths, near=params.near, seed=found.seed)
    rows = []
    for unit in units:
        before, now = row_of(old, unit), spot.rise(unit)
        rows.append(
            RowCheck(
                unit=unit.name,
                why=unit.why,
                keep=unit.keep,
                before=before[0],
                before_error=before[1],
                now=now[0],
                now_error=now[1],
            )
        )
    return tuple(rows)


def _champion_p(found: _Inherited, spot: Spot, ctx: Context) -> float | None:
    """How likely the champion does as well on this generation's `tune` as on its own; None where it was not
    trained, or cannot be rebuilt (build says that, loudly).
    """
    from reprune.compress.bundle import load_bundle
    from reprune.compress.sensitivity.reuse import champion_p
    from reprune.task.load import guarded

    champion = found.champion
    recovery = champion.manifest.recovery
    if recovery is None:
        return None
    before = [one.tune_loss for one in recovery.epochs if one.epoch == recovery.best_epoch]
    if not before and recovery.start_loss is not UNSET:
        before = [recovery.start_loss]
    if not before:
        return None
    try:
        loaded = guarded(
            lambda: load_bundle(champion), folder=champion.path.resolve(), doing="rebuilding it"
        )
    except InputError as error:
        ctx.say(f"sensitivity: the champion was not asked about this generation's data: {error}")
        return None
    return champion_p(spot.piecewise(loaded.module), before[0])


def _trial(
    found: _Inherited, fresh: Sensitivity, spot: Spot, params: GenerationsParams
) -> JointTrial | None:
    """The old table's plan against the new one's, both asked alike; None where they are the same."""
    problem = problem_of(found.work, fresh, found.plan)
    was = champions_widths(problem, found.work.knobs.plan, found.plan) or planned(
        problem_of(found.work, found.table.manifest, found.plan)
    )
    now = planned(problem)
    return None if was == now else spot.compare(was, now, params.tolerance, params.false_alarm)


def _why(wrong: list[str], change: Moved, trial: JointTrial | None, rows: int) -> str:
    if wrong:
        words: Mapping[str, str] = {
            "rows": f"{rows} of its rows moved further than retraining moves them "
            f"(p = {change.p_value:.2g})",
            "level": f"{rows} of its rows, measured again, are far from {change.level:.2f} times what they "
            "were, by which the others would be scaled",
            "champion": "the champion does worse on this generation's data",
        }
        return " and ".join(words[name] for name in wrong)
    checked = f"{rows} of its rows, measured again, moved no further than retraining moves them"
    if trial is None:
        return f"{checked}, and its plan is the same"
    told = trial_words(trial)
    if trial.holds:
        doubt = f" ({trial.doubt})" if trial.doubt else ""
        return f"{checked}, and its plan {told} than a new one{doubt}"
    return f"its plan {told} than the new one's"


def trial_words(trial: JointTrial) -> str:
    """How the known widths did: "answers 0.40 points fewer rightly (standard error 0.31)"."""
    if trial.unit == "share":
        more = "fewer" if trial.worse > 0.0 else "more"
        apart, error = abs(100 * trial.worse), 100 * trial.standard_error
        return f"answers {apart:.2f} points (standard error {error:.2f}) {more} rightly"
    more = "higher" if trial.worse > 0.0 else "lower"
    return f"has a loss {abs(trial.worse):.4g} (standard error {trial.standard_error:.4g}) {more}"


def _full_cost(table: Sensitivity) -> int:
    if table.reuse and table.reuse.full_cost:
        return table.reuse.full_cost
    return table.cost or 0


def _rounded(value: float) -> float:
    """Nine significant digits: enough for any reader, and the same on another CPU."""
    return float(f"{value:.9g}")
