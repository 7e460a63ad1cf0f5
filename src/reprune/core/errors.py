"""Every error that Reprune raises on purpose, and the exit code that each one ends in.

    RepruneError                     1  we broke, or the machine did
    |- DiskFull                      1
    |- Interrupted                   1
    |- RunFailed                     1  a pipeline run that ended without a verdict
    |- StillRunning                  1  a pipeline run that outlasted the time we were to wait
    `- InputError                    2  something that was handed to us is wrong
       |- DocumentError                 params.yaml, policy.yaml or the lock does not decode
       |- StaleLock                     the lock no longer describes what lies beside it
       |- UnknownName                   a name that nothing is registered under
       |- MissingExtra                  an optional dependency is not installed
       |- Busy                          another run holds the folder or the machine
       |- ArtifactError                 an artefact directory that cannot be used
       |  |- ArtifactMissing
       |  |- ManifestEdited
       |  |- PayloadCorrupt
       |  |- SchemaTooNew
       |  `- ChainBroken                artefacts that do not descend from each other
       |- TaskError                     the user's task is not what the Task protocol promises
       |  `- EvalIsSealed
       |- CheckpointError               weights that cannot be used
       |  |- PickleRefused
       |  |- NonFiniteWeights
       |  `- CheckpointMismatch
       |- CompressionError              a cut that did nothing, or that would change the function
       |  `- Diverged                   a cut or a training that left no finite loss
       |- DataRefused                   the data contract failed
       |- BuildError                    an engine that cannot be built, or disagrees with its bundle
       |- RegistryError
       |  |- RegistryUnreachable
       |  |- VersionNotFound
       |  |- ChampionLost
       |  |- ChampionForeign
       |  |- ChampionMoved
       |  `- ReceiptInvalid              a receipt that nobody we trust signed, or that does not decode
       |- OrchestratorError              Kubeflow Pipelines refused, or its answer cannot be used
       |  |- OrchestratorUnreachable
       |  |- AccessDenied
       |  `- RunNotFound
       |- OverrideRefused               an override that could never be used as it was asked for
       `- PromotionRefused              evidence that promote does not accept

A blocked model (exit 3) and an inconclusive one (exit 4) are verdicts, not errors.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import ClassVar

EXIT_DONE = 0
EXIT_BROKEN = 1
EXIT_INPUT = 2
EXIT_BLOCKED = 3
EXIT_INCONCLUSIVE = 4


class RepruneError(Exception):
    """Carries what happened, where, and what to do about it.

    `str(error)` is the three of them joined for a terminal; `code` is stable and machine-readable.
    """

    exit_code: ClassVar[int] = EXIT_BROKEN
    code: ClassVar[str] = "broken"

    def __init__(self, what: str, *, where: str = "", fix: str = "") -> None:
        super().__init__(what)
        self.what = what
        self.where = where
        self.fix = fix

    def __str__(self) -> str:
        parts = [f"{self.where}: {self.what}" if self.where else self.what]
        if self.fix:
            parts.append(f"To fix: {self.fix}")
        return "\n".join(parts)


class DiskFull(RepruneError):
    code = "disk_full"


class Interrupted(RepruneError):
    code = "interrupted"


class RunFailed(RepruneError):
    code = "run_failed"


class StillRunning(RepruneError):
    code = "still_running"


class InputError(RepruneError):
    exit_code = EXIT_INPUT
    code = "input"


class DocumentError(InputError):
    code = "document"


class StaleLock(InputError):
    code = "stale_lock"


class UnknownName(InputError):
    code = "unknown_name"


class MissingExtra(InputError):
    code = "missing_extra"


class Busy(InputError):
    code = "busy"


class ArtifactError(InputError):
    code = "artifact"


class ArtifactMissing(ArtifactError):
    code = "artifact_missing"


class ManifestEdited(ArtifactError):
    code = "manifest_edited"


class PayloadCorrupt(ArtifactError):
    code = "payload_corrupt"


class SchemaTooNew(ArtifactError):
    code = "schema_too_new"


class ChainBroken(ArtifactError):
    code = "chain_broken"


class TaskError(InputError):
    code = "task"


class EvalIsSealed(TaskError):
    code = "eval_is_sealed"


class CheckpointError(InputError):
    code = "checkpoint"


class PickleRefused(CheckpointError):
    code = "pickle_refused"


class NonFiniteWeights(CheckpointError):
    code = "non_finite_weights"


class CheckpointMismatch(CheckpointError):
    code = "checkpoint_mismatch"


class CompressionError(InputError):
    code = "compression"


class Diverged(CompressionError):
    code = "diverged"


class DataRefused(InputError):
    code = "data_refused"


class BuildError(InputError):
    code = "build"


class RegistryError(InputError):
    code = "registry"


class RegistryUnreachable(RegistryError):
    """`silent`: there was no answer at all, so that nothing else that is asked there would get one."""

    code = "registry_unreachable"

    def __init__(self, what: str, *, where: str = "", fix: str = "", silent: bool = False) -> None:
        super().__init__(what, where=where, fix=fix)
        self.silent = silent


class VersionNotFound(RegistryError):
    code = "version_not_found"


class ChampionLost(RegistryError):
    code = "champion_lost"


class ChampionForeign(RegistryError):
    code = "champion_foreign"


class ChampionMoved(RegistryError):
    code = "champion_moved"


class ReceiptInvalid(RegistryError):
    code = "receipt_invalid"


class OrchestratorError(InputError):
    code = "orchestrator"


class OrchestratorUnreachable(OrchestratorError):
    """`silent` as in RegistryUnreachable."""

    code = "orchestrator_unreachable"

    def __init__(self, what: str, *, where: str = "", fix: str = "", silent: bool = False) -> None:
        super().__init__(what, where=where, fix=fix)
        self.silent = silent


class AccessDenied(OrchestratorError):
    code = "access_denied"


class RunNotFound(OrchestratorError):
    code = "run_not_found"


class OverrideRefused(InputError):
    code = "override_refused"


class PromotionRefused(InputError):
    """`reason` is the typed cause, one word of its own for each refusal."""

    code = "promotion_refused"

    def __init__(self, what: str, *, reason: str, where: str = "", fix: str = "") -> None:
        super().__init__(what, where=where, fix=fix)
        self.reason = reason


def leaves() -> dict[str, type[RepruneError]]:
    """Every error by its `code`."""
    found: dict[str, type[RepruneError]] = {}
    pending: list[type[RepruneError]] = [RepruneError]
    while pending:
        kind = pending.pop()
        found[kind.code] = kind
        pending += kind.__subclasses__()
    return found


def nearest(name: str, known: Iterable[str]) -> str:
    """A half sentence that names the known word nearest to `name`, or lists what is known."""
    names = sorted(known)
    match = difflib.get_close_matches(name, names, n=1, cutoff=0.6)
    if match:
        return f"did you mean '{match[0]}'?"
    return f"known: {', '.join(names)}" if names else "nothing is known here"
