"""Every needed arm's records under every metric, over all examples and over each slice."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from reprune.core.policy import Policy
from reprune.judge.binary import binary_level, compare_binary
from reprune.judge.bootstrap import Floats, Integers, Mask
from reprune.judge.comparisons import Comparison, Level
from reprune.judge.evidence import Evidence
from reprune.judge.examples import NEWER, Examples, Members, read_examples
from reprune.judge.family import slice_baselines
from reprune.judge.grouping import Slices, divide
from reprune.judge.metrics import Metric
from reprune.judge.ratios import Resampled
from reprune.judge.replicated import Replicated
from reprune.judge.resampled import Arm, ResampledComparison, ResampledLevel
from reprune.judge.resampling import Group, Records, Resamples, resample

EVERYTHING = ""
_NUMERATOR, _DENOMINATOR = 0, 1
_NO_SUMS: Integers = np.zeros((0, 2), dtype=np.int64)
_NO_VALUES: Floats = np.zeros(0, dtype=np.float64)


@dataclass(frozen=True, kw_only=True)
class Scores:
    """`groups` says who is in a group, `slices` are those of each metric; judged groups were resampled.

    `none_newer` says that the slice NEWER is certain not to exist: no champion, or no newer examples.
    """

    records: Records
    groups: Mapping[Group, Members]
    slices: Mapping[str, Slices]
    resamples: Resamples
    none_newer: bool = False

    @property
    def examples(self) -> Examples:
        return self.records.examples

    @property
    def metrics(self) -> Mapping[str, Metric]:
        return self.records.metrics

    def compare(self, group: Group, base: str, mine: str) -> Comparison:
        """The records of arm key `mine` against those of `base`, over one group."""
        codes = self._sources(group)
        if self.metrics[group[0]].form == "binary":
            found = compare_binary(self._right(group, base), self._right(group, mine), codes)
            return found if self.metrics[group[0]].higher_is_better else found.turned()
        moved = self._moved(group, base, mine)
        examples = int(np.count_nonzero(moved))
        return ResampledComparison(
            base=self._arm(group, base),
            mine=self._arm(group, mine),
            units=self.examples.units(self.groups[group]),
            differing=examples if codes is None else len(np.unique(codes[moved])),
            moved=examples,
            studentised=self.resamples.studentised.get((group, base, mine)),
        )

    def level(self, group: Group, mine: str) -> Level:
        """The records of arm key `mine` on their own."""
        if self.metrics[group[0]].form == "binary":
            return binary_level(self._parts(group, mine)[0], self._sources(group))
        return ResampledLevel(
            mine=self._arm(group, mine),
            units=self.examples.units(self.groups[group]),
            studentised=self.resamples.studentised.get((group, mine, mine)),
        )

    def _sources(self, group: Group) -> Integers | None:
        sources = self.examples.sources
        return None if sources is None else sources[self.groups[group]]

    def _parts(self, group: Group, key: str) -> Integers:
        parts: Integers = self.records.parts[group[0], key][:, self.groups[group]]
        return parts

    def _right(self, group: Group, key: str) -> Integers:
        """1 where the arm did well, whichever way the metric counts."""
        values: Integers = self._parts(group, key)[0]
        return values if self.metrics[group[0]].higher_is_better else np.subtract(1, values)

    def _moved(self, group: Group, base: str, mine: str) -> Mask:
        """In which examples of the group the two arms have different records."""
        one, two = (self.records.columns(group, self.groups[group], key) for key in (base, mine))
        moved = np.zeros(len(self.groups[group]), dtype=np.bool_)
        for name, rows in one.items():
            moved |= np.any(np.atleast_2d(rows) != np.atleast_2d(two[name]), axis=0)
        return moved

    def _arm(self, group: Group, key: str) -> Arm:
        metric = self.metrics[group[0]]
        if metric.form == "ratio":
            parts = self._parts(group, key)
            sums = self.resamples.sums.get((group, key), _NO_SUMS)
            return Resampled(
                numerator=parts[_NUMERATOR],
                denominator=parts[_DENOMINATOR],
                numerator_sums=sums[:, _NUMERATOR],
                denominator_sums=sums[:, _DENOMINATOR],
                higher_is_better=metric.higher_is_better,
            )
        members = self.groups[group]
        columns = self.records.columns(group, members, key)
        return Replicated(
            statistic=self.records.value(group, members, key),
            values=self.resamples.values.get((group, key), _NO_VALUES),
            examples=len(members),
            bounds=metric.bounds,
            higher_is_better=metric.higher_is_better,
            own=None if metric.marks is None else metric.marks(columns),
            noise=0.0
            if metric.noise is None
            else metric.noise(columns, self.examples.rows[members]),
        )


def record_key(arm: str, target: str) -> str:
    """Where an arm's records lie in QualityEvidence.arms: the dense model is judged as trained."""
    return "dense" if arm == "dense" else f"{arm}@{target}"


def read_scores(evidence: Evidence, policy: Policy, metrics: Mapping[str, Metric]) -> Scores:
    """The scores of evidence that has no problems (see judge.checks)."""
    examples = read_examples(evidence.quality, evidence.champion_newest)
    records = _read_records(examples, evidence, policy, metrics)
    everybody = np.arange(examples.count, dtype=np.int64)
    slices: dict[str, Slices] = {}
    for name, rules in policy.quality.items():
        if rules.slices is not None:
            bases = [
                record_key(baseline.arm, target)
                for baseline in slice_baselines(rules, evidence.arms)
                for target in policy.targets
            ]
            slices[name] = divide(
                examples,
                rules.slices,
                partial(_defined, records, name, bases),
                resampled=metrics[name].form != "binary",
            )
    judged: dict[Group, Members] = {(name, EVERYTHING): everybody for name in policy.quality}
    judged |= {
        (name, label): m for name, each in slices.items() for label, m in each.judged.items()
    }
    small = {(name, label): m for name, each in slices.items() for label, m in each.small.items()}
    return Scores(
        records=records,
        groups={**judged, **small},
        slices=slices,
        resamples=resample(records, judged, _pairs(evidence, policy), evidence.seed),
        none_newer=_none_newer(examples, evidence),
    )


def _none_newer(examples: Examples, evidence: Evidence) -> bool:
    """Not so where the task tells no times, or nobody knows what the champion was judged on."""
    known = "champion" not in evidence.arms or evidence.champion_newest is not None
    return known and evidence.quality.times is not None and NEWER not in examples.slices


def _read_records(
    examples: Examples, evidence: Evidence, policy: Policy, metrics: Mapping[str, Metric]
) -> Records:
    """The records of the arms on the policy's targets, their examples in one fixed order."""
    arms = evidence.quality.arms
    keys = sorted({record_key(arm, target) for arm in evidence.arms for target in policy.targets})
    tables = {
        (name, key): {
            column: rows[..., examples.order]
            for column, rows in metric.read(arms[key].columns).items()
        }
        for name, metric in metrics.items()
        for key in keys
        if key in arms and not metric.missing(arms[key].columns)
    }
    parts = {
        (name, key): metrics[name].parts(table, tables.get((name, "dense"), {}))
        for (name, key), table in tables.items()
        if metrics[name].form != "statistic"
    }
    return Records(examples=examples, metrics=metrics, parts=parts, tables=tables)


def _defined(records: Records, name: str, bases: Sequence[str], members: Members) -> bool:
    """Whether the metric has a value on these examples, of every arm that a candidate is compared with.

    Whether it has one of the candidate, too, is the candidate's doing: it must not leave the slice by it.
    """
    form = records.metrics[name].form
    if form == "binary":
        return len(members) > 0
    if form == "ratio":
        return all(int(records.parts[name, key][_DENOMINATOR][members].sum()) > 0 for key in bases)
    return not any(math.isnan(records.value((name, EVERYTHING), members, key)) for key in bases)


def _pairs(evidence: Evidence, policy: Policy) -> list[tuple[str, str]]:
    """The arm keys that are compared; the candidate's with itself stands for its own level."""
    return [
        (record_key(arm, target), record_key("candidate", target))
        for target in policy.targets
        for arm in evidence.arms
    ]
