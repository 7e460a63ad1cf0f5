"""Knobs of params.yaml that the method chosen does not read: refused when the file is read, not ignored."""

from __future__ import annotations

import json
from importlib.metadata import EntryPoint
from pathlib import Path

import msgspec
import pytest
import yaml

from reprune.compress.masks.growth import SAME_AS_MAGNITUDE
from reprune.compress.masks.shaper import CRITERIA
from reprune.compress.training.schedule import SCHEDULES as BUILT_IN
from reprune.core import plugins
from reprune.core.errors import DocumentError
from reprune.core.params import Params, PlanParams, read_params
from reprune.core.schedule_checks import SCHEDULES, WHILE_TRAINING

CHANNEL_KNOBS = {
    "depth": True,
    "head_dimensions": True,
    "allocator": "uniform",
    "budget": "params",
    "fraction": 0.4,
    "round_to": 4,
    "min_keep": 0.5,
    "latency_target": "ort-cpu",
    "latency_trials": 2,
    "latency_model": "in-model",
    "evaluations": 10,
    "evaluation_examples": 100,
    "search": {"sampler": "nsga2"},
    "limits": {"params": 0.5},
    "widths": {"conv": 4},
    "removed_blocks": ["layer"],
}
MASKS = ({"method": "weights"}, {"method": "n:m"})


def read(folder: Path, **sections: object) -> Params:
    (folder / "params.yaml").write_text(yaml.safe_dump({"name": "a", "task": "t:T", **sections}))
    return read_params(folder / "params.yaml")


@pytest.mark.parametrize(
    ("sections", "knobs", "fix"),
    [
        ({"plan": {"sparsity": 0.95}}, "plan.sparsity", "plan.method to 'weights'"),
        ({"plan": {"pattern": "1:4"}}, "plan.pattern", "plan.method to 'n:m'"),
        (
            {"plan": {"scope": "local", "pattern": "1:4"}},
            "plan.scope, plan.pattern",
            "take them out, or set plan.method to 'weights' or plan.method to 'n:m'",
        ),
        ({"plan": {"method": "channels", "scope": "local"}}, "plan.scope", "'weights'"),
        ({"plan": {"method": "n:m", "sparsity": 0.5}}, "plan.sparsity", "'weights'"),
        ({"plan": {"method": "n:m", "scope": "local"}}, "plan.scope", "'weights'"),
        ({"plan": {"method": "weights", "pattern": "1:4"}}, "plan.pattern", "'n:m'"),
        *(
            ({"plan": masks | {knob: value}}, f"plan.{knob}", "take it out, or set plan.method")
            for masks in MASKS
            for knob, value in CHANNEL_KNOBS.items()
        ),
        *(
            ({"plan": masks, "sensitivity": {knob: value}}, f"sensitivity.{knob}", "'channels'")
            for masks in MASKS
            for knob, value in {
                "method": "calibrated",
                "cuts": [0.5],
                "budget": 0.2,
                "precision": 0.2,
                "joint_fraction": 0.4,
            }.items()
        ),
        *(
            ({"plan": MASKS[0], "prune": {knob: value}}, f"prune.{knob}", "'channels'")
            for knob, value in {
                "reduction": "max",
                "normalizer": "mean",
                "ridge": 0.1,
                "refit": "onwards",
                "equality_max_abs": 0.1,
                "sparse_learning": {"method": "group-norm"},
            }.items()
        ),
        *(
            ({"sensitivity": {knob: 0.2}}, f"sensitivity.{knob}", "sensitivity.method to 'cali")
            for knob in ("budget", "precision", "joint_fraction")
        ),
    ],
)
def test_a_knob_of_another_method_is_refused(
    tmp_path: Path, sections: dict[str, object], knobs: str, fix: str
) -> None:
    """With the file, the path inside it, and both ways out."""
    with pytest.raises(DocumentError, match="would do nothing") as caught:
        read(tmp_path, **sections)
    assert caught.value.where == f"{tmp_path / 'params.yaml'} ({knobs})"
    assert fix in caught.value.fix
    assert caught.value.exit_code == 2


@pytest.mark.parametrize(
    "sections",
    [
        {"plan": {"method": "weights", "sparsity": 0.95, "scope": "local"}},
        {"plan": {"method": "n:m", "pattern": "1:4"}, "sensitivity": {"examples": 100}},
        {"plan": {"method": "weights", "fraction": 0.5, "pattern": "2:4", "limits": {}}},
        {"plan": {"sparsity": 0.9, "scope": "global"}, "sensitivity": {"budget": 0.1}},
        {
            "plan": {"depth": True, "fraction": 0.4, "round_to": 4, "limits": {"params": 0.5}},
            "prune": {"ridge": 0.1, "reduction": "max"},
        },
        {"sensitivity": {"method": "calibrated", "budget": 0.2, "precision": 0.2, "cuts": [0.5]}},
        {
            "plan": MASKS[0],
            "prune": {"criterion": "sparsegpt", "examples": 64, "compensate": False},
        },
    ],
)
def test_a_knob_that_is_read_or_says_the_default_is_taken(
    tmp_path: Path, sections: dict[str, object]
) -> None:
    """What stands at its default changes nothing, whoever wrote it."""
    made = json.loads(msgspec.json.encode(read(tmp_path, **sections)))
    for name, section in sections.items():
        found = made[name]
        assert {knob: found[knob] for knob in section} == section  # type: ignore[attr-defined]


BAR = {"distill": {"bar_ratio": 1.1}}
GROWING = {"kind": "cubic", "steps": 3, "epochs": 3}
TRAINING = [
    (
        {"generations": {"champion_weight": 0.5}, "distill": {"weight": 0.0}},
        "generations.champion_weight",
        "take it out, or set distill.weight",
    ),
    (
        {"distill": {"feature_modules": ["conv"]}},
        "distill.feature_modules",
        "set distill.features or distill.attention above 0",
    ),
    (
        {"prune": {"sparse_learning": {"method": "growing", "epochs": 0}}},
        "prune.sparse_learning.epochs",
        "set it to 1 or more",
    ),
    ({"prune": {"ladder": {"epochs": 2}}}, "prune.ladder.epochs", "set prune.ladder.fractions"),
    (
        {"plan": MASKS[0], "prune": {"ladder": {"fractions": [0.5]}}},
        "prune.ladder",
        "plan.method to 'channels'",
    ),
]


@pytest.mark.parametrize(
    ("sections", "knob", "fix"), TRAINING, ids=[knob for _, knob, _ in TRAINING]
)
def test_a_knob_of_training_that_would_do_nothing_is_refused(
    tmp_path: Path, sections: dict[str, object], knob: str, fix: str
) -> None:
    """Beside what makes it do nothing; alone it is taken, and so are the defaults."""
    with pytest.raises(DocumentError, match="would do nothing") as caught:
        read(tmp_path, **sections)
    assert caught.value.where == f"{tmp_path / 'params.yaml'} ({knob})"
    assert fix in caught.value.fix


@pytest.mark.parametrize(
    ("sections", "where", "what", "fix"),
    [
        (
            {"distill": {"hold_epochs": 4}},
            "distill.hold_epochs",
            "held for 4 of 4 epochs and would never fall",
            "set it lower than distill.epochs, or distill.rate to constant",
        ),
        (
            {"prune": {"schedule": {"kind": "cubik", "steps": 3, "epochs": 3}}},
            "prune.schedule.kind",
            "no schedule called 'cubik'; did you mean 'cubic'",
            "use one of: agp, constant, cubic",
        ),
        (
            {"prune": {"schedule": {"kind": "oneshot"}}},
            "prune.schedule.kind",
            "did you mean 'one-shot'",
            "use one of",
        ),
        *(
            (
                {"prune": {"ladder": {"fractions": fractions}}} | BAR,
                "prune.ladder.fractions",
                what,
                fix,
            )
            for fractions, what, fix in (
                ([0.5, 0.75], "0.5, 0.75 do not fall", "write them as [0.75, 0.5]"),
                ([0.5, 0.5], "do not fall", "write them as [0.5]"),
            )
        ),
        (
            {"prune": {"ladder": {"fractions": [0.5]}}},
            "prune.ladder",
            "needs a bar",
            "set distill.bar_ratio",
        ),
        *(
            (
                {"plan": masks, "prune": {"criterion": criterion, "schedule": GROWING}},
                "prune.criterion",
                f"'{criterion}' cannot rank weights while the model trains",
                "use one of: magnitude, taylor",
            )
            for masks in MASKS
            for criterion in ("wanda", "random", "sparsegpt")
        ),
    ],
)
def test_knobs_of_training_that_contradict_each_other_are_refused(
    tmp_path: Path, sections: dict[str, object], where: str, what: str, fix: str
) -> None:
    """Where they stand, and with a way out."""
    with pytest.raises(DocumentError, match=what) as caught:
        read(tmp_path, **sections)
    assert caught.value.where == f"{tmp_path / 'params.yaml'} ({where})"
    assert fix in caught.value.fix


@pytest.mark.parametrize(
    "sections",
    [
        {"distill": {"epochs": 6, "hold_epochs": 4}},
        {"distill": {"feature_modules": ["conv"], "attention": 1.0}},
        {"distill": {"feature_modules": ["conv"], "features": 1.0}},
        {"prune": {"sparse_learning": {"epochs": 0}}},
        {"prune": {"ladder": {"fractions": [0.75, 0.5], "epochs": 2}}} | BAR,
        {"prune": {"ladder": {"fractions": [0.5]}}, "distill": {"bar": 0.2}},
        {"prune": {"schedule": {"kind": "theirs", "steps": 3, "epochs": 3}}},
        *(
            {"plan": MASKS[0], "prune": {"criterion": criterion, "schedule": GROWING}}
            for criterion in WHILE_TRAINING
        ),
        {"plan": MASKS[0], "prune": {"criterion": "wanda"}},
        {"prune": {"criterion": "random", "schedule": GROWING}},
        {"distill": {"hold_epochs": 9, "rate": "constant"}},
        {"distill": {"epochs": 0, "hold_epochs": 2}},
        {"generations": {}, "distill": {"weight": 0.0}},
        {"generations": {"champion_weight": 0.5}},
    ],
)
def test_what_training_can_obey_is_taken(tmp_path: Path, sections: dict[str, object]) -> None:
    assert read(tmp_path, **sections)


def test_every_knob_of_a_plan_is_of_some_method() -> None:
    """A new knob is about channels unless the table says otherwise: it is then in the tests above."""
    masks = {"method", "sparsity", "sparsities", "scope", "pattern"}
    assert {*CHANNEL_KNOBS, *masks, "floors"} == set(PlanParams.__struct_fields__)


def test_a_packages_schedule_may_be_called_like_one_of_ours(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where it is installed."""
    point = EntryPoint(name="cubik", value="theirs:cubik", group="reprune.schedules")
    monkeypatch.setattr(plugins, "entry_points", lambda group: [point])
    schedule = GROWING | {"kind": "cubik"}
    assert read(tmp_path, prune={"schedule": schedule}).prune.schedule.kind == "cubik"


def test_the_names_that_are_known_are_those_that_there_are() -> None:
    """core imports no schedule and no criterion."""
    assert set(SCHEDULES) == set(BUILT_IN)
    assert set(WHILE_TRAINING) == {*CRITERIA, *SAME_AS_MAGNITUDE}
