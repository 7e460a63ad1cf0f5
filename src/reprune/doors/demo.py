"""`make demo`: three generations of a real digit classifier, from a retrained model to a verdict.

Everything is done by the commands that a user would type; this module only types them. It works in
`.reprune/demo`, a repository of its own, remembers what it finished there, and writes
`.reprune/demo.json`. Stopped at any point and started again, it goes on from the last whole thing.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from reprune.core import store
from reprune.core.artifacts import Fact, RuleResult, Verdict
from reprune.core.documents import decode_json
from reprune.core.errors import EXIT_BROKEN, EXIT_DONE, RepruneError
from reprune.core.params import PARAMS_FILE, read_params
from reprune.core.step import exclusive
from reprune.core.store import write_bytes
from reprune.doors.init import SCRIPT, TEMPLATE
from reprune.registry.open import open_registry
from reprune.registry.protocol import known_versions

WORKSPACE = Path(".reprune/demo")
RESULT = Path(".reprune/demo.json")
LABELS = "task/train_labels.csv"


@dataclass(frozen=True)
class Generation:
    """One weekly retrain: what happened to the data, and the outcome that the gate should reach."""

    title: str
    train: tuple[str, ...]
    spoiled_share: float
    expected: str


GENERATIONS = (
    Generation("the first model, no champion yet", ("--seed", "1"), 0.0, "pass"),
    Generation("a normal retrain", ("--seed", "2"), 0.0, "pass"),
    Generation("a retrain on partly wrong labels", ("--seed", "3"), 0.45, "block"),
)


class GenerationResult(Fact, kw_only=True):
    """One row of demo.json. `latency_ratio` is candidate over dense; `quality_drop` is in shares of 1,
    against the champion where there is one, else against the dense parent.
    """

    version: str
    outcome: str
    reasons: tuple[str, ...]
    champion_after: str | None
    report_html: str
    report_markdown: str
    latency_ratio: float | None
    quality_drop: float | None


class DemoResult(Fact, kw_only=True):
    generations: tuple[GenerationResult, ...]


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the demo; 0 if all three generations ended as they should."""
    parser = argparse.ArgumentParser(prog="demo", description=__doc__)
    parser.add_argument("--workspace", type=Path, default=WORKSPACE)
    parser.add_argument("--result", type=Path, default=RESULT)
    parsed = parser.parse_args(arguments)
    try:
        with exclusive(f"demo:{parsed.workspace.resolve()}", what="another demo is running here"):
            return _demo(parsed.workspace, parsed.result)
    except KeyboardInterrupt:
        print("\nstopped; `make demo` goes on from here", file=sys.stderr)
        return EXIT_BROKEN
    except RepruneError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code


def _demo(workspace: Path, result: Path) -> int:
    _prepare(workspace)
    results = []
    for number, generation in enumerate(GENERATIONS, start=1):
        _headline(f"generation {number} of {len(GENERATIONS)}: {generation.title}")
        results.append(_generation(workspace, number, generation))
        write_bytes(result, _encoded(DemoResult(generations=tuple(results))))
    _print_table(results, result)
    outcomes = [row.outcome for row in results]
    expected = [generation.expected for generation in GENERATIONS]
    if outcomes != expected:
        print(
            f"expected {expected}, got {outcomes}: the reports say why (a busy machine makes times "
            f"inconclusive). To run it anew: delete {workspace}, then `make demo`",
            file=sys.stderr,
        )
        return EXIT_BROKEN
    return EXIT_DONE


def _prepare(workspace: Path) -> None:
    """A repository made by `reprune init`, whole or absent: it is made aside and renamed into place."""
    if (workspace / "dvc.yaml").exists():
        print(f"reusing the repository in {workspace}", file=sys.stderr)
        return
    _headline(f"reprune init {workspace}")
    aside = workspace.with_name(f"{workspace.name}.new")
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir(parents=True)
    _run(["git", "init", "-q"], aside)
    _reprune(["init", "--no-train"], aside)
    # Each generation trains for itself, by the script that `reprune init` would train with.
    shutil.copy(TEMPLATE / SCRIPT, aside)
    aside.rename(workspace)


def _generation(workspace: Path, number: int, generation: Generation) -> GenerationResult:
    done = workspace / "generations" / str(number)
    if (done / "result.json").exists():
        row = decode_json((done / "result.json").read_bytes(), GenerationResult, name="result.json")
        print(f"reusing generation {number}: version {row.version}, {row.outcome}", file=sys.stderr)
        return row
    _spoil_labels(workspace, generation.spoiled_share)
    versions = _versions(workspace)
    if len(versions) >= number:
        print(f"reusing dense version {versions[number - 1]}, trained before", file=sys.stderr)
    else:
        _run([sys.executable, SCRIPT, *generation.train], workspace)
    _reprune(["update"], workspace)
    _run([sys.executable, "-m", "dvc", "repro"], workspace)
    _reprune(["check", "--recompute"], workspace, ok=(0, 3, 4))
    promoted = _reprune_json(["promote", "--json"], workspace)
    judgement = store.read(workspace / "artifacts" / "verdict", Verdict).manifest.judgement
    rules = {rule.rule: rule for rule in judgement.rules}
    row = GenerationResult(
        version=_versions(workspace)[number - 1],
        outcome=judgement.outcome,
        reasons=judgement.reasons,
        champion_after=promoted["champion_after"],
        report_html=str(done / "report" / "report.html"),
        report_markdown=str(done / "report" / "report.md"),
        latency_ratio=_change(rules, "latency.vs_parent"),
        quality_drop=_drop(rules),
    )
    _keep(workspace, done, row)
    return row


def _keep(workspace: Path, done: Path, row: GenerationResult) -> None:
    """Copies verdict and report out of the way of the next generation; whole or absent."""
    aside = done.with_name(f"{done.name}.new")
    shutil.rmtree(aside, ignore_errors=True)
    for name in ("verdict", "report"):
        shutil.copytree(workspace / "artifacts" / name, aside / name)
    write_bytes(aside / "result.json", _encoded(row))
    aside.rename(done)


def _change(rules: Mapping[str, RuleResult], name: str) -> float | None:
    rule = rules.get(name)
    return None if rule is None else rule.change


def _drop(rules: Mapping[str, RuleResult]) -> float | None:
    """How much accuracy was lost, positive for a loss: against the champion, else the dense parent."""
    changes = (_change(rules, f"accuracy.{name}") for name in ("vs_champion", "vs_parent"))
    return next((-change for change in changes if change is not None), None)


def _spoil_labels(workspace: Path, share: float) -> None:
    """Writes the labelling team's file: right, or with a share of the digits taken for their likes.

    3 is taken for 8, 4 for 9, 1 for 7, 5 for 6 and 0 for 2: systematic, as such mistakes are.
    """
    path = workspace / LABELS
    if share == 0.0:
        path.unlink(missing_ok=True)
        return
    from sklearn.datasets import load_digits

    likes = {3: 8, 4: 9, 1: 7, 5: 6, 0: 2}
    rows = []
    for index, label in enumerate(load_digits().target.tolist()):
        spoiled = label in likes and (index * 7919) % 1000 < share * 1000
        rows.append([f"digit-{index:04d}", likes[label] if spoiled else label])
    aside = path.with_suffix(".new")
    with aside.open("w", newline="", encoding="utf-8") as stream:
        csv.writer(stream, lineterminator="\n").writerows([["id", "label"], *rows])
    aside.replace(path)


def _versions(workspace: Path) -> list[str]:
    """The dense versions that the embedded registry holds, oldest first; none before it exists."""
    params = read_params(workspace / PARAMS_FILE)
    database = params.registry.uri.removeprefix("sqlite:///")
    if not (workspace / database).exists():
        return []
    registry = open_registry(params.registry, workspace.resolve())
    return [found.version for found in known_versions(registry, params.name)]


def _reprune(words: list[str], root: Path, ok: tuple[int, ...] = (0,)) -> None:
    print(f"$ reprune {' '.join(words)}", file=sys.stderr)
    _run([sys.executable, "-m", "reprune.doors.cli", *words], root, ok=ok)


def _reprune_json(words: list[str], root: Path) -> dict[str, Any]:
    print(f"$ reprune {' '.join(words)}", file=sys.stderr)
    command = [sys.executable, "-m", "reprune.doors.cli", *words]
    found: dict[str, Any] = json.loads(_run(command, root, ok=(0, 3, 4), capture=True))
    return found


def _run(
    command: list[str], root: Path, *, ok: tuple[int, ...] = (0,), capture: bool = False
) -> str:
    """Runs a command in the workspace, its output shown; RepruneError if it fails."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
    result = subprocess.run(
        command,
        cwd=root,
        env={**os.environ, "PATH": path, "DVC_NO_ANALYTICS": "1"},
        stdout=subprocess.PIPE if capture else None,
        text=True,
        check=False,
    )
    if result.returncode not in ok:
        raise RepruneError(
            f"`{' '.join(command)}` ended with {result.returncode}",
            where=str(root),
            fix="the lines above say why; `make demo` goes on from here",
        )
    return result.stdout or ""


def _headline(text: str) -> None:
    print(f"\n== {text} ==", file=sys.stderr, flush=True)


def _encoded(value: Fact) -> bytes:
    return msgspec.json.format(msgspec.json.encode(value), indent=2) + b"\n"


def _print_table(results: Sequence[GenerationResult], result: Path) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(title="Three generations, three verdicts")
    for name in ("dense version", "verdict", "latency vs dense", "quality drop", "champion after"):
        table.add_column(name)
    for row in results:
        ratio = "-" if row.latency_ratio is None else f"x{row.latency_ratio:.3f}"
        drop = "-" if row.quality_drop is None else f"{100 * row.quality_drop:.1f} points"
        table.add_row(row.version, row.outcome, ratio, drop, row.champion_after or "none")
    console = Console()
    console.print(table)
    for row in results:
        if row.outcome != "pass":
            console.print(f"{row.outcome}: {' '.join(row.reasons)}", markup=False)
    for number, row in enumerate(results, start=1):
        print(f"report {number}: {row.report_html}\n          {row.report_markdown}")
    print(f"the same as JSON: {result}")


if __name__ == "__main__":
    sys.exit(main())
