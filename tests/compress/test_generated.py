"""What must hold for any network, any groups and any cut: over generated architectures.

CI tries a few dozen networks, `make test-deep` hundreds.
"""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import nn

from reprune.compress.bundle import load_module, stored_tensors
from reprune.compress.planning.cut_costs import asked_and_done
from reprune.compress.structure.architecture import apply, read_architecture, write_architecture
from reprune.compress.structure.blocks import Block, find_blocks
from reprune.compress.structure.equality import architecture_of, difference, mask
from reprune.compress.structure.groups import Group, Survey, survey
from reprune.compress.structured import CutResult, cut
from reprune.core.errors import CompressionError
from reprune.core.params import PruneParams, Target
from reprune.measure.profile import count_cost
from reprune.runtimes.base import Source, get_runtime
from tests.architectures import Spec, SpecTask, build, factory, inputs, specs

# A generated network takes longer to build than hypothesis likes; the file system is a real one.
RELAXED = [HealthCheck.too_slow, HealthCheck.data_too_large]
# Shrinking a network takes minutes; a spec is small enough to read as it is.
PHASES = [Phase.explicit, Phase.reuse, Phase.generate]
PLAIN = PruneParams(criterion="l2", examples=24, compensate=False, recalibrate=False)


def quiet(_: str) -> None:
    """Says nothing."""


def looked_at(spec: Spec, *, dimensions: bool = False) -> tuple[nn.Module, Survey]:
    module = build(spec)
    return module, survey(module, inputs(spec, 2), (), dimensions=dimensions)


def drawn(data: st.DataObject, groups: tuple[Group, ...]) -> dict[str, list[int]]:
    """Some channels of some groups."""
    chosen = data.draw(st.sets(st.sampled_from([g.name for g in groups]), min_size=1))
    return {
        group.name: sorted(
            data.draw(st.sets(st.integers(0, group.width - 1), min_size=1), label=group.name)
        )
        for group in groups
        if group.name in chosen
    }


def in_double(module: nn.Module, spec: Spec) -> tuple[nn.Module, tuple[torch.Tensor, ...]]:
    """float64, so that nothing but rounding is allowed and a small wrong is seen."""
    given_inputs = inputs(spec, 3, seed=5)
    return copy.deepcopy(module).double(), tuple(
        one.double() if one.is_floating_point() else one for one in given_inputs
    )


def some_blocks(data: st.DataObject, spec: Spec, module: nn.Module) -> list[Block]:
    """Some of the blocks that can be removed; often none."""
    blocks = find_blocks(module, inputs(spec, 2), ()).blocks
    return [block for block in blocks if data.draw(st.booleans(), label=block.name)]


def masked_is_sliced(data: st.DataObject, spec: Spec) -> None:
    module, found = looked_at(spec, dimensions=True)
    assert found.groups
    kept, gone = drawn(data, found.groups), some_blocks(data, spec, module)
    exact, given_inputs = in_double(module, spec)
    sliced = apply(exact, architecture_of(exact, found.groups, kept, gone))
    apart = difference(mask(exact, found.groups, kept, gone), sliced, [given_inputs])
    assert apart < 1e-9
    counted = {name for group in found.groups for name in [m.module for m in group.members]}
    for name, layer in module.named_modules():
        if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d | nn.Linear | nn.RNNBase):
            assert name in counted or found.skipped[name], name
    if spec.family == "vit":  # "bert" has a fixed size of heads
        assert sum(group.unit == "dimension" for group in found.groups) >= len(spec.blocks)


@pytest.mark.slow
@settings(max_examples=30, deadline=None, suppress_health_check=RELAXED, phases=PHASES)
@given(data=st.data(), spec=specs())
def test_any_cut_of_any_groups_is_the_masked_model(data: st.DataObject, spec: Spec) -> None:
    """Channels, heads, their dimensions and whole blocks: sliced and masked are one function, and no layer
    is left out without a word.
    """
    masked_is_sliced(data, spec)


@pytest.mark.deep
@settings(max_examples=300, deadline=None, suppress_health_check=RELAXED, phases=PHASES)
@given(data=st.data(), spec=specs())
def test_any_cut_of_any_groups_is_the_masked_model_many_times(
    data: st.DataObject, spec: Spec
) -> None:
    """The same, over many networks."""
    masked_is_sliced(data, spec)


def halves(groups: tuple[Group, ...]) -> dict[str, int]:
    return {group.name: max(1, group.width // 2) for group in groups}


def cut_half(spec: Spec, module: nn.Module, found: Survey, params: PruneParams) -> CutResult:
    return cut(SpecTask(spec), module, found.groups, halves(found.groups), params, 0, quiet)


def same_bits(one: nn.Module, other: nn.Module) -> bool:
    left, right = one.state_dict(), other.state_dict()
    return left.keys() == right.keys() and all(torch.equal(left[key], right[key]) for key in left)


@pytest.mark.slow
@settings(max_examples=20, deadline=None, suppress_health_check=RELAXED, phases=PHASES)
@given(spec=specs(), criterion=st.sampled_from(["taylor", "hessian", "activation", "fpgm"]))
def test_a_cut_is_exact_recorded_repeatable_and_leaves_its_input_alone(
    spec: Spec, criterion: str
) -> None:
    """Widths as asked; what each group was to save is what it saves; the same seed gives the same bits."""
    module, found = looked_at(spec)
    before = copy.deepcopy(module)
    params = PruneParams(criterion=criterion, examples=24)
    result = cut_half(spec, module, found, params)
    again = cut_half(spec, module, found, params)
    assert same_bits(module, before)
    assert same_bits(result.module, again.module)
    assert (result.architecture, result.surgery) == (again.architecture, again.surgery)
    heads = {group.name: group.unit != "channel" for group in found.groups}
    widths = halves(found.groups)
    records, _ = asked_and_done(
        SpecTask(spec), module, found.groups, widths, (), result.architecture
    )
    assert [(item.group, item.keep) for item in records] == [
        (item.group, item.keep) for item in result.surgery.groups
    ]
    for item in records:
        assert item.keep == item.requested == max(1, item.width // 2)
        planned, removed = item.planned, item.removed
        assert (planned.params, planned.bytes) == (removed.params, removed.bytes)
        # What attention multiplies outside its layers is not planned with.
        assert planned.macs == removed.macs or (heads[item.group] and planned.macs < removed.macs)
        assert item.removed.params > 0
        assert item.removed.bytes >= 4 * item.removed.params
    counted = count_cost(result.module, inputs(spec, 1)).cost
    assert result.surgery.after == counted
    assert counted.params < result.surgery.before.params


@pytest.mark.slow
@settings(max_examples=8, deadline=None, suppress_health_check=RELAXED, phases=PHASES)
@given(data=st.data(), spec=specs())
def test_a_cut_model_is_rebuilt_bit_equal_from_two_plain_files(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject, spec: Spec
) -> None:
    """safetensors and JSON, the factory's own weights overwritten: not a bit of the answers differs."""
    folder = tmp_path_factory.mktemp("rebuilt")
    module, found = looked_at(spec)
    architecture = architecture_of(module, found.groups, drawn(data, found.groups))
    sliced = apply(module, architecture)
    save_file(stored_tensors(sliced), folder / "weights.safetensors")
    write_architecture(folder / "architecture.json", architecture)
    read = read_architecture(folder / "architecture.json")
    rebuilt = load_module(folder / "weights.safetensors", read, lambda: factory(spec))
    assert same_bits(sliced, rebuilt)
    given_inputs = inputs(spec, 3, seed=5)
    with torch.no_grad():
        assert torch.equal(sliced(*given_inputs), rebuilt(*given_inputs))


@pytest.mark.slow
@settings(max_examples=4, deadline=None, suppress_health_check=RELAXED, phases=PHASES)
@given(one=specs(), other=specs())
def test_two_prunings_in_one_process_do_not_touch_each_other(one: Spec, other: Spec) -> None:
    """torch-pruning keeps one model's layers in a default argument; ours begins afresh every time."""
    module, found = looked_at(one)
    alone = cut_half(one, module, found, PLAIN)
    between, between_found = looked_at(other)
    cut_half(other, between, between_found, PLAIN)
    module_again, found_again = looked_at(one)
    assert found_again == found
    again = cut_half(one, module_again, found_again, PLAIN)
    assert same_bits(alone.module, again.module)
    assert alone.surgery == again.surgery


@settings(max_examples=3, deadline=None, suppress_health_check=RELAXED, phases=PHASES)
@given(spec=specs())
def test_nothing_cut_and_all_cut_are_refused(spec: Spec) -> None:
    """Full widths, zero channels and more than there are: never a silent copy."""
    module, found = looked_at(spec)
    task = SpecTask(spec)
    whole = {group.name: group.width for group in found.groups}
    first = found.groups[0]
    with pytest.raises(CompressionError, match="nothing is cut"):
        cut(task, module, found.groups, whole, PLAIN, 0, quiet)
    for keep in (0, first.width + 1):
        with pytest.raises(CompressionError, match=f"cannot keep {keep} of"):
            cut(task, module, found.groups, whole | {first.name: keep}, PLAIN, 0, quiet)
    with pytest.raises(CompressionError, match="nothing would be left"):
        architecture_of(module, found.groups, {first.name: []})


EXPORTED = [
    Spec("pooled", (("residual-a", 5), ("grouped", 3), ("separable", 4))),
    Spec("flattened", (("mixed", 4), ("split", 3), ("u-net", 3))),
    Spec("pooled", (("concat", 4), ("gate", 4), ("residual-b", 6))),
    Spec("sequence", (("lstm-bi", 4), ("gru", 5))),
    Spec("bert", (("encoder", 4), ("encoder", 3))),
    Spec("vit", (("encoder", 4),)),
]


@pytest.mark.slow
@pytest.mark.parametrize("spec", EXPORTED, ids=lambda spec: "+".join(n for n, _ in spec.blocks))
def test_a_cut_model_is_exported_and_agrees(spec: Spec, tmp_path: Path) -> None:
    """ONNX Runtime's answers for the cut model are the cut model's own."""
    module, found = looked_at(spec)
    result = cut_half(spec, module, found, PLAIN)
    runtime, target = get_runtime("onnxruntime"), Target()
    path = tmp_path / f"cut{runtime.suffix}"
    runtime.build(
        Source(module=result.module, example_inputs=inputs(spec, 1), input_names=("given",)),
        target,
        path,
    )
    given_inputs = inputs(spec, 1, seed=5)
    with torch.no_grad():
        expected = result.module(*given_inputs).numpy()
    (found_outputs, *_) = runtime.open(path, target).run(tuple(one.numpy() for one in given_inputs))
    np.testing.assert_allclose(np.asarray(found_outputs), expected, atol=1e-4, rtol=1e-4)
