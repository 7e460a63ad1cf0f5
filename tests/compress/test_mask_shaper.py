"""Masks in a training that really runs: any optimiser, held or grown, killed and resumed."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator

import pytest
import torch
import torch.nn.functional as F
import torch.nn.utils.prune as torch_prune
from safetensors.torch import load, save
from torch import Tensor, nn

from reprune.compress.masks.choosing import (
    apply_masks,
    choose_masks,
    count_zeros,
    plan_pattern,
    plan_sparsity,
    verify_masks,
)
from reprune.compress.masks.maskable import maskable
from reprune.compress.masks.scores import magnitude, magnitude_adam
from reprune.compress.masks.semistructured import verify_pattern
from reprune.compress.masks.shaper import MaskShaper
from reprune.compress.training.checkpoint import restore_optimizer, split_optimizer
from reprune.compress.training.shaping import Moment
from reprune.core.artifacts import SparsityPlan
from reprune.core.errors import CompressionError, UnknownName

STEPS = 12
OPTIMIZERS: dict[str, Callable[[nn.Module], torch.optim.Optimizer]] = {
    "sgd": lambda m: torch.optim.SGD(m.parameters(), 0.05, momentum=0.9, weight_decay=1e-2),
    "nesterov": lambda m: torch.optim.SGD(m.parameters(), 0.05, momentum=0.9, nesterov=True),
    "adam": lambda m: torch.optim.Adam(m.parameters(), 1e-2, weight_decay=1e-2),
    "adamw": lambda m: torch.optim.AdamW(m.parameters(), 1e-2, amsgrad=True),
    "rmsprop": lambda m: torch.optim.RMSprop(m.parameters(), 1e-3, momentum=0.5, centered=True),
}


@pytest.fixture
def net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4))


def batches() -> Iterator[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(1)
    while True:
        x = torch.randn(16, 8, generator=generator)
        yield x, (x[:, :4] * 2 + x[:, 4:]).argmax(1)


def train(
    module: nn.Module,
    optimizer: torch.optim.Optimizer,
    shaper: MaskShaper,
    *,
    first: int = 0,
    last: int = STEPS,
    watch: Callable[[int], None] = lambda _: None,
) -> None:
    if first == 0:
        shaper.begin(module, optimizer)
    for step, (x, y) in zip(range(last), batches(), strict=False):
        if step < first:
            continue
        moment = Moment(step=step, steps=STEPS, steps_per_epoch=4)
        optimizer.zero_grad()
        F.cross_entropy(module(x), y).backward()
        shaper.after_backward(module, optimizer, moment)
        optimizer.step()
        shaper.after_step(module, optimizer, moment)
        watch(step)


def plan_for(module: nn.Module, kind: str = "global") -> SparsityPlan:
    weights = maskable(module)
    if ":" in kind:
        return plan_pattern(weights.shapes, kind)
    return plan_sparsity(magnitude(module, weights.names), 0.75, kind)  # type: ignore[arg-type]


def cubic(done: int) -> float:
    return 1 - (1 - min(done / 8, 1)) ** 3


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_no_optimiser_brings_a_dead_weight_back(net: nn.Module, name: str) -> None:
    """Known trap: one Adam step after torch's prune.remove takes 90 % sparsity to 0."""
    plan = plan_for(net)
    masks = choose_masks(magnitude(net, [t.tensor for t in plan.tensors]), plan)
    dense = copy.deepcopy(net)
    shaper = MaskShaper(masks=dict(masks))
    optimizer = OPTIMIZERS[name](net)

    def alive(_: int) -> None:
        verify_masks(net, masks, plan)
        for parameter_name, mask in masks.items():
            for value in optimizer.state[net.get_parameter(parameter_name)].values():
                if isinstance(value, Tensor) and value.shape == mask.shape:
                    assert not bool(value[~mask].any())

    train(net, optimizer, shaper, watch=alive)
    assert shaper.settled
    kept = masks["0.weight"]
    assert not torch.equal(net[0].weight[kept], dense[0].weight[kept])  # the others did learn


def test_torch_prune_has_the_traps_that_masks_here_do_not(net: nn.Module) -> None:
    """Compounding amounts, revival after `remove`, doubled size: each shown, then shown absent."""
    theirs = copy.deepcopy(net)
    for _ in range(2):
        torch_prune.l1_unstructured(theirs[0], "weight", amount=0.5)
    assert int((theirs[0].weight == 0).sum()) == 96  # 75 % of 128
    assert sum(t.numel() for t in theirs.state_dict().values()) > 1.5 * sum(
        t.numel() for t in net.state_dict().values()
    )
    torch_prune.remove(theirs[0], "weight")
    train(theirs, OPTIMIZERS["adam"](theirs), MaskShaper(masks={"2.weight": torch.ones(4, 16) > 0}))
    assert int((theirs[0].weight == 0).sum()) < 10

    names, mine = ["0.weight"], net
    for _ in range(2):
        scores = magnitude(mine, names)
        mine = apply_masks(mine, choose_masks(scores, plan_sparsity(scores, 0.5)))
    assert int((mine[0].weight == 0).sum()) == 64
    assert mine.state_dict().keys() == net.state_dict().keys()
    copy.deepcopy(mine)(torch.zeros(1, 8)).sum().backward()


@pytest.mark.parametrize("criterion", ["magnitude", "taylor", "movement", "magnitude-adam"])
@pytest.mark.parametrize("kind", ["global", "local", "2:4"])
@pytest.mark.parametrize("regrow", [False, True])
def test_growing_ends_exactly_where_the_plan_is(
    net: nn.Module, criterion: str, kind: str, regrow: bool
) -> None:
    plan = plan_for(net, kind)
    shaper = MaskShaper(plan=plan, share=cubic, criterion=criterion, regrow=regrow)  # type: ignore[arg-type]
    seen: list[int] = []
    optimizer = OPTIMIZERS["adam"](net)

    def watch(_: int) -> None:
        """What dies loses its moments with it."""
        seen.append(count_zeros(shaper.masks))
        for name, mask in shaper.masks.items():
            moments = optimizer.state[net.get_parameter(name)]
            assert not bool(moments["exp_avg"][~mask].any())
            assert not bool(moments["exp_avg_sq"][~mask].any())

    train(net, optimizer, shaper, watch=watch)
    assert seen == sorted(seen)
    assert 0 < seen[0] < plan.zeros
    assert seen[7:] == [plan.zeros] * 5
    verify_masks(net, shaper.masks, plan)
    if kind == "2:4":
        assert all(verify_pattern(net.get_parameter(name), 2, 4) for name in shaper.masks)


def test_a_schedule_that_never_ends_is_still_exact_at_the_last_step(net: nn.Module) -> None:
    plan = plan_for(net)
    shaper = MaskShaper(plan=plan, share=lambda done: 0.5 * done / STEPS, every=5)
    seen: list[int] = []
    train(
        net, OPTIMIZERS["sgd"](net), shaper, watch=lambda _: seen.append(count_zeros(shaper.masks))
    )
    assert seen[:4] == [0] * 4
    assert seen[4:9] == [round(plan.zeros * 0.5 * 5 / STEPS)] * 5
    assert seen[-1] == plan.zeros
    assert shaper.settled


def test_without_regrowth_the_dead_stay_dead_and_with_it_they_return_as_they_were() -> None:
    """Weight 0 is the smallest at first; then the others shrink below what it was."""
    module = nn.Linear(4, 1, bias=False)
    plan = plan_sparsity({"weight": torch.zeros(1, 4)}, 0.5)
    results = {}
    for regrow in (False, True):
        with torch.no_grad():
            module.weight.copy_(torch.tensor([[0.3, -1.0, 2.0, 3.0]]))
        optimizer = torch.optim.SGD(module.parameters(), 1.0)
        shaper = MaskShaper(plan=plan, share=lambda d: 0.5 if d < 3 else 1.0, regrow=regrow)
        shaper.begin(module, optimizer)
        for step in range(3):
            if step == 2:
                with torch.no_grad():
                    module.weight.copy_(torch.tensor([[0.0, -0.1, 0.2, 3.0]]))
            shaper.after_step(module, optimizer, Moment(step=step, steps=9, steps_per_epoch=9))
            assert step == 2 or shaper.masks["weight"].tolist() == [[False, True, True, True]]
        results[regrow] = module.weight.tolist()[0]
    assert results[False] == pytest.approx([0.0, 0.0, 0.2, 3.0])
    assert results[True] == pytest.approx([0.3, 0.0, 0.0, 3.0])


@pytest.mark.parametrize("criterion", ["magnitude", "taylor", "movement", "magnitude-adam"])
@pytest.mark.parametrize("regrow", [False, True])
def test_a_resumed_training_ends_in_the_same_bits(
    net: nn.Module, criterion: str, regrow: bool
) -> None:
    plan = plan_for(net)

    def fresh() -> MaskShaper:
        return MaskShaper(plan=plan, share=cubic, criterion=criterion, regrow=regrow, every=2)  # type: ignore[arg-type]

    whole, optimizer, shaper = copy.deepcopy(net), None, fresh()
    optimizer = OPTIMIZERS["adam"](whole)
    train(whole, optimizer, shaper)

    part, before = copy.deepcopy(net), fresh()
    optimizer = OPTIMIZERS["adam"](part)
    train(part, optimizer, before, last=5)
    kept = save({k: v.contiguous() for k, v in before.state().items()})
    model, (tensors, scalars) = copy.deepcopy(part.state_dict()), split_optimizer(optimizer)

    resumed, after = copy.deepcopy(net), fresh()
    resumed.load_state_dict(model)
    optimizer = OPTIMIZERS["adam"](resumed)
    restore_optimizer(optimizer, tensors, scalars)
    after.begin(resumed, optimizer)
    after.restore(load(kept))
    train(resumed, optimizer, after, first=5)
    for name, tensor in whole.state_dict().items():
        assert torch.equal(resumed.state_dict()[name], tensor), name
    for name, mask in shaper.masks.items():
        assert torch.equal(after.masks[name], mask)


@pytest.mark.parametrize("regrow", [False, True])
def test_what_is_masked_before_the_first_step_survives_a_resume(
    net: nn.Module, regrow: bool
) -> None:
    """Half of the plan at step 0, and none of the weights that lived is lost by beginning again."""
    plan = plan_for(net, "local")

    def fresh() -> MaskShaper:
        return MaskShaper(plan=plan, share=lambda d: max(0.5, cubic(d)), regrow=regrow, every=3)

    shaper, optimizer = fresh(), OPTIMIZERS["adam"](net)
    shaper.begin(net, optimizer)
    assert count_zeros(shaper.masks) == sum(round(item.zeros / 2) for item in plan.tensors)
    verify_masks(net, shaper.masks)
    train(net, optimizer, shaper, last=5)
    kept, before = shaper.state(), copy.deepcopy(net.state_dict())
    again = fresh()
    again.begin(net, optimizer)
    again.restore(kept)
    assert all(torch.equal(net.state_dict()[name], value) for name, value in before.items())
    assert all(torch.equal(again.masks[name], mask) for name, mask in shaper.masks.items())


def test_masks_stay_where_a_look_finds_the_same_share() -> None:
    """With regrowth too: TF-MOT keeps a mask between two cuts, and weights come back at a cut."""
    module = nn.Linear(4, 1, bias=False)
    with torch.no_grad():
        module.weight.copy_(torch.tensor([[0.3, 1.0, 2.0, 3.0]]))
    plan = plan_sparsity({"weight": torch.zeros(1, 4)}, 0.5)
    optimizer = torch.optim.SGD(module.parameters(), 0.0)
    shaper = MaskShaper(plan=plan, share=lambda d: 0.5 if d < 3 else 1.0, regrow=True)
    shaper.begin(module, optimizer)
    for step, alive in enumerate(([1, 2, 3], [1, 2, 3], [0, 3])):
        with torch.no_grad():
            module.weight[0, 1:3].mul_(0.1)
        shaper.after_step(module, optimizer, Moment(step=step, steps=9, steps_per_epoch=9))
        assert shaper.masks["weight"][0].nonzero().flatten().tolist() == alive


def test_a_copy_goes_its_own_way(net: nn.Module) -> None:
    shaper = MaskShaper(plan=plan_for(net), share=cubic, criterion="movement")
    train(net, OPTIMIZERS["adam"](net), shaper, last=3)
    twin, module = copy.deepcopy(shaper), copy.deepcopy(net)
    before = {name: mask.clone() for name, mask in shaper.masks.items()}
    train(module, OPTIMIZERS["adam"](module), twin, first=3)
    assert twin.settled
    assert not shaper.settled
    assert all(torch.equal(shaper.masks[name], mask) for name, mask in before.items())


def test_the_state_of_another_training_is_refused(net: nn.Module) -> None:
    plan = plan_for(net)
    one = MaskShaper(plan=plan, criterion="movement")
    other = MaskShaper(plan=plan)
    for shaper in (one, other):
        shaper.begin(net, OPTIMIZERS["adam"](net))
    with pytest.raises(CompressionError, match="not those of this training"):
        other.restore(one.state())


def test_adam_scores_are_w_squared_root_v(net: nn.Module) -> None:
    optimizer = OPTIMIZERS["adam"](net)
    train(net, optimizer, MaskShaper(masks={"0.weight": torch.ones(16, 8) > 0}), last=2)
    second = optimizer.state[net[0].weight]["exp_avg_sq"]
    expected = net[0].weight.detach() ** 2 * second.sqrt()
    assert torch.equal(magnitude_adam(net, optimizer, ["0.weight"])["0.weight"], expected)
    with pytest.raises(CompressionError, match="second moment"):
        magnitude_adam(net, OPTIMIZERS["sgd"](net), ["0.weight"])


def test_movement_masks_what_moves_towards_zero() -> None:
    """Two equal weights; the loss pulls one up and one down. Magnitude could not tell them apart."""
    module = nn.Linear(2, 1, bias=False)
    with torch.no_grad():
        module.weight.fill_(1.0)
    optimizer = torch.optim.SGD(module.parameters(), 0.01)
    shaper = MaskShaper(
        plan=plan_sparsity({"weight": torch.ones(1, 2)}, 0.5),
        criterion="movement",
        share=lambda done: float(done >= 2),
    )
    shaper.begin(module, optimizer)
    for step in range(2):
        moment = Moment(step=step, steps=9, steps_per_epoch=9)
        optimizer.zero_grad()
        (module.weight[0, 0] - module.weight[0, 1]).backward()  # the first one falls
        shaper.after_backward(module, optimizer, moment)
        optimizer.step()
        shaper.after_step(module, optimizer, moment)
    assert shaper.masks["weight"].tolist() == [[False, True]]


def test_taylor_ranks_by_the_steps_since_the_last_look() -> None:
    """Weight 0 had the large gradients once, weight 1 has them now."""
    module = nn.Linear(3, 1, bias=False)
    with torch.no_grad():
        module.weight.copy_(torch.tensor([[1.0, 1.0, 0.001]]))
    optimizer = torch.optim.SGD(module.parameters(), 0.0)
    shaper = MaskShaper(
        plan=plan_sparsity({"weight": torch.ones(1, 3)}, 2 / 3, "local"),
        criterion="taylor",
        share=lambda done: {1: 0.5, 2: 1.0}[done],
    )
    shaper.begin(module, optimizer)
    for step, gradient in enumerate(([9.0, 1.0, 1.0], [1.0, 2.0, 1.0])):
        moment = Moment(step=step, steps=9, steps_per_epoch=9)
        module.weight.grad = torch.tensor([gradient])
        shaper.after_backward(module, optimizer, moment)
        optimizer.step()
        shaper.after_step(module, optimizer, moment)
    assert shaper.masks["weight"].tolist() == [[False, True, False]]


def test_what_cannot_be_set_up_is_refused(net: nn.Module) -> None:
    with pytest.raises(UnknownName, match="did you mean 'movement'"):
        MaskShaper(plan=plan_for(net), criterion="movment")  # type: ignore[arg-type]
    with pytest.raises(CompressionError, match="neither masks nor a plan"):
        MaskShaper()
    shaper = MaskShaper(plan=plan_for(net), share=lambda _: 1.5)
    with pytest.raises(CompressionError, match="share after 0 steps"):
        train(net, OPTIMIZERS["sgd"](net), shaper)
    with pytest.raises(CompressionError, match="no parameter"):
        MaskShaper(masks={"nothing": torch.ones(1) > 0}).begin(net, OPTIMIZERS["sgd"](net))


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_state_that_is_given_after_the_beginning_is_silenced_too(
    net: nn.Module, name: str
) -> None:
    """Momentum carried over from another training comes after `begin`, and after a resume."""
    optimizer = OPTIMIZERS[name](net)
    train(net, optimizer, MaskShaper(masks={"2.weight": torch.ones(4, 16) > 0}))
    state = copy.deepcopy(optimizer.state_dict())
    mask = torch.arange(128).view(16, 8) % 2 == 0

    def alive(_: int) -> None:
        weight = net.get_parameter("0.weight")
        assert not bool(weight[~mask].any())
        for value in optimizer.state[weight].values():
            if isinstance(value, Tensor) and value.shape == mask.shape:
                assert not bool(value[~mask].any())

    for restored in (False, True):
        optimizer = OPTIMIZERS[name](net)
        shaper = MaskShaper(masks={"0.weight": mask})
        shaper.begin(net, optimizer)
        if restored:
            shaper.restore(shaper.state())
        optimizer.load_state_dict(copy.deepcopy(state))
        for step, (x, y) in zip(range(2), batches(), strict=False):
            moment = Moment(step=step, steps=2, steps_per_epoch=2)
            optimizer.zero_grad()
            F.cross_entropy(net(x), y).backward()
            shaper.after_backward(net, optimizer, moment)
            optimizer.step()
            shaper.after_step(net, optimizer, moment)
            alive(step)


@pytest.mark.parametrize("criterion", ["taylor", "movement", "magnitude-adam"])
def test_without_gradients_ranking_waits(net: nn.Module, criterion: str) -> None:
    """With fp16 the first steps are often left out: there is nothing yet to rank by."""
    optimizer = OPTIMIZERS["adam"](net)
    plan = plan_for(net)
    shaper = MaskShaper(plan=plan, share=cubic, criterion=criterion)  # type: ignore[arg-type]
    shaper.begin(net, optimizer)
    left_out = Moment(step=0, steps=STEPS, steps_per_epoch=4)
    shaper.after_step(net, optimizer, left_out)
    assert count_zeros(shaper.masks) == 0
    train(net, optimizer, shaper, first=1)
    verify_masks(net, shaper.masks, plan)


@pytest.mark.parametrize("criterion", ["taylor", "movement", "magnitude-adam"])
def test_a_training_without_any_gradient_is_refused(net: nn.Module, criterion: str) -> None:
    """Masks by position would be silent nonsense; so would scores of a frozen weight."""
    optimizer = OPTIMIZERS["adam"](net)
    shaper = MaskShaper(plan=plan_for(net), criterion=criterion)  # type: ignore[arg-type]
    shaper.begin(net, optimizer)
    with pytest.raises(CompressionError):
        shaper.after_step(net, optimizer, Moment(step=0, steps=1, steps_per_epoch=1))
    net.get_parameter("0.weight").requires_grad_(False)
    with pytest.raises(CompressionError, match="frozen"):
        MaskShaper(
            plan=plan_for(copy.deepcopy(net).requires_grad_(True)), criterion=criterion
        ).begin(  # type: ignore[arg-type]
            net, optimizer
        )


def test_the_masks_that_were_given_stay_as_they_were(net: nn.Module) -> None:
    given = {"0.weight": torch.arange(128).view(16, 8) % 2 == 0}
    before = dict(given)
    plan = plan_for(net)
    shaper = MaskShaper(plan=plan, masks=given)
    train(net, OPTIMIZERS["sgd"](net), shaper)
    assert given.keys() == before.keys()
    assert all(given[name] is before[name] for name in given)
