"""What a student learns from each output: by what the task says it is, and never by a guess."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from reprune.compress.training.distillation import distance, kinds_of
from reprune.compress.training.recover import Lesson, recover
from reprune.compress.training.teaching import Teaching
from reprune.core.errors import CompressionError
from reprune.core.params import DistillParams
from reprune.task.bases import Detection, Examples, Regression, TaskSet
from reprune.task.protocol import Batch
from reprune.task.seal import Sealed

TOKENS = torch.randn(4, 7, 3, generator=torch.Generator().manual_seed(0))
NUMBERS = torch.zeros(4, 7, dtype=torch.int64)


@pytest.fixture(autouse=True)
def _one_thread_on_the_cpu(monkeypatch):
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    torch.set_num_threads(1)


@pytest.mark.parametrize(
    ("output", "said", "targets", "kind"),
    [
        (TOKENS, "", NUMBERS, "logits-last"),
        (TOKENS.transpose(1, 2), "", {"tags": NUMBERS}, "logits"),
        (TOKENS, "logits", NUMBERS, "logits"),
        (TOKENS, 2.0, None, 2.0),
        (TOKENS[:, 0], "", None, "logits"),
        (TOKENS[:, 0], "logits-last", None, "logits-last"),
        (TOKENS[:, :, None], "", NUMBERS, "logits"),
        (TOKENS[:, 0, 0], "", None, "unread"),
        (TOKENS[:, 0, 0], 1.0, None, 1.0),
        (NUMBERS, 1.0, None, "unread"),
    ],
)
def test_an_output_is_what_is_said_of_it_or_what_leaves_no_doubt(output, said, targets, kind):
    assert kinds_of([output], said, targets) == (kind,)


@pytest.mark.parametrize(
    ("output", "said", "targets"),
    [
        (TOKENS, "", None),
        (TOKENS, "", torch.zeros(4, dtype=torch.int64)),
        (TOKENS, "", NUMBERS.float()),
        (TOKENS[:, :3], "", NUMBERS[:, :3]),
        (TOKENS[:, 0], "undeclared", None),
    ],
    ids=["no targets", "one an example", "no numbers of classes", "a square", "undeclared"],
)
def test_an_output_of_which_nobody_can_tell_is_refused(output, said, targets):
    """Which one, and what to do: hidden states, boxes and token scores look alike."""
    with pytest.raises(CompressionError, match=r"output 0 of shape \(4") as raised:
        kinds_of([output], said, targets)
    assert "outputs_are" in (raised.value.fix or "")
    assert "distill.weight to 0" in (raised.value.fix or "")


def test_as_many_outputs_as_were_told_of():
    with pytest.raises(CompressionError, match=r"tells of 2 outputs .* gives \(4, 7, 3\)"):
        kinds_of([TOKENS], ("logits", "unread"))


def test_tokens_are_learnt_one_by_one():
    """As (N, L, C): the softmax is over classes. Over tokens, as it was, a student that gives every
    token one class was right.
    """
    other = TOKENS + torch.tensor([0.0, 0.0, 9.0])
    apart = distance(other, TOKENS, 4.0, ("logits-last",))
    flat = distance(other.flatten(0, 1), TOKENS.flatten(0, 1), 4.0)
    assert apart.item() == pytest.approx(flat.item(), rel=1e-5)
    assert apart.item() > 1.0
    assert distance(other, TOKENS, 4.0, ("logits",)).item() == pytest.approx(0.0, abs=1e-5)


def test_values_are_compared_as_values():
    """In units of what the task says; a shift and a single value count, which a softmax is blind to."""
    one = torch.tensor([[300.0], [150.0]])
    assert distance(one * 0.5, one, 4.0, (100.0,)).item() == pytest.approx((1.5**2 + 0.75**2) / 2)
    assert distance(one[:, 0] + 50.0, one[:, 0], 4.0, (100.0,)).item() == pytest.approx(0.25)


def test_what_is_unread_may_differ_and_not_be_all():
    ours, theirs = (TOKENS[:, 0], TOKENS), (TOKENS[:, 1], TOKENS[:, :2])
    alone = distance(ours[0], theirs[0], 4.0)
    assert torch.equal(distance(ours, theirs, 4.0, ("logits", "unread")), alone)
    with pytest.raises(CompressionError, match="cannot be distilled"):
        distance(ours, theirs, 4.0, ("unread", "unread"))


def test_a_flat_logit_is_a_yes_or_no():
    """(N,), where the task says so, is (N, 1)."""
    flat = distance(TOKENS[:, 0, 0], TOKENS[:, 1, 0], 1.0, ("logits",))
    assert torch.equal(flat, distance(TOKENS[:, :1, 0], TOKENS[:, 1:2, 0], 1.0, ("logits",)))


class Tagger(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed, self.head = nn.Embedding(9, 4), nn.Linear(4, 3)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.head(self.embed(tokens))


class Tags:
    """Sentences of several lengths, a class for each token."""

    def loss(self, module: nn.Module, batch: Batch, _: torch.Generator) -> Tensor:
        return F.cross_entropy(module(*batch.inputs).flatten(0, 1), batch.targets.flatten())  # type: ignore[attr-defined]


def test_a_batch_as_long_as_there_are_classes_is_read_as_the_first_was():
    """A square alone says nothing; the lengths before it did."""
    teaching = Teaching.of(Tags(), Tagger(), DistillParams(), torch.enable_grad)  # type: ignore[arg-type]
    student, generator = Tagger(), torch.Generator()
    square = Batch(inputs=(NUMBERS[:, :3],), targets=NUMBERS[:, :3], ids=list("abcd"))
    with pytest.raises(CompressionError, match="output 0"):
        teaching.loss(student, square, generator)
    teaching.loss(student, Batch(inputs=(NUMBERS,), targets=NUMBERS, ids=list("abcd")), generator)
    assert teaching.kinds == ("logits-last",)
    assert teaching.loss(student, square, generator)[0].isfinite()


class Prices(Regression):
    """A price from six facts, in thousands."""

    bounds = (0.0, 1000.0)

    def __init__(self) -> None:
        facts = np.random.default_rng(0).normal(size=(400, 6)).astype(np.float32)
        prices = (500.0 + 60.0 * facts[:, 0] + 40.0 * np.abs(facts[:, 1])).astype(np.float32)
        rows = {"train": range(300), "eval": range(300, 400)}
        names = [f"house-{n}" for n in range(400)]
        super().__init__(Examples(inputs=(facts,), targets=prices, ids=names), rows)

    def model(self) -> nn.Module:
        return Priced()


class Priced(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.hidden, self.head = nn.Linear(6, 16), nn.Linear(16, 1)

    def forward(self, facts: Tensor) -> Tensor:
        return 500.0 + 300.0 * self.head(torch.relu(self.hidden(facts)))


def told(model: nn.Module, by: float) -> nn.Module:
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(by * torch.randn_like(parameter))
    return model


@pytest.mark.parametrize("sealed", [False, True])
def test_a_regression_learns_its_teachers_values(tmp_path, sealed):
    """From the teacher alone (weight 1): read as the logit of a yes or no, its loss was 0."""
    task: Any = Sealed(Prices()) if sealed else Prices()
    knobs = {"learning_rate": 0.3, "weight_decay": 0.0, "warmup_epochs": 0.0, "epochs": 8}
    params = DistillParams(weight=0.0, **knobs)
    torch.manual_seed(0)
    start = Priced()
    lesson = Lesson(task=task, student=start, teacher=start, teacher_digest="x")
    teacher = recover(lesson, params, seed=0, work=tmp_path / "a", say=lambda _: None).module
    student = told(Priced(), 0.3)
    facts = torch.randn(200, 6, generator=torch.Generator().manual_seed(1))

    def apart(module: nn.Module) -> float:
        with torch.no_grad():
            return F.mse_loss(module(facts), teacher(facts)).item()

    lesson = Lesson(task=task, student=student, teacher=teacher, teacher_digest="x")
    params = DistillParams(weight=1.0, **knobs)
    done = recover(lesson, params, seed=0, work=tmp_path / "b", say=lambda _: None)
    assert apart(done.module) < 0.2 * apart(student)
    assert done.recovery.epochs[0].train_loss > 0.0


def test_a_set_says_what_its_members_say():
    """A member's kind for each of its outputs, empty where it says nothing; the set may say it itself."""

    class Two(Prices):
        outputs_are = ("logits-last", "unread")  # type: ignore[assignment]

        def model(self) -> nn.Module:
            return Forked()

    class Silent(Prices):
        outputs_are = ""  # type: ignore[assignment]

    said = {"members": {"a": Two, "b": Prices, "c": Silent}}
    pair = type("Pair", (TaskSet,), said)()
    assert pair.outputs_are == ("logits-last", "unread", 1000.0, "")
    assert Sealed(pair).outputs_are == pair.outputs_are
    assert type("Own", (TaskSet,), said | {"outputs_are": "unread"})().outputs_are == "unread"


class Forked(Priced):
    def forward(self, facts: Tensor) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        found = super().forward(facts)
        return found, facts


def test_a_detection_is_not_learnt_before_somebody_says_what_its_outputs_are():
    assert Detection.outputs_are == "undeclared"
