"""The Task protocol: the user's code that knows the model.

A task is looked at through `task.seal.Sealed`, never directly: only the benchmark may open `eval`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, Protocol, TypeAlias, runtime_checkable

if TYPE_CHECKING:
    import numpy as np
    import torch
    from torch import Tensor, nn

    Inputs: TypeAlias = tuple[Tensor, ...]
    Records: TypeAlias = Mapping[str, np.ndarray[tuple[int], np.dtype[np.int64]]]

Split: TypeAlias = Literal["train", "tune", "calibration", "eval"]
SPLITS: tuple[Split, ...] = ("train", "tune", "calibration", "eval")


@dataclass(frozen=True, kw_only=True)
class Batch:
    """Some examples. `inputs` are the model's positional arguments, first dimension = example.

    `ids` are stable and unique over all splits. `slices` maps a slice family to a value per example.
    `source` names examples that belong together (one video, one patient); `time` is when they were
    taken (any sortable text). `labels` are class labels per example, for the data contract only.
    """

    inputs: tuple[Tensor, ...]
    targets: object
    ids: Sequence[str]
    slices: Mapping[str, Sequence[str]] = field(default_factory=dict)
    source: Sequence[str] | None = None
    time: Sequence[str] | None = None
    labels: Sequence[str] | None = None

    def __len__(self) -> int:
        return len(self.ids)


@dataclass(frozen=True, kw_only=True)
class Work:
    """Real inputs of one shape and the share of traffic that has it (shares sum to 1)."""

    inputs: tuple[Tensor, ...]
    weight: float


@runtime_checkable
class Task(Protocol):
    """What every task offers. Optional attributes, looked up by name where they are of use:

    `keep` (names of modules that are never cut), `heads` (the number of attention heads by module,
    checked against what is seen; 0 leaves them whole), `blocks` (names of the modules that may be
    removed; else they are found), `features` (names of modules whose outputs are distilled),
    `outputs_are` (what a student learns from its teacher's outputs: one for all, or one each, of "logits",
    classes in dimension 1; "logits-last", classes in the last; a number: values, whose differences count in
    units of it as they do in `loss`; "unread"), `optimizer(params)`, `shown(batch)` (each example in words,
    for people who read a report), and `plain(split)`: the split's batches without augmentation, from which
    the data contract finds overlaps with `train`.
    """

    @property
    def data_version(self) -> str:
        """Names the data; changes whenever any split's content does."""

    @property
    def preprocess_digest(self) -> str:
        """Names how raw data becomes inputs; two models are compared only where it is the same."""

    @property
    def input_names(self) -> Sequence[str]:
        """One name for each model input, in order."""

    def model(self) -> nn.Module:
        """A fresh module without trained weights; the same architecture every time."""

    def example_inputs(self, batch_size: int) -> tuple[Tensor, ...]:
        """Inputs that the module accepts, `batch_size` examples of them."""

    def loss(self, module: nn.Module, batch: Batch, generator: torch.Generator) -> Tensor:
        """The mean training loss over the batch, a scalar; it runs the module itself."""

    def batches(
        self,
        split: Split,
        *,
        epoch: int,
        seed: int,
        rank: int = 0,
        world: int = 1,
        start: int = 0,
    ) -> Iterator[Batch]:
        """The split's batches from batch number `start` on. Order and augmentation are functions of
        (seed, epoch, id); augmentation and shuffling happen only in `train`.
        """

    def records(self, outputs: tuple[Tensor, ...], batch: Batch) -> Records:
        """One small record an example: int64 columns of len(batch), as the policy's metrics need them.

        `correct` (0/1) for accuracy; `numerator` and `denominator` for dice and f1; `intersection` and
        `union` for iou; `answer` and `actual` (class numbers) for macro_f1, f1[class] and agreement; `score`
        and `label` for auc and average_precision; `confidence` beside `correct` for ece; `target` and
        `predicted` for mae, mse and the correlations; `detection_000`..., `box_000`... for map and
        ap[class]. Scores, confidences and values are in millionths; core.records says so in detail and
        docs/metrics.md what each metric reads. The same columns come for every batch and every model.
        """

    def workload(self) -> Sequence[Work]:
        """Real inputs with shape weights, for latency."""
