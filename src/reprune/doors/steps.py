"""The door from the command line onto a step: flags are the step's inputs, knobs are in the files."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

import msgspec

from reprune.core.lock import LOCK_FILE, read_lock
from reprune.core.params import PARAMS_FILE, read_params
from reprune.core.policy import POLICY_FILE, read_policy
from reprune.core.step import Documents, for_shard, run
from reprune.doors.output import StepOutput
from reprune.doors.root import enter
from reprune.steps import get_step


def define_step(parser: argparse.ArgumentParser) -> Callable[[argparse.Namespace], int]:
    """Adds the flags of the step that the parser is named after; returns what runs it."""
    step = get_step(parser.prog.split()[-1])
    parser.description = step.function.__doc__
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    for given in step.inputs:
        parser.add_argument(
            f"--{given.name}",
            required=True,
            metavar="DIR",
            type=Path,
            nargs="+" if given.many else None,
            help=f"{given.kind.__name__}{' (one or more)' if given.many else ''}",
        )
    parser.add_argument(
        "--out",
        required=True,
        metavar="DIR",
        type=Path,
        help=f"where to put the {step.output.__name__}",
    )
    if step.sharded:
        parser.add_argument(
            "--shard",
            required=True,
            metavar="I/N",
            help="which part, from 0, of how many: 0/4, 1/4, 2/4, 3/4",
        )
    if step.sections:
        parser.epilog = f"reads from {PARAMS_FILE}: {', '.join(step.sections)}"

    def execute(parsed: argparse.Namespace) -> int:
        enter(parsed.root)
        inputs = {given.name: getattr(parsed, given.name) for given in step.inputs}
        asked = for_shard(step, parsed.shard) if step.sharded else step
        result = run(asked, inputs, read_documents(), parsed.out)
        if parsed.json:
            output = StepOutput(
                step=step.name,
                kind=type(result.manifest).__name__,
                out=str(parsed.out),
                digest=result.digest,
            )
            print(msgspec.json.encode(output).decode())
        else:
            print(f"{step.name}: {parsed.out} ({result.digest[:19]})", file=sys.stderr)
        return 0

    return execute


def read_documents() -> Documents:
    """The three files of the working directory, and the lock found to describe them."""
    from reprune.steps.update import check_lock

    root = Path.cwd()
    documents = Documents(
        root=root,
        params=read_params(Path(PARAMS_FILE)),
        policy=read_policy(Path(POLICY_FILE)),
        lock=read_lock(Path(LOCK_FILE)),
    )
    check_lock(documents)
    return documents
