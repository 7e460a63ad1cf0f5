"""Whatever lies where a verdict should lie: a clear error or a verdict, in bounded time and memory.

`make test` tries a few dozen mutations, `make test-deep` (REPRUNE_DEEP=1) thousands.
"""

from __future__ import annotations

import io
import json
import os
import random
import resource
import shutil
import subprocess
import sys
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from reprune.core import store
from reprune.core.artifacts import Verdict
from reprune.core.documents import digest_of
from reprune.core.errors import EXIT_DONE, RepruneError
from reprune.doors.cli import main
from reprune.report.facts import read_facts
from reprune.report.html import render_html
from reprune.report.junit import render_junit
from reprune.report.markdown import render_markdown
from reprune.report.metrics import render_metrics
from reprune.report.terminal import render_explanation
from reprune.steps.gate import confirm
from tests.fault_fields import put
from tests.faults import Forged, dumped, hexed, opened, signed, write_base

DEEP = os.environ.get("REPRUNE_DEEP") == "1"
MUTATIONS = 3000 if DEEP else 60
EXAMPLES = 2000 if DEEP else 40
BROKEN = 1


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Forged:
    return write_base(tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="module")
def whole(base: Forged, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return signed(base, tmp_path_factory.mktemp("whole") / "verdict")


def run(*words: str) -> tuple[int, str]:
    """A command's exit code and all that it printed."""
    text = io.StringIO()
    with redirect_stdout(text), redirect_stderr(text):
        code = main(list(words))
    return code, text.getvalue()


def survives(folder: Path) -> int:
    """Every reader of a verdict ends well on `folder`; the exit code of judging it again."""
    code, said = run("check", str(folder), "--recompute")
    assert code != BROKEN, said
    for words in (
        ("check", str(folder)),
        ("explain", str(folder)),
        ("check", "--json", str(folder)),
    ):
        other, said = run(*words)
        assert other != BROKEN, said
    rendered(folder)
    return code


def rendered(folder: Path) -> None:
    """Every report of it is made, or refused in words."""
    try:
        verdict = store.read(folder, Verdict)
        facts = read_facts(verdict)
        render_explanation(verdict)
        render_markdown(facts)
        render_html(facts, show_examples=True)
        render_junit(facts)
        render_metrics(facts)
    except RepruneError:
        pass


# --- bytes ---------------------------------------------------------------------------------------


def flip(raw: bytes, rng: random.Random) -> bytes:
    found = bytearray(raw)
    for _ in range(rng.randint(1, 8)):
        if found:
            found[rng.randrange(len(found))] ^= 1 << rng.randrange(8)
    return bytes(found)


def cut(raw: bytes, rng: random.Random) -> bytes:
    return raw[: rng.randrange(len(raw) + 1)]


def splice(raw: bytes, rng: random.Random) -> bytes:
    one, two = sorted(rng.randrange(len(raw) + 1) for _ in range(2))
    place = rng.randrange(len(raw) + 1)
    return raw[:place] + raw[one:two] + raw[place:]


TOKENS = (
    b"NaN",
    b"-Infinity",
    b"1e999",
    b"-1",
    b"1" * 6000,
    b"9" * 25,
    b"0.5",
    b"null",
    b"true",
    b"[]",
    b"{}",
    b'""',
    b'"\\ud800"',
    b'"\\u0000"',
    b'"../../../../etc/passwd"',
    b'"\xff\xfe"',
    b'"' + b"A" * 10_000 + b'"',
    b"[" * 5000,
    b"[" * 200 + b"]" * 200,
    b'{"kind":"Verdict","kind":"Plan"}',
)


def token(raw: bytes, rng: random.Random) -> bytes:
    """A value of the JSON text exchanged for a strange one."""
    colons = [place for place, byte in enumerate(raw) if byte in b":,["]
    if not colons:
        return rng.choice(TOKENS)
    start = rng.choice(colons) + 1
    ends = [raw.find(byte, start) for byte in (b",", b"}", b"]")]
    end = min((end for end in ends if end > 0), default=len(raw))
    return raw[:start] + rng.choice(TOKENS) + raw[end:]


def twice(raw: bytes, rng: random.Random) -> bytes:
    """The first key of an object once more."""
    place = raw.find(b"{") + 1
    end = raw.find(b",", place)
    return raw if end < 0 else raw[:place] + raw[place:end] + b"," + raw[place:]


MUTATORS: tuple[Callable[[bytes, random.Random], bytes], ...] = (
    flip,
    cut,
    splice,
    token,
    token,
    twice,
)


@pytest.mark.slow
@pytest.mark.parametrize("start", range(4))
def test_mutated_bytes_end_in_words(whole: Path, tmp_path: Path, start: int) -> None:
    """Files mutated, with the directory's own digests corrected or not: never a traceback or a pass.

    A pass is possible only where the mutation changed no value.
    """
    names = sorted(str(p.relative_to(whole)) for p in whole.rglob("*") if p.is_file())
    original = store.read(whole, Verdict).manifest
    folder = tmp_path / "verdict"
    for number in range(start, MUTATIONS, 4):
        rng = random.Random(number)
        shutil.copytree(whole, folder, dirs_exist_ok=True)
        name = rng.choice(names)
        mutated = rng.choice(MUTATORS)((whole / name).read_bytes(), rng)
        (folder / name).write_bytes(mutated)
        if rng.random() < 0.7:
            correct(folder)
        if survives(folder) == EXIT_DONE:
            found = store.read(folder, Verdict).manifest
            assert found.judgement == original.judgement, (number, name)
        (folder / name).write_bytes(b"")


def correct(folder: Path) -> None:
    """Corrects the digests of the directory, as far as its manifest can still be read."""
    try:
        manifest = json.loads((folder / store.MANIFEST).read_bytes())
        for name in manifest["payload"]:
            manifest["payload"][name] = store.file_digest(folder / name)
        (folder / store.MANIFEST).write_bytes(dumped(manifest))
        (folder / store.DIGEST).write_text(digest_of(manifest))
    except (ValueError, KeyError, TypeError, AttributeError, OSError, ArithmeticError):
        pass  # then it stays as it is
    except (RecursionError, msgspec.MsgspecError):
        pass


# --- values --------------------------------------------------------------------------------------

LEAVES = (
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=8)
    | st.sampled_from(["sha256:" + "0" * 64, "pass", "../x", "a/../../b", "candidate", "\u202e"])
)
VALUES = st.recursive(
    LEAVES,
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=6), inner, max_size=4)
    ),
    max_leaves=8,
)


def paths_of(value: Any, path: tuple[str | int, ...] = ()) -> list[tuple[str | int, ...]]:
    found = [path] if path else []
    if isinstance(value, dict | list):
        for key, item in value.items() if isinstance(value, dict) else enumerate(value):
            found += paths_of(item, (*path, key))
    return found


@pytest.mark.slow
@settings(
    max_examples=EXAMPLES,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(where=st.tuples(st.integers(0, 2**16), st.integers(0, 2**16)), value=VALUES)
def test_any_value_in_any_manifest_ends_in_words(
    whole: Path, tmp_path: Path, where: tuple[int, int], value: Any
) -> None:
    """The verdict's own manifest or an ancestor's, with any value anywhere, digests corrected."""
    forged = opened(whole)
    parts = ["verdict", "verdict", *sorted(forged.ancestors), "evidence.json", "policy.json"]
    part = parts[where[0] % len(parts)]
    document = forged.manifest if part == "verdict" else forged.value(part)
    paths = paths_of(document)
    path = paths[where[1] % len(paths)]
    if part == "verdict":
        if path[0] in ("parents", "payload", "kind"):
            return
        forged.manifest = put(document, path, value)
    else:
        forged.edit(part, lambda old: put(old, path, value))
    shutil.rmtree(tmp_path / "v", ignore_errors=True)
    folder = signed(forged, tmp_path / "v")
    if survives(folder) == EXIT_DONE:
        assert confirm(store.read(folder, Verdict)).outcome == "pass"


@settings(
    max_examples=EXAMPLES,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(name=st.text(max_size=30) | st.sampled_from(["..", "/etc/passwd", "a/../../x", "x" * 300]))
def test_any_payload_name_ends_in_words(whole: Path, tmp_path: Path, name: str) -> None:
    """A manifest that lists a payload under any name reads nothing outside of its folder."""
    manifest = json.loads((whole / store.MANIFEST).read_bytes())
    manifest["payload"][name] = hexed(Path("/etc/passwd").read_bytes())
    shutil.copytree(whole, tmp_path / "v", dirs_exist_ok=True)
    (tmp_path / "v" / store.MANIFEST).write_bytes(dumped(manifest))
    (tmp_path / "v" / store.DIGEST).write_text(digest_of(manifest))
    with pytest.raises(RepruneError):
        store.read(tmp_path / "v", Verdict)


# --- files that are none -------------------------------------------------------------------------


def linked(path: Path) -> None:
    target = path.with_name("aside")
    path.rename(target)
    path.symlink_to(target)


def device(path: Path) -> None:
    path.unlink()
    path.symlink_to("/dev/zero")


def pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def folder_instead(path: Path) -> None:
    path.unlink()
    path.mkdir()


def sparse(path: Path) -> None:
    with path.open("r+b") as stream:
        stream.truncate(2**40)


def loop(path: Path) -> None:
    path.unlink()
    path.symlink_to(path.name)


STRANGE = (linked, device, pipe, folder_instead, sparse, loop)


@pytest.mark.parametrize("make", STRANGE)
@pytest.mark.parametrize(
    "name", [store.MANIFEST, store.DIGEST, "evidence.json", "samples/0/records.safetensors"]
)
def test_what_is_no_file_is_not_read(
    whole: Path, tmp_path: Path, name: str, make: Callable[[Path], None]
) -> None:
    """Links, devices, pipes, folders and a terabyte of nothing: refused at once."""
    folder = tmp_path / "verdict"
    shutil.copytree(whole, folder)
    make(folder / name)
    assert run("check", str(folder), "--recompute")[0] == 2
    assert run("explain", str(folder))[0] == 2


def test_a_folder_of_samples_that_is_a_link_is_not_read(whole: Path, tmp_path: Path) -> None:
    """The bytes match, but they lie elsewhere: whoever owns that place can change them any time."""
    folder = tmp_path / "verdict"
    shutil.copytree(whole, folder)
    (folder / "samples").rename(tmp_path / "elsewhere")
    (folder / "samples").symlink_to(tmp_path / "elsewhere")
    assert run("check", str(folder), "--recompute")[0] == 2


def test_files_that_nobody_lists_change_nothing(whole: Path, tmp_path: Path) -> None:
    """Thousands of other files beside a verdict neither slow it down nor come into it."""
    folder = tmp_path / "verdict"
    shutil.copytree(whole, folder)
    for number in range(2000):
        (folder / f"x{number}").touch()
    (folder / "ancestors" / "more.json").write_text("{")
    assert run("check", str(folder), "--recompute")[0] == EXIT_DONE


@pytest.mark.slow
def test_memory_stays_bounded(whole: Path, tmp_path: Path) -> None:
    """A manifest of 60 MB of brackets, and one of 100 MB, are refused within a gigabyte."""
    folder = tmp_path / "verdict"
    shutil.copytree(whole, folder)
    limit = 3 * 2**30  # of addresses: numpy and its libraries reserve more than they use
    code = "import sys; from reprune.doors.cli import main; sys.exit(main(sys.argv[1:]))"
    for raw in (b"[" * 60_000_000, b'"' + b"a" * 100_000_000 + b'"'):
        (folder / store.MANIFEST).write_bytes(raw)
        done = subprocess.run(
            [sys.executable, "-c", code, "check", str(folder), "--recompute"],
            capture_output=True,
            check=False,
            preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (limit, limit)),
        )
        assert done.returncode == 2, done.stderr.decode()[-2000:]
