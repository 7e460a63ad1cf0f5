"""`reprune propose`: the lock becomes one pull request."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import msgspec

from reprune.core.errors import EXIT_DONE, InputError
from reprune.core.lock import LOCK_FILE, read_lock
from reprune.doors.commands import Execute
from reprune.doors.comment import around_us, open_forge
from reprune.doors.forge_options import add_forge
from reprune.doors.output import ProposeOutput
from reprune.doors.root import enter
from reprune.orchestrate.forge import check_name, patiently
from reprune.orchestrate.github import GitHub


def define_propose(parser: argparse.ArgumentParser) -> Execute:
    """`reprune propose`: afterwards the lock is on the base branch, or in one open pull request."""
    parser.description = (
        "Commits reprune.lock.yaml, and nothing else, on top of the base branch, pushes it to a branch of "
        "its own and opens a pull request, or refreshes the one that is open. Where the base has this lock "
        "there is nothing to do."
    )
    parser.add_argument("--base", required=True, metavar="BRANCH", help="what to merge into")
    parser.add_argument("--branch", default="", metavar="BRANCH", help="default: reprune/update")
    parser.add_argument("--remote", default="origin", metavar="NAME", help="default: origin")
    parser.add_argument(
        "--start",
        default="",
        metavar="FILE",
        help="on GitHub, start this workflow on the branch, unless it ran on its commit or the commit has "
        "its check: what a job's token pushes starts none",
    )
    add_forge(parser)

    def execute(parsed: argparse.Namespace) -> int:
        from reprune.steps.proposing import BRANCH, Ask, propose

        enter(parsed.root)
        forge = open_forge(parsed, around_us(parsed))
        if parsed.start and not isinstance(forge, GitHub):
            raise InputError("--start is for GitHub alone: on GitLab a push starts the pipeline")
        wanted = Ask(base=parsed.base, branch=parsed.branch or BRANCH, remote=parsed.remote)
        result = propose(Path.cwd(), wanted, forge)
        if parsed.start and isinstance(forge, GitHub) and result.head:
            _start(forge, parsed.start, wanted.branch, result.head)
        if parsed.json:
            output = ProposeOutput(done=result.done, lock=result.lock, number=result.number)
            print(msgspec.json.encode(output).decode())
            return EXIT_DONE
        said = {
            "nothing": f"the lock is as on {wanted.base}: nothing to propose",
            "same": f"#{result.number} has this lock already",
            "opened": f"#{result.number} has the new lock",
        }
        print(said[result.done], file=sys.stderr)
        return EXIT_DONE

    return execute


def _start(github: GitHub, workflow: str, branch: str, head: str) -> None:
    """The workflow is or was run on the branch's commit, or what it tells there is told already.

    Whatever was pushed just now: what came before may have failed between its push and this.
    """
    check = check_name(read_lock(Path(LOCK_FILE)).name)
    backoff = github.service.backoff
    if patiently(lambda: github.unseen(workflow, head, check), backoff):
        patiently(lambda: github.start(workflow, branch), backoff)
