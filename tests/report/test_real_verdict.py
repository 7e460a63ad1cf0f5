"""Reports of verdicts that the real gate and judge gave, not of ones written for the purpose."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from reprune.core import store
from reprune.core.artifacts import Report
from reprune.core.step import run
from reprune.steps import get_step
from tests.chain import Story, write_chain

POLICY = """
targets: {ort-cpu: required}
latency: {vs_parent: {max_ratio: 0.9}}
quality:
  accuracy:
    vs_parent: {max_drop: 0.03, max_error_ratio: null}
    floor: 0.9
size: {vs_parent: {max_ratio: 0.8}, ceiling_bytes: 1000000}
"""


@pytest.mark.parametrize(
    ("story", "outcome", "said"),
    [
        (
            Story(policy=POLICY),
            "pass",
            ("| ✅ ok | Accuracy ↑ against dense v1 on ort-cpu | 98.89", "may be promoted"),
        ),
        (
            Story(policy=POLICY, candidate_wrong=60),
            "block",
            ("| ❌ blocked | Accuracy ↑ against dense v1", "Is it noise?", "`plan.fraction:"),
        ),
        (
            Story(policy=POLICY, candidate_wrong=14),
            "inconclusive",
            ("| ❔ undecided | Accuracy ↑", "**To decide it:**", "more example"),
        ),
        (
            Story(policy=POLICY, ratio=1.0),
            "block",
            ("| ❌ blocked | Latency ↓ against dense v1", "Cut more"),
        ),
        (Story(policy=POLICY, passed=False), "error", ("The data contract failed", "Repair what")),
    ],
    ids=["pass", "block", "undecided", "slow", "error"],
)
def test_what_the_judge_says_is_what_the_report_shows(
    story: Story,
    outcome: str,
    said: tuple[str, ...],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Units, names and directions are read as the judge means them."""
    monkeypatch.setenv("REPRUNE_WORK", str(tmp_path / "work"))
    chain = write_chain(tmp_path, story)
    verdict = chain.judged()
    out = tmp_path / "report"
    run(get_step("report"), {"verdict": verdict.path}, chain.documents, out, say=lambda _: None)
    found = store.read(out, Report)
    assert found.manifest.outcome == outcome
    text = found.file("report.md").read_text(encoding="utf-8")
    for part in said:
        assert part in text
    metrics = json.loads(found.file("metrics.json").read_text(encoding="utf-8"))
    assert metrics["outcome"] == outcome
    if outcome != "error":
        drop = (story.candidate_wrong - story.dense_wrong) / story.examples
        assert metrics["quality_drop.accuracy.ort-cpu"] == pytest.approx(drop)
        assert metrics["latency_ratio.ort-cpu"] == pytest.approx(story.ratio, rel=0.02)
