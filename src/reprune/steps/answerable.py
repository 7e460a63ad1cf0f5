"""What a policy asks of quality that nobody could answer: said before a look at the sealed split is spent."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from reprune.core.artifacts import DataReport
from reprune.core.errors import DocumentError, nearest
from reprune.core.policy import POLICY_FILE, Policy
from reprune.core.store import Artifact
from reprune.judge.checks import find_metrics
from reprune.judge.examples import NEWER

MOST_NAMED = 8


def refuse_unanswerable(policy: Policy, data: Artifact[DataReport]) -> None:
    """Both of the following, by what `validate` found; again, for the policy may be another since."""
    refuse_unknown_metrics(policy)
    if policy.quality and "eval" in data.manifest.splits:
        refuse_absent_slices(policy, data.manifest.splits["eval"].slices)


def refuse_unknown_metrics(policy: Policy, where: str = POLICY_FILE) -> None:
    """Raises DocumentError for a metric that there is not, or one that cannot be judged as it is asked."""
    _, problems = find_metrics(policy)
    if problems:
        raise DocumentError(
            problems[0],
            where=f"{where} (quality)",
            fix="name a metric of docs/metrics.md, or install the package that has it, here and for the gate",
        )


def refuse_unrecorded(policy: Policy, recorded: Collection[str]) -> None:
    """Raises DocumentError for a metric whose columns are not among those that the task records. With none
    recorded nothing is known, and nothing is said.
    """
    metrics, _ = find_metrics(policy)
    for name, metric in metrics.items() if recorded else ():
        if missing := metric.missing(recorded):
            raise DocumentError(
                f"'{name}' is computed from {', '.join(missing)}, which the task does not record; it records "
                f"{', '.join(sorted(recorded)[:MOST_NAMED])}",
                where=f"{POLICY_FILE} (quality.{name})",
                fix="demand a metric of what it records (docs/metrics.md), or record that too",
            )


def refuse_absent_slices(
    policy: Policy, families: Mapping[str, Collection[str]], *, timed: bool = True
) -> None:
    """Raises DocumentError for slice rules without slices, and for a required slice that eval has not.

    `families` are the values of each family of slices in eval; `timed` says whether its examples have
    times, without which none is newer than another.
    """
    known = {f"{family}={value}" for family, values in families.items() for value in values}
    for metric, rules in policy.quality.items():
        if rules.slices is None:
            continue
        where = f"{POLICY_FILE} (quality.{metric}.slices)"
        if not families:
            raise DocumentError(
                "the examples have no slices",
                where=where,
                fix="declare slices in the task, or take these rules out of the policy",
            )
        for label in rules.slices.required:
            if label not in known and not (label == NEWER and timed):
                raise DocumentError(
                    f"requires the slice '{label}', which eval has not; {nearest(label, known)}",
                    where=f"{where[:-1]}.required)",
                    fix="spell it as the task does: family=value",
                )
