"""`reprune check RECEIPT`: a signed statement in words, and as an exit code."""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from reprune.core.artifacts import Outcome
from reprune.core.errors import (
    EXIT_BLOCKED,
    EXIT_DONE,
    EXIT_INCONCLUSIVE,
    EXIT_INPUT,
    PromotionRefused,
)
from reprune.doors.output import CheckReceiptOutput
from reprune.registry.attestations import EvalStatement
from reprune.registry.keys import public_key
from reprune.registry.receipt_checks import Checked
from reprune.registry.receipts import AnyStatement, Statement
from reprune.steps.checking import check_receipt

if TYPE_CHECKING:
    from securesystemslib.signer import Key

_EXIT: dict[Outcome, int] = {
    "pass": EXIT_DONE,
    "block": EXIT_BLOCKED,
    "inconclusive": EXIT_INCONCLUSIVE,
    "error": EXIT_INPUT,
}
_MARK = {True: "holds", False: "FAILS", None: "not checked"}


def check(path: Path, parsed: argparse.Namespace) -> int:
    """Prints what was looked at. Exit 2 unless all of it holds; else that of the outcome that it states."""
    from reprune.steps.promoter import read_promoter

    keys: list[Key] = [public_key(text) for text in parsed.trust]
    minimum, note = None, ""
    try:
        authority = read_promoter(Path.cwd())
        keys, minimum = [*authority.keys, *keys], authority.promoter.minimum_policy
    except PromotionRefused as error:
        note = f"no promoter's configuration ({error.what}): only keys given with --trust count"
    found = check_receipt(path, keys, minimum=minimum, now=time.time())
    outcome, promotes, code = _stated(found.statement)
    if parsed.json:
        output = CheckReceiptOutput(
            ok=found.holds,
            receipt=found.digest,
            type=_type(found.statement),
            checks=found.checks,
            outcome=outcome,
            promotes=promotes,
        )
        print(msgspec.json.encode(output).decode())
    else:
        print("\n".join(_lines(path, found.checks, note)))
    return code if found.holds else EXIT_INPUT


def _stated(statement: AnyStatement | None) -> tuple[Outcome | None, bool | None, int]:
    """The outcome that it states, whether it promotes, and the exit code; None where it does not say.

    An evaluation knows of no override and of no dry run: what it found is its code.
    """
    if isinstance(statement, EvalStatement):
        return statement.predicate.outcome, None, _EXIT[statement.predicate.outcome]
    if not isinstance(statement, Statement):
        return None, None, EXIT_DONE
    stated = statement.predicate
    done = stated.promotes or stated.dry_run is True
    return stated.outcome, stated.promotes, EXIT_DONE if done else _EXIT[stated.outcome]


def _type(statement: object | None) -> str:
    return "" if statement is None else str(getattr(statement, "predicate_type", ""))


def _lines(path: Path, checks: tuple[Checked, ...], note: str) -> list[str]:
    width = max(len(each.name) for each in checks)
    told = [f"{each.name:{width}}  {_MARK[each.held]:11}  {each.words}" for each in checks]
    return [str(path), *([note] if note else []), *told]
