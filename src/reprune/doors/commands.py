"""The commands that are not steps: update, check, explain, override, promote, anchor."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeAlias

import msgspec
from msgspec import UNSET

from reprune.core import store
from reprune.core.artifacts import Verdict
from reprune.core.errors import (
    EXIT_BLOCKED,
    EXIT_DONE,
    EXIT_INCONCLUSIVE,
    EXIT_INPUT,
    InputError,
)
from reprune.core.lock import LOCK_FILE
from reprune.core.overrides import OVERRIDES_FILE
from reprune.core.store import Artifact
from reprune.doors.local import artifact
from reprune.doors.output import (
    AnchorOutput,
    CheckOutput,
    OverrideOutput,
    PromoteOutput,
    UpdateOutput,
)
from reprune.doors.root import enter

Execute: TypeAlias = Callable[[argparse.Namespace], int]

OUTCOME_EXIT = {
    "pass": EXIT_DONE,
    "block": EXIT_BLOCKED,
    "inconclusive": EXIT_INCONCLUSIVE,
    "error": EXIT_INPUT,
}


def define_update(parser: argparse.ArgumentParser) -> Execute:
    """`reprune update`: afterwards the lock pins the newest dense version and the champion."""
    parser.description = "Pins the newest dense version and the champion in reprune.lock.yaml."
    parser.add_argument("--dense-version", metavar="V", help="pin this version, not the newest")
    parser.add_argument(
        "--again", action="store_true", help="for another look at what was judged already"
    )

    def execute(parsed: argparse.Namespace) -> int:
        from reprune.steps.update import update

        enter(parsed.root)
        result = update(Path.cwd(), version=parsed.dense_version, again=parsed.again)
        champion = None if result.lock.champion == "none" else result.lock.champion.version
        look = 1 if result.lock.look is UNSET else result.lock.look
        if parsed.json:
            _print(
                UpdateOutput(
                    lock=result.lock.digest,
                    changed=result.changed,
                    dense_version=result.lock.dense.version,
                    champion_version=champion,
                    look=look,
                )
            )
            return EXIT_DONE
        verb = "wrote" if result.changed else "nothing to change in"
        print(
            f"{verb} {LOCK_FILE}: dense version {result.lock.dense.version}, "
            f"champion {champion or 'none'}{f', look {look}' if look > 1 else ''}\nnext: dvc repro",
            file=sys.stderr,
        )
        return EXIT_DONE

    return execute


def define_check(parser: argparse.ArgumentParser) -> Execute:
    """`reprune check`: the verdict's outcome as an exit code, after its digests were checked."""
    parser.description = (
        "Reads a verdict, or a signed receipt; exits with 0 (pass), 3 (blocked), 4 (inconclusive) or 2 "
        "(unusable). Of a receipt it says, offline, what was checked: form, signature, type, the files, "
        "verdict and policy that lie beside it, and its age."
    )
    _verdict_argument(parser)
    parser.add_argument(
        "--recompute",
        action="store_true",
        help="of a verdict: judge again from the stored samples and compare",
    )

    parser.add_argument(
        "--trust",
        action="append",
        default=[],
        metavar="KEY",
        help="of a receipt: a public key (hex) that counts, beside the promoter's own",
    )

    def execute(parsed: argparse.Namespace) -> int:
        from reprune.report.terminal import render_terminal
        from reprune.steps.checking import receipt_path

        enter(parsed.root)
        receipt = receipt_path(parsed.verdict)
        if receipt is not None:
            from reprune.doors.receipt import check

            if parsed.recompute:
                raise InputError(
                    "--recompute is for a verdict, and this is a receipt",
                    where=str(receipt),
                    fix="leave it out: a verdict that lies beside a receipt is judged again anyway",
                )
            return check(receipt, parsed)
        verdict = _read(parsed.verdict, recompute=parsed.recompute)
        if parsed.json:
            _print(_check_output(verdict, recomputed=parsed.recompute))
        else:
            print(render_terminal(verdict.manifest))
            if parsed.recompute:
                print("Judged again from the stored samples: the same.")
        return OUTCOME_EXIT[verdict.manifest.judgement.outcome]

    return execute


def define_explain(parser: argparse.ArgumentParser) -> Execute:
    """`reprune explain`: why, where, what to try; exit 0 whatever the outcome."""
    parser.description = "Says why a verdict is what it is, where the loss is, and what to try."
    _verdict_argument(parser)

    def execute(parsed: argparse.Namespace) -> int:
        from reprune.report.terminal import render_explanation

        enter(parsed.root)
        verdict = _read(parsed.verdict, recompute=False)
        if parsed.json:
            _print(_check_output(verdict, recomputed=False))
        else:
            print(render_explanation(verdict))
        return EXIT_DONE

    return execute


def define_override(parser: argparse.ArgumentParser) -> Execute:
    """`reprune override`: one entry in reprune.overrides.yaml; promotes nothing by itself."""
    parser.description = (
        "Writes down who lets one judged candidate through although rules did not hold. Commit the "
        "file: `reprune promote` accepts the entry once, where the promoter allows its author."
    )
    _verdict_argument(parser)
    parser.add_argument("--by", required=True, metavar="NAME", help="who decides it")
    parser.add_argument(
        "--reason", required=True, metavar="TEXT", help="why; every report shows it"
    )
    parser.add_argument(
        "--expires", required=True, metavar="YYYY-MM-DD", help="the last day (UTC), within 90 days"
    )
    parser.add_argument(
        "--rule",
        action="extend",
        nargs="+",
        default=[],
        metavar="RULE",
        help='as "accuracy.vs_parent on ort-cpu" (default: every required rule that did not hold)',
    )

    def execute(parsed: argparse.Namespace) -> int:
        from reprune.steps.override import Request, override

        enter(parsed.root)
        request = Request(
            by=parsed.by, reason=parsed.reason, expires=parsed.expires, rules=parsed.rule
        )
        result = override(Path.cwd(), parsed.verdict, request, now=time.time())
        entry = result.entry
        if parsed.json:
            _print(
                OverrideOutput(
                    written=OVERRIDES_FILE,
                    changed=result.changed,
                    rules=entry.rules,
                    uncovered=result.uncovered,
                    verdict=entry.verdict,
                    expires=entry.expires.isoformat(),
                )
            )
            return EXIT_DONE
        verb = "wrote" if result.changed else "nothing to change in"
        print(f"{verb} {OVERRIDES_FILE}: {', '.join(entry.rules)}, by {entry.by}", file=sys.stderr)
        if result.uncovered:
            left = ", ".join(result.uncovered)
            print(f"not covered, so promote will refuse: {left}", file=sys.stderr)
        print("next: commit it, then `reprune promote`", file=sys.stderr)
        return EXIT_DONE

    return execute


def define_promote(parser: argparse.ArgumentParser) -> Execute:
    """`reprune promote`: registers what was judged and moves the champion only on a pass."""
    parser.description = (
        "Judges again from the samples, checks the whole chain, registers the candidate with its "
        "evidence, signs a receipt, and moves the champion if the verdict is a pass. Doing it twice "
        "changes nothing."
    )

    def execute(parsed: argparse.Namespace) -> int:
        from reprune.steps.noticing import tell_promotion
        from reprune.steps.promote import Evidence, promote

        enter(parsed.root)
        root = Path.cwd()
        evidence = Evidence(
            verdict=artifact(root, "verdict"),
            candidate=artifact(root, "candidate"),
            engines=(artifact(root, "engines"),),
            plan=artifact(root, "plan"),
            profiles=(artifact(root, "profile"),),
            table=artifact(root, "sensitivity"),
            report=artifact(root, "report"),
        )
        result = promote(root, evidence, now=time.time(), say=_say)
        tell_promotion(root, result, say=_say)
        if parsed.json:
            _print(
                PromoteOutput(
                    outcome=result.outcome,
                    promoted=result.promoted,
                    already_done=result.already_done,
                    compressed_version=result.compressed_version,
                    champion_after=result.champion_after,
                    receipt=result.receipt,
                    reasons=result.reasons,
                    waived_by=result.waived_by,
                    dry_run=result.dry_run,
                )
            )
        else:
            print(result.words)
        done = result.promoted or result.dry_run
        return EXIT_DONE if done else OUTCOME_EXIT[result.outcome]

    return execute


def define_anchor(parser: argparse.ArgumentParser) -> Execute:
    """`reprune anchor`: afterwards rules `vs_anchor` are against this version."""
    parser.description = (
        "Makes a promoted version the anchor: the reference of the rules `vs_anchor`, which stays until "
        "a named person moves it, so that small losses cannot add up unseen."
    )
    parser.add_argument("version", metavar="VERSION", nargs="?", help="default: the champion")
    parser.add_argument("--by", required=True, metavar="NAME", help="who moves it")
    parser.add_argument("--reason", required=True, metavar="TEXT", help="why")

    def execute(parsed: argparse.Namespace) -> int:
        from reprune.steps.anchor import move_anchor

        enter(parsed.root)
        result = move_anchor(Path.cwd(), version=parsed.version, by=parsed.by, reason=parsed.reason)
        if parsed.json:
            _print(AnchorOutput(version=result.version, before=result.before, moved=result.moved))
        else:
            said = f"the anchor is version {result.version}, and was {result.before or 'not set'}"
            print(f"{said}\nnext: reprune update" if result.moved else said, file=sys.stderr)
        return EXIT_DONE

    return execute


def _verdict_argument(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "verdict",
        metavar="VERDICT",
        nargs="?",
        type=Path,
        default=artifact(Path(), "verdict"),
        help="a verdict directory (default: %(default)s)",
    )


def _read(path: Path, *, recompute: bool) -> Artifact[Verdict]:
    verdict = store.read(path, Verdict)
    if recompute:
        from reprune.steps.gate import confirm

        confirm(verdict)
    return verdict


def _check_output(verdict: Artifact[Verdict], *, recomputed: bool) -> CheckOutput:
    return CheckOutput(
        name=verdict.manifest.name,
        dense_version=verdict.manifest.dense_version,
        verdict=verdict.digest,
        lock=verdict.manifest.lock,
        recomputed=recomputed,
        judgement=verdict.manifest.judgement,
    )


def _print(output: msgspec.Struct) -> None:
    print(msgspec.json.encode(output).decode())


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
