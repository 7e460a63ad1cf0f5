"""Mutation testing: `python -m tests.mutation reprune.judge.verdict` (a module, or a package for all of it;
without any, all that decides a promotion).

Each mutant changes one thing of a module and must make a test fail, or be listed in `equivalent/` with the
reason why none can. The exit code is 1 where one survives that is not listed, and where one is listed that
is not there any more or that is killed. What only people read is not changed (see mutants.py). `--json` adds
the counts to a file of benchmarks/results.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from tests.mutation.equivalent import read
from tests.mutation.running import Result, run

# What decides in the judge: quick tests with known answers kill all of its mutants.
_JUDGE = [
    "between",
    "builds",
    "checks",
    "comparisons",
    "condition_guards",
    "conditions",
    "consequence",
    "decided",
    "drafts",
    "engine_rules",
    "evidence",
    "family",
    "grouping",
    "guards",
    "latency",
    "latency_rules",
    "median",
    "memory_rules",
    "numeric",
    "objective",
    "possible",
    "quality",
    "record_checks",
    "series",
    "sessions",
    "slices",
    "tail_rules",
    "throughput",
    "throughput_rules",
    "trend",
    "verdict",
]
_BY_HAND = tuple(
    f"tests/judge/test_{name}.py"
    for name in (
        "between",
        "drafts",
        "guard_findings",
        "outcomes",
        "policy_rules",
        "problems",
        "quality_fields",
        "rule_fields",
        "time_numbers",
    )
)
# The tests that are asked, by module or by the package around it.
TESTS: dict[str, tuple[str, ...]] = {
    **{f"reprune.judge.{name}": _BY_HAND for name in _JUDGE},
    **{
        f"reprune.judge.{name}": (
            "tests/judge/test_known_answers.py",
            "tests/judge/test_paired_scores.py",
            "tests/judge/test_quality_fields.py",
        )
        for name in ("binary", "paired")
    },
    **{
        f"reprune.judge.{name}": (
            "tests/judge/test_metric_numbers.py",
            "tests/judge/test_metric_digits.py",
            "tests/judge/test_metrics_known.py",
        )
        for name in (
            "answers",
            "association",
            "calibration",
            "detections",
            "metrics",
            "ranking",
            "weighted",
        )
    },
    **{
        f"reprune.judge.{name}": (
            "tests/judge/test_bootstrap_digits.py",
            "tests/judge/test_resampled_digits.py",
            "tests/judge/test_scores_known.py",
        )
        for name in (
            "bootstrap",
            "examples",
            "percentiles",
            "ratios",
            "replicated",
            "resampled",
            "resampling",
            "scores",
            "studentised",
        )
    },
    **{
        f"reprune.judge.{name}": (
            "tests/judge/test_distributions.py",
            "tests/judge/test_power.py",
            "tests/judge/test_power_digits.py",
        )
        for name in ("distributions", "power")
    },
    "reprune.judge.boards": ("tests/judge/test_boards.py",),
    "reprune.judge": ("tests/judge",),
    "reprune.steps.acceptance": (
        "tests/registry/test_acceptance.py",
        "tests/registry/test_deciding.py",
    ),
    "reprune.steps.minimum_policy": ("tests/registry/test_minimum_policy.py",),
    "reprune.registry.receipts": (
        "tests/registry/test_receipts.py",
        "tests/registry/test_keys.py",
    ),
    "reprune.registry.compressed": ("tests/registry/test_compressed.py",),
    "reprune.registry.judged": ("tests/registry/test_compressed.py",),
    "reprune.core.accepted": ("tests/core/test_lock.py",),
    "reprune.core.lock": ("tests/core/test_lock.py",),
    "reprune.core.documents": ("tests/core/test_documents.py", "tests/core/test_strict_json.py"),
    "reprune.core.document_types": ("tests/core/test_documents.py",),
    "reprune.core.yaml_values": ("tests/core/test_documents.py",),
    "reprune.registry.sets": ("tests/registry/test_sets.py",),
    "reprune.steps.checking": ("tests/registry/test_check_rules.py",),
    "reprune.steps.rollback": ("tests/registry/test_rollback_rules.py",),
    "reprune.steps.adopt": ("tests/registry/test_adopt_rules.py",),
    "reprune.steps.adoptable": ("tests/registry/test_adopt_rules.py",),
    "reprune.registry.links": ("tests/registry/test_chain_reading.py",),
    "reprune.registry.receipted": ("tests/registry/test_chain_reading.py",),
    "reprune.registry.standing": ("tests/registry/test_chain_reading.py",),
    "reprune.registry.keys": ("tests/registry/test_keys.py",),
    "reprune.registry.attestations": ("tests/registry/test_attestations.py",),
    "reprune.steps.signers": ("tests/registry/test_keys.py",),
    "reprune.steps.soundness": ("tests/steps/test_soundness.py",),
    "reprune.steps.moving": ("tests/registry/test_moving.py",),
    "reprune.registry.records": ("tests/registry/test_records.py",),
    "reprune.steps.decision": ("tests/registry/test_decision.py",),
    "reprune.steps.promoter": ("tests/registry/test_keys.py",),
    "reprune.steps.promote": (
        "tests/registry/test_deciding.py",
        "tests/registry/test_promote_pieces.py",
    ),
    "reprune.steps.fencing": ("tests/registry/test_fencing.py",),
    "reprune.steps.staging": ("tests/registry/test_staging.py",),
    "reprune.steps.override": ("tests/registry/test_override.py",),
    "reprune.steps.waiving": ("tests/registry/test_waiving.py",),
}


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "modules", nargs="*", help="modules or packages, as imported (default: all named in TESTS)"
    )
    parser.add_argument("--tests", nargs="+", help="the tests to ask (default: by package)")
    parser.add_argument("--function", default="", help="its mutants alone; nothing is written")
    parser.add_argument("--json", type=Path, metavar="FILE", help="add the counts to this file")
    parser.add_argument(
        "--seconds", type=float, default=30.0, help="of the quickest tests, for each mutant"
    )
    parser.add_argument(
        "--more",
        action="store_true",
        help="also what an `except` catches, and conditions that always or never hold",
    )
    parser.add_argument("--source", default="src", help="where the modules lie")
    given = parser.parse_args(argv)
    if not given.modules:
        options = ["--json", str(given.json)] if given.json else []
        return everything(Path(given.source), [*options, *(["--more"] if given.more else [])])
    began = time.monotonic()
    modules = [one for name in given.modules for one in modules_of(name, Path(given.source))]
    tests = given.tests or tests_of(modules)
    sys.path[:0] = [str(Path.cwd()), str(Path(given.source).resolve())]
    found = run(
        modules,
        tests,
        only=given.function,
        source=given.source,
        seconds=given.seconds,
        more=given.more,
    )
    listed = read(more=given.more)
    counts, wrong = {}, 0
    for module, results in found.items():
        counts[module], words = judged(results, listed.get(module, {}), whole=not given.function)
        wrong += len(words)
        for line in words:
            print(f"{module}: {line}")
    for module, count in counts.items():
        print(f"{module}: " + ", ".join(f"{value} {name}" for name, value in count.items()))
    print(f"{wrong} wrong, {time.monotonic() - began:.0f} s")
    if given.json and not given.function:
        record(given.json, counts)
    return 1 if wrong else 0


def everything(source: Path, options: Sequence[str]) -> int:
    """All modules that TESTS names, each set of tests in a process of its own; 1 if one of them fails."""
    groups: dict[tuple[str, ...], list[str]] = {}
    for name, tests in TESTS.items():
        if (source / f"{name.replace('.', '/')}.py").exists():
            groups.setdefault(tests, []).append(name)
    command = [sys.executable, "-m", "tests.mutation"]
    codes = [subprocess.call([*command, *modules, *options]) for modules in groups.values()]
    return 1 if any(codes) else 0


def modules_of(name: str, source: Path) -> list[str]:
    """The module, or all modules of the package."""
    path = source / name.replace(".", "/")
    if not path.is_dir():
        return [name]
    found = sorted(one for one in path.rglob("*.py") if one.name != "__init__.py")
    return [".".join(one.relative_to(source).with_suffix("").parts) for one in found]


def tests_of(modules: Sequence[str]) -> list[str]:
    found: list[str] = []
    for module in modules:
        known = [tests for name, tests in TESTS.items() if f"{module}.".startswith(f"{name}.")]
        if not known:
            raise SystemExit(f"no tests are named for {module}: give --tests")
        found += [one for one in known[0] if one not in found]
    return found


def judged(
    results: Sequence[Result], listed: dict[str, str], *, whole: bool
) -> tuple[dict[str, int], list[str]]:
    """The counts of a module, and what is wrong: one line each."""
    alive = {one.mutant.name: one for one in results if one.fate != "killed"}
    wrong = [
        f"{one.mutant.line}: {name} ({one.fate})"
        for name, one in alive.items()
        if name not in listed
    ]
    known = {one.mutant.name for one in results}
    if whole:
        wrong += [f"listed, but not there: {name}" for name in listed if name not in known]
        wrong += [f"listed, but killed: {n}" for n in listed if n in known and n not in alive]
    equivalent = sum(name in listed for name in alive)
    count = {
        "mutants": len(results),
        "killed": len(results) - len(alive),
        "equivalent": equivalent,
        "surviving": len(alive) - equivalent,
    }
    return count, wrong


def record(path: Path, counts: dict[str, dict[str, int]]) -> None:
    """Adds the modules to the file; its figures are sums over all modules in it."""
    from benchmarks.common import result, write

    held = json.loads(path.read_text())["modules"] if path.exists() else {}
    modules = dict(sorted({**held, **counts}.items()))
    figures = {
        "modules": float(len(modules)),
        **{
            f"{name}_mutants" if name != "mutants" else name: float(
                sum(one[name] for one in modules.values())
            )
            for name in ("mutants", "killed", "equivalent", "surviving")
        },
    }
    write(path, result(figures, [], modules=modules))


if __name__ == "__main__":
    sys.exit(main())
