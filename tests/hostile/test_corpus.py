"""Whatever a model file is made to do: it is refused in words, and no code of its own runs."""

from __future__ import annotations

import resource
import sys
import time
from pathlib import Path

import pytest

from reprune.core.confined import Bounds, ask_confined
from reprune.core.errors import BuildError, CheckpointError, InputError, RepruneError
from reprune.registry.weights import find_weights, take_weights
from reprune.runtimes.foreign import inspect_apart
from tests.hostile import corpus, fuzz
from tests.hostile.fuzz import READ, REFUSED

MOST_SECONDS, MOST_MIB = 10.0, 1024
ON_LINUX = sys.platform == "linux"


def answers(name: str, cases: list[bytes]) -> list[bytes]:
    """What the product's parser makes of each, confined as it is there, in one process for all."""
    form = fuzz.FORMATS[name]
    found: list[bytes] = []
    while len(found) < len(cases):
        found += fuzz._batch(form, cases, range(len(found), len(cases)), -1)
    return found


@pytest.mark.slow
@pytest.mark.parametrize("name", corpus.MODELS)
def test_every_file_that_means_harm_is_refused(name: str) -> None:
    """Within the limits of time and memory, and without an exception that is not ours."""
    cases = corpus.MODELS[name]()
    began = resource.getrusage(resource.RUSAGE_CHILDREN)
    found = dict(zip(cases, answers(name, list(cases.values())), strict=True))
    ended = resource.getrusage(resource.RUSAGE_CHILDREN)
    # A length of billions may mean nothing where padding lies.
    open_ = {case for case, answer in found.items() if answer == READ}
    assert {case for case in open_ if "billions" not in case} == set()
    assert {answer for case, answer in found.items() if case not in open_} == {REFUSED}
    assert ended.ru_utime - began.ru_utime < MOST_SECONDS * len(cases)
    # The largest child that this process ever had may be another test's.
    assert ended.ru_maxrss == began.ru_maxrss or ended.ru_maxrss / 1024 < 2 * MOST_MIB


def test_no_pickle_runs_whatever_it_is_wrapped_in(tmp_path: Path) -> None:
    """Not opted in: refused without being opened. Opted in: refused by the child's own reader."""
    canary = tmp_path / "canary"
    cases = corpus.pickles(canary)
    for case, (name, content) in cases.items():
        folder = tmp_path / "".join(letter for letter in case if letter.isalnum())
        folder.mkdir()
        (folder / name).write_bytes(content)
        with pytest.raises(CheckpointError):
            take_weights_from(folder, allow_pickle=False)
    found = answers("zip", [content for _, content in cases.values()])
    assert set(found) == {REFUSED}
    assert not canary.exists()


def take_weights_from(folder: Path, *, allow_pickle: bool) -> None:
    found = find_weights(folder, allow_pickle=allow_pickle, where="here")
    take_weights(found, folder / "out.safetensors")


@pytest.mark.deep
def test_every_file_that_means_harm_by_the_product_itself(tmp_path: Path) -> None:
    """A process of its own for each, as in a run: at most 10 s, at most 1 GiB beyond the file."""
    canary = tmp_path / "canary"
    files = {f"pickle: {case}": named for case, named in corpus.pickles(canary).items()}
    for kind, made in corpus.MODELS.items():
        suffix = {"safetensors": "w.safetensors", "zip": "m.pt"}.get(kind, f"m.{kind}")
        files |= {f"{kind}: {case}": (suffix, content) for case, content in made().items()}
    slow = []
    for number, (case, (name, content)) in enumerate(files.items()):
        folder = tmp_path / str(number)
        folder.mkdir()
        (folder / name).write_bytes(content)
        began = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime
        try:
            if name.endswith((".onnx", ".tflite")):
                inspect_apart(folder / name)
            else:
                take_weights_from(folder, allow_pickle=True)
            assert "billions" in case, case
        except (CheckpointError, BuildError):
            pass
        if resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime - began > MOST_SECONDS:
            slow.append(case)
    assert slow == []
    assert not canary.exists()
    print(f"{len(files)} files, all refused")


# --- the process itself ----------------------------------------------------------------------------

ESCAPES = {
    "network": "import socket; socket.create_connection(('127.0.0.1', 1))",
    "unix socket": "import socket; socket.socket(socket.AF_UNIX)",
    "program": "import subprocess; subprocess.run(['true'])",
    "new file": "open({canary!r}, 'w')",
    "new file by descriptor": "import os; os.open({canary!r}, os.O_CREAT | os.O_WRONLY)",
    "append": "open({there!r}, 'a')",
    "remove": "import os; os.unlink({there!r})",
    "rename": "import os; os.rename({there!r}, {canary!r})",
    "folder": "import os; os.mkdir({canary!r})",
    "link": "import os; os.symlink('/', {canary!r})",
    "mode": "import os; os.chmod({there!r}, 0o777)",
    "fork": "import os; os.fork()",
    "kill": "import os; os.kill(os.getppid(), 9)",
    "memory file": "import os; os.memfd_create('x')",
    "memory": "bytearray(2**31)",
    "time": "while True: pass",
    "output": "import os\nwhile True: os.write(1, bytes(2**16))",
    "a crash": "import ctypes; ctypes.string_at(0)",
    "an exit": "import os; os._exit(0)",
}
CHILD = """
import sys
from reprune.core.confined import serve

def work(arguments):
    exec(arguments[0])
    return b"{}"

sys.exit(serve(sys.argv[1:], work))
"""


@pytest.mark.slow
@pytest.mark.skipif(not ON_LINUX, reason="needs Linux: elsewhere pickles are refused")
@pytest.mark.parametrize("case", ESCAPES)
def test_a_confined_process_can_do_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, case: str
) -> None:
    """Whatever code ran in it; and its end, of whatever kind, is an error of ours."""
    (tmp_path / "escaping.py").write_text(CHILD)
    there, canary = tmp_path / "there", tmp_path / "canary"
    there.write_bytes(b"x")
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}:{Path(__file__).parents[2] / 'src'}")
    code = ESCAPES[case].format(canary=str(canary), there=str(there))
    bounds = Bounds(memory_bytes=2**28, seconds=1, sealed=True)

    def ask() -> bytes:
        return ask_confined("escaping", [code], bounds, doing="reading x", refusal=CheckpointError)

    began = time.monotonic()
    if case == "an exit":
        assert ask() == b""
    else:
        with pytest.raises(CheckpointError):
            ask()
    assert time.monotonic() - began < 120
    assert there.read_bytes() == b"x"
    assert not canary.exists()


def test_errors_of_the_child_arrive_as_they_were(tmp_path: Path) -> None:
    """The very leaf of the tree, with what, where and what to do."""
    import numpy as np
    from safetensors.numpy import save_file

    from reprune.core.errors import NonFiniteWeights

    save_file({"w": np.array([np.nan], np.float32)}, tmp_path / "w.safetensors")
    with pytest.raises(NonFiniteWeights, match="not finite") as refused:
        take_weights(tmp_path / "w.safetensors", tmp_path / "out.safetensors")
    assert "pin an earlier version" in refused.value.fix
    assert issubclass(InputError, RepruneError)


# --- mutants ---------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("count", [200, pytest.param(10_000, marks=pytest.mark.deep)])
def test_no_mutant_gets_an_answer_that_is_not_in_words(count: int) -> None:
    """So many of each of six formats; and none of fifty honest files is refused."""
    figures = fuzz.run(count)
    assert figures["parent_deaths"] == 0
    assert figures["mutants"] == 6 * count
    assert figures["mutants_untyped"] == 0
    assert figures["mutants_read"] > count / 10
    assert (figures["good_models"], figures["good_refused"]) == (50, 0)
