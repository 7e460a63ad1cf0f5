"""`reprune project`: what an image has to carry so that locks can be written without the task's code."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import msgspec

from reprune.core.errors import EXIT_DONE
from reprune.doors.commands import Execute
from reprune.doors.output import ProjectOutput
from reprune.doors.root import enter


def define_project(parser: argparse.ArgumentParser) -> Execute:
    """`reprune project`: afterwards reprune.project.yaml describes what lies beside it."""
    parser.description = (
        "Asks the task for its data version, and writes that into reprune.project.yaml with digests of "
        "params, policy and task. Run it before the project's image is built: `reprune serve` writes locks "
        "from the file, without running the task's code."
    )
    parser.add_argument(
        "--check",
        action="store_true",
        help="write nothing and run no code of the task: fail if the file is not about what lies beside it",
    )

    def execute(parsed: argparse.Namespace) -> int:
        from reprune.steps.project import check, describe

        enter(parsed.root)
        result = check(Path.cwd()) if parsed.check else describe(Path.cwd())
        if parsed.json:
            output = ProjectOutput(
                written=result.path.name,
                changed=result.changed,
                data_version=result.project.data_version,
            )
            print(msgspec.json.encode(output).decode())
            return EXIT_DONE
        verb = "wrote" if result.changed else "nothing to change in"
        if parsed.check:
            verb = "true of what lies beside it:"
        print(f"{verb} {result.path.name}", file=sys.stderr)
        return EXIT_DONE

    return execute
