"""`reprune adopt`: a model that served before Reprune becomes the champion."""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

import msgspec

from reprune.core.errors import EXIT_DONE
from reprune.doors.commands import Execute
from reprune.doors.output import AdoptOutput
from reprune.doors.root import enter


def define_adopt(parser: argparse.ArgumentParser) -> Execute:
    """`reprune adopt`: afterwards the alias `champion` names a copy of the model, under a signed record."""
    parser.description = (
        "Makes a model that already serves the champion, although nobody judged it, so that the first "
        "generation is judged against it. It is copied into a version of its own and looked at, not run; "
        "a signed record says who did it and why. What was judged is not adopted, and a judged champion "
        "is not replaced. Doing it twice changes nothing."
    )
    parser.add_argument(
        "--version",
        metavar="DENSE_OR_PATH",
        help="a dense version, or the path of a ModelBundle, with a slash in it (default: what the alias "
        "`champion` names)",
    )
    parser.add_argument("--by", required=True, metavar="NAME", help="who does it")
    parser.add_argument("--reason", required=True, metavar="TEXT", help="why")

    def execute(parsed: argparse.Namespace) -> int:
        from reprune.steps.adopt import adopt

        enter(parsed.root)
        result = adopt(
            Path.cwd(),
            version=parsed.version,
            by=parsed.by,
            reason=parsed.reason,
            now=time.time(),
            say=lambda text: print(text, file=sys.stderr, flush=True),
        )
        if parsed.json:
            output = AdoptOutput(
                version=result.version,
                before=result.before,
                origin=result.origin,
                dense_version=result.dense_version,
                bundle=result.bundle,
                record=result.record,
                by=result.by,
                reason=result.reason,
                already_done=result.already_done,
            )
            print(msgspec.json.encode(output).decode())
            return EXIT_DONE
        done = " Nothing had to be done." if result.already_done else ""
        print(
            f"the champion is version {result.version}, a copy of {result.origin}; {result.by} adopted it, "
            f"unjudged: {result.reason}.{done}\nnext: reprune update",
            file=sys.stderr,
        )
        return EXIT_DONE

    return execute
