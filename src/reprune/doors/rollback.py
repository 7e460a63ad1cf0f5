"""`reprune rollback`: a version that served before serves again."""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

import msgspec

from reprune.core.errors import EXIT_DONE
from reprune.doors.commands import Execute
from reprune.doors.output import RollbackOutput
from reprune.doors.root import enter


def define_rollback(parser: argparse.ArgumentParser) -> Execute:
    """`reprune rollback`: afterwards the alias `champion` names a version that was champion before."""
    parser.description = (
        "Returns the champion to a version that served before, after checking its receipt, the chain "
        "since and its bytes, and signs a record of who did it and why. What was rolled back is not "
        "promoted again by its old verdict. Doing it twice changes nothing."
    )
    parser.add_argument(
        "--to", metavar="VERSION", help="default: the one that the champion replaced"
    )
    parser.add_argument("--by", required=True, metavar="NAME", help="who does it")
    parser.add_argument("--reason", required=True, metavar="TEXT", help="why")

    def execute(parsed: argparse.Namespace) -> int:
        from reprune.steps.noticing import tell_rollback
        from reprune.steps.rollback import rollback

        enter(parsed.root)
        result = rollback(
            Path.cwd(),
            to=parsed.to,
            by=parsed.by,
            reason=parsed.reason,
            now=time.time(),
            say=_say,
        )
        tell_rollback(Path.cwd(), result, now=time.time(), say=_say)
        if parsed.json:
            output = RollbackOutput(
                version=result.version,
                before=result.before,
                record=result.record,
                record_version=result.record_version,
                by=result.by,
                reason=result.reason,
                already_done=result.already_done,
            )
            print(msgspec.json.encode(output).decode())
            return EXIT_DONE
        done = " Nothing had to be done." if result.already_done else ""
        print(
            f"the champion is version {result.version}; {result.by} returned to it from version "
            f"{result.before or 'none'}: {result.reason}.{done}\nnext: reprune update",
            file=sys.stderr,
        )
        return EXIT_DONE

    return execute


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
