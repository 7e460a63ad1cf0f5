"""From a repository to one run in a cluster, and from its end to what the registry says about it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from reprune.core.errors import EXIT_DONE, InputError, RegistryError, RunFailed
from reprune.core.lock import LOCK_FILE
from reprune.core.params import PARAMS_FILE
from reprune.core.policy import POLICY_FILE
from reprune.core.step import Documents
from reprune.doors.cluster import machines_parameter
from reprune.doors.commands import OUTCOME_EXIT
from reprune.doors.kfp.catalogue import catalogue_folder
from reprune.doors.kfp.images import built_in
from reprune.doors.kfp.members import MEMBERS, check_members, every_member
from reprune.orchestrate.described import SUCCEEDED, Run
from reprune.orchestrate.endpoint import Endpoint
from reprune.orchestrate.listing import about
from reprune.orchestrate.package import read_package
from reprune.orchestrate.parameters import check_parameters, declared_parameters, read_parameter
from reprune.orchestrate.runs import (
    Submission,
    cancel_run,
    check_service,
    find_runs,
    first_of,
    run_name,
    submit_run,
)
from reprune.registry.judged import Judged, judged
from reprune.registry.open import open_registry

TEXTS = {"lock": LOCK_FILE, "params": PARAMS_FILE, "policy": POLICY_FILE}
IMAGE = "compress_image"
PIPELINE = "continuous_compression"
# What a set runs through, whose members are fetched each on its own.
SET_PIPELINE = "perception"
# The flag that gives each of these parameters.
FLAGS = {"machines": "--machines", IMAGE: "--image", "control_image": "--control-image"}


@dataclass(frozen=True, kw_only=True)
class Request:
    """What a person asked for beside the repository. Without `pipeline` it is `package_file`;
    `settings` are texts such as `read_secret=other`.
    """

    experiment: str
    pipeline: Path | None = None
    machines: Path | None = None
    image: str = ""
    control_image: str = ""
    settings: tuple[str, ...] = ()
    service_account: str = ""
    again: bool = False


@dataclass(frozen=True, kw_only=True)
class Started:
    """The run that now stands for the lock. `attached` is False if it was submitted just now; without a
    `run` the lock was judged elsewhere, and `found` is what came of it.
    """

    run: Run | None
    attached: bool
    found: Judged | None = field(default=None)


def prepare(
    documents: Documents, request: Request, texts: Mapping[str, str] | None = None
) -> Submission:
    """The submission for the lock, checked against the package; nothing is sent.

    `texts` are those of the three files, where they are not to be read below the root. Raises
    InputError or DocumentError naming the parameter, the machine or the file; InputError too where an
    image is still the built-in default.
    """
    package = read_package(request.pipeline or package_file(documents))
    given: dict[str, object] = dict(texts or _texts(documents.root))
    image = request.image
    if request.machines is not None and not image:
        image = str(declared_parameters(package.spec).get(IMAGE, {}).get("defaultValue", ""))
    machines = machines_parameter(documents.params, request.machines, image)
    if machines is not None:
        given["machines"] = machines
    if request.image:
        given[IMAGE] = request.image
    if request.control_image:
        given["control_image"] = request.control_image
    for text in request.settings:
        name, equals, value = text.partition("=")
        if not equals or not name:
            raise InputError(f"--set takes NAME=VALUE, not '{text}'")
        if name in TEXTS:
            raise InputError(f"--set {name}: this parameter is the text of {TEXTS[name]}")
        if name in given:
            by = FLAGS.get(name, "--set")
            raise InputError(f"--set {name}: the parameter was given already, by {by}")
        given[name] = read_parameter(package.spec, name, value)
    lock = documents.lock
    submission = Submission(
        name=run_name(lock.name, lock.digest),
        experiment=request.experiment,
        pipeline_spec=package.spec,
        platform_spec=package.platform,
        parameters=_parameters(documents, package.spec, given),
        description=about(lock.name, lock.dense.version, lock.digest),
        service_account=request.service_account,
    )
    _refuse_built_in(submission)
    return submission


def _refuse_built_in(submission: Submission) -> None:
    """Returns only if every image was named by somebody: the default ones would be given the secrets."""
    ours = [(name, image) for name, image in _images(submission) if built_in(image)]
    if ours:
        raise InputError(
            f"the image {ours[0][1]} is the built-in default: nobody publishes it, and it holds no project",
            where=", ".join(sorted({name for name, _ in ours})),
            fix="build your project's images (`reprune init` writes their Containerfile), and give "
            "--image and --control-image, by digest",
        )


def _parameters(
    documents: Documents, spec: Mapping[str, Any], given: dict[str, object]
) -> dict[str, Any]:
    """What is sent: with every member of a set, where the pipeline takes them and nobody named them."""
    known = documents.params.members or {}
    if MEMBERS in declared_parameters(spec):
        given = {MEMBERS: every_member(known)} | given
    parameters = check_parameters(spec, given)
    if MEMBERS in parameters:
        check_members(parameters[MEMBERS], known)
    return parameters


def _texts(root: Path) -> dict[str, str]:
    return {name: (root / file).read_text(encoding="utf-8") for name, file in TEXTS.items()}


def package_file(documents: Documents) -> Path:
    """What `reprune compile` wrote into the repository; else the package as it comes with Reprune: for a set
    another one than for a model of its own.
    """
    name = SET_PIPELINE if documents.params.members else PIPELINE
    written = documents.root / f"{name}.yaml"
    if written.exists():
        return written
    return catalogue_folder() / "pipelines" / name / f"{name}.yaml"


def unpinned(submission: Submission) -> tuple[str, ...]:
    """The images of the run that are named by a tag, so that nobody can say later what ran."""
    return tuple(sorted({image for _, image in _images(submission) if "@sha256:" not in image}))


def _images(submission: Submission) -> list[tuple[str, str]]:
    """What the run's tasks run in, each with the parameter that names it."""
    declared = declared_parameters(submission.pipeline_spec)
    used = {name: about.get("defaultValue") for name, about in declared.items()}
    used |= submission.parameters
    found = [(name, used.get(name)) for name in (IMAGE, "control_image")]
    machines = used.get("machines")
    if isinstance(machines, list):
        found += [("machines", each.get("image")) for each in machines if isinstance(each, dict)]
    return [(name, str(image)) for name, image in found if image]


def start(
    documents: Documents,
    endpoint: Endpoint,
    submission: Submission,
    *,
    again: bool,
    say: Callable[[str], None],
    must_read: bool = True,
) -> Started:
    """Finds the run for the lock, or submits it: never a second one beside one that is active or SUCCEEDED.

    With `again` one that ended otherwise is run once more, unless it gave a verdict: of one lock only the
    first is accepted (see steps.update.look_again). What the registry says about the lock is asked first;
    with `must_read` a registry that cannot be read is an error, else only said.
    """
    check_service(endpoint)
    runs = find_runs(endpoint, submission.name)
    active = [run for run in runs if not run.ended]
    done = [run for run in runs if run.state == SUCCEEDED]
    if active or done:
        run = first_of(active) if active else done[-1]
        verb = "already running" if active else "already done"
        say(f"{verb}, so nothing is submitted: {run.link}")
        return Started(run=run, attached=True)
    if runs and not again:
        say(f"the run for this lock has ended {runs[-1].state}: {runs[-1].link}")
        return Started(run=runs[-1], attached=True)
    found = _known(documents, say, must_read=must_read)
    if found is not None:
        say("the registry holds a verdict for this lock already, so nothing is submitted")
        return Started(run=None, attached=True, found=found)
    run = submit_run(endpoint, submission, known=[each.run_id for each in runs])
    run, attached = _give_way(endpoint, run, say)
    return Started(run=run, attached=attached)


def verdict(documents: Documents, run: Run | None) -> Judged | None:
    """What the registry says about the lock since the run began. Raises RegistryError."""
    registry = open_registry(documents.params.registry, documents.root)
    lock = documents.lock
    since_s = run.created_at_s if run else None
    return judged(registry, lock.name, lock.digest, since_s=since_s)


def conclude(run: Run | None, found: Judged | None) -> int:
    """The exit code: of the verdict, whatever the state of the run. Raises RunFailed where none was given.

    A run that SUCCEEDED without a receipt is a failure: nothing says that anything was judged.
    """
    where = run.link if run else ""
    if found is None:
        ended = run.state if run else "elsewhere"
        if run and run.state == SUCCEEDED:
            raise RunFailed(
                "no verdict: the run SUCCEEDED, but the registry has no receipt of it",
                where=where,
                fix=f"does {PARAMS_FILE} name the registry that the run wrote to?",
            )
        said = f": {run.error}" if run and run.error else ""
        raise RunFailed(
            f"no verdict: the run ended {ended}{said}",
            where=where,
            fix="see the end of its log; `reprune submit --again` runs it once more",
        )
    if found.promoted:
        return EXIT_DONE
    if found.outcome == "pass" and not found.dry_run:
        raise RunFailed(
            f"version {found.version} passed, but was not promoted: the promotion was cut short",
            where=where,
            fix="see the end of its log; `reprune submit --again` runs it once more",
        )
    return OUTCOME_EXIT[found.outcome]


def _known(documents: Documents, say: Callable[[str], None], *, must_read: bool) -> Judged | None:
    try:
        return verdict(documents, None)
    except RegistryError as error:
        if must_read:
            raise
        say(f"the registry cannot be read from here: {error.what}")
        return None


def _give_way(endpoint: Endpoint, ours: Run, say: Callable[[str], None]) -> tuple[Run, bool]:
    """Two people may submit at once: the older run goes on, and whoever came second ends their own."""
    others = find_runs(endpoint, ours.name) if ours.name else ()
    active = [run for run in others if not run.ended]
    if not active or first_of(active).run_id == ours.run_id:
        return ours, False
    winner = first_of(active)
    cancel_run(endpoint, ours.run_id)
    say(f"somebody else submitted the same at the same time; ours is cancelled: {winner.link}")
    return winner, True
