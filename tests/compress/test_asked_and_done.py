"""What was asked for is done, or there is a word about it: found by reading, each kept by a test."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import msgspec
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from reprune.compress import importance
from reprune.compress.compensate import compensate
from reprune.compress.importance import channel_scores
from reprune.compress.ladder import prune_channels
from reprune.compress.planning.curves import Curve
from reprune.compress.planning.options import Options
from reprune.compress.sensitivity.subject import keeps
from reprune.compress.stages import Course, cut_in_stages, stage_params
from reprune.compress.structure.alignment import alignments
from reprune.compress.structure.blocks import Block
from reprune.compress.structure.equality import architecture_of
from reprune.compress.structure.groups import Group, find_groups, survey
from reprune.compress.structure.separate import separate
from reprune.compress.structured import apply, cut
from reprune.core.artifacts import Cost
from reprune.core.errors import CompressionError, DocumentError, InputError
from reprune.core.params import (
    DistillParams,
    LadderParams,
    PlanParams,
    PruneParams,
    ScheduleParams,
    read_params,
)
from reprune.steps.opening import Dense, refuse_no_choice
from tests import models
from tests.compress.test_stages import course

SHARES = st.lists(st.floats(0.01, 0.99), min_size=1, max_size=5)


@settings(deadline=None)
@given(width=st.integers(2, 400), cuts=SHARES)
def test_every_group_is_measured_at_some_cut(width: int, cuts: list[float]) -> None:
    """A narrow group whose shares round to nothing would look as if it could go for free."""
    found = keeps(width, cuts)
    assert found
    assert all(1 <= keep < width for keep in found)
    assert list(found) == sorted(set(found), reverse=True)


@settings(deadline=None)
@given(dense=st.integers(1, 10**12), data=st.data())
def test_a_budget_that_is_met_exactly_is_met(dense: int, data: st.DataObject) -> None:
    """The smallest reachable fraction, asked for as a fraction, is no budget out of reach."""
    least = data.draw(st.integers(1, dense))
    options = Options(
        rungs={"a": (1, 2)},
        curves={"a": Curve(keeps=(1, 2), increases=(1.0, 0.0), errors=(0.0, 0.0))},
        cost=lambda widths: Cost(  # type: ignore[arg-type]
            params=1, macs=least if widths.get("a", 2) == 1 else dense, bytes=1
        ),
    )
    assert options.problem("macs", least / dense).fits({"a": 1})


@pytest.mark.parametrize("name", ["built-in-attention", "vit"])
def test_heads_and_their_dimensions_together_stay_aligned(name: str) -> None:
    """Each width alone may be aligned and their product not: 3 heads of 10 are 30 channels."""
    module, inputs = separate(models.build(name)), models.inputs(name, 2)
    groups = survey(module, inputs, (), dimensions=True).groups
    steps = alignments(module, groups, 4)
    crossing = [group for group in groups if group.across is not None]
    assert crossing
    assert all(steps[group.name] % 4 == 0 for group in crossing)


def test_a_careless_criterion_of_another_package_harms_nothing(
    model_task: Callable[..., object], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is given a copy, all its arguments, and may return tensors that still have a gradient."""
    seen: list[object] = []

    def careless(
        task: object, module: nn.Module, groups: list[Group], *, params: PruneParams, seed: int
    ) -> dict[str, Tensor]:
        seen.extend((task, params, seed))
        with torch.no_grad():
            for parameter in module.parameters():
                parameter.zero_()
        return {g.name: torch.arange(g.width, dtype=torch.float32).requires_grad_() for g in groups}

    def listed(
        task: object, module: nn.Module, groups: list[Group], *, params: PruneParams, seed: int
    ) -> dict[str, list[float]]:
        return {group.name: [1.0] * group.width for group in groups}

    points = []
    for word, function in (("careless", careless), ("listed", listed)):
        monkeypatch.setattr(importance, word, function, raising=False)
        points.append(SimpleNamespace(name=word, value=f"reprune.compress.importance:{word}"))
    monkeypatch.setattr(
        "reprune.core.plugins.entry_points",
        lambda group: points if group == "reprune.importance" else [],
    )
    task = model_task("plain")
    module = models.build("plain")
    groups = find_groups(module, models.inputs("plain", 2), ())
    params = PruneParams(criterion="careless", examples=32)
    scores = channel_scores(task, module, groups, params, 3)
    assert seen == [task, params, 3]
    assert any(bool(parameter.any()) for parameter in module.parameters())
    assert not any(score.requires_grad for score in scores.values())
    with pytest.raises(CompressionError, match="'listed' gave no finite score"):
        channel_scores(task, module, groups, PruneParams(criterion="listed"), 3)


def test_a_normalizer_that_changes_nothing_is_told(model_task: Callable[..., object]) -> None:
    """Widths are the plan's, so that nothing is compared between groups."""
    module = models.build("plain")
    groups = find_groups(module, models.inputs("plain", 2), ())
    said: list[str] = []
    params = PruneParams(criterion="l1", normalizer="mean", examples=32)
    widths = {group.name: group.width - 1 for group in groups}
    cut(model_task("plain"), module, groups, widths, params, 0, said.append)  # type: ignore[arg-type]
    assert any("normalizer 'mean' changes no choice" in line for line in said)


def test_a_schedule_that_would_do_nothing_is_refused(tmp_path: Path) -> None:
    """Steps and epochs without a kind would be forgotten silently."""
    path = tmp_path / "params.yaml"
    text = "name: a\ntask: task.digits:DigitsTask\nprune: {schedule: {steps: 3, epochs: 3"
    path.write_text(text + "}}\n")
    with pytest.raises(DocumentError, match="one-shot cut has no steps"):
        read_params(path)
    path.write_text(text + ", kind: cubic}}\n")
    assert read_params(path).prune.schedule.steps == 3


MASKS = "plan: {method: weights, sparsity: 0.6}\n"


@pytest.mark.parametrize(
    ("schedule", "plan", "where", "what"),
    [
        ("begin: 0.5", MASKS, "prune.schedule)", "one-shot cut has no steps"),
        ("regrow: true", MASKS, "prune.schedule)", "one-shot cut has no steps"),
        ("kind: cubic, epochs: 5", "", "steps", "gradual, and in 1 step it would cut all at once"),
        (
            "kind: mine, epochs: 5",
            MASKS,
            "steps",
            "gradual, and in 1 step it would cut all at once",
        ),
        ("kind: cubic, steps: 3", "", "epochs", "needs training between its cuts"),
        ("kind: cubic, steps: 3, epochs: 0.4", "", "epochs", "in whole epochs, not 0.4"),
        ("kind: cubic, steps: 3, epochs: 3.5", MASKS, "epochs", "in whole epochs, not 3.5"),
        ("kind: cubic, steps: 10, epochs: 3", "", "epochs", "10 cuts of channels share 3 epochs"),
        ("kind: constant, steps: 3, epochs: 3", MASKS, "steps", "3 steps would do nothing"),
        ("kind: constant, epochs: 3, end: 0.5", MASKS, "end", "masks all of it at `begin`"),
        ("kind: cubic, steps: 3, epochs: 3, power: 2", MASKS, "power", "polynomial alone"),
        ("kind: cubic, steps: 3, epochs: 3, begin: 0.2", "", "begin", "cut in stages"),
        ("kind: cubic, steps: 3, epochs: 3, regrow: false", "", "regrow", "cut in stages"),
        ("kind: agp, steps: 3, epochs: 3, begin: 0.5, end: 0.5", MASKS, "end", "begins at 0.5"),
        ("kind: agp, steps: 3, epochs: 3, initial: 0.6", MASKS, "initial", "the plan's is 0.6"),
        (
            "kind: agp, steps: 3, epochs: 3, initial: 0.25",
            "plan: {method: 'n:m', pattern: '3:4'}\n",
            "initial",
            "the plan's is 0.25",
        ),
    ],
)
def test_a_schedule_that_is_not_what_it_says_is_refused(
    tmp_path: Path, schedule: str, plan: str, where: str, what: str
) -> None:
    path = tmp_path / "params.yaml"
    path.write_text(
        f"name: a\ntask: task.digits:DigitsTask\n{plan}prune: {{schedule: {{{schedule}}}}}\n"
    )
    with pytest.raises(DocumentError) as refused:
        read_params(path)
    text = str(refused.value)
    assert what in text
    assert where in text
    assert "To fix:" in text


@pytest.mark.parametrize(
    ("schedule", "plan"),
    [
        ("kind: cubic, steps: 10, epochs: 3", MASKS),
        ("kind: constant, epochs: 2, begin: 0.5", MASKS),
        ("kind: constant, epochs: 2", ""),
        ("kind: polynomial, steps: 3, epochs: 3, power: 1", ""),
        (
            "kind: polynomial, steps: 9, epochs: 3, initial: 0.5, begin: 0.1, end: 0.9, regrow: true",
            MASKS,
        ),
    ],
)
def test_a_schedule_that_can_be_done_is_taken(tmp_path: Path, schedule: str, plan: str) -> None:
    path = tmp_path / "params.yaml"
    path.write_text(
        f"name: a\ntask: task.digits:DigitsTask\n{plan}prune: {{schedule: {{{schedule}}}}}\n"
    )
    read_params(path)


@pytest.mark.slow
def test_no_stage_is_without_an_epoch_where_there_are_as_many() -> None:
    """What read_params lets through leaves recovery after each cut, and all epochs are taken."""
    plan = course()
    for steps in range(2, 21):
        for epochs in range(steps, 4 * steps):
            schedule = ScheduleParams(kind="cubic", steps=steps, epochs=float(epochs))
            plan = replace(plan, prune=msgspec.structs.replace(plan.prune, schedule=schedule))
            taken = [stage_params(plan, number).epochs for number in range(1, steps + 1)]
            assert min(taken) >= 1
            assert sum(taken) == epochs


def laddered(*fractions: float, **knobs: object) -> Course:
    plan = course(kind="one-shot", bar_ratio=1e-6, **knobs)
    return replace(
        plan, prune=msgspec.structs.replace(plan.prune, ladder=LadderParams(fractions=fractions))
    )


def test_rungs_that_do_not_fall_are_refused(tmp_path: Path) -> None:
    """A harsher cut after a gentler one is no fall-back."""
    with pytest.raises(InputError, match="do not fall"):
        prune_channels(laddered(0.25, 0.5), tmp_path)


def test_a_rung_of_the_same_widths_is_not_trained_again(tmp_path: Path) -> None:
    """16 to 8 in steps of 8: three quarters of that cut is all of it."""
    said: list[str] = []
    plan = laddered(0.75, 0.1, widths=(8, 16), say=said.append)
    surgery = prune_channels(plan, tmp_path).surgery
    ladder = surgery.ladder
    assert isinstance(ladder, tuple)
    assert [words.rpartition(": ")[2] for words in ladder] == [
        "too much",
        "the same cut again, not tried",
        "taken without a trial",
    ]
    assert not (tmp_path / "rung-1").exists()


def staged(task: object, name: str, widths: dict[str, int], **changes: object) -> Course:
    module = models.build(name)

    def grouped(one: nn.Module) -> tuple[Group, ...]:
        return find_groups(one, models.inputs(name, 2), ())

    return Course(
        task=task,  # type: ignore[arg-type]
        module=module,
        teacher=module,
        digest="sha256:dense",
        groups=grouped(module),
        regroup=grouped,
        widths=widths,
        blocks=(),
        prune=PruneParams(
            criterion="l2",
            examples=32,
            schedule=ScheduleParams(kind="iterative", steps=3, epochs=0.0),
        ),
        distill=DistillParams(),
        seed=0,
        say=lambda _: None,
    )


@pytest.mark.slow
def test_one_key_value_head_that_is_left_is_not_cut_again(
    model_task: Callable[..., object], tmp_path: Path
) -> None:
    """Of a single key-value head the query heads are offered, under the same name; those are not meant."""
    name = "layers.0.attention:heads"
    result = cut_in_stages(
        staged(model_task("grouped-queries"), "grouped-queries", {name: 1}), tmp_path
    )
    attention = result.module.get_submodule("layers.0.attention")
    assert attention.k_proj.out_features == 4  # one key-value head of 4
    assert attention.q_proj.out_features == 8  # and both query heads that read it


def test_a_model_of_which_only_blocks_can_go_is_refused_without_depth() -> None:
    """Not with words about plan.round_to, which would not help."""
    blocks = (Block(name="layers.0", returns=0),)
    opened = Dense(task=None, module=nn.Identity(), groups=(), blocks=blocks)  # type: ignore[arg-type]
    with pytest.raises(CompressionError, match="only whole blocks can go"):
        refuse_no_choice(opened, PlanParams())
    refuse_no_choice(opened, PlanParams(depth=True))


def test_compensation_runs_no_further_than_the_layer_it_fits() -> None:
    """What comes after a reader costs nothing, and no hook is left behind."""
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 3))
    inputs = (torch.randn(64, 4),)
    groups = find_groups(module, inputs, ())
    calls = []
    module[4].register_forward_hook(lambda *_: calls.append(1))
    architecture = architecture_of(module, groups, {"0": range(4)})
    sliced = apply(module, architecture)
    from tests.compress.test_compensate import batches_of

    fitted = compensate(module, sliced, architecture, groups, batches_of(inputs, 16), 1e-3)
    assert len(calls) == 1  # the pass that shows the order of the layers
    assert not torch.equal(fitted[2].weight, sliced[2].weight)
    assert len(fitted[2]._forward_pre_hooks) == len(module[2]._forward_hooks) == 0
