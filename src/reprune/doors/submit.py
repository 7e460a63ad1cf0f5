"""`reprune submit`: one run in Kubeflow Pipelines for what the lock names, and its verdict."""

from __future__ import annotations

import argparse
import os
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from reprune.core.errors import EXIT_DONE, InputError, Interrupted
from reprune.core.lock import LOCK_FILE
from reprune.doors.commands import Execute
from reprune.doors.output import SubmitOutput
from reprune.doors.root import enter
from reprune.doors.steps import read_documents

if TYPE_CHECKING:
    from reprune.core.step import Documents
    from reprune.doors.progress import Teller
    from reprune.doors.submission import Request
    from reprune.orchestrate.described import Run
    from reprune.orchestrate.endpoint import Endpoint
    from reprune.registry.judged import Judged

HOST = "REPRUNE_KFP_HOST"
UI = "REPRUNE_KFP_UI"
NAMESPACE = "REPRUNE_KFP_NAMESPACE"
TOKEN = "REPRUNE_KFP_TOKEN"
# As the kfp SDK has it: the variable that names a token's file, and where a pod finds one.
TOKEN_FILE = "KF_PIPELINES_SA_TOKEN_PATH"
MOUNTED = Path("/var/run/secrets/kubeflow/pipelines/token")

_EPILOG = f"""\
The run is named by the lock's digest. If one of that name is running, this attaches to it; if it has
SUCCEEDED, this says what it came to; if it ended FAILED or CANCELED, --again runs it once more. One lock
has one verdict: what has one that promoted nothing, --again gives a lock of its own, for another attempt.
The verdict is what the registry holds, never the state of the run.

environment: {HOST}, {UI}, {NAMESPACE}; the token is in the file that {TOKEN_FILE} names
(in a pod: where it is mounted), or in {TOKEN}
"""


def define_submit(parser: argparse.ArgumentParser) -> Execute:
    """`reprune submit`: afterwards exactly one run for the lock was made, or found."""
    parser.description = (
        "Runs the pipeline in Kubeflow Pipelines for what reprune.lock.yaml names, waits, and says what "
        "the registry holds then; exits with 0 (promoted), 3 (blocked), 4 (inconclusive), 2 or 1."
    )
    parser.epilog = _EPILOG
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    _where_arguments(parser)
    _what_arguments(parser)

    def execute(parsed: argparse.Namespace) -> int:
        from reprune.doors.progress import telling
        from reprune.doors.submission import conclude, prepare, start, unpinned
        from reprune.steps.update import look_again

        enter(parsed.root)
        documents = read_documents()
        submission = prepare(documents, _request(parsed))
        endpoint = _endpoint(parsed)
        with telling() as teller:
            for image in unpinned(submission):
                teller.say(f"warning: the image {image} is named by no digest: it can change")
            begin = partial(start, again=parsed.again, say=teller.say, must_read=parsed.wait)
            started = begin(documents, endpoint, submission)
            if parsed.again and started.found is not None and not started.found.promoted:
                documents = look_again(documents)
                teller.say(f"{LOCK_FILE} was written for another look: commit it")
                submission = prepare(documents, _request(parsed))
                started = begin(documents, endpoint, submission)
            run = started.run
            if run is not None and not started.attached:
                teller.say(f"submitted {submission.name}: {run.link}")
            if run is not None and not run.ended and parsed.wait:
                run = _followed(endpoint, run, parsed.timeout, teller)
        output = SubmitOutput(
            run=submission.name,
            run_id=run.run_id if run else "",
            link=run.link if run else "",
            state=run.state if run else "JUDGED",
            attached=started.attached,
            lock=documents.lock.digest,
        )
        if run is not None and not run.ended:
            _tell(parsed, output, None)
            return EXIT_DONE
        found = started.found or _verdict(documents, run)
        code = conclude(run, found)
        _tell(parsed, output, found)
        return code

    return execute


def _where_arguments(parser: argparse.ArgumentParser) -> None:
    where = parser.add_argument_group("where")
    where.add_argument("--host", metavar="URL", help=f"of Kubeflow Pipelines (default: ${HOST})")
    where.add_argument("--ui", metavar="URL", help=f"for links, if it is another (${UI})")
    where.add_argument("--namespace", metavar="NAME", help=f"default: ${NAMESPACE}")
    where.add_argument("--experiment", metavar="NAME", default="reprune", help="default: reprune")
    where.add_argument("--ca-file", metavar="FILE", type=Path, help="certificates to trust")


def _what_arguments(parser: argparse.ArgumentParser) -> None:
    what = parser.add_argument_group("what")
    what.add_argument(
        "--pipeline",
        metavar="FILE",
        type=Path,
        help="what `reprune compile` wrote (default: continuous_compression.yaml here, or as it is shipped; "
        "of a set: perception.yaml)",
    )
    what.add_argument(
        "--machines", metavar="FILE", type=Path, help="where each `machine` of params.yaml is"
    )
    what.add_argument("--image", default="", help="of the steps that run the model, by digest")
    what.add_argument("--control-image", default="", help="of the other steps, by digest")
    what.add_argument(
        "--set",
        dest="settings",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="another parameter of the pipeline; JSON where it is no text",
    )
    what.add_argument("--service-account", default="", metavar="NAME", help="that the run is as")
    what.add_argument("--again", action="store_true", help="run once more what promoted nothing")
    what.add_argument(
        "--wait",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="stay until the run has ended",
    )
    what.add_argument(
        "--timeout", type=_seconds, metavar="SECONDS", help="how long to wait; the run goes on"
    )


def _request(parsed: argparse.Namespace) -> Request:
    from reprune.doors.submission import Request

    return Request(
        pipeline=parsed.pipeline,
        experiment=parsed.experiment,
        machines=parsed.machines,
        image=parsed.image,
        control_image=parsed.control_image,
        settings=tuple(parsed.settings),
        service_account=parsed.service_account,
    )


def _endpoint(parsed: argparse.Namespace) -> Endpoint:
    from reprune.orchestrate.endpoint import Endpoint

    host = parsed.host or os.environ.get(HOST)
    if not host:
        raise InputError(
            "nobody said where Kubeflow Pipelines is",
            fix=f"give --host URL, or set {HOST}",
        )
    named = os.environ.get(TOKEN_FILE)
    mounted = MOUNTED if MOUNTED.exists() and not os.environ.get(TOKEN) else None
    return Endpoint(
        host=host,
        ui=parsed.ui or os.environ.get(UI, ""),
        namespace=parsed.namespace or os.environ.get(NAMESPACE, ""),
        token_file=Path(named) if named else mounted,
        token_variable=TOKEN,
        ca_file=parsed.ca_file,
    )


def _followed(endpoint: Endpoint, run: Run, timeout_s: float | None, teller: Teller) -> Run:
    """The run at its end. Whatever ends the waiting earlier says that the run goes on."""
    from reprune.orchestrate.wait import Pace, wait

    last = run
    try:
        for last in wait(endpoint, run.run_id, Pace(timeout_s=timeout_s), warn=teller.say):
            teller.show(last)
    except KeyboardInterrupt:
        raise Interrupted(
            "stopped waiting; the run goes on",
            where=run.link,
            fix="the same command attaches to it again",
        ) from None
    return last


def _verdict(documents: Documents, run: Run | None) -> Judged | None:
    from reprune.doors.submission import verdict

    return verdict(documents, run)


def _tell(parsed: argparse.Namespace, output: SubmitOutput, found: Judged | None) -> None:
    if found is not None:
        output = msgspec.structs.replace(
            output,
            outcome=found.outcome,
            promoted=found.promoted,
            dry_run=found.dry_run,
            compressed_version=found.version,
            champion=found.champion,
            reasons=found.reasons,
            waived_by=found.waived_by,
        )
    if parsed.json:
        print(msgspec.json.encode(output).decode())
        return
    from reprune.report.markup import visible

    print(f"run: {output.run} {output.state}")
    if output.link:
        print(f"link: {output.link}")
    if found is not None:
        print(f"verdict: {_words(found)}")
        for reason in found.reasons:
            print(f"  {visible(reason)}")
        print(f"champion: {f'version {found.champion}' if found.champion else 'none'}")


def _words(found: Judged) -> str:
    said = f"{found.outcome}, version {found.version}"
    if found.promoted:
        said += (
            f", promoted by an override of {found.waived_by}" if found.waived_by else ", promoted"
        )
    elif found.dry_run:
        said += ", a dry run: nothing is promoted"
    return said


def _seconds(text: str) -> float:
    value = float(text)
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError("a number of seconds above 0")
    return value
