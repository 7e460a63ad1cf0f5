"""Whether a runtime's adapter keeps its promises on this machine: a small net through all of them.

For third parties' tests as much as for `reprune doctor --selftest`:

    assert prove(Target(runtime="mine")).failures == ()

In a process of its own, where the runtime may crash:

    python -m reprune.measure.conformance SPEC.json OUT.json
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
from msgspec import structs

from reprune.core.children import answer, ask
from reprune.core.errors import BuildError, RepruneError
from reprune.core.params import Target
from reprune.core.policy import ParityRules
from reprune.measure.accelerator import timing_machine
from reprune.measure.calls import Shape, settled_clock, timed_calls
from reprune.measure.promises import CAN_RUN, Check, Conformance
from reprune.runtimes.base import Session, Source, get_runtime
from reprune.runtimes.isolated import build_within

if TYPE_CHECKING:
    import numpy as np
    from torch import nn

    Array = np.ndarray[Any, np.dtype[Any]]

BUILD_SECONDS = 300.0
BATCHES = (1, 2, 5)
CALLS = 20
IMAGE = (3, 16, 16)


class ConformanceSpec(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What the child process is told."""

    target: Target
    precisions: tuple[str, ...]


def prove(target: Target, precisions: Sequence[str] = ()) -> Conformance:
    """Builds a net with odd channel counts for `target` in each of `precisions` (default: all that the
    runtime offers) and holds it against the promises of Runtime and Session; needs torch.

    Nothing is left behind. Raises what makes it impossible to begin (UnknownName, MissingExtra); all
    else is a check that failed.
    """
    begin = time.monotonic()
    runtime = get_runtime(target.runtime)
    version = runtime.version()
    if not version:
        raise BuildError(f"{target.runtime} tells no version", fix="let version() return one")
    checks: list[Check] = []
    for precision in precisions or runtime.capabilities.precisions:
        one = structs.replace(target, precision=precision, run="", kit=False)
        with tempfile.TemporaryDirectory(prefix="reprune-selftest-") as folder:
            checks += _in_one_precision(one, Path(folder))
    return Conformance(
        runtime=target.runtime,
        version=version,
        device=target.device,
        machine=timing_machine(runtime, target, 1),
        checks=tuple(checks),
        seconds=round(time.monotonic() - begin, 1),
    )


def prove_apart(target: Target, precisions: Sequence[str], *, seconds: float) -> Conformance:
    """As prove, in a process of its own that is stopped after `seconds`; RepruneError if it crashes."""
    with tempfile.TemporaryDirectory(prefix="reprune-selftest-") as folder:
        return ask(
            "reprune.measure.conformance",
            ConformanceSpec(target=target, precisions=tuple(precisions)),
            Conformance,
            Path(folder, "selftest"),
            threads=target.threads,
            hang_seconds=seconds,
            doing=f"the selftest of {target.runtime}",
        )


def small_net() -> nn.Module:
    """Convolution, batch norm, residual addition, pooling and a linear layer; 13 and 27 channels."""
    import torch
    from torch import nn

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = nn.Conv2d(3, 13, 3, stride=2, padding=1, bias=False)
            self.norm = nn.BatchNorm2d(13)
            self.second = nn.Conv2d(13, 13, 3, padding=1)
            self.third = nn.Conv2d(13, 27, 3, stride=2, padding=1)
            self.head = nn.Linear(27, 5)

        def forward(self, image: torch.Tensor) -> torch.Tensor:
            x = torch.relu(self.norm(self.first(image)))
            x = torch.relu(x + self.second(x))
            found: torch.Tensor = self.head(torch.relu(self.third(x)).mean(dim=(2, 3)))
            return found

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(7)
        net = Net().eval()
        for value in net.norm.buffers():
            if value.is_floating_point():
                value.uniform_(0.5, 1.5)
    return net


def small_inputs(size: int) -> Array:
    """`size` images, the same ones every time."""
    import numpy as np

    return np.random.default_rng(11).normal(size=(size, *IMAGE)).astype(np.float32)


def small_source(module: nn.Module) -> Source:
    """What an engine of `small_net()` is built from, in any precision."""
    import torch

    return Source(
        module=module,
        example_inputs=(torch.from_numpy(small_inputs(2)),),
        input_names=("image",),
        calibration=[(torch.from_numpy(small_inputs(8)),)],
    )


def small_answer(module: nn.Module, inputs: Array) -> Array:
    """What the module gives for the inputs."""
    import torch

    with torch.no_grad():
        found: Array = module(torch.from_numpy(inputs)).numpy()
    return found


class _Made:
    """A built engine and what it should answer."""

    def __init__(self, target: Target, folder: Path) -> None:
        self.target = target
        self.runtime = get_runtime(target.runtime)
        self.module = small_net()
        self.engine = folder / f"net{self.runtime.suffix}"
        source = small_source(self.module)
        build_within(self.runtime, source, target, self.engine, seconds=BUILD_SECONDS)

    def open(self, threads: int = 1) -> Session:
        return self.runtime.open(self.engine, structs.replace(self.target, threads=threads))

    def expected(self, inputs: Array) -> Array:
        return small_answer(self.module, inputs)


def _in_one_precision(target: Target, folder: Path) -> list[Check]:
    try:
        made = _Made(target, folder)
        made.open()
    except BuildError as error:
        return [_check(target, CAN_RUN, ok=False, words=_said(error))]
    except Exception as error:  # noqa: BLE001 - an adapter of anybody: whatever it raises is the finding
        return [_check(target, "builds", ok=False, words=_said(error))]
    size = made.engine.stat().st_size if made.engine.is_file() else 0
    checks = [_check(target, "builds", ok=size > 0, words=f"{size} bytes")]
    promises: dict[str, Callable[[_Made], str]] = {
        "agrees with the module at any batch size": _agrees,
        "sessions are independent": _independent,
        "runs with two threads": _threads,
        "refuses a damaged file": _damaged,
        "refuses inputs of another shape": _misshapen,
        "is timed": _timed,
    }
    for name, promise in promises.items():
        try:
            checks.append(_check(target, name, ok=True, words=promise(made)))
        except Exception as error:  # noqa: BLE001 - as above
            checks.append(_check(target, name, ok=False, words=_said(error)))
    return checks


def _agrees(made: _Made) -> str:
    session = made.open()
    sizes = sorted({*BATCHES, made.target.batch_size})
    return agreement(made.target, made.module, dict.fromkeys(sizes, session))


def agreement(target: Target, module: nn.Module, sessions: Mapping[int, Session]) -> str:
    """How close each session is to the module on so many of `small_inputs`, in words.

    Raises BuildError for one that is further off than the policy's usual bounds for the precision.
    """
    bounds = ParityRules().bounds(target.precision)
    cosines = []
    for size, session in sessions.items():
        inputs = small_inputs(size)
        (found,) = session.run([inputs])
        wanted = small_answer(module, inputs)
        if found.shape != wanted.shape:
            raise BuildError(f"gives {found.shape} for {size} examples, the module {wanted.shape}")
        cosines.append(_cosine(found, wanted))
        furthest = float(abs(found - wanted).max())
        if bounds.max_abs is not None and not furthest <= bounds.max_abs:
            raise BuildError(f"is {furthest:.2g} off with {size} examples")
    if not min(cosines) >= bounds.min_cosine:
        raise BuildError(
            f"the cosine is {min(cosines):.6f}, at least {bounds.min_cosine} is wanted"
        )
    return f"cosine {min(cosines):.6f} or more"


def _independent(made: _Made) -> str:
    one, other = made.open(), made.open()
    mine, theirs = small_inputs(2), -small_inputs(2)
    before = [output.copy() for output in one.run([mine])]
    other.run([theirs])
    after = one.run([mine])
    if any((a != b).any() for a, b in zip(before, after, strict=True)):
        raise BuildError("a call of one session changes what another answers")
    return "the same bits before and after another session's call"


def _threads(made: _Made) -> str:
    inputs = small_inputs(2)
    (alone,), (both,) = made.open().run([inputs]), made.open(2).run([inputs])
    cosine = _cosine(alone, both)
    if not cosine >= ParityRules().bounds(made.target.precision).min_cosine:
        raise BuildError(f"with two threads it computes something else: cosine {cosine:.6f}")
    return f"cosine {cosine:.6f} to one thread"


def _damaged(made: _Made) -> str:
    whole = made.engine.read_bytes()
    damaged = made.engine.with_name(f"damaged{made.runtime.suffix}")
    for content in (b"", whole[: len(whole) // 3], b"\x00" * 64):
        damaged.write_bytes(content)
        try:
            made.runtime.open(damaged, made.target).run([small_inputs(made.target.batch_size)])
        except RepruneError:
            continue
        raise BuildError(f"runs {len(content)} bytes that are no engine")
    return "with an error of ours"


def _misshapen(made: _Made) -> str:
    inputs = small_inputs(made.target.batch_size)[:, :2]
    try:
        made.open().run([inputs])
    except RepruneError:
        return "with an error of ours"
    raise BuildError("runs images with a channel too few")


def _timed(made: _Made) -> str:
    session = made.open()
    shape = Shape(inputs=(small_inputs(made.target.batch_size),), weight=1.0)
    clock = settled_clock([session], [shape])
    taken = timed_calls(session, [shape], CALLS)
    if len(taken) != CALLS or min(taken) <= 0:
        raise BuildError(f"{CALLS} calls took {taken}")
    meaning = "" if made.runtime.capabilities.latency else "; says nothing about the device"
    return f"by {clock}{meaning}"


def _cosine(one: Array, other: Array) -> float:
    import numpy as np

    a, b = (np.asarray(side, np.float64).ravel() for side in (one, other))
    norms = float(np.linalg.norm(a) * np.linalg.norm(b))
    return float(a @ b) / norms if norms else 0.0


def _said(error: Exception) -> str:
    kind = "" if isinstance(error, RepruneError) else f"{type(error).__name__}: "
    return f"{kind}{error}".strip().partition("\n")[0]


def _check(target: Target, name: str, *, ok: bool, words: str) -> Check:
    return Check(precision=target.precision, name=name, ok=ok, words=words)


def _prove_all(spec: ConformanceSpec) -> Conformance:
    return prove(spec.target, spec.precisions)


def main(arguments: Sequence[str]) -> int:
    """Proves the target of SPEC.json and writes the Conformance to OUT.json."""
    return answer(arguments, ConformanceSpec, _prove_all)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
