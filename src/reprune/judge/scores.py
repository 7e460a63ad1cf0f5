"""Every needed arm's records under every metric, over all examples and over each slice."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

from reprune.core.policy import Policy
from reprune.judge.binary import binary_level, compare_binary, sums_by_source
from reprune.judge.bootstrap import Integers, Mask, resampled_sums
from reprune.judge.comparisons import Comparison, Level
from reprune.judge.evidence import Evidence
from reprune.judge.examples import Examples, read_examples
from reprune.judge.grouping import Slices, divide
from reprune.judge.metrics import Metric
from reprune.judge.ratios import RatioComparison, RatioLevel, Resampled

Records: TypeAlias = Mapping[tuple[str, str], Integers]  # by metric and arm key, a row a column
Group: TypeAlias = tuple[str, str]  # metric and slice

EVERYTHING = ""
_NUMERATOR, _DENOMINATOR = 0, 1
_NOT_RESAMPLED = np.zeros((0, 2), dtype=np.int64)


@dataclass(frozen=True, kw_only=True)
class Scores:
    """`groups` says who is in a group; `sums` holds the shared resamples of ratio metrics, as
    (RESAMPLES, 2) for each judged group and arm key; `slices` are those of each metric.
    """

    examples: Examples
    metrics: Mapping[str, Metric]
    records: Records
    groups: Mapping[Group, Mask]
    slices: Mapping[str, Slices]
    sums: Mapping[tuple[Group, str], Integers]

    def compare(self, group: Group, base: str, mine: str) -> Comparison:
        """The records of arm key `mine` against those of `base`, over one group."""
        codes = self._sources(group)
        if self.metrics[group[0]].form == "binary":
            return compare_binary(self._right(group, base), self._right(group, mine), codes)
        moved = np.any(self._columns(group, base) != self._columns(group, mine), axis=0)
        differing = int(np.count_nonzero(moved)) if codes is None else len(np.unique(codes[moved]))
        return RatioComparison(
            base=self._resampled(group, base),
            mine=self._resampled(group, mine),
            units=self.examples.units(self.groups[group]),
            differing=differing,
        )

    def level(self, group: Group, mine: str) -> Level:
        """The records of arm key `mine` on their own."""
        if self.metrics[group[0]].form == "binary":
            return binary_level(self._columns(group, mine)[0], self._sources(group))
        units = self.examples.units(self.groups[group])
        return RatioLevel(mine=self._resampled(group, mine), units=units)

    def _sources(self, group: Group) -> Integers | None:
        sources = self.examples.sources
        return None if sources is None else sources[self.groups[group]]

    def _columns(self, group: Group, key: str) -> Integers:
        columns: Integers = self.records[group[0], key][:, self.groups[group]]
        return columns

    def _right(self, group: Group, key: str) -> Integers:
        """1 where the arm did well, whichever way the metric counts."""
        values: Integers = self._columns(group, key)[0]
        return values if self.metrics[group[0]].higher_is_better else np.subtract(1, values)

    def _resampled(self, group: Group, key: str) -> Resampled:
        columns = self._columns(group, key)
        sums = self.sums.get((group, key), _NOT_RESAMPLED)
        return Resampled(
            numerator=columns[_NUMERATOR],
            denominator=columns[_DENOMINATOR],
            numerator_sums=sums[:, _NUMERATOR],
            denominator_sums=sums[:, _DENOMINATOR],
            higher_is_better=self.metrics[group[0]].higher_is_better,
        )


def record_key(arm: str, target: str) -> str:
    """Where an arm's records lie in QualityEvidence.arms: the dense model is judged as trained."""
    return "dense" if arm == "dense" else f"{arm}@{target}"


def read_scores(evidence: Evidence, policy: Policy, metrics: Mapping[str, Metric]) -> Scores:
    """The scores of evidence that has no problems (see judge.checks)."""
    examples = read_examples(evidence.quality)
    arms = evidence.quality.arms
    keys = sorted({record_key(arm, target) for arm in evidence.arms for target in policy.targets})
    records = {
        (name, key): np.stack([examples.column(arms[key].columns[c]) for c in metric.columns])
        for name, metric in metrics.items()
        for key in keys
        if key in arms and all(column in arms[key].columns for column in metric.columns)
    }
    ratios = {name: rows for name, rows in records.items() if metrics[name[0]].form == "ratio"}
    slices = {
        name: divide(
            examples,
            rules.slices,
            [rows[_DENOMINATOR] for (metric, _), rows in ratios.items() if metric == name],
        )
        for name, rules in policy.quality.items()
        if rules.slices is not None
    }
    judged: dict[Group, Mask] = {
        (name, EVERYTHING): np.ones(examples.count, dtype=np.bool_) for name in policy.quality
    }
    judged |= {
        (name, label): m for name, each in slices.items() for label, m in each.judged.items()
    }
    small = {(name, label): m for name, each in slices.items() for label, m in each.small.items()}
    return Scores(
        examples=examples,
        metrics=metrics,
        records=records,
        groups={**judged, **small},
        slices=slices,
        sums=_resample(examples, ratios, judged, evidence.seed),
    )


def _resample(
    examples: Examples, records: Records, groups: Mapping[Group, Mask], seed: str
) -> dict[tuple[Group, str], Integers]:
    """The resampled column sums of each group under each arm, all by the same weights.

    What is resampled is a source, or an example where none are declared.
    """
    keys = {group: [key for metric, key in records if metric == group[0]] for group in groups}
    keys = {group: found for group, found in keys.items() if found}
    if not keys:
        return {}
    blocks = [
        np.concatenate([records[group[0], key] * groups[group] for key in found], axis=0).T
        for group, found in keys.items()
    ]
    if examples.sources is not None:
        blocks = [sums_by_source(block, examples.sources) for block in blocks]
    return {
        (group, key): sums[:, 2 * place : 2 * place + 2]
        for (group, found), sums in zip(keys.items(), resampled_sums(blocks, seed), strict=True)
        for place, key in enumerate(found)
    }
