"""`reprune history`: the generations of a model, newest first, and what of them waits for a person."""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import msgspec

from reprune.core.errors import EXIT_DONE
from reprune.doors.commands import Execute
from reprune.doors.output import HistoryOutput
from reprune.doors.root import enter
from reprune.doors.screen import columns


def define_history(parser: argparse.ArgumentParser) -> Execute:
    """`reprune history`: reads the registry and changes nothing; exit 0 whatever is in there."""
    parser.description = (
        "Lists what was judged, promoted, overridden, rolled back, adopted and closed, newest first, each "
        "by its signed receipt; or only what waits for a person, with the command to run next."
    )
    parser.add_argument(
        "--waiting",
        action="store_true",
        help="only what waits for a person, and what to do about it",
    )
    parser.add_argument("--all", action="store_true", help="every version, not the newest 20")

    def execute(parsed: argparse.Namespace) -> int:
        from reprune.report.history import render_history, render_waiting
        from reprune.steps.history import SHOWN, history

        enter(parsed.root)
        most = 0 if parsed.waiting else None if parsed.all else SHOWN
        told = history(Path.cwd(), most=most, now=time.time())
        if parsed.json:
            print(msgspec.json.encode(HistoryOutput(history=told)).decode())
        else:
            render = render_waiting if parsed.waiting else render_history
            print(render(told, columns=columns()))
        return EXIT_DONE

    return execute
