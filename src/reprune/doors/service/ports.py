"""The world as the reconciler wants it, but for the registry: a project's folder, runs, and people."""

from __future__ import annotations

import hashlib
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import msgspec

from reprune.core import params, store
from reprune.core.documents import decode_json, decode_yaml
from reprune.core.errors import (
    DocumentError,
    InputError,
    StaleLock,
)
from reprune.core.lock import Lock, fresh_look, lock_text
from reprune.core.params import PARAMS_FILE, read_params
from reprune.core.policy import POLICY_FILE, read_policy
from reprune.core.step import Documents
from reprune.doors.service import dispatching
from reprune.doors.service.config import ModelRuns, Settings
from reprune.doors.service.logs import say
from reprune.doors.service.registries import Patience, Registries, contained
from reprune.doors.submission import Request, prepare
from reprune.orchestrate.endpoint import Backoff, Endpoint
from reprune.orchestrate.listing import model_runs
from reprune.orchestrate.reconcile_actions import Submit, Tell
from reprune.orchestrate.reconcile_ports import LockMade
from reprune.orchestrate.reconcile_seen import Memory, RunSeen
from reprune.orchestrate.reconcile_watch import Watch
from reprune.orchestrate.runs import cancel_run, find_runs, submit_run
from reprune.registry.receipted import taken_locks
from reprune.steps.project import pin

# What lies further back has ended, or never will.
RUNS_S = 90 * 86_400.0
# As much may the clocks of Kubeflow, of the registry and of whoever wrote `since` differ.
SKEW_S = 86_400.0


@dataclass(frozen=True, kw_only=True)
class Projects:
    """See reprune.orchestrate.reconcile_ports.Locks. None of the project's code is run."""

    settings: Settings
    registries: Registries

    def write(self, watch: Watch, version: str) -> LockMade:
        """The lock that `reprune update --again` would write in the project for this version.

        A lock that has a verdict already serves no more: it is here only where that one was cut short.
        """
        with contained(watch), self.registries.patience.asking(watch.registry.uri):
            root = self.folder(watch)
            given = self._same(watch, root)
            registry = self.registries.open(watch, given)
            pinned = pin(root, registry, version).lock
            lock = fresh_look(pinned, taken_locks(registry, watch.name))
        say("a lock was written", model=watch.name, version=version, lock=lock.digest)
        return LockMade(
            digest=lock.digest,
            text=lock_text(lock),
            champion=None if lock.champion == "none" else lock.champion.version,
            anchor=None if lock.anchor == "none" else lock.anchor.version,
        )

    def folder(self, watch: Watch) -> Path:
        """Where the project of the watch's image lies. Raises InputError if it does not."""
        digits = watch.image.rpartition("@sha256:")[2]
        found = self.settings.path(self.settings.config.projects) / digits
        if not digits or not found.is_dir():
            raise InputError(
                f"the project of the image of '{watch.name}' is not there",
                where=str(found),
                fix="mount the image's /project folder there",
            )
        return found

    def _same(self, watch: Watch, root: Path) -> params.Registry:
        """The project's registry. The watch and the project must be about one model in one registry."""
        given = read_params(root / PARAMS_FILE)
        pairs = (
            ("name", watch.name, given.name),
            ("registry.kind", watch.registry.kind, given.registry.kind),
            ("registry.uri", watch.registry.uri, given.registry.uri),
            ("registry.workspace", watch.registry.workspace, given.registry.workspace),
            ("members", watch.members, given.members or {}),
        )
        for what, watched, found in pairs:
            if watched != found:
                raise DocumentError(
                    f"`{what}` is '{watched}' in the watch and '{found}' in the project",
                    where=str(root / PARAMS_FILE),
                    fix="correct the one that is wrong",
                )
        if watch.registry.kind == "kubeflow" and not given.registry.artifacts:
            # Where it lies is another matter for each: every pod mounts it where it likes.
            raise DocumentError(
                "`registry.artifacts` is empty, so that no run would find the files of a version",
                where=str(root / PARAMS_FILE),
                fix="name the folder that every step mounts",
            )
        return given.registry


@dataclass(frozen=True, kw_only=True)
class KubeflowRuns:
    """See reprune.orchestrate.reconcile_ports.Runs."""

    settings: Settings
    projects: Projects
    patience: Patience
    clock: Callable[[], float] = time.time

    def of(self, watch: Watch) -> tuple[RunSeen, ...]:
        """All runs of the model since the watch began, or of the last 90 days."""
        endpoint = self.endpoint(watch)
        since_s = max(watch.since.timestamp() - SKEW_S, self.clock() - RUNS_S)
        with contained(watch), self.patience.asking(endpoint.host):
            found = model_runs(endpoint, watch.name, since_s=since_s)
        return tuple(
            RunSeen(
                run_id=each.run.run_id,
                version=each.version,
                lock=each.lock,
                state=each.run.state,
                created_s=each.run.created_at_s,
                ended_s=each.ended_at_s,
            )
            for each in found
        )

    def submit(self, watch: Watch, submit: Submit) -> None:
        """Starts a run named by the lock's digest, unless an active one of that name appeared meanwhile."""
        endpoint = self.endpoint(watch)
        with contained(watch), self.patience.asking(endpoint.host):
            submission = prepare(*self._submission(watch, submit))
            there = find_runs(endpoint, submission.name)
            if any(not run.ended for run in there):
                return
            run = submit_run(endpoint, submission, known=[each.run_id for each in there])
        say(
            "a run was started",
            model=watch.name,
            version=submit.lock.version,
            run=run.run_id,
            link=run.link,
            lock=submit.lock.digest,
        )

    def cancel(self, watch: Watch, run_id: str) -> None:
        """Asks for the end of a run that came second."""
        with contained(watch):
            run = cancel_run(self.endpoint(watch), run_id)
        say("a second run was cancelled", model=watch.name, run=run.run_id, state=run.state)

    def endpoint(self, watch: Watch) -> Endpoint:
        """Kubeflow Pipelines for this watch; one request is tried once: the next sweep comes soon."""
        given = self.settings.config.kubeflow
        if given is None:
            raise InputError(f"'{watch.name}' needs `kubeflow`")
        path = self.settings.path
        return Endpoint(
            host=given.host,
            ui=given.ui,
            namespace=watch.namespace,
            token_file=path(given.token_file) if given.token_file else None,
            ca_file=path(given.ca_file) if given.ca_file else None,
            timeout_s=given.timeout_s,
            backoff=Backoff(first_s=0.2, longest_s=1.0, tries=2),
        )

    def _submission(
        self, watch: Watch, submit: Submit
    ) -> tuple[Documents, Request, dict[str, str]]:
        root = self.projects.folder(watch)
        own = self.settings.config.runs.get(watch.name, ModelRuns())
        lock = decode_yaml(submit.lock.text, Lock, name="the lock")
        if lock.digest != submit.lock.digest:
            raise StaleLock("the lock that was remembered is not the one it says it is")
        documents = Documents(
            root=root,
            params=read_params(root / PARAMS_FILE),
            policy=read_policy(root / POLICY_FILE),
            lock=lock,
        )
        request = Request(
            experiment=watch.experiment,
            pipeline=self._own(root, own.pipeline),
            machines=self._own(root, own.machines),
            image=watch.image,
            control_image=own.control_image or watch.image,
            settings=tuple(f"{name}={text}" for name, text in sorted(own.settings.items())),
            service_account=watch.service_account,
        )
        texts = {
            "lock": submit.lock.text,
            "params": (root / PARAMS_FILE).read_text(encoding="utf-8"),
            "policy": (root / POLICY_FILE).read_text(encoding="utf-8"),
        }
        return documents, request, texts

    def _own(self, project: Path, text: str) -> Path | None:
        """The project's file, which a new image brings along; else one beside the configuration."""
        if not text:
            return None
        return project / text if (project / text).is_file() else self.settings.path(text)


@dataclass(frozen=True, kw_only=True)
class Told:
    """See reprune.orchestrate.reconcile_ports.People: the log, the hooks, and the repository on GitHub."""

    settings: Settings
    hooks: Callable[[Watch, Tell], None] = lambda _, __: None

    def dispatch(self, watch: Watch, version: str) -> None:
        """Sends the repository a dispatch event that names model and version."""
        given = self.settings.config.github
        if given is None:
            raise InputError(f"'{watch.name}' needs `github`")
        with contained(watch):
            token_file = self.settings.path(given.token_file)
            dispatching.send(given.api, token_file, watch.repository, watch.name, version)
        say(
            "the repository was told",
            model=watch.name,
            version=version,
            repository=watch.repository,
        )

    def tell(self, watch: Watch, tell: Tell) -> None:
        """Says it in the log, and hands it to the hooks, which are waited for by nobody here."""
        level = logging.INFO if tell.state in ("promoted", "passed") else logging.WARNING
        say(
            "a version's state",
            level=level,
            model=watch.name,
            version=tell.version,
            run=tell.run,
            state=tell.state,
            words=tell.words,
        )
        self.hooks(watch, tell)


@dataclass(frozen=True, kw_only=True)
class Memories:
    """See reprune.orchestrate.reconcile_ports.Store: a file a watch, or nothing where no folder is given.

    `waiting` names the versions of a watch whose ends a hook has still to take: what is saved has them open,
    so that the next start tells of them, whatever is newest by then.
    """

    folder: Path | None
    waiting: Callable[[Watch], frozenset[str]] = lambda _: frozenset()

    def load(self, watch: Watch) -> Memory:
        """What was saved last; empty where there is nothing, or nothing that can be read."""
        path = self._path(watch)
        try:
            return decode_json(path.read_bytes(), Memory, name=str(path)) if path else Memory()
        except (OSError, DocumentError):
            return Memory()

    def save(self, watch: Watch, memory: Memory) -> None:
        """Whole or not at all."""
        path = self._path(watch)
        if path is not None:
            still = sorted(self.waiting(watch) - set(memory.open))
            kept = msgspec.structs.replace(memory, open=(*memory.open, *still))
            store.write_bytes(path, msgspec.json.encode(kept))

    def _path(self, watch: Watch) -> Path | None:
        name = hashlib.sha256("\n".join(watch.key).encode()).hexdigest()[:32]
        return self.folder / f"{name}.json" if self.folder else None


@dataclass(frozen=True, kw_only=True)
class WallClock:
    """Unix time."""

    def now_s(self) -> float:
        """The time now."""
        return time.time()
