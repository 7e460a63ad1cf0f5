"""The options of `reprune comment`, and those that say where a forge is."""

from __future__ import annotations

import argparse
from pathlib import Path

from reprune.doors.local import artifact

TOKENS = {"github": "GITHUB_TOKEN", "gitlab": "GITLAB_TOKEN"}


def add_verdict(parser: argparse.ArgumentParser) -> None:
    """Which verdict is told, and what it is compared with."""
    parser.add_argument(
        "--verdict",
        type=Path,
        default=artifact(Path(), "verdict"),
        metavar="DIR",
        help="a verdict directory (default: %(default)s)",
    )
    parser.add_argument("--dry-run", action="store_true", help="print the body, and post nothing")
    parser.add_argument(
        "--recompute", action="store_true", help="judge again from the stored samples before"
    )
    parser.add_argument(
        "--from-registry",
        action="store_true",
        help="bring the verdict that a run in a cluster left in the registry, to --verdict",
    )
    parser.add_argument(
        "--registry", action="store_true", help="look whether the champion moved since the lock"
    )
    parser.add_argument(
        "--base", default="", metavar="REV", help="a git revision whose policy.yaml is compared"
    )
    parser.add_argument(
        "--check", default="", metavar="NAME", help="the check's name (none: make no check)"
    )


def add_tasks(parser: argparse.ArgumentParser) -> None:
    """What changes what is told, or is told instead."""
    parser.add_argument(
        "--foreign", action="store_true", help="what was measured comes from a fork: pass nothing"
    )
    parser.add_argument(
        "--nothing",
        action="store_true",
        help="tell no verdict: the pull request changes nothing that is judged",
    )
    parser.add_argument(
        "--judged",
        nargs="+",
        default=[],
        metavar="PATH",
        help="on GitHub, do as --nothing does where the pull request changes none of these files and "
        "folders, by what GitHub says",
    )
    parser.add_argument(
        "--sweep",
        default="",
        metavar="BRANCH",
        help="tell no verdict: set the check of open pull requests against BRANCH whose lock names a "
        "champion that serves no longer",
    )


def add_place(parser: argparse.ArgumentParser) -> None:
    """Where it is told."""
    add_forge(parser)
    parser.add_argument("--number", type=int, metavar="N", help="the pull request")
    parser.add_argument("--head", default="", metavar="SHA", help="the commit that was judged")
    parser.add_argument(
        "--order",
        default="",
        metavar="N[.N]",
        help="this run's place: an older one never overwrites a newer one",
    )


def add_forge(parser: argparse.ArgumentParser) -> None:
    """The options that say where the forge is and as whom we speak to it."""
    parser.add_argument("--on", choices=tuple(TOKENS), help="default: where this job runs")
    parser.add_argument("--api", default="", metavar="URL", help="the API's address")
    parser.add_argument(
        "--repository", default="", metavar="NAME", help="owner/name; on GitLab also a number"
    )
    parser.add_argument("--author", default="", metavar="LOGIN", help="who our comments are by")
    parser.add_argument(
        "--token-file", type=Path, metavar="FILE", help="default: $GITHUB_TOKEN or $GITLAB_TOKEN"
    )
    parser.add_argument("--ca-file", type=Path, metavar="FILE", help="certificates to trust (PEM)")
