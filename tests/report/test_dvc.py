"""What DVC shows of two commits is what the two verdicts say: metrics and plots, shown and compared."""

from __future__ import annotations

import csv
import io
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from reprune.doors.local import dvc_text
from reprune.report.facts import ReportFacts, read_facts
from reprune.report.metrics import render_metrics
from reprune.report.plots import PLOTS, render_plots
from tests.report.scenes import BLOCKED, PASSED, SCENES
from tests.report.verdicts import Scene, write_verdict

REPORT = "artifacts/report"
Json = dict[str, Any]


def git(root: Path, *words: str) -> None:
    who = ["-c", "user.name=Ada", "-c", "user.email=ada@example.test"]
    subprocess.run(["git", *who, *words], cwd=root, check=True, capture_output=True)


def dvc(root: Path, *words: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "dvc", *words],
        cwd=root,
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "DVC_NO_ANALYTICS": "1", "DVC_GLOBAL_CONFIG_DIR": str(root / ".global")},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def commit(root: Path, scene: Scene, message: str) -> ReportFacts:
    """Writes the scene's verdict and its report, and records both as `dvc repro` does."""
    told = read_facts(write_verdict(scene, root / "artifacts"))
    (root / REPORT / "plots").mkdir(parents=True, exist_ok=True)
    for name, text in {"metrics.json": render_metrics(told), **render_plots(told)}.items():
        (root / REPORT / name).write_text(text, encoding="utf-8")
    dvc(root, "commit", "-q", "-f", "report")
    git(root, "add", "-A")
    git(root, "commit", "-q", "-m", message)
    return told


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, ReportFacts, ReportFacts]:
    """A repository with the template's own metrics and plots, and two commits: passed, then blocked."""
    root = tmp_path_factory.mktemp("repository")
    git(root, "init", "-q", "-b", "main")
    whole = yaml.safe_load(dvc_text())
    stage = whole["stages"]["report"] | {"params": []}
    (root / "dvc.yaml").write_text(yaml.safe_dump({**whole, "stages": {"report": stage}}))
    dvc(root, "init", "-q")
    (root / ".gitignore").write_text("/.global\n/artifacts\n")
    before = commit(root, PASSED, "passed")
    groups = (("conv1", 16, 8), ("conv2", 32, 8))
    after = commit(root, replace(BLOCKED, groups=groups), "blocked")
    return root, before, after


Repository = tuple[Path, ReportFacts, ReportFacts]


@pytest.mark.slow
def test_metrics_diff_gives_the_numbers_of_both(repository: Repository) -> None:
    """Old, new and difference of every metric that moved, and nothing else."""
    root, before, after = repository
    shown = json.loads(dvc(root, "metrics", "diff", "HEAD~1", "HEAD", "--json"))
    moved = shown[f"{REPORT}/metrics.json"]
    was, now = (json.loads(render_metrics(each)) for each in (before, after))
    assert set(moved) == {name for name in {*was, *now} if was.get(name) != now.get(name)}
    assert {(name, each["old"], each["new"]) for name, each in moved.items()} == {
        (name, was.get(name), now.get(name)) for name in moved
    }
    lost = moved["quality_drop.accuracy.ort-cpu"]
    assert lost["diff"] == pytest.approx(26 / 450)
    assert (moved["outcome"]["old"], moved["outcome"]["new"]) == ("pass", "block")


Drawn = dict[str, dict[str, list[tuple[str, str]]]]


def drawn(shown: Json) -> Drawn:
    """What DVC laid into its templates: by revision and plot, the rows as (y, x)."""
    found: Drawn = {}
    for plot in PLOTS:
        (one,) = shown["data"][f"{REPORT}/{plot.path}"]
        for row in one["anchor_definitions"]["<DVC_METRIC_DATA>"]:
            rows = found.setdefault(row["rev"], {}).setdefault(plot.name, [])
            rows.append((row[plot.y], row[plot.x]))
    return found


def rows_of(told: ReportFacts) -> dict[str, list[tuple[str, str]]]:
    texts = render_plots(told)
    return {
        plot.name: [(row[plot.y], row[plot.x]) for row in table(texts[plot.path])] for plot in PLOTS
    }


def table(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text)))


@pytest.mark.slow
def test_plots_show_and_diff_have_the_rows_of_both(repository: Repository) -> None:
    """Each plot of the template has the rows of the commit, and of both with their revisions."""
    root, before, after = repository
    now = json.loads(dvc(root, "plots", "show", "--json", "--split"))
    both = json.loads(dvc(root, "plots", "diff", "HEAD~1", "HEAD", "--json", "--split"))
    assert {*now["data"]} == {*both["data"]} == {f"{REPORT}/{plot.path}" for plot in PLOTS}
    assert not now.get("errors")
    assert not both.get("errors")
    assert drawn(now) == {"workspace": rows_of(after)}
    assert drawn(both) == {"HEAD~1": rows_of(before), "HEAD": rows_of(after)}
    moved = [each for each in ("slices", "widths") if rows_of(before)[each] != rows_of(after)[each]]
    assert moved == ["slices", "widths"]


@pytest.mark.parametrize("name", sorted(SCENES))
def test_every_verdict_has_every_plot(name: str, told: Any) -> None:
    """Each a table whose columns are what dvc.yaml names; without rows where nothing was measured."""
    for plot in PLOTS:
        text = render_plots(told(name))[plot.path]
        assert set(text.splitlines()[0].split(",")) == {plot.x, plot.y}
        rows = table(text)
        assert all(set(row) == {plot.x, plot.y} and float(row[plot.x]) < 1e9 for row in rows)
        # In the hostile scene all slices have one name.
        assert name == "hostile" or len({row[plot.y] for row in rows}) == len(rows)


def test_a_name_stays_one_cell(told: Any) -> None:
    """Commas, quotes and line ends of a stranger's name."""
    rows = table(render_plots(told("hostile"))["plots/widths.csv"])
    assert [row["percent"] for row in rows] == ["50.0", "50.0"]
    assert not any(char < " " for row in rows for char in row["part"])


def test_plots_have_the_verdicts_numbers(told: Any) -> None:
    """Milliseconds, points and percent; the epochs in their order."""
    known = told("block")
    rows = {plot.name: table(render_plots(known)[plot.path]) for plot in PLOTS}
    (latency,) = rows["latency"]
    rule = next(one for one in known.judgement.rules if one.rule == "latency.vs_parent")
    assert (latency["target"], float(latency["ms"])) == ("ort-cpu", rule.candidate_value)
    assert next(row for row in rows["slices"] if row["slice"] == "digit=8")["points"] == "-20.0"
    assert [row["epoch"] for row in rows["recovery"]] == ["1", "2", "3", "4"]
    assert {row["part"]: row["percent"] for row in rows["widths"]} == {
        "conv1": "50.0",
        "conv2": "50.0",
        "conv3": "37.5",
        "fc1": "50.0",
    }
