"""What a report advises can be done: params.yaml takes each knob, and the lock is written again."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
import yaml
from msgspec import structs

from reprune.core.artifacts import RuleResult
from reprune.core.params import Params, Target, read_params
from reprune.report import advice
from reprune.report.facts import ReportFacts
from reprune.report.phrases import as_text
from tests.report.scenes import BLOCKED, accuracy, latency
from tests.report.verdicts import bare

WORSE = accuracy("dense", "block", (414, 441), 0.02)
SLOW = latency("dense", "block", 0.08, 0.95)
_KNOB = re.compile(r"(\w+)\.(\w+): ([\w.:-]+)(?=,? )")
_WITHOUT = re.compile(r"(?:without|and) (\w+)\.(\w+)(?=, )")
Told = Callable[[str], ReportFacts]


def written(folder: Path, **plan: object) -> Path:
    """The params of `reprune init`, with other knobs of `plan`."""
    values = yaml.safe_load(files("reprune").joinpath("template/params.yaml").read_text())
    if plan.get("method", "channels") != "channels":
        values["plan"] = {}
        values["sensitivity"], values["prune"] = {}, {}
    values["plan"] |= plan
    path = folder / "params.yaml"
    path.write_text(yaml.safe_dump(values))
    return path


def tried(told: Told, params: Params, *rules: RuleResult) -> list[str]:
    """The lines of advice for these results, without the override."""
    verdict = bare(replace(BLOCKED, rules=rules, slices=())).verdict
    facts = replace(told("block"), verdict=verdict, params=params)
    return [line for line in map(as_text, advice.to_try(facts)) if "reprune override" not in line]


def follow(line: str, path: Path) -> None:
    """Writes what a line of advice says into the params at `path`."""
    values: dict[str, Any] = yaml.safe_load(path.read_text())
    for section, key, value in _KNOB.findall(line):
        values[section][key] = yaml.safe_load(value)
    for section, key in _WITHOUT.findall(line):
        del values[section][key]
    path.write_text(yaml.safe_dump(values))


@pytest.mark.parametrize("rules", [(WORSE,), (SLOW,), (WORSE, SLOW)])
@pytest.mark.parametrize(
    "plan",
    [
        {},
        {"method": "weights"},
        {"method": "weights", "sparsity": 0.8, "scope": "local"},
        {"method": "n:m"},
        {"budget": "latency", "latency_target": "ort-cpu"},
    ],
    ids=str,
)
def test_every_knob_that_is_advised_can_be_set(
    told: Told, tmp_path: Path, plan: dict[str, object], rules: tuple[RuleResult, ...]
) -> None:
    """Followed alone, each line leaves a params.yaml that is read and is another; steps refuse a lock from
    before it, so that each line says to write the lock again.
    """
    before = read_params(written(tmp_path, **plan))
    lines = tried(told, before, *rules)
    assert lines
    for line in lines:
        assert line.endswith("then reprune update and dvc repro."), line
        path = written(tmp_path, **plan)
        follow(line, path)
        assert (read_params(path) != before) == bool(_KNOB.search(line)), line


def test_a_budget_of_latency_names_its_target(told: Told, tmp_path: Path) -> None:
    """That which is too slow; none that a plan could not be timed on, and none with a limit already."""
    params = read_params(written(tmp_path))
    (line, _) = tried(told, params, SLOW)
    assert "plan.budget: latency and plan.latency_target: ort-cpu (now macs)" in line
    both = structs.replace(params, targets={"a": Target(kit=True), "b": Target()})
    on_a, on_b = (structs.replace(SLOW, target=name) for name in "ab")
    assert "plan.latency_target: b " in tried(told, both, on_a, on_b)[0]
    assert "plan.budget" not in "".join(tried(told, both, on_a))
    limited = structs.replace(params.plan, limits={"latency@ort-cpu": 0.9})
    assert "plan.budget" not in "".join(tried(told, structs.replace(params, plan=limited), SLOW))


def test_what_is_repaired_may_need_no_new_lock(told: Told) -> None:
    """After an error DVC alone runs what changed, unless a file that the lock describes was mended."""
    (line,) = map(as_text, advice.to_try(told("error")))
    assert "then dvc repro; if that changed params.yaml, policy.yaml or the task" in line
    assert "reprune update before it" in line
