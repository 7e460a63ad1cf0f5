"""Runs the tests that reach a mutant against it, in a fork of a process that has loaded everything.

A pytest plug-in: pytest collects, then the plug-in runs all tests once, noting which lines each of them
executes and how long it takes, and then each mutant in a child. A mutant in the body of a function
exchanges the code of the loaded function; any other has everything of ours imported again.
"""

from __future__ import annotations

import ast
import functools
import gc
import importlib
import json
import os
import signal
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from importlib.abc import Loader
from importlib.machinery import ModuleSpec, SourceFileLoader
from pathlib import Path
from types import CodeType, FunctionType, ModuleType
from typing import Any, Literal, TypeAlias

import coverage
import pytest
from _pytest.runner import runtestprotocol

from tests.mutation.mutants import Mutant, mutants

Fate = Literal["killed", "survived", "not run"]
Functions: TypeAlias = dict[tuple[str, int], list[FunctionType]]
# Which tests killed what: they are tried first the next time. Only speed depends on it.
CACHE = Path("mutants")
_BROKEN = 99  # the child's exit code where the runner itself failed


@dataclass(frozen=True, kw_only=True)
class Result:
    """`killer` is the test that failed, or "time" for a mutant that did not come to an end."""

    mutant: Mutant
    fate: Fate
    killer: str = ""


@dataclass(kw_only=True)
class Reach:
    """What the tests do without mutants: seconds by test, and the tests of each line of each file."""

    seconds: dict[str, float] = field(default_factory=dict)
    lines: dict[str, dict[int, list[str]]] = field(default_factory=dict)

    def of(self, path: str, lines: Iterable[int]) -> set[str]:
        found = self.lines.get(path, {})
        return {test for line in lines for test in found.get(line, ())}

    def of_files(self, paths: Iterable[str]) -> set[str]:
        return {test for path in paths for test in self.of(path, self.lines.get(path, {}))}


class Plugin:
    """Runs mutants instead of tests; `results` holds what became of those of each module."""

    def __init__(
        self, modules: Sequence[str], only: str, source: str, seconds: float, more: bool
    ) -> None:
        self.modules, self.only, self.source, self.seconds = modules, only, source, seconds
        self.more = more
        self.results: dict[str, list[Result]] = {}
        self.failed: list[str] = []
        self._out = os.dup(2)  # pytest takes the first one

    def pytest_configure(self) -> None:
        """The same examples every time. Not earlier: pytest warns of plug-ins that came before it."""
        from hypothesis import Phase, settings

        settings.register_profile(
            "mutation",
            derandomize=True,
            database=None,
            deadline=None,
            # A failure need not be small to be one.
            phases=(Phase.explicit, Phase.generate),
        )
        settings.load_profile("mutation")

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        items = {item.nodeid: item for item in session.items}
        reach = self._reach(session, items)
        if self.failed:
            return True
        _warm(session.items)
        _forget()
        for module in self.modules:
            importlib.import_module(module)
        functions = _functions()
        # A collection in a child would touch, and so copy, every object of the parent.
        gc.collect()
        gc.freeze()
        for module in self.modules:
            self.results[module] = list(self._module(module, items, reach, functions))
        return True

    def _reach(self, session: pytest.Session, items: dict[str, pytest.Item]) -> Reach:
        """Runs every test once. What was found is kept for as long as neither tests nor sources change."""
        kept = CACHE / f"reach-{_digest(items, self.source)}.json"
        if kept.exists():
            held = json.loads(kept.read_text())
            lines = {p: {int(n): t for n, t in ls.items()} for p, ls in held["lines"].items()}
            return Reach(seconds=held["seconds"], lines=lines)
        seen = coverage.Coverage(data_file=None, config_file=False, source=[self.source])
        reach = Reach()
        seen.start()
        # What a session's fixtures made stays for the next test, and for the mutants.
        later = [*list(items.values())[1:], session.items[0]]
        for count, (name, item) in enumerate(items.items()):
            seen.switch_context(name)
            began = time.process_time()
            if not _passes(item, later[count]):
                self.failed.append(name)
            reach.seconds[name] = time.process_time() - began
            if count % 100 == 99:
                self._say(f"{count + 1} of {len(items)} tests without mutants")
        seen.stop()
        data = seen.get_data()
        for path in data.measured_files():
            by_line = data.contexts_by_lineno(path)
            reach.lines[path] = {n: [t for t in ts if t] for n, ts in by_line.items()}
        if not self.failed:
            kept.parent.mkdir(exist_ok=True)
            kept.write_text(json.dumps({"seconds": reach.seconds, "lines": reach.lines}))
        return reach

    def _module(
        self,
        module: str,
        items: dict[str, pytest.Item],
        reach: Reach,
        loaded: dict[str, Functions],
    ) -> Iterator[Result]:
        path = importlib.util.find_spec(module).origin  # type: ignore[union-attr]
        assert path is not None
        text = Path(path).read_text()
        memory = CACHE / f"killers-{module}.json"
        killers: dict[str, str] = json.loads(memory.read_text()) if memory.exists() else {}
        functions = loaded.get(path, {})
        cold = reach.of_files([path, *_importers(module)])
        self._control(text, path, sorted(cold & items.keys()), reach)
        tree = ast.parse(text)
        began, count, survived = time.monotonic(), 0, 0
        for mutant in mutants(tree, more=self.more):
            if self.only and not mutant.function.startswith(self.only):
                continue
            count += 1
            tests = reach.of(path, mutant.lines) if mutant.live else cold
            order = _ordered(tests & items.keys(), reach, killers, mutant)
            order = _within(self.seconds, order, reach)
            result = self._run(
                mutant, tree, path, [items[name] for name in order], reach, functions
            )
            if result.killer:
                killers[mutant.name] = result.killer
            if result.fate != "killed":
                survived += 1
                self._say(f"  {module}:{mutant.line} {mutant.name} ({result.fate})")
            yield result
        memory.parent.mkdir(exist_ok=True)
        memory.write_text(json.dumps(killers, indent=0))
        took = time.monotonic() - began
        self._say(f"{module}: {count} mutants, {survived} not killed, {took:.0f} s")

    def _control(self, text: str, path: str, tests: list[str], reach: Reach) -> None:
        """Imported once more and not changed, the module passes: else every mutant would seem killed."""
        tests = _within(self.seconds, sorted(tests, key=reach.seconds.__getitem__), reach)
        child = os.fork() if tests else -1
        if child == 0:
            try:
                os._exit(0 if _again(compile(text, path, "exec"), path, tests) else 1)
            finally:
                os._exit(_BROKEN)
        if child > 0 and os.waitpid(child, 0)[1] != 0:
            raise RuntimeError(f"{path} fails its tests when it is imported again, unchanged")

    def _run(
        self,
        mutant: Mutant,
        tree: ast.Module,
        path: str,
        items: list[pytest.Item],
        reach: Reach,
        functions: Functions,
    ) -> Result:
        if not items:
            return Result(mutant=mutant, fate="not run")
        reads, writes = os.pipe()
        child = os.fork()
        if child == 0:
            _live_or_die(mutant, tree, path, items, reach, functions, writes)
        os.close(writes)
        with os.fdopen(reads) as pipe:
            killer = pipe.read()
        _, status = os.waitpid(child, 0)
        code = os.waitstatus_to_exitcode(status)
        if code == _BROKEN:
            raise RuntimeError(f"{mutant.name} in {path} could not be run")
        if code == 0:
            return Result(mutant=mutant, fate="survived")
        return Result(mutant=mutant, fate="killed", killer=killer.strip().split("\n")[-1])

    def _say(self, words: str) -> None:
        os.write(self._out, f"{words}\n".encode())


def run(
    modules: Sequence[str],
    tests: Sequence[str],
    *,
    only: str = "",
    source: str = "src",
    seconds: float = 30.0,
    more: bool = False,
) -> dict[str, list[Result]]:
    """What became of every mutant of the modules, by the tests in these files and folders.

    A mutant gets the quickest tests that reach it, up to so many `seconds` of them (at least one): what
    only slower tests would notice counts as surviving.

    Raises RuntimeError where the tests fail without mutants, or cannot be collected.
    """
    plugin = Plugin(modules, only, source, seconds, more)
    options = ["-q", "-m", "not slow", "-p", "no:cacheprovider", "--no-header", "--no-summary"]
    code = pytest.main([*options, *tests], plugins=[plugin])
    if plugin.failed:
        raise RuntimeError(f"fails without mutants: {', '.join(plugin.failed)}")
    if len(plugin.results) < len(modules):
        raise RuntimeError(f"pytest gave up with {code}")
    return plugin.results


def _live_or_die(
    mutant: Mutant,
    tree: ast.Module,
    path: str,
    items: list[pytest.Item],
    reach: Reach,
    functions: Functions,
    pipe: int,
) -> None:
    """The child: ends with 0 where every test passes, 1 where one fails; says which test it ran last."""
    gc.disable()
    try:
        mutant.apply()
        code = compile(ast.fix_missing_locations(tree), path, "exec")
        # A loop without an end uses the processor, however busy the machine is.
        if not mutant.live or not _exchange(code, functions):
            limit = 20 + 10 * sum(reach.seconds[item.nodeid] for item in items)
            signal.setitimer(signal.ITIMER_PROF, limit)
            passes = _again(code, path, [item.nodeid for item in items])
            os.write(pipe, b"imported again")
            os._exit(0 if passes else 1)
        # One that waits for what never comes uses no processor at all.
        signal.alarm(60 + int(50 * sum(reach.seconds[item.nodeid] for item in items)))
        # What is left from before the fork; it does not belong to the mutant.
        items[0].session._setupstate.teardown_exact(items[0])
        for item, later in zip(items, [*items[1:], items[0]], strict=True):
            os.write(pipe, f"\n{item.nodeid}".encode())
            signal.setitimer(signal.ITIMER_PROF, 3 + 10 * reach.seconds[item.nodeid])
            if not _passes(item, later):
                os._exit(1)
        os._exit(0)
    finally:
        os._exit(_BROKEN)


def _warm(items: Sequence[pytest.Item]) -> None:
    """Runs so many tests that every fixture of the session is there, for all children to use."""
    made: set[str] = set()
    for item in items:
        fixtures = item._fixtureinfo.name2fixturedefs  # type: ignore[attr-defined]
        wanted = {name for name, found in fixtures.items() if found[-1].scope == "session"}
        if wanted - made and len(items) > 1:
            made |= wanted
            _passes(item, items[0] if item is not items[0] else items[1])


def _passes(item: pytest.Item, later: pytest.Item | None) -> bool:
    reports = runtestprotocol(item, log=False, nextitem=later)
    return not any(report.failed for report in reports)


def _exchange(code: CodeType, functions: Functions) -> bool:
    """Gives the loaded functions the mutated code. False where that cannot be told apart for sure."""
    changed = False
    for inner in _codes(code):
        for function in functions.get((inner.co_qualname, inner.co_firstlineno), ()):
            if function.__code__ == inner:
                continue
            if (
                len({id(f.__code__) for f in functions[inner.co_qualname, inner.co_firstlineno]})
                > 1
            ):
                return False
            if function.__code__.co_freevars != inner.co_freevars:
                return False
            function.__code__ = inner
            changed = True
    return changed


def _again(code: CodeType, path: str, tests: list[str]) -> bool:
    """Imports all that is ours once more, with the mutated module, and runs the tests in a new session."""
    for name in _ours():
        if not name.startswith("tests.mutation"):
            del sys.modules[name]
    sys.meta_path.insert(0, _Mutated(code, path))
    options = ["-q", "-x", "-p", "no:cacheprovider", "--no-header", "--no-summary"]
    # Plug-ins are loaded already, and so cannot be rewritten.
    options += ["-W", "ignore::pytest.PytestAssertRewriteWarning"]
    return pytest.main([*options, *tests]) == pytest.ExitCode.OK


class _Mutated:
    """Finds the mutated module in place of the one on the disk."""

    def __init__(self, code: CodeType, path: str) -> None:
        self.code, self.path = code, path

    def find_spec(self, name: str, where: Any, target: Any = None) -> ModuleSpec | None:
        if not self.path.endswith(f"{name.replace('.', '/')}.py"):
            return None
        spec = importlib.util.spec_from_file_location(name, self.path)
        assert spec is not None
        spec.loader = _MutatedLoader(name, self.path, self.code)
        return spec


class _MutatedLoader(SourceFileLoader, Loader):
    def __init__(self, name: str, path: str, code: CodeType) -> None:
        super().__init__(name, path)
        self.code = code

    def exec_module(self, module: ModuleType) -> None:
        exec(self.code, module.__dict__)


def _functions() -> dict[str, Functions]:
    """The functions that are alive, whoever holds them, by file, and there by name and first line."""
    found: dict[str, Functions] = {}
    for one in gc.get_objects():
        if isinstance(one, FunctionType):
            code = one.__code__
            of_file = found.setdefault(code.co_filename, {})
            of_file.setdefault((code.co_qualname, code.co_firstlineno), []).append(one)
    return found


def _codes(code: CodeType) -> Iterator[CodeType]:
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield constant
            yield from _codes(constant)


def _importers(module: str) -> list[str]:
    """The files of ours that hold something which they took from the module by `from ... import`."""
    return [path for path in _ours().values() if f"from {module} import" in Path(path).read_text()]


def _ours() -> dict[str, str]:
    """The loaded modules that lie in the working directory, with their files; no environment in it."""
    here = f"{Path.cwd()}/"
    found = {}
    for name, module in list(sys.modules.items()):
        path = getattr(module, "__file__", None) or ""
        if path.startswith(here) and path.endswith(".py") and "site-packages" not in path:
            found[name] = path
    return found


def _forget() -> None:
    """Empties what functions remember, so that a mutant is asked and not the answer of before."""
    ours = _ours()
    for one in gc.get_objects():
        if isinstance(one, functools._lru_cache_wrapper) and one.__module__ in ours:
            one.cache_clear()


def _ordered(tests: set[str], reach: Reach, killers: dict[str, str], mutant: Mutant) -> list[str]:
    """What killed this mutant before, then what killed others of its function, then the quickest."""
    near = {test for name, test in killers.items() if name.startswith(f"{mutant.function}: ")}
    mine = killers.get(mutant.name)
    return sorted(
        tests,
        key=lambda test: (
            test != mine,
            reach.seconds[test] - (0.1 if test in near else 0.0),
            test,
        ),
    )


def _within(seconds: float, order: list[str], reach: Reach) -> list[str]:
    """The first tests of the order that take so long together; at least one."""
    total, kept = 0.0, []
    for test in order:
        total += reach.seconds[test]
        if kept and total > seconds:
            break
        kept.append(test)
    return kept


def _digest(items: Iterable[str], source: str) -> str:
    files = [*Path(source).rglob("*.py"), *Path("tests").glob("*.py")]
    files += [Path(name) for name in {item.split("::")[0] for item in items}]
    text = sha256("\n".join(items).encode())
    for path in sorted(files):
        text.update(path.read_bytes())
    return text.hexdigest()[:16]
