"""What the body of a component calls: texts and Kubeflow artifacts in, one step, one artifact out.

A component that fails says why in its last line and ends with the exit code of the command line: 1 we
broke, 2 the input is wrong, 3 blocked, 4 inconclusive.
"""

from __future__ import annotations

import sys
import time
import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeAlias

from reprune.core.artifacts import Manifest
from reprune.core.errors import (
    EXIT_BROKEN,
    EXIT_DONE,
    ArtifactError,
    ArtifactMissing,
    DocumentError,
    InputError,
    RepruneError,
)
from reprune.core.step import for_shard, run
from reprune.core.store import Artifact, copy_whole
from reprune.doors.commands import OUTCOME_EXIT
from reprune.doors.kfp.other_runs import refuse_other_runs
from reprune.doors.kfp.references import hand_on, placed, resolved
from reprune.doors.kfp.shown import show
from reprune.doors.kfp.trainer import elsewhere
from reprune.doors.kfp.workplace import workplace
from reprune.steps import get_step


class Handed(Protocol):
    """What Kubeflow Pipelines hands to a component: where the artifact lies, and what the UI shows of it."""

    path: str
    metadata: dict[str, Any]


Inputs: TypeAlias = Mapping[str, Handed | Sequence[Handed]]


@dataclass(frozen=True)
class Place:
    """The machine whose targets a component measures, the volume that artefacts stay on, the shard ("0/4")
    that it works on, and what trains in several processes elsewhere (the text of a trainjob.Trainer;
    empty: nothing does).
    """

    machine: str = ""
    workspace: str = ""
    shard: str = ""
    trainer: str = ""


NOWHERE = Place()
# The parameter that lists what a list of artefacts is of; the others are of machines.
LOOPS = {"members": "members", "shards": "shards"}
AGAIN = "run the task again; if it fails again, report it with the lines above"
# What to do about an error that does not say so itself.
ADVICE: tuple[tuple[type[RepruneError], str], ...] = (
    (DocumentError, "correct the file and submit it again"),
    (ArtifactError, "run the step that makes it again, or hand over the right one"),
    (InputError, "correct what is named here and submit again"),
    (RepruneError, AGAIN),
)


@dataclass(frozen=True)
class Texts:
    """The three documents, whole, as parameters carry them."""

    lock: str
    params: str
    policy: str


def run_fetch(texts: Texts, dense: Handed, previous: Handed, workspace: str = "") -> None:
    """Runs both steps that read the registry, so that one component alone needs its secret."""
    place = Place(workspace=workspace)
    run_component("fetch-dense", texts, {}, dense, place)
    run_component("fetch-previous", texts, {}, previous, place)


def run_fetch_set(
    texts: Texts,
    dense: Handed,
    previous: Handed,
    members: Sequence[Handed],
    workspace: str = "",
) -> None:
    """As `run_fetch`, of a set whose members were fetched before it: of the registry it reads what the set
    promoted, and none of the members' models.
    """
    place = Place(workspace=workspace)
    run_component("join-members", texts, {"members": members}, dense, place)
    run_component("fetch-previous", texts, {}, previous, place)


def run_component(
    step: str,
    texts: Texts,
    inputs: Inputs,
    out: Handed,
    place: Place = NOWHERE,
    **shown: Any,
) -> None:
    """Runs one step; afterwards `out` is its whole artefact, its digest in the metadata.

    `shown` are the artifacts that only the UI reads: `metrics`, `confusion`, and `html` with `markdown`.
    Ends the process (SystemExit) with the error's exit code, the error being the last line printed.
    """
    with told(step), workplace(texts.lock, texts.params, texts.policy) as documents:
        paths = {name: list(_paths(name, value, place.workspace)) for name, value in inputs.items()}
        refuse_other_runs(paths, documents)
        given: dict[str, Path | list[Path]] = {**paths}
        with placed(Path(out.path), place.workspace) as folder:
            the_step = for_shard(get_step(step), place.shard) if place.shard else get_step(step)
            made = run(
                the_step,
                given,
                documents,
                folder,
                machine=place.machine,
                elsewhere=elsewhere(place.trainer, place.workspace),
            )
            show(made, shown)
            hand_on(made, Path(out.path), place.workspace)
        describe(out, made)


def run_promote(texts: Texts, inputs: Inputs, out: Handed, workspace: str = "") -> None:
    """Promotes what a run judged, or registers it and fails the task: nothing but a pass goes through.

    `inputs` are named as the fields of steps.promote.Evidence. `out` becomes the receipt, whatever the
    outcome. Ends with 3 (blocked), 4 (inconclusive) or the exit code of whatever was wrong; a dry run
    ends well and promotes nothing.
    """
    from reprune.steps.noticing import tell_promotion
    from reprune.steps.promote import Evidence, promote

    with told("promote"), workplace(texts.lock, texts.params, texts.policy) as documents:
        paths = {name: _paths(name, value, workspace) for name, value in inputs.items()}
        refuse_other_runs(paths, documents)
        if not paths["report"][0].is_dir():
            # Elsewhere a run without a report may be promoted; here the report is an input.
            raise ArtifactMissing(
                "there is no such artefact",
                where=str(paths["report"][0]),
                fix="run `report` on this verdict first",
            )
        evidence = Evidence(
            verdict=paths["verdict"][0],
            candidate=paths["candidate"][0],
            engines=paths["engines"],
            plan=paths["plan"][0],
            profiles=paths["profiles"],
            table=paths["table"][0],
            report=paths["report"][0],
        )
        result = promote(documents.root, evidence, now=time.time(), say=_say)
        copy_whole(result.artifact, Path(out.path))
        describe(out, result.artifact)
        out.metadata |= {"outcome": result.outcome, "promoted": result.promoted}
        tell_promotion(documents.root, result, say=_say)
        code = OUTCOME_EXIT[result.outcome]
    done = result.promoted or result.dry_run
    _say(result.words if done else f"{'; '.join(result.reasons)} {result.words}".strip())
    if not done:
        raise SystemExit(code if code != EXIT_DONE else EXIT_BROKEN)


def describe(out: Handed, made: Artifact[Manifest]) -> None:
    """Puts what identifies the artefact where the UI and its lineage show it."""
    out.metadata |= {
        "digest": made.digest,
        "kind": type(made.manifest).__name__,
        "step": made.manifest.producer.step,
        "reprune": made.manifest.producer.version,
    }


@contextmanager
def told(what: str) -> Iterator[None]:
    """Turns an error into one last line and its exit code, as the command line does."""
    try:
        yield
    except RepruneError as error:
        _say(f"error: {what}: {_one_line(error)}")
        raise SystemExit(error.exit_code) from error
    except Exception as error:
        traceback.print_exc()
        failure = f"{type(error).__name__}: {_one_line(error)}"
        _say(f"error: {what}: Reprune itself failed: {failure}. To fix: {AGAIN}")
        raise SystemExit(EXIT_BROKEN) from error


def _paths(name: str, value: Handed | Sequence[Handed], workspace: str) -> tuple[Path, ...]:
    handed = value if isinstance(value, Sequence) else [value]
    if not handed:
        raise InputError(
            "nothing was handed on",
            where=f"input '{name}'",
            fix=f"give the pipeline's parameter `{LOOPS.get(name, 'machines')}` at least one entry",
        )
    return tuple(resolved(Path(each.path), workspace) for each in handed)


def _one_line(error: Exception) -> str:
    """The UI and `kubectl` show the last line: what happened and what to do both stand in it."""
    parts = [line.strip().rstrip(".") for line in str(error).splitlines() if line.strip()]
    if isinstance(error, RepruneError) and not error.fix:
        advice = next(advice for kind, advice in ADVICE if isinstance(error, kind))
        parts.append(f"To fix: {advice}")
    return ". ".join(parts)


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
