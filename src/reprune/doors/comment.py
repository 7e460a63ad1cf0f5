"""`reprune comment`: the verdict is told in the pull request, once, and the commit has its check."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from reprune.core.documents import read_bounded, strict_json
from reprune.core.errors import EXIT_DONE, ArtifactMissing, InputError
from reprune.core.http import Backoff, Service, holds_secret, is_address
from reprune.core.marker import order_of
from reprune.doors.commands import Execute
from reprune.doors.forge_options import TOKENS, add_place, add_tasks, add_verdict
from reprune.doors.output import CommentOutput
from reprune.doors.root import enter
from reprune.orchestrate.forge import Forge
from reprune.orchestrate.github import API, GitHub
from reprune.orchestrate.gitlab import GitLab
from reprune.orchestrate.surroundings import Surroundings, surroundings

if TYPE_CHECKING:
    from reprune.steps.posting import Posted, Prepared, Wish

# A job is not worth waiting long for: the report is in its summary all the same.
PATIENCE = Backoff(first_s=1.0, longest_s=30.0, tries=5, give_up_s=150.0)


def define_comment(parser: argparse.ArgumentParser) -> Execute:
    """`reprune comment`: exit 0 also where nothing could be posted; `reprune check` carries the outcome."""
    parser.description = (
        "Posts the report of a verdict as one comment of the pull request, or brings that comment up to "
        "date, and sets the commit's check: success, failure, or action_required where somebody has to do "
        "something. In a job of GitHub or GitLab it knows where it is. What cannot be posted is a warning: "
        "the exit code is 0 all the same, and the step's summary has the report."
    )
    add_verdict(parser)
    add_tasks(parser)
    add_place(parser)
    return _execute


def _execute(parsed: argparse.Namespace) -> int:
    from reprune.steps.posting import locate, post, prepare

    enter(parsed.root)
    around = _around(parsed)
    if parsed.sweep:
        return _sweep(parsed, around)
    if parsed.from_registry:
        _bring(parsed.verdict)
    wish = _wish(parsed)
    if parsed.dry_run:
        return _dry_run(parsed, prepare(Path.cwd(), wish, around, None))
    forge = open_forge(parsed, around)
    around, unknown = locate(around, forge)
    if parsed.judged:
        wish, more = _unless_untouched(wish, around, forge, parsed.judged)
        unknown = (*unknown, *more)
    prepared = prepare(Path.cwd(), wish, around, forge)
    prepared = replace(prepared, warnings=(*unknown, *prepared.warnings))
    _summarise(prepared, around)
    return _told(parsed, prepared, around, post(prepared, wish, around, forge))


def _wish(parsed: argparse.Namespace) -> Wish:
    from reprune.steps.posting import Wish

    return Wish(
        verdict=parsed.verdict,
        recompute=parsed.recompute,
        registry=parsed.registry,
        base=parsed.base,
        check=parsed.check,
        nothing=parsed.nothing,
        foreign=parsed.foreign,
    )


def _unless_untouched(
    wish: Wish, around: Surroundings, forge: Forge, judged: Sequence[str]
) -> tuple[Wish, tuple[str, ...]]:
    from reprune.steps.forks import untouched

    if not isinstance(forge, GitHub):
        raise InputError("--judged is for GitHub alone", fix="say --nothing where that is so")
    nothing, warnings = untouched(forge, around, judged)
    return replace(wish, nothing=wish.nothing or nothing), warnings


def around_us(parsed: argparse.Namespace) -> Surroundings:
    """What the CI says, and above it what was asked for."""
    found = surroundings(os.environ, _event(os.environ))
    if parsed.on and parsed.on != found.kind:
        found = Surroundings(kind=parsed.on, api=API if parsed.on == "github" else "")
    return replace(
        found,
        api=parsed.api or found.api,
        repository=parsed.repository or found.repository,
    )


def open_forge(parsed: argparse.Namespace, around: Surroundings) -> Forge:
    """The forge that this is about. Raises InputError for what is missing."""
    if around.kind is None:
        raise InputError(
            "this is no job of GitHub or GitLab, so it is not known where to post",
            fix="say --on github --repository OWNER/NAME --number N, or print it with --dry-run",
        )
    if not around.repository:
        raise InputError("it is not known which repository this is", fix="give --repository")
    if not is_address(around.api) or holds_secret(around.api):
        raise InputError("--api is no address of an API, or has a password in it")
    service = Service(
        host=around.api,
        token_file=parsed.token_file,
        token_variable=TOKENS[around.kind],
        ca_file=parsed.ca_file,
        backoff=PATIENCE,
    )
    if around.kind == "github":
        return GitHub(service=service, repository=around.repository, author=parsed.author)
    return GitLab(service=service, project=around.repository, author=parsed.author)


def _sweep(parsed: argparse.Namespace, around: Surroundings) -> int:
    from reprune.steps.sweeping import sweep

    forge = open_forge(parsed, around)
    swept = sweep(Path.cwd(), around, forge, base=parsed.sweep, check=parsed.check)
    _warn(swept.warnings)
    if parsed.json:
        _print(
            CommentOutput(
                comment="nothing",
                number=None,
                conclusion="action_required",
                check="action_required" if swept.told else None,
                body="",
                warnings=swept.warnings,
                swept=swept.told,
            )
        )
    else:
        told = ", ".join(f"#{number}" for number in swept.told) or "none"
        print(f"pull requests that have to run `reprune update`: {told}", file=sys.stderr)
    return EXIT_DONE


def _bring(verdict: Path) -> None:
    """Where there is none, that is what is told."""
    from reprune.steps.judged_there import bring_verdict

    try:
        version = bring_verdict(Path.cwd(), verdict)
    except ArtifactMissing as error:
        print(f"warning: {error}", file=sys.stderr)
    else:
        print(f"the verdict is that of version {version}", file=sys.stderr)


def _around(parsed: argparse.Namespace) -> Surroundings:
    found = around_us(parsed)
    try:
        order = order_of(parsed.order) if parsed.order else found.order
    except ValueError:
        raise InputError("--order is one to four whole numbers with points between them") from None
    return replace(
        found,
        number=parsed.number if parsed.number is not None else found.number,
        head=parsed.head or found.head,
        order=order,
    )


def _event(environ: Mapping[str, str]) -> dict[str, Any]:
    """GitHub's event; {} where there is none."""
    path = environ.get("GITHUB_EVENT_PATH", "")
    if not path:
        return {}
    try:
        found = strict_json(read_bounded(Path(path)), name=path)
    except OSError as error:
        raise InputError(f"GitHub's event cannot be read: {error}", where=path) from error
    return found if isinstance(found, dict) else {}


def _dry_run(parsed: argparse.Namespace, prepared: Prepared) -> int:
    body = prepared.draft.body(None)
    if parsed.json:
        _print(
            CommentOutput(
                comment="dry-run",
                number=None,
                conclusion=prepared.draft.conclusion,
                check=None,
                body=body,
                warnings=prepared.warnings,
            )
        )
    else:
        print(body, end="")
        _warn(prepared.warnings)
    return EXIT_DONE


def _summarise(prepared: Prepared, around: Surroundings) -> None:
    """The step's summary has the report, whatever is permitted."""
    from reprune.report.posted import MAX_SUMMARY_BYTES, fitted

    if around.summary is None:
        return
    try:
        used = around.summary.stat().st_size if around.summary.exists() else 0
        with around.summary.open("a", encoding="utf-8") as stream:
            stream.write(fitted(prepared.draft.text, MAX_SUMMARY_BYTES - used - 1))
    except OSError as error:
        _warn((f"the step's summary cannot be written: {error.strerror}",))


def _told(
    parsed: argparse.Namespace, prepared: Prepared, around: Surroundings, posted: Posted
) -> int:
    in_github = around.kind == "github" and os.environ.get("GITHUB_ACTIONS") == "true"
    if in_github:
        # GitHub reads both streams; with --json, stdout is one object.
        stream = sys.stderr if parsed.json else sys.stdout
        print("\n".join(prepared.draft.annotations), file=stream)
    _warn(posted.warnings)
    if parsed.json:
        _print(
            CommentOutput(
                comment=posted.comment,
                number=posted.number,
                conclusion=prepared.draft.conclusion,
                check=posted.check,
                body="",
                warnings=posted.warnings,
            )
        )
    else:
        where = f" in #{posted.number}" if posted.number is not None else ""
        check = posted.check or "not set"
        print(f"comment {posted.comment}{where}; check {check}", file=sys.stderr)
    return EXIT_DONE


def _warn(warnings: tuple[str, ...]) -> None:
    from reprune.report.posted import warning_command

    in_github = os.environ.get("GITHUB_ACTIONS") == "true"
    for each in warnings:
        print(warning_command(each) if in_github else f"warning: {each}", file=sys.stderr)


def _print(output: msgspec.Struct) -> None:
    print(msgspec.json.encode(output).decode())
