"""What a student learns from a teacher: each part of the loss, each knob, and what is kept of answers."""

from __future__ import annotations

import copy
from dataclasses import replace
from functools import cache

import msgspec
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from reprune.compress.training.averaging import average
from reprune.compress.training.balancing import Balancer
from reprune.compress.training.calls import Call, calls_of
from reprune.compress.training.checkpoint import read_state
from reprune.compress.training.features import Projections, attention_distance, feature_distance
from reprune.compress.training.optimizer_state import moments_of
from reprune.compress.training.rates import for_epochs, rate_at, without_dropout
from reprune.compress.training.recover import CHECKPOINT, Lesson, recover
from reprune.compress.training.teacher_cache import fingerprints, is_augmented
from reprune.core.errors import CompressionError, InputError
from reprune.core.params import DistillParams
from reprune.task.bases import TaskSet
from tests import models
from tests.compress.small_digits import Cnn, DigitsTask, accuracy, trained

FEATURES = ("norm1", "norm2")


@pytest.fixture(autouse=True)
def _one_thread_on_the_cpu(monkeypatch):
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    torch.set_num_threads(1)


@cache
def dense():
    return trained(DigitsTask())


@cache
def fresh():
    """A narrow student that knows nothing."""
    torch.manual_seed(3)
    return Cnn((8, 12)).eval()


def lesson(task=None) -> Lesson:
    return Lesson(
        task=task or DigitsTask(),
        student=fresh(),
        teacher=dense(),
        teacher_digest="sha256:teacher",
    )


def taught(work, task=None, **knobs):
    params = DistillParams(**({"epochs": 2, "learning_rate": 0.05} | knobs))
    return recover(lesson(task), params, seed=0, work=work, say=quiet)


def quiet(_: str) -> None:
    pass


@pytest.mark.slow
@pytest.mark.parametrize(
    "knobs",
    [
        {"optimizer": "adamw", "learning_rate": 0.01},
        {"optimizer": "adam", "learning_rate": 0.01, "rate": "constant"},
        {"features": 0.3, "feature_modules": FEATURES, "attention": 0.3, "balance": True},
        {"ema": 0.8, "teacher": "ema", "weight": 0.1},
        {"teacher": "self", "weight": 0.3},
        {"clip_norm": 1.0, "dropout": False, "hold_epochs": 1.0},
    ],
)
def test_every_way_of_learning_learns(tmp_path, knobs):
    """From nothing to far above chance in three epochs, whatever the recipe."""
    done = taught(tmp_path, epochs=3, **knobs)
    assert accuracy(DigitsTask(), fresh()) < 0.3
    assert accuracy(DigitsTask(), done.module) > 0.4
    assert set(done.module.state_dict()) == set(fresh().state_dict())


class TwoNets(TaskSet):
    """Two members over the same images."""

    members = {"left": DigitsTask, "right": DigitsTask}


def test_a_set_is_taught_by_its_dense_set(tmp_path):
    """By its outputs and by what its members' parts give: the set is called as a whole."""
    task = TwoNets()
    teacher, student = task.model().eval(), task.model()
    for member in task.members:
        teacher.get_submodule(member).load_state_dict(dense().state_dict())
    own = [f"right.{name}" for name in FEATURES]
    knobs = {"weight": 0.8, "features": 0.1, "feature_modules": own, "balance": True}
    params = DistillParams(epochs=3, learning_rate=0.05, **knobs)
    given = Lesson(task=task, student=student, teacher=teacher, teacher_digest="sha256:teacher")
    before = {
        member: accuracy(DigitsTask(), student.get_submodule(member)) for member in task.members
    }
    done = recover(given, params, seed=0, work=tmp_path, say=quiet)
    for member, had in before.items():
        assert accuracy(DigitsTask(), done.module.get_submodule(member)) > had + 0.1


@pytest.mark.slow
def test_features_bring_the_student_nearer_to_its_teacher_inside(tmp_path):
    """The attention of a student that was taught it is nearer to the teacher's than a control's."""
    control = taught(tmp_path / "control", weight=0.0)
    taught_it = taught(tmp_path / "taught", weight=0.0, attention=20.0, feature_modules=FEATURES)
    assert inner_distance(taught_it.module) < 0.7 * inner_distance(control.module)


def test_features_need_names_that_both_models_have(tmp_path):
    """No name, or a wrong one, is said with the nearest."""
    with pytest.raises(InputError, match="no module is named"):
        taught(tmp_path, features=1.0)
    with pytest.raises(InputError, match="norm1"):
        taught(tmp_path, features=1.0, feature_modules=("norm11",))
    with pytest.raises(CompressionError, match="head"):
        taught(tmp_path, attention=1.0, feature_modules=("head",))


@pytest.mark.slow
def test_the_tasks_own_features_are_used(tmp_path):
    """Without names in the params, the task's are distilled."""

    class Named(DigitsTask):
        features = FEATURES

    by_task = taught(tmp_path / "a", Named(), features=1.0)
    by_name = taught(tmp_path / "b", features=1.0, feature_modules=FEATURES)
    assert by_task.recovery.epochs == by_name.recovery.epochs


def test_feature_distance_has_its_formula_and_is_free_of_scale_when_normalised():
    """The mean squared error, over the teacher's mean square; equal features have none."""
    generator = torch.Generator().manual_seed(0)
    a, b = (torch.randn(4, 3, 2, 2, generator=generator) for _ in "ab")
    same = Projections({"x": (a,)}, {"x": (b,)}, seed=0)
    plain = feature_distance({"x": (a,)}, {"x": (b,)}, same, normalized=False)
    assert plain.item() == pytest.approx((a - b).square().mean().item())
    scaled = [
        feature_distance({"x": (k * a,)}, {"x": (k * b,)}, same, normalized=True).item()
        for k in (1.0, 10.0)
    ]
    assert scaled[0] == pytest.approx(scaled[1])
    assert feature_distance({"x": (b,)}, {"x": (b,)}, same, normalized=True).item() == 0.0


@pytest.mark.parametrize("shape", [(4, 3), (4, 5, 3), (4, 3, 2, 2)])
def test_projections_bridge_other_widths(shape):
    """Channels are dimension 1 of vectors and images, the last of sequences; only unequal ones train."""
    dim = 2 if len(shape) == 3 else 1
    wider = tuple(7 if d == dim else size for d, size in enumerate(shape))
    ours, theirs = torch.randn(shape), torch.randn(wider)
    maps = Projections({"x": (ours,), "y": (ours,)}, {"x": (theirs,), "y": (ours,)}, seed=0)
    assert maps("x", ours).shape == theirs.shape
    assert maps("y", ours) is ours
    assert [tuple(p.shape) for p in maps.parameters()] == [(7, 3)]


def test_attention_ignores_channels_and_scale():
    """It is about where, not what: twice the values, or the channels in another order, change nothing."""
    generator = torch.Generator().manual_seed(0)
    a, b = (torch.rand(4, 6, 3, 3, generator=generator) for _ in "ab")
    assert attention_distance({"x": (a,)}, {"x": (2 * a.flip(1),)}).item() < 1e-12
    maps = [F.normalize(t.square().mean(1).flatten(1), dim=1) for t in (a, b)]
    expected = (maps[0] - maps[1]).square().sum(1).mean().item()
    assert attention_distance({"x": (a,)}, {"x": (b[:, :2],)}).item() > 0.0
    assert attention_distance({"x": (a,)}, {"x": (b,)}).item() == pytest.approx(expected)


def heard_in(name, seed, modules):
    model = models.build(name, seed=seed)
    with calls_of(model, modules) as calls, torch.no_grad():
        model(*models.inputs(name, 4))
    return calls[0].features


@pytest.mark.parametrize(("name", "module"), [("bert", "layers.0"), ("vit", "blocks.1")])
def test_attention_of_a_transformer_is_a_map_over_its_tokens(name, module):
    """(N, L, C): the mean square over C of each token; narrower students have one too, scale is none."""
    ours, theirs = (heard_in(name, seed, [module]) for seed in (0, 1))
    a, b = ours[module][0], theirs[module][0]
    assert a.dim() == 3
    maps = [F.normalize(t.square().mean(2), dim=1) for t in (a, b)]
    expected = (maps[0] - maps[1]).square().sum(1).mean().item()
    assert expected > 1e-4
    assert attention_distance(ours, theirs).item() == pytest.approx(expected, rel=1e-5)
    assert attention_distance(ours, {module: (3 * a.flip(2),)}).item() < 1e-12
    assert attention_distance({module: (a[:, :, :5],)}, theirs).item() > 0.0


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        ((4, 7, 8), (4, 6, 8)),
        ((4, 7, 8), (2, 7, 8)),
        ((4, 8, 2, 2), (4, 7, 8)),
        ((4, 8, 2, 2), (4, 8, 2, 3)),
        ((4, 8), (4, 8)),
        ((4, 8, 2, 2, 2), (4, 8, 2, 2, 2)),
    ],
)
def test_attention_of_anything_else_is_refused(ours, theirs):
    """Other numbers of tokens or examples, an image beside a sequence, vectors, volumes."""
    pair = ({"x": (torch.ones(ours),)}, {"x": (torch.ones(theirs),)})
    with pytest.raises(CompressionError, match="cannot be compared") as caught:
        attention_distance(*pair)
    assert "(N, L, C)" in caught.value.fix


@given(
    sizes=st.lists(st.floats(0.05, 40.0), min_size=2, max_size=4),
    shares=st.lists(st.floats(0.1, 1.0), min_size=4, max_size=4),
)
def test_balanced_parts_keep_their_shares_of_the_whole(sizes, shares):
    """Each part's gradient is its share of the whole, and the whole is what the plain sum would be."""
    names = [f"part{n}" for n in range(len(sizes))]
    given = dict(zip(names, shares, strict=False))
    leaves = {
        name: torch.tensor(size, dtype=torch.float64, requires_grad=True)
        for name, size in zip(names, sizes, strict=True)
    }
    total = Balancer().combine(leaves, given)
    total.backward()
    plain = sum(given[name] * size for name, size in zip(names, sizes, strict=True))
    assert total.item() == pytest.approx(plain)
    for name, leaf in leaves.items():
        share = (leaf.grad * leaf.detach()).item() / plain
        assert share == pytest.approx(given[name] / sum(given.values()))


def balanced(values, balancer=None):
    """The weight of the second of two parts of equal shares, the first of which is 1, step by step."""
    balancer = balancer or Balancer()
    weights = []
    for value in values:
        part = torch.tensor(value, dtype=torch.float64, requires_grad=True)
        parts = {"own": torch.ones((), dtype=torch.float64), "taught": part}
        balancer.combine(parts, {"own": 0.5, "taught": 0.5}).backward()
        weights.append(part.grad.item())
    return weights


@pytest.mark.parametrize("zeros", [[], [0.0], [1e-9], [0.0, 1e-12, 0.0]])
def test_a_part_that_begins_at_nothing_is_not_blown_up(zeros):
    """A student that teaches itself is its teacher at first: its magnitude is that of what came since."""
    weights = balanced([*zeros, *[0.2] * 5])
    assert weights[: len(zeros)] == [0.5] * len(zeros)
    assert weights[len(zeros) :] == pytest.approx([0.5 * (0.5 + 0.1) / 0.2] * 5)


def test_a_part_that_grows_counts_for_a_few_times_its_share_and_a_small_one_has_a_ceiling():
    """As the square of the steps taken, as a distance does; and however small, a thousandfold."""
    values = [1e-4 * step**2 for step in range(1, 30)]
    shares = [w * v / (0.5 + w * v) for w, v in zip(balanced(values), values, strict=True)]
    assert max(shares) < 0.8
    assert max(balanced([1e-5] * 3)) == 0.5 * 1000


def test_a_balance_that_was_stored_goes_on(tmp_path):
    """Exactly; and one of an earlier file, which does not say of how many values, moves little."""
    values = [0.0, 0.3, 0.1, 0.5]
    balancer, again, older = Balancer(), Balancer(), Balancer()
    balanced(values, balancer)
    again.restore(balancer.state())
    older.restore({"magnitudes": balancer.state()["magnitudes"]})
    assert balanced([0.2, 0.4], again) == balanced([0.2, 0.4], balancer)
    balanced([9.0], older)
    assert older.magnitudes[0].item() == pytest.approx(1.0)
    assert older.magnitudes[1].item() == pytest.approx(0.99 * 0.3 + 0.01 * 9.0, abs=0.01)


def test_the_average_is_returned_and_follows_the_weights(tmp_path):
    """With ema the result is neither the plain run's nor the start."""
    plain = taught(tmp_path / "a").module.state_dict()
    averaged = taught(tmp_path / "b", ema=0.9).module.state_dict()
    name = "conv2.weight"
    start = fresh().state_dict()[name]
    assert not torch.equal(averaged[name], plain[name])
    assert 0 < (averaged[name] - start).norm() < (plain[name] - start).norm() * 1.2


def test_what_is_masked_stays_masked_in_the_average():
    """A weight that is exactly zero in the model is so in its mean; the rest has the formula's value."""
    module, mean = nn.Linear(3, 1, bias=False), nn.Linear(3, 1, bias=False)
    with torch.no_grad():
        module.weight.copy_(torch.tensor([[1.0, 0.0, 3.0]]))
        mean.weight.copy_(torch.tensor([[2.0, 2.0, 2.0]]))
    average(mean, module, decay=0.75, taken=10**6)
    assert torch.allclose(mean.weight, torch.tensor([[1.75, 0.0, 2.25]]))
    average(mean, module, decay=0.75, taken=0)
    assert mean.weight[0, 0].item() == pytest.approx(0.1 * 1.75 + 0.9)


def test_frozen_parameters_keep_their_bits(tmp_path):
    """What fits a pattern is not trained, the rest is; a pattern without a parameter is refused."""
    done = taught(tmp_path, freeze=("conv*", "head.bias")).module
    for name, value in fresh().named_parameters():
        frozen = name.startswith("conv") or name == "head.bias"
        assert torch.equal(done.get_parameter(name), value) == frozen, name
    with pytest.raises(InputError, match="conv1"):
        taught(tmp_path / "x", freeze=("conv9.*",))


def test_a_pattern_whose_parameters_the_cut_took_is_said_and_no_error(tmp_path):
    """Which blocks a plan removes is not known when the pattern is written; the teacher still has them."""

    class Deeper(Cnn):
        def __init__(self):
            super().__init__()
            self.extra = nn.Linear(10, 10)

    ours = replace(lesson(), teacher=Deeper().eval())
    params = DistillParams(epochs=1, freeze=("extra.*", "conv1.*"))
    told: list[str] = []
    done = recover(ours, params, seed=1, work=tmp_path, say=told.append).module
    assert torch.equal(done.conv1.weight, ours.student.conv1.weight)
    assert [line for line in told if "freezes nothing" in line] == [told[0]]
    assert "'extra.*' of distill.freeze" in told[0]
    state = read_state(tmp_path / CHECKPOINT)
    assert "head.weight" in moments_of(state, ours.task, ours.student, params)
    with pytest.raises(InputError, match="extra"):
        recover(
            ours,
            msgspec.structs.replace(params, freeze=("extr.*",)),
            seed=1,
            work=tmp_path,
            say=print,
        )


def test_one_clipped_step_is_no_longer_than_the_limit(tmp_path):
    """With plain SGD the way of a single step is the rate times the clipped norm."""
    longest = {}
    for clip in (0.0, 0.01):
        ways: list[float] = []
        params = DistillParams(
            epochs=1,
            learning_rate=0.05,
            momentum=0.0,
            weight_decay=0.0,
            warmup_epochs=0.0,
            rate="constant",
            clip_norm=clip,
        )
        recover(
            lesson(), params, seed=0, work=tmp_path / str(clip), say=quiet, shapers=(Ways(ways),)
        )
        longest[clip] = max(ways)
    assert longest[0.0] > 0.05 * 0.02
    assert longest[0.01] == pytest.approx(0.05 * 0.01, rel=1e-3)


def test_dropout_can_be_switched_off():
    """Every place where a probability is kept, and nothing else of train mode."""
    module = nn.Sequential(
        nn.Linear(4, 4), nn.Dropout(0.5), nn.TransformerEncoderLayer(4, 2, dropout=0.5)
    )
    module.train()
    without_dropout(module)
    x = torch.randn(3, 5, 4)
    assert module.training
    assert torch.equal(module(x), module(x))


def test_the_rate_is_held_and_then_falls():
    """Hold then cosine: the whole rate until hold_epochs; constant: for ever."""
    held = DistillParams(epochs=10, warmup_epochs=1.0, hold_epochs=6.0)
    found = [rate_at(epoch, held) for epoch in (0.5, 1.0, 5.9, 6.0, 8.0, 10.0)]
    assert found == pytest.approx([0.5, 1.0, 1.0, 1.0, 0.5, 0.0])
    constant = DistillParams(epochs=10, warmup_epochs=1.0, rate="constant")
    assert [rate_at(epoch, constant) for epoch in (0.5, 3.0, 10.0)] == [0.5, 1.0, 1.0]
    for epochs in (1, 3, 20):
        other = for_epochs(held, epochs)
        assert other.epochs == epochs
        assert rate_at(0.599 * epochs, msgspec.structs.replace(other, warmup_epochs=0.0)) == 1.0
        assert rate_at(0.8 * epochs, other) == pytest.approx(0.5)
    assert for_epochs(DistillParams(epochs=0, hold_epochs=2.0), 1).hold_epochs == 0.0
    late = DistillParams(epochs=4, warmup_epochs=0.0, hold_epochs=9.0)
    assert rate_at(3.9, late) == 1.0


def test_an_average_that_does_not_exist_cannot_teach(tmp_path):
    with pytest.raises(InputError, match=r"distill\.ema"):
        taught(tmp_path, teacher="ema")


@pytest.mark.slow
def test_kept_answers_are_the_teachers_to_float_rounding(tmp_path):
    """With and without the cache the training is the same but for rounding."""
    knobs = {"features": 1.0, "feature_modules": FEATURES}
    kept = taught(tmp_path / "a", **knobs)
    live = taught(tmp_path / "b", teacher_cache_bytes=0, **knobs)
    assert live.recovery.examples - kept.recovery.examples == 900
    for ours, theirs in zip(kept.recovery.epochs, live.recovery.epochs, strict=True):
        assert ours.train_loss == pytest.approx(theirs.train_loss, rel=1e-4)
        assert ours.tune_loss == pytest.approx(theirs.tune_loss, rel=1e-3)


def test_kept_answers_are_bit_equal_where_batches_have_the_same_make_up(tmp_path):
    """Without shuffling, a batch meets the very answer that the teacher would give it."""
    kept = taught(tmp_path / "a", StillTask())
    live = taught(tmp_path / "b", StillTask(), teacher_cache_bytes=0)
    assert kept.recovery.epochs == live.recovery.epochs
    pairs = zip(kept.module.parameters(), live.module.parameters(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["augmented", "noisy loss", "too large"])
def test_the_teacher_is_asked_where_its_answers_cannot_be_kept(tmp_path, kind):
    """Augmentation in the batches or in the loss, or too little memory: each example is asked anew."""
    task = {"augmented": FlippedTask(), "noisy loss": NoisyTask(), "too large": DigitsTask()}[kind]
    limit = 100 if kind == "too large" else 10**9
    done = taught(tmp_path, task, teacher_cache_bytes=limit)
    live = taught(tmp_path / "live", task, teacher_cache_bytes=0)
    assert done.recovery.epochs == live.recovery.epochs
    assert done.recovery.examples >= live.recovery.examples == 4 * 900 + 3 * 300


@given(row=st.integers(0, 3), place=st.integers(0, 15), bit=st.integers(0, 22))
def test_one_changed_bit_is_another_input(row, place, bit):
    """The fingerprint of exactly the changed example differs."""
    images = torch.rand(4, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    changed = images.clone()
    changed.view(torch.int32).reshape(4, 16)[row, place] ^= 1 << bit
    marks = [fingerprints(asked(x), 4) for x in (images, changed)]
    assert ((marks[0] == marks[1]).all(1) == (torch.arange(4) != row)).all()


def test_fingerprints_know_shapes_and_refuse_what_has_no_rows():
    """The same bytes in another shape are another input."""
    x = torch.arange(24).reshape(2, 3, 4)
    assert not torch.equal(fingerprints(asked(x), 2), fingerprints(asked(x.reshape(2, 12)), 2))
    assert fingerprints(asked(x), 3) is None
    assert fingerprints(asked(object()), 2) is None
    assert fingerprints(asked(x, None, 3), 2) is not None


def test_parts_are_heard_call_by_call():
    """Each call has its own features; the first tensor of several counts."""
    module = nn.Sequential(nn.Linear(2, 2), nn.LSTM(2, 3, batch_first=True))
    with calls_of(module, ["0", "1"]) as calls:
        module(torch.zeros(1, 4, 2))
        module(torch.ones(5, 4, 2))
    assert [call.features["0"][0].shape[0] for call in calls] == [1, 5]
    assert calls[1].features["1"][0].shape == (5, 4, 3)


class Ways:
    """A shaper that notes how far each step went."""

    def __init__(self, ways):
        self.ways = ways

    def begin(self, module, optimizer):
        self.last = [p.detach().clone() for p in module.parameters()]

    def after_backward(self, module, optimizer, moment):
        pass

    def after_step(self, module, optimizer, moment):
        now = [p.detach().clone() for p in module.parameters()]
        squares = ((a - b).double().square().sum() for a, b in zip(now, self.last, strict=True))
        self.ways.append(float(sum(squares)) ** 0.5)
        self.last = now

    def state(self):
        return {}

    def restore(self, state):
        pass


class StillTask(DigitsTask):
    def batches(self, split, *, epoch, **order):
        return super().batches(split, epoch=0, **order)


class FlippedTask(DigitsTask):
    def batches(self, split, *, epoch, **order):
        for batch in super().batches(split, epoch=epoch, **order):
            if split == "train" and epoch % 2:
                yield replace(batch, inputs=(batch.inputs[0].flip(3),))
            else:
                yield batch


class NoisyTask(DigitsTask):
    def loss(self, module, batch, generator):
        noise = torch.randn(batch.inputs[0].shape, generator=generator)
        return F.cross_entropy(module(batch.inputs[0] + 0.01 * noise), batch.targets)


def asked(*args) -> Call:
    return Call(args=args, kwargs={}, output=None, features={})


def inner_distance(module: nn.Module) -> float:
    """How far the module's attention is from the dense model's, on tune."""
    models = [copy.deepcopy(model).eval() for model in (module, dense())]
    batch = next(iter(DigitsTask().batches("tune", epoch=0, seed=0)))
    heard = []
    for model in models:
        with calls_of(model, FEATURES) as calls, torch.no_grad():
            model(*batch.inputs)
        heard.append(calls[0].features)
    return attention_distance(*heard).item()


class ConstantInputTask(DigitsTask):
    """An input that all examples of a batch share."""

    def loss(self, module, batch, generator):
        image, scale = batch.inputs
        return nn.functional.cross_entropy(module(image * scale), batch.targets)

    def batches(self, split, **order):
        for batch in super().batches(split, **order):
            yield replace(batch, inputs=(*batch.inputs, torch.ones(1)))


def test_inputs_that_are_no_rows_are_not_compared(tmp_path):
    """Nobody can tell whether they are augmented: the teacher is asked each time."""
    assert is_augmented(ConstantInputTask(), seed=0)
    assert taught(tmp_path, ConstantInputTask()).recovery.examples == 4 * 900 + 3 * 300


@pytest.mark.parametrize("start", [-1.0, 1.0])
def test_what_is_masked_is_plainly_zero_in_an_average(start):
    """+0.0, whatever it was: a compact file and a hash see the sign."""
    mean, module = nn.Linear(2, 1), nn.Linear(2, 1)
    with torch.no_grad():
        mean.weight.fill_(start)
        module.weight.copy_(torch.tensor([[0.0, 3.0]]))
    average(mean, module, decay=0.9, taken=1000)
    assert torch.equal(mean.weight.signbit(), torch.tensor([[False, start < 0]]))
    assert mean.weight[0, 0] == 0
    assert mean.weight[0, 1].item() == pytest.approx(0.9 * start + 0.3)


def test_an_infinite_buffer_is_copied_into_an_average():
    """The -inf of a causal mask, as a buffer or a frozen parameter: a mean of infinities would be NaN."""
    mask = torch.full((3, 3), float("-inf")).triu(1)
    module = nn.Linear(2, 2)
    module.register_buffer("mask", mask)
    module.bias = nn.Parameter(mask[0, 1:].clone(), requires_grad=False)
    module.register_buffer("mean", torch.zeros(2))
    mean = copy.deepcopy(module)
    module.mean.fill_(1.0)
    mean.mask[2, 2] = float("inf")
    average(mean, module, decay=0.9, taken=1000)
    assert torch.equal(mean.mask, mask)
    assert torch.equal(mean.bias, module.bias)
    assert torch.allclose(mean.mean, torch.full((2,), 0.1))
