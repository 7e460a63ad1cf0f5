"""What the Kubeflow UI shows of an artefact: scalars, the confusion matrix, the report's pages.

Nothing is decided by it, and nothing reads it back.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, TypeAlias

from reprune.core.artifacts import Benchmark, Manifest, ModelBundle, Profile, Report, Verdict
from reprune.core.store import Artifact
from reprune.report.viewers import in_frame, untagged

# A larger matrix is a picture of nothing, and travels inside the artifact's metadata.
MOST_CATEGORIES = 50


# A class, and before it the member of a set whose class it is with its dot, or nothing.
Kind: TypeAlias = tuple[str, int]


class Page(Protocol):
    """An HTML or Markdown artifact."""

    path: str


class Scalars(Protocol):
    """A Metrics artifact."""

    def log_metric(self, metric: str, value: float) -> None: ...


class Matrix(Protocol):
    """A ClassificationMetrics artifact."""

    def log_confusion_matrix(self, categories: list[str], matrix: list[list[int]]) -> None: ...


def show(made: Artifact[Any], shown: Mapping[str, Any]) -> None:
    """Fills the artifacts `metrics`, `confusion`, `html` and `markdown`, those of them that are there."""
    if "metrics" in shown:
        show_metrics(made, shown["metrics"])
    if "confusion" in shown:
        show_confusion(made, shown["confusion"])
    if "html" in shown:
        show_pages(made, shown["html"], shown["markdown"])


def show_metrics(made: Artifact[Any], metrics: Scalars) -> None:
    """Logs what is worth comparing from run to run; what was not measured is left out. The UI shows a number
    with all its digits: six of them are enough to compare.
    """
    for name, value in sorted(_scalars(made)):
        metrics.log_metric(name, value if isinstance(value, int) else float(f"{value:.6g}"))


def show_confusion(verdict: Artifact[Verdict], matrix: Matrix) -> None:
    """Logs the candidate's confusion matrix on the first target; nothing where records are no classes.

    Of a set it is that of each member that has classes, side by side, under the members' names.
    """
    counted = _confusion(verdict)
    kinds = sorted({kind for pair in counted for kind in pair})
    if not kinds or len(kinds) > MOST_CATEGORIES:
        return
    rows = [[counted[actual, answer] for answer in kinds] for actual in kinds]
    matrix.log_confusion_matrix([f"{member}{kind}" for member, kind in kinds], rows)


def show_pages(report: Artifact[Report], html: Page, markdown: Page) -> None:
    """Writes the report to where the UI looks for pages, as its viewers need them."""
    for name, page, fitted in (
        ("report.html", html, in_frame),
        ("report.md", markdown, untagged),
    ):
        told = report.file(name).read_text(encoding="utf-8")
        Path(page.path).parent.mkdir(parents=True, exist_ok=True)
        Path(page.path).write_text(fitted(told), encoding="utf-8")


def _scalars(made: Artifact[Any]) -> Iterator[tuple[str, float]]:
    manifest: Manifest = made.manifest
    if isinstance(manifest, Profile):
        yield "params", manifest.cost.params
        yield "macs", manifest.cost.macs
        for target in manifest.targets:
            yield f"latency_us.{target.target}", target.latency_us
    elif isinstance(manifest, ModelBundle) and manifest.surgery is not None:
        before, after = manifest.surgery.before, manifest.surgery.after
        yield "params", after.params
        yield "macs", after.macs
        yield "params_left", after.params / before.params
        yield "macs_left", after.macs / before.macs
    elif isinstance(manifest, Benchmark):
        yield "attempt", manifest.attempt
        for samples in manifest.targets:
            yield f"units.{samples.target}", samples.units
    elif isinstance(manifest, Verdict):
        from reprune.report.facts import read_facts
        from reprune.report.metrics import render_metrics

        values: Mapping[str, Any] = json.loads(render_metrics(read_facts(made)))
        yield from ((name, value) for name, value in values.items() if not isinstance(value, str))


def _confusion(verdict: Artifact[Verdict]) -> Counter[tuple[Kind, Kind]]:
    """How often each (actual, answer) came: of the first benchmark that recorded both for the candidate."""
    from reprune.steps.samples import RECORDS_FILE, read_records

    for name in sorted(verdict.manifest.payload):
        if not name.startswith("samples/") or not name.endswith(f"/{RECORDS_FILE}"):
            continue
        for key, columns in sorted(read_records(verdict.file(name)).items()):
            if key.startswith("candidate") and (counted := _counted(columns)):
                return counted
    return Counter()


def _counted(columns: Mapping[str, Sequence[int]]) -> Counter[tuple[Kind, Kind]]:
    counted: Counter[tuple[Kind, Kind]] = Counter()
    for name, actual in sorted(columns.items()):
        # As `actual`, or of a set's member as `member.actual`.
        member = name.removesuffix("actual")
        if not name.endswith("actual") or (member and not member.endswith(".")):
            continue
        for pair in zip(actual, columns.get(f"{member}answer", ()), strict=False):
            counted[(member, pair[0]), (member, pair[1])] += 1
    return counted
