"""Mutants of honest files, parsed as the product parses them: nothing dies of them, and all is in words.

    python -m tests.hostile.fuzz COUNT [SEED]      (COUNT mutants of each format; prints figures as JSON)

What the product parses in a confined process is parsed here in one that is confined the same way, and
that goes on with the next mutant; if it dies or hangs, that is the refusal the product would give. What
the product parses in its own process must raise an error of ours, and nothing else.
"""

from __future__ import annotations

import json
import os
import random
import resource
import select
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import BinaryIO

from reprune.core import store
from reprune.core.confined import Bounds, confine, guarded
from reprune.core.documents import decode_yaml
from reprune.core.errors import RepruneError
from reprune.core.policy import Policy
from tests.hostile import goods

ROOT = Path(__file__).resolve().parents[2]
MEMORY_BYTES = 2**30
# Of processor time; what takes longer is stopped, whatever the machine is doing besides.
SECONDS = 10
WALL_SECONDS = 120
READ, REFUSED, UNTYPED, SLOW = b"r", b"e", b"u", b"s"
INTERESTING = (
    0, 1, -1, 127, 128, 255, 2**15, 2**16, 2**31 - 1, -(2**31), 2**32 - 1, 2**40, 2**63 - 1,
)  # fmt: skip
TOKENS = (
    b"NaN", b"1e999", b"-Infinity", b"&a [*a]", b"*a", b"[" * 400, b'{"a":' * 200, b"\xff\xfe", b"\0",
    b"\n\n", b"null", b"!!python/object:os.system x", b"9" * 5000, b"<<: *a", b'"\\ud800"', b"- " * 300,
)  # fmt: skip


@dataclass(frozen=True)
class Format:
    """`parse` is given the content and a file that holds it. `confined` says where the product parses it."""

    seeds: Callable[[], list[bytes]]
    parse: Callable[[bytes, Path], object]
    confined: bool


def _safetensors(_: bytes, path: Path) -> None:
    from reprune.registry.weights import check_weights

    check_weights(path)


def _onnx(content: bytes, path: Path) -> None:
    from reprune.runtimes.foreign import inspect_onnx

    inspect_onnx(content, where=path.name)


def _tflite(content: bytes, path: Path) -> None:
    from reprune.runtimes.foreign import inspect_tflite

    inspect_tflite(content, where=path.name)


def _zip(content: bytes, path: Path) -> None:
    """As the arrays of a device where they are named so, and else as a pickled state dict."""
    from reprune.measure.foreign_arrays import read_npz
    from reprune.registry.unpickle import _convert

    if b"arr_0" in content:
        list(read_npz(path, max_bytes=2**28))
    else:
        _convert(path, NOWHERE[0])


def _manifest(content: bytes, path: Path) -> None:
    store.decode_any(content, name=path.name)


def _policy(content: bytes, path: Path) -> None:
    decode_yaml(content, Policy, name=path.name)


NOWHERE: list[BinaryIO] = []
FORMATS = {
    "safetensors": Format(goods.safetensors_files, _safetensors, True),
    "onnx": Format(goods.onnx_files, _onnx, True),
    "tflite": Format(goods.tflite_files, _tflite, True),
    "zip": Format(lambda: goods.npz_files() + goods.pickled_files(), _zip, True),
    "manifest": Format(goods.manifests, _manifest, False),
    "policy": Format(goods.policies, _policy, False),
}


def mutant(seeds: list[bytes], number: int, seed: int) -> bytes:
    """The mutant of that number: the same for the same seeds."""
    draw = random.Random(f"{seed}-{number}")
    raw = bytearray(seeds[number % len(seeds)])
    if draw.random() < 0.4:
        # A single bit: what is nearly right goes deepest.
        raw[draw.randrange(len(raw))] ^= 1 << draw.randrange(8)
        return bytes(raw)
    for _ in range(draw.randint(1, 4)):
        draw.choice(CHANGES)(raw, draw, seeds)
    return bytes(raw[: 2**20])


Change = Callable[[bytearray, random.Random, list[bytes]], None]


def _byte(raw: bytearray, draw: random.Random, _: list[bytes]) -> None:
    place = draw.randrange(len(raw) + 1)
    raw[place : place + 1] = bytes([draw.randrange(256)])


def _bits(raw: bytearray, draw: random.Random, _: list[bytes]) -> None:
    for _number in range(draw.randint(1, 8) if raw else 0):
        raw[draw.randrange(len(raw))] ^= 1 << draw.randrange(8)


def _cut(raw: bytearray, draw: random.Random, _: list[bytes]) -> None:
    del raw[draw.randrange(len(raw) + 1) :]


def _hole(raw: bytearray, draw: random.Random, _: list[bytes]) -> None:
    place = draw.randrange(len(raw) + 1)
    del raw[place : place + draw.randint(1, 64)]


def _doubled(raw: bytearray, draw: random.Random, _: list[bytes]) -> None:
    place = draw.randrange(len(raw) + 1)
    raw[place:place] = raw[place : place + draw.randint(1, 256)]


def _number(raw: bytearray, draw: random.Random, _: list[bytes]) -> None:
    place = draw.randrange(len(raw) + 1)
    width = draw.choice((1, 2, 4, 8))
    value = draw.choice(INTERESTING) & (2 ** (8 * width) - 1)
    raw[place : place + width] = value.to_bytes(width, "little")


def _spliced(raw: bytearray, draw: random.Random, seeds: list[bytes]) -> None:
    other = draw.choice(seeds)
    raw[draw.randrange(len(raw) + 1) :] = other[draw.randrange(len(other) + 1) :]


def _token(raw: bytearray, draw: random.Random, _: list[bytes]) -> None:
    place = draw.randrange(len(raw) + 1)
    raw[place:place] = draw.choice(TOKENS)


CHANGES: tuple[Change, ...] = (
    _byte, _bits, _cut, _hole, _doubled, _number, _spliced, _token,
)  # fmt: skip


def _work(  # what is parsed, then how it is told
    form: Format, seeds: list[bytes], numbers: range, seed: int, answers: int, path: Path
) -> None:
    """Parses the mutants, one answer each, until it ends or dies. `seed` -1: the honest files themselves."""
    # Both stay open until the process ends.
    held = path.open("r+b")
    NOWHERE.append(Path(os.devnull).open("wb"))  # noqa: SIM115
    bounds = Bounds(memory_bytes=MEMORY_BYTES, seconds=24 * 3600, written_bytes=2**30, sealed=True)
    confine(bounds)
    signal.signal(signal.SIGPROF, signal.SIG_DFL)
    for number in numbers:
        content = seeds[number] if seed < 0 else mutant(seeds, number, seed)
        held.seek(0)
        held.truncate()
        held.write(content)
        held.flush()
        signal.setitimer(signal.ITIMER_PROF, SECONDS)
        os.write(answers, _outcome(form, content, path))


def _load(form: Format) -> None:
    """What the format is parsed with."""
    if form.confined:
        for wanted in ("ai_edge_litert.schema_py_generated", "onnx.checker", "safetensors.numpy"):
            import_module(wanted)
        import_module("torch").set_num_threads(1)


def _outcome(form: Format, content: bytes, path: Path) -> bytes:
    try:
        if form.confined:
            guarded(lambda: (form.parse(content, path), b"")[1])
        else:
            form.parse(content, path)
    except RepruneError:
        return REFUSED
    except BaseException as error:  # noqa: BLE001  # whatever it is, it is counted
        os.write(2, f"untyped: {type(error).__name__}: {str(error)[:200]}\n".encode())
        return UNTYPED
    return READ


def fuzz(name: str, count: int, seed: int = 0) -> dict[str, int]:
    """What became of `count` mutants: `read`, `refused`, `stopped` (died, or took too long or too much,
    which the product words), `untyped` (is to be 0).
    """
    form = FORMATS[name]
    seeds = form.seeds()
    found = dict.fromkeys(("read", "refused", "stopped", "untyped"), 0)
    words = {READ: "read", REFUSED: "refused", UNTYPED: "untyped"}
    number = 0
    while number < count:
        for answer in _batch(form, seeds, range(number, count), seed):
            number += 1
            word = words.get(answer, "stopped" if form.confined else "untyped")
            found[word] += 1
    return found


def _batch(form: Format, seeds: list[bytes], numbers: range, seed: int) -> list[bytes]:
    """The answers of one worker; the last is SLOW where it died of the one after."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.pt"
        path.write_bytes(b"")
        # Before the fork: each worker then has the libraries, and none of them opens a file.
        _load(form)
        ours, theirs = os.pipe()
        child = os.fork()
        if child == 0:
            os.close(ours)
            try:
                _work(form, seeds, numbers, seed, theirs, path)
                os._exit(0)
            finally:
                os._exit(1)
        os.close(theirs)
        answers: list[bytes] = []
        while True:
            ready, _, _ = select.select([ours], [], [], WALL_SECONDS)
            got = os.read(ours, 65_536) if ready else b""
            if not got:
                break
            answers += [bytes([each]) for each in got]
        if len(answers) < len(numbers):
            os.kill(child, signal.SIGKILL)
            answers.append(SLOW)
        os.waitpid(child, 0)
        os.close(ours)
        return answers


def refused_goods() -> tuple[int, int]:
    """How many honest files there are, and how many of them are refused."""
    many = refused = 0
    for form in FORMATS.values():
        seeds = form.seeds()
        answers = _batch(form, seeds, range(len(seeds)), -1)
        many += len(seeds)
        refused += sum(answer != READ for answer in answers)
    return many, refused


def run(count: int, seed: int = 0) -> dict[str, float]:
    """All formats, in a fresh process. Figures: `mutants`, and of each format `mutants_<format>`; of all
    `mutants_read`, `_refused`, `_stopped` and `_untyped`; `parent_deaths`; `good_models`, `good_refused`.
    """
    words = [sys.executable, "-m", "tests.hostile.fuzz", str(count), str(seed)]
    done = subprocess.run(words, stdout=subprocess.PIPE, cwd=ROOT, check=False)
    if done.returncode:
        return {"parent_deaths": 1.0}
    figures: dict[str, float] = json.loads(done.stdout)
    return figures


def main(arguments: list[str]) -> int:
    count, seed = int(arguments[0]), int(arguments[1]) if len(arguments) > 1 else 0
    began = time.monotonic()
    figures: dict[str, float] = {"mutants": count * len(FORMATS), "parent_deaths": 0}
    for name in FORMATS:
        found = fuzz(name, count, seed)
        figures[f"mutants_{name}"] = sum(found.values())
        for word, many in found.items():
            figures[f"mutants_{word}"] = figures.get(f"mutants_{word}", 0) + many
            figures[f"mutants_{name}_{word}"] = many
        print(name, found, round(time.monotonic() - began), file=sys.stderr, flush=True)
    figures["good_models"], figures["good_refused"] = refused_goods()
    figures["seconds"] = round(time.monotonic() - began)
    figures["peak_mib"] = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss // 1024
    print(json.dumps(figures))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
