"""Masks, cuts in stages, frozen and tied layers: what must hold of them for any generated network."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from hypothesis import HealthCheck, Phase, assume, given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import Tensor, nn

from reprune.compress.bundle import load_module, stored_tensors
from reprune.compress.masks.choosing import UNSTRUCTURED, zeros_for
from reprune.compress.masks.files import check_masks, read_masks, write_masks
from reprune.compress.masks.maskable import maskable
from reprune.compress.masks.masked import Masked, mask_model
from reprune.compress.masks.planning import plan_masks
from reprune.compress.masks.semistructured import parse_pattern, verify_pattern
from reprune.compress.stages import Course, cut_in_stages
from reprune.compress.structure.groups import Group, survey
from reprune.compress.structured import cut
from reprune.core.errors import CompressionError
from reprune.core.params import DistillParams, PlanParams, PruneParams, ScheduleParams
from tests.architectures import Spec, SpecTask, build, factory, inputs, specs
from tests.compress.test_generated import PLAIN, halves, looked_at, quiet, same_bits, some_blocks

RELAXED = [HealthCheck.too_slow, HealthCheck.data_too_large]
PHASES = [Phase.explicit, Phase.reuse, Phase.generate]
GUARDED = specs().map(lambda spec: replace(spec, tied=True, frozen=True))


def frozen(module: nn.Module) -> set[str]:
    """The names of the parameters that do not train."""
    return {name for name, value in module.named_parameters() if not value.requires_grad}


@pytest.mark.slow
@settings(max_examples=6, deadline=None, suppress_health_check=RELAXED, phases=PHASES)
@given(spec=GUARDED)
def test_frozen_layers_are_cut_with_a_word_and_tied_ones_left_out_with_one(spec: Spec) -> None:
    """What does not train still does not afterwards, what was one tensor is one, and both are named."""
    module, found = looked_at(spec)
    owners = {name.rpartition(".")[0] for name in frozen(module)}
    members = {member.module for group in found.groups for member in group.members}
    assert set(found.frozen) == owners & members
    said: list[str] = []
    result = cut(SpecTask(spec), module, found.groups, halves(found.groups), PLAIN, 0, said.append)
    told = [line for line in said if "frozen parameters too" in line]
    expected = f"cuts layers with frozen parameters too: {', '.join(found.frozen)}"
    assert told == ([expected] if found.frozen else [])
    assert frozen(result.module) == frozen(module)
    assert "shares a weight with refine.two" in found.skipped["refine.one"]
    assert "refine.two" in found.skipped
    assert result.module.refine.one.weight is result.module.refine.two.weight
    weights = maskable(module)
    assert not frozen(module) & set(weights.names)
    assert "refine.two.weight" not in weights.names  # known by its first name
    for name, value in module.named_parameters():
        if name in frozen(module) and value.ndim >= 2:
            assert "frozen" in weights.skipped[name] or "embedding" in weights.skipped[name]


def masked(spec: Spec, module: nn.Module, kind: str, criterion: str, sparsity: float) -> Masked:
    """As the steps do it: planned with exact counts, then chosen and put on."""
    params = PlanParams(method="weights", sparsity=sparsity)
    if ":" in kind:
        params = PlanParams(method="n:m", pattern=kind)
    elif kind == "local":
        params = PlanParams(method="weights", scope="local", sparsity=sparsity)
    prune = PruneParams(criterion=criterion, examples=24)
    task = SpecTask(spec)
    plan = plan_masks(task, module, params, prune, (), 0).sparsity
    made = mask_model(task, module, plan, prune, seed=0, say=quiet)
    counts = {name: int((~mask).sum()) for name, mask in made.masks.items()}
    assert sum(counts.values()) == plan.zeros
    if kind == "global":
        assert plan.zeros == zeros_for(maskable(module).size, sparsity)
    else:
        assert counts == {item.tensor: item.zeros for item in plan.tensors}
    return made


@pytest.mark.slow
@settings(max_examples=12, deadline=None, suppress_health_check=RELAXED, phases=PHASES)
@given(
    spec=specs(),
    kind=st.sampled_from(["global", "local", "1:2", "2:4"]),
    criterion=st.sampled_from(["magnitude", "taylor", "random"]),
    sparsity=st.sampled_from([0.3, 0.55, 0.8]),
)
def test_masks_are_exact_stored_and_rebuilt_and_leave_their_input_alone(
    tmp_path_factory: pytest.TempPathFactory, spec: Spec, kind: str, criterion: str, sparsity: float
) -> None:
    """As many zeros as planned, in the pattern; what is not masked, frozen weights too, is as it was."""
    folder, module = tmp_path_factory.mktemp("masked"), build(spec)
    before = copy.deepcopy(module)
    if not maskable(module, (), kind if ":" in kind else UNSTRUCTURED).shapes:
        with pytest.raises(CompressionError, match="no weight of this model may be masked"):
            masked(spec, module, kind, criterion, sparsity)
        return
    try:
        made = masked(spec, module, kind, criterion, sparsity)
    except CompressionError as refused:  # of few weights, all may be the least
        if kind == "global" and "every weight would be masked in" in refused.what:
            return
        raise
    assert same_bits(module, before)
    parameters, dense = dict(made.module.named_parameters()), dict(module.named_parameters())
    for name, value in parameters.items():
        kept = made.masks.get(name, torch.ones_like(value, dtype=torch.bool))
        assert torch.equal(value != 0, (dense[name] != 0) & kept), name
        assert torch.equal(value[kept], dense[name][kept]), name
        if ":" in kind and name in made.masks:
            assert verify_pattern(value, *parse_pattern(kind))
    save_file(stored_tensors(made.module), folder / "weights.safetensors")
    write_masks(folder / "masks.safetensors", made.masks)
    rebuilt = load_module(folder / "weights.safetensors", None, lambda: factory(spec))
    masks = read_masks(folder / "masks.safetensors")
    check_masks(rebuilt, masks, folder)
    assert same_bits(made.module, rebuilt)
    assert masks.keys() == made.masks.keys()
    assert all(torch.equal(mask, made.masks[name]) for name, mask in masks.items())
    again = masked(spec, module, kind, criterion, sparsity)
    assert same_bits(made.module, again.module)


def by_place(
    task: object, module: nn.Module, groups: Sequence[Group], *, params: PruneParams, seed: int
) -> dict[str, Tensor]:
    """A user's criterion by which no cut changes the order of the channels that it leaves."""
    return {group.name: torch.arange(group.width, dtype=torch.float32) for group in groups}


def staged(
    spec: Spec,
    module: nn.Module,
    groups: Sequence[Group],
    widths: Mapping[str, int],
    **knobs: object,
) -> Course:
    """A course without training."""
    schedule = ScheduleParams(kind=str(knobs["kind"]), steps=int(str(knobs["steps"])))
    return Course(
        task=SpecTask(spec),
        module=module,
        teacher=module,
        digest="sha256:dense",
        groups=groups,
        regroup=lambda now: survey(now, inputs(spec, 2), (), dimensions=True).groups,
        widths=widths,
        blocks=knobs["blocks"],  # type: ignore[arg-type]
        prune=PruneParams(
            criterion="by-place",
            examples=24,
            compensate=False,
            recalibrate=False,
            schedule=schedule,
        ),
        distill=DistillParams(),
        seed=0,
        say=quiet,
    )


def known_limit(
    refused: CompressionError, groups: Sequence[Group], widths: Mapping[str, int]
) -> bool:
    """Whether a stage left heads whose queries and values are of different sizes, or of one dimension:
    their groups can no longer be told then, and the rest of the cut is refused with that word.
    """
    attention = (refused.where or "").partition(":")[0]
    return "it can no longer be cut" in refused.what and any(
        widths[group.name] < group.width
        for group in groups
        if group.unit == "dimension" and group.name.startswith(f"{attention}:")
    )


@pytest.mark.slow
@settings(max_examples=10, deadline=None, suppress_health_check=RELAXED, phases=PHASES)
@given(
    data=st.data(),
    spec=specs(),
    kind=st.sampled_from(["iterative", "cubic", "exponential"]),
    steps=st.integers(2, 4),
)
def test_a_cut_in_stages_is_the_cut_made_at_once(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject, spec: Spec, kind: str, steps: int
) -> None:
    """Channels, heads, dimensions and blocks: the same bits and one architecture, whatever the stages; or
    a word about the one thing that a second stage cannot always cut.
    """
    module, found = looked_at(spec, dimensions=True)
    before = copy.deepcopy(module)
    widths = {g.name: data.draw(st.integers(1, g.width), label=g.name) for g in found.groups}
    gone = some_blocks(data, spec, module)
    assume(gone or any(widths[group.name] < group.width for group in found.groups))
    course = staged(spec, module, found.groups, widths, kind=kind, steps=steps, blocks=gone)
    point = SimpleNamespace(
        name="by-place", value="tests.compress.test_generated_methods:by_place", dist=None
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("reprune.core.plugins.entry_points", lambda group: [point])
        try:
            stages = cut_in_stages(course, tmp_path_factory.mktemp("stages"))
        except CompressionError as refused:
            if known_limit(refused, found.groups, widths):
                return
            raise
        once = cut(
            course.task, module, found.groups, widths, course.prune, 0, quiet, blocks=course.blocks
        )
    assert same_bits(module, before)
    assert same_bits(stages.module, once.module)
    assert set(stages.architecture.cuts) == set(once.architecture.cuts)
    assert set(stages.architecture.attributes) == set(once.architecture.attributes)
    assert set(stages.architecture.removed) == set(once.architecture.removed)
    assert {item.group: item.keep for item in stages.surgery.groups} == widths
    assert stages.surgery.after == once.surgery.after
