"""`reprune diff`: two verdicts, two plans or two generations, side by side."""

from __future__ import annotations

import argparse
from pathlib import Path

import msgspec

from reprune.core.errors import EXIT_DONE
from reprune.doors.commands import Execute
from reprune.doors.output import DiffOutput
from reprune.doors.root import enter
from reprune.doors.screen import columns


def define_diff(parser: argparse.ArgumentParser) -> Execute:
    """`reprune diff A B`: exit 0 whatever differs; nothing is judged, and nothing is written."""
    parser.description = (
        "Says what differs between two verdicts, two plans or two generations: outcome, every demand with "
        "both intervals and whether they leave room for the change, slices that moved, sizes, cost, widths, "
        "recovery, settings, machine and versions."
    )
    what = "a verdict or plan folder, a plan.yaml, or a version: a number, champion, anchor, dense:VERSION"
    parser.add_argument("before", metavar="A", help=what)
    parser.add_argument("after", metavar="B", help="the same")

    def execute(parsed: argparse.Namespace) -> int:
        from reprune.report.diff_text import render_diff
        from reprune.steps.diff import diff

        enter(parsed.root)
        told = diff(Path.cwd(), parsed.before, parsed.after)
        if parsed.json:
            print(msgspec.json.encode(DiffOutput(difference=told)).decode())
        else:
            print(render_diff(told, columns=columns()))
        return EXIT_DONE

    return execute
