"""What of a plan's knobs is wrong, or would do nothing, is said when params.yaml is read."""

from __future__ import annotations

from importlib.metadata import EntryPoint
from pathlib import Path

import pytest

from reprune.compress.planning.allocate import ALLOCATORS as BUILT_IN
from reprune.core import plugins
from reprune.core.errors import DocumentError
from reprune.core.params import read_params
from reprune.core.plan_checks import ALLOCATORS

GOOD = "name: digits\ntask: task.digits:DigitsTask\ntargets: {cpu: {}}\n"
LATENCY = "budget: latency, latency_target: cpu"
TABLES = "profile: {tables: {step: 8}}\n"


def written(folder: Path, plan: str, more: str = "") -> Path:
    path = folder / "params.yaml"
    path.write_text(f"{GOOD}{more}plan: {{{plan}}}\n")
    return path


@pytest.mark.parametrize(
    ("plan", "key", "what", "fix"),
    [
        ("allocator: latncy", "plan.allocator", "did you mean 'latency'", "sensitivity, uniform"),
        ("widths: {a: 8, b: -3}", "plan.widths.b", "b cannot have -3 channels", "at least 1"),
        (
            "method: weights, sparsities: {a: 0.5}",
            "plan.sparsities",
            "scores of all tensors together decide",
            "'local' or 'sensitivity'",
        ),
        ("method: n:m, sparsities: {a: 0.5}", "plan.sparsities", "does not read", "to 'weights'"),
        (
            "method: weights, scope: local, sparsities: {a: 1.0}",
            "plan.sparsities",
            "< 1.0",
            "below 1",
        ),
        ("removed_blocks: [a]", "plan.removed_blocks", "plan.depth is off", "plan.depth to true"),
        (
            f"round_to: 4, allocator: latency, {LATENCY}",
            "plan.round_to",
            "multiples of 4, .* know multiples of 8",
            "multiple of profile.tables.step",
        ),
        (
            'round_to: 12, limits: {"latency@cpu": 0.5}',
            "plan.round_to",
            "know multiples of 8",
            "set that to 12",
        ),
        ("latency_target: nonsense", "plan.latency_target", "plan.budget is macs", "to latency"),
        ("latency_model: in-model", "plan.latency_model", "plan.budget is macs", "to latency"),
        (
            "allocator: uniform, evaluations: 9",
            "plan.evaluations",
            "'uniform' measures no joint cuts",
            "one of: sensitivity, latency, search",
        ),
        (
            "allocator: theirs, evaluations: 9",
            "plan.evaluations",
            "'theirs' measures no joint cuts",
            "take it out",
        ),
        (
            "evaluation_examples: 9",
            "plan.evaluation_examples",
            "unless plan.evaluations is set",
            "set plan.evaluations too",
        ),
        ("search: {}", "plan.search", "'sensitivity' chooses", "with which search may take over"),
        ("allocator: amc, search: {}", "plan.search", "'amc' chooses", "set plan.allocator to"),
        ("budget: joules", "plan.budget", "'joules'", "use one of: bytes, latency, macs, params"),
        ("limits: {params: 1.5}", "plan.limits", "1.5 is above 1", "a share of at most 1"),
        ("fraction: 1.5", "plan.fraction", "<= 1.0", "a number above 0 and of at most 1"),
        ("round_to: 999", "plan.round_to", "<= 256", "whole number of at least 0 and of at most"),
    ],
)
def test_a_knob_that_is_wrong_or_idle_is_refused_with_its_fix(tmp_path, plan, key, what, fix):
    """Where it stands, why, and what can be done."""
    path = written(tmp_path, plan, TABLES)
    with pytest.raises(DocumentError, match=what) as refused:
        read_params(path)
    assert f"({key}" in refused.value.where
    assert fix in refused.value.fix


@pytest.mark.parametrize(
    "plan",
    [
        "allocator: theirs",
        "allocator: latency-of-theirs",
        "round_to: 4",  # the tables are for nobody then, or for another generation
        f"round_to: 4, allocator: sensitivity, {LATENCY}",
        f"round_to: 0, allocator: latency, {LATENCY}",
        f"allocator: latency, round_to: 16, {LATENCY}",
        f"latency_model: in-model, {LATENCY}",
        "depth: true, removed_blocks: [a]",
        "removed_blocks: []",
        "widths: {a: 1}",
        "evaluations: 9, evaluation_examples: 9, search: {sampler: nsga2}",
        "allocator: search, search: {}, evaluation_examples: 9",
        "allocator: netadapt, evaluations: 9",
    ],
)
def test_what_is_obeyed_is_taken(tmp_path, plan):
    """And the name of an allocator that a package may add where the plan is made."""
    assert read_params(written(tmp_path, plan, TABLES)).plan


def test_a_packages_allocator_may_be_called_like_one_of_ours(tmp_path, monkeypatch):
    """Where it is installed."""
    point = EntryPoint(name="latncy", value="theirs:allocate", group="reprune.allocators")
    monkeypatch.setattr(plugins, "entry_points", lambda group: [point])
    assert read_params(written(tmp_path, "allocator: latncy")).plan.allocator == "latncy"


def test_the_allocators_that_are_known_are_those_that_there_are():
    """core imports no allocator."""
    assert set(ALLOCATORS) == set(BUILT_IN)
