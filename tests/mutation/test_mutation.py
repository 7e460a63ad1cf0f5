"""The runner itself: it finds what a test misses, and nothing else."""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.mutation.__main__ import judged
from tests.mutation.equivalent import read
from tests.mutation.mutants import mutants
from tests.mutation.running import Result

ROOT = Path(__file__).parents[2]
TINY = '''
from functools import cache

LIMIT = 3
UNUSED = 5


@cache
def within(size, *, least=0):
    """Whether it fits."""
    if size < least:
        raise ValueError(f"{size} is too small")
    return size <= LIMIT


def forgotten(x):
    return x + 1


def ends(n):
    while n > 0:
        n -= 1
    return n


SIZES = [("small", lambda n: n * 2)]
'''
TESTS = """
import pytest
from tiny import SIZES, ends, forgotten, within


@pytest.mark.parametrize(("size", "fits"), [(2, True), (3, True), (4, False)])
def test_within(size, fits):
    assert within(size) is fits


def test_too_small():
    with pytest.raises(ValueError):
        within(-1)
    assert within(0)


def test_forgotten():
    forgotten(1)


def test_ends():
    assert ends(3) == 0


def test_sizes():
    assert SIZES[0][0] == "small"
    assert SIZES[0][1](3) == 6
"""


@pytest.mark.slow  # it waits for mutants that do not end
def test_the_runner_finds_the_planted_survivors(tmp_path: Path) -> None:
    """Constants, defaults, cached functions, lambdas in tables and endless loops are all reached."""
    (tmp_path / "src").mkdir()
    (tmp_path / "src" / "tiny.py").write_text(TINY)
    (tmp_path / "test_tiny.py").write_text(TESTS)
    command = ["-m", "tests.mutation", "tiny", "--tests", "test_tiny.py", "--source", "src"]
    ran = subprocess.run(
        [sys.executable, *command],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": f"{ROOT}:{tmp_path / 'src'}"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 1, ran.stdout + ran.stderr
    wrong = [line for line in ran.stdout.splitlines() if line.startswith("tiny: ")]
    assert wrong == [
        "tiny: 5: <module>: 5 => 6 (survived)",
        "tiny: 17: forgotten: return x + 1 => return None (survived)",
        "tiny: 17: forgotten: x + 1 => x - 1 (survived)",
        "tiny: 17: forgotten: 1 => 2 in x + 1 (survived)",
        f"tiny: {len(mutants(ast.parse(TINY)))} mutants, {len(mutants(ast.parse(TINY))) - 4} killed, "
        "0 equivalent, 4 surviving",
    ]
    killers = json.loads((tmp_path / "mutants" / "killers-tiny.json").read_text())
    assert killers["ends: n > 0 => n <= 0"] == "test_tiny.py::test_ends"


MORE = """
def size(text, sizes):
    try:
        found = sizes[int(text)]
    except (ValueError, KeyError):
        return None
    if found < 0:
        found = 0
    return found if found else 1
"""
MORE_TESTS = """
from small import size


def test_size():
    assert size("1", {1: 7}) == 7
    assert size("x", {}) is None
    assert size("1", {1: 0}) == 1
"""


@pytest.mark.slow  # it starts another pytest
def test_more_finds_what_is_caught_for_nothing(tmp_path: Path) -> None:
    """No test misses a number, or gives one below 0: nor sees that such a condition never holds."""
    (tmp_path / "src").mkdir()
    (tmp_path / "src" / "small.py").write_text(MORE)
    (tmp_path / "test_small.py").write_text(MORE_TESTS)
    command = ["-m", "tests.mutation", "small", "--tests", "test_small.py", "--more"]
    ran = subprocess.run(
        [sys.executable, *command],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": f"{ROOT}:{tmp_path / 'src'}"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 1, ran.stdout + ran.stderr
    wrong = [line.split(": ", 2)[2] for line in ran.stdout.splitlines() if ": size: " in line]
    assert [one for one in wrong if "except" in one or "when" in one] == [
        "size: except (ValueError, KeyError) => except (ValueError,) (survived)",
        "size: except (ValueError, KeyError) => except Exception (survived)",
        "size: when found < 0 => when False (survived)",
    ]


def test_what_people_read_is_not_mutated() -> None:
    text = """
def f(n):
    '''Says something.'''
    words: str = "a"
    if n:
        raise ValueError(f"{n + 1} is wrong")
    return Finding(kind="code", words=f"{n - 1}", decide="no", limit=f"{n}", more=f"a {n + 2}")
"""
    changes = [one.change for one in mutants(ast.parse(text))]
    assert not any("'a'" in one or "n + 1 =>" in one or "n - 1 =>" in one for one in changes)
    assert "'code' => '' in kind='code'" in changes
    assert "f'{n}' => ''" in changes
    assert "if n => if not" in changes


@pytest.mark.slow
def test_every_change_is_another_program_that_compiles() -> None:
    """Names are unique, so that a reason stands for one mutant."""
    for name in ("verdict", "drafts", "guards"):
        path = ROOT / "src" / "reprune" / "judge" / f"{name}.py"
        text = path.read_text()
        found = mutants(ast.parse(text))
        assert len({one.name for one in found}) == len(found)
        for index in range(0, len(found), 7):
            tree = ast.parse(text)
            mutants(tree)[index].apply()
            assert ast.dump(tree) != ast.dump(ast.parse(text)), found[index].name
            compile(ast.fix_missing_locations(tree), str(path), "exec")


def test_a_listed_mutant_must_be_there_and_live() -> None:
    first, second, *_ = mutants(ast.parse("def f(a, b):\n    return a < b\n"))
    results = [Result(mutant=first, fate="killed"), Result(mutant=second, fate="survived")]
    listed = {first.name: "why", second.name: "why", "f: gone": "why"}
    count, wrong = judged(results, listed, whole=True)
    assert count == {"mutants": 2, "killed": 1, "equivalent": 1, "surviving": 0}
    assert wrong == ["listed, but not there: f: gone", f"listed, but killed: {first.name}"]
    count, wrong = judged(results, {}, whole=True)
    assert count["surviving"] == 1
    assert len(wrong) == 1


@pytest.mark.slow
def test_every_listed_mutant_exists_and_has_a_reason() -> None:
    """Each among the mutants that it is of: those of `--more` are no others."""
    usual = read()
    for module, listed in read(more=True).items():
        path = ROOT / "src" / f"{module.replace('.', '/')}.py"
        plain = {one.name for one in mutants(ast.parse(path.read_text()))}
        names = {one.name for one in mutants(ast.parse(path.read_text()), more=True)}
        assert plain <= names
        assert set(usual.get(module, {})) <= plain
        assert set(listed) <= names
