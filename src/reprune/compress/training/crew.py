"""Several processes that train one model together: what they add up, agree on and tell each other.

Every process holds the whole student and takes every step; of each batch it runs its share, and sums
over processes are what one process would have computed. Nothing here decides: what is decided from
equal numbers is decided alike everywhere.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
import torch.distributed as dist
from torch import Tensor

from reprune.core.errors import RepruneError

# Far from any seed of a step, so that no process draws what another draws at some other step.
RANK_STRIDE = 2**52


@dataclass(frozen=True, kw_only=True)
class Crew:
    """`rank` of `world` processes; one process alone needs no torch.distributed. Tensors travel on
    `device`. All processes call the same methods in the same order.
    """

    rank: int = 0
    world: int = 1
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    @property
    def first(self) -> bool:
        """Whether this process writes and speaks for all."""
        return self.rank == 0

    @property
    def together(self) -> bool:
        return self.world > 1

    def seed(self, seed: int) -> int:
        """A seed of this process alone; the first one's is `seed` itself."""
        return seed + self.rank * RANK_STRIDE

    def sums(self, values: list[float]) -> list[float]:
        """Each value added up over the processes, in float64. Zero plus a value is that value's bits."""
        if not self.together:
            return values
        total = torch.tensor(values, dtype=torch.float64, device=self.device)
        add_up(total)
        found: list[float] = total.tolist()
        return found

    def sum_gradients(self, optimizer: torch.optim.Optimizer) -> None:
        """Gives every parameter the sum of the processes' gradients; none where no process has one."""
        if not self.together:
            return
        owned = [p for group in optimizer.param_groups for p in group["params"] if p.requires_grad]
        if not owned:
            return
        parts = [
            (torch.zeros_like(p) if p.grad is None else p.grad).reshape(-1).float() for p in owned
        ]
        there = torch.tensor([float(p.grad is not None) for p in owned], device=parts[0].device)
        flat = torch.cat([*parts, there])
        add_up(flat)
        *sums, there = torch.split(flat, [part.numel() for part in parts] + [len(owned)])
        for parameter, total, count in zip(owned, sums, there.tolist(), strict=True):
            parameter.grad = total.view_as(parameter).to(parameter.dtype) if count else None

    def told(self, content: bytes) -> bytes:
        """The first process's `content`, everywhere."""
        if not self.together:
            return content
        size = torch.tensor([len(content)], device=self.device)
        _hear_first(size)
        if not int(size):
            return b""
        given = torch.zeros(int(size), dtype=torch.uint8, device=self.device)
        if self.first:
            given = torch.frombuffer(bytearray(content), dtype=torch.uint8).to(self.device)
        _hear_first(given)
        return given.cpu().numpy().tobytes()

    def check_alike(self, tensors: Mapping[str, Tensor]) -> None:
        """Raises RepruneError where a tensor does not have the same bits in every process."""
        if not self.together:
            return
        marks = torch.zeros((self.world, len(tensors)), dtype=torch.int64, device=self.device)
        own = [
            zlib.crc32(t.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
            for t in tensors.values()
        ]
        marks[self.rank] = torch.tensor(own, device=self.device)
        add_up(marks)
        differing = (marks != marks[0]).any(dim=0).tolist()
        for name, differs in zip(tensors, differing, strict=True):
            if differs:
                raise RepruneError(
                    "the processes that train together no longer hold the same model",
                    where=f"distill.processes ({name})",
                    fix="set distill.processes to 1 if a layer keeps statistics of its batch by "
                    "itself; else use machines of one kind, with the same software",
                )


ALONE = Crew()


class LostTouch(RepruneError):
    """Another process is gone, or silent for too long; it, not this one, knows why."""


def add_up(tensor: Tensor) -> None:
    """Adds up the tensor over the processes, in place. Raises LostTouch."""
    with _in_touch():
        dist.all_reduce(tensor)


def _hear_first(tensor: Tensor) -> None:
    with _in_touch():
        dist.broadcast(tensor, src=0)


@contextmanager
def _in_touch() -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:  # what torch.distributed raises, whatever the backend
        raise LostTouch(
            f"lost touch with the other processes: {str(error).splitlines()[0]}",
            where="distill.processes",
        ) from error
