"""A step: a typed function from artefacts and knobs to one manifest. Its signature is the only declaration.

A parameter of a step is one of
- `Artifact[Kind]`, `list[Artifact[Kind]]`: an input directory, or several;
- `Lock`, `Policy`, `Params`: one of the three documents;
- a section of params.yaml, by its name and type (`plan: PlanParams`, `seed: int`, `task: str`);
- `Context`: where to write, where to keep checkpoints, how to say what happens;
- `Shard`: which part of the work is to be done. Not a knob: all shards have the same knobs.

`run` is what every door calls. It opens the inputs (digests checked), gives the step an empty
directory for its payload, and commits the result whole or not at all.
"""

from __future__ import annotations

import fcntl
import hashlib
import inspect
import os
import re
import sys
import typing
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from importlib import import_module
from pathlib import Path
from typing import Any, TypeAlias

from msgspec import UNSET

from reprune.core import store
from reprune.core.artifacts import Manifest
from reprune.core.documents import digest_of
from reprune.core.errors import Busy, InputError, UnknownName, nearest
from reprune.core.lock import Lock
from reprune.core.params import Params, Target
from reprune.core.policy import Policy
from reprune.core.store import Artifact

WORK_VARIABLE = "REPRUNE_WORK"

Elsewhere: TypeAlias = Callable[[Sequence[str], int], None]


@dataclass(frozen=True, kw_only=True)
class Context:
    """`out` is an empty directory for payload; `work` survives a kill and is named by the step's inputs;
    `root` is the folder of params.yaml; `say` tells a person what happens (never part of the result).
    `elsewhere` runs a command of `python` in so many processes on other machines that see the same
    folders, and returns once all have ended well; None: there are no others. `targets` are all that
    params.yaml names, those of other machines too: what is decided over all of them at once, such as the
    number of rules, is counted from these.
    """

    out: Path
    work: Path
    root: Path
    say: Callable[[str], None]
    elsewhere: Elsewhere | None = None
    targets: Mapping[str, Target] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Shard:
    """Part number `index`, from 0, of `count`: of numbered work it does index, index + count, ..."""

    index: int
    count: int

    def __str__(self) -> str:
        return f"{self.index}/{self.count}"


@dataclass(frozen=True, kw_only=True)
class Documents:
    """The three files of a repository, and the folder they lie in."""

    root: Path
    params: Params
    policy: Policy
    lock: Lock


@dataclass(frozen=True, kw_only=True)
class Input:
    name: str
    kind: type[Manifest]
    many: bool


@dataclass(frozen=True, kw_only=True)
class Step:
    """A step as its signature declares it. `sections` are the params.yaml keys that it reads.

    `sharded` is its parameter of type Shard, which `for_shard` gives a value. What it makes is committed
    as made by the step `commits_as`, and its inputs `parts` are then no parents of it.
    """

    name: str
    function: Callable[..., Manifest]
    inputs: tuple[Input, ...]
    documents: tuple[str, ...]
    sections: tuple[str, ...]
    context: str | None
    output: type[Manifest]
    summary: str = field(default="")
    sharded: str | None = None
    shard: Shard | None = None
    commits_as: str = ""
    parts: frozenset[str] = frozenset()


def step(
    name: str, *, commits_as: str = "", parts: Iterable[str] = ()
) -> Callable[[Callable[..., Manifest]], Step]:
    """Declares the decorated function as the step `name`. Raises TypeError for a signature that is none.

    `commits_as` is for a step that completes the work of another from its `parts`: of the same parents
    and knobs it makes, to the bit, what that step makes, so the artefact says no more than that.
    """

    def declare(function: Callable[..., Manifest]) -> Step:
        found = _declared(name, function)
        if set(parts) - {given.name for given in found.inputs}:
            raise TypeError(f"step {name}: {', '.join(parts)} are not all inputs of it")
        return replace(found, commits_as=commits_as or name, parts=frozenset(parts))

    return declare


def for_shard(the_step: Step, text: str) -> Step:
    """The step for one shard alone, "I/N": part I, from 0, of N. Raises InputError for anything else."""
    if the_step.sharded is None:
        raise InputError(f"{the_step.name} is not done in shards", fix="leave the shard out")
    found = re.fullmatch(r"([0-9]{1,6})/([0-9]{1,6})", text)
    if found is None or int(found[1]) >= int(found[2]):
        raise InputError(
            f"'{text}' is no shard",
            where=the_step.name,
            fix="give its number, from 0, and how many there are: 0/4, 1/4, 2/4, 3/4",
        )
    return replace(the_step, shard=Shard(index=int(found[1]), count=int(found[2])))


def load_step(name: str, steps: Mapping[str, str]) -> Step:
    """The step `name` of `steps` (name to "module:attribute"); nothing else is imported."""
    if name not in steps:
        raise UnknownName(f"there is no step called '{name}'; {nearest(name, steps)}")
    module, _, attribute = steps[name].partition(":")
    found = getattr(import_module(module), attribute)
    if not isinstance(found, Step):
        raise TypeError(f"{steps[name]} is not a step")
    return found


def run(  # noqa: PLR0913  what is run on what, then who listens and where
    the_step: Step,
    inputs: Mapping[str, Path | list[Path]],
    documents: Documents,
    out: Path,
    *,
    say: Callable[[str], None] | None = None,
    machine: str = "",
    elsewhere: Elsewhere | None = None,
) -> Artifact[Manifest]:
    """Runs a step: afterwards `out` is its whole artefact, or exactly what it was before.

    With `machine` the step sees only the targets that params.yaml gives to the machine of that name;
    `elsewhere` is as in Context.
    Raises what the step raises, ArtifactError for an input that cannot be used, Busy if another run
    is writing `out`, UnknownName for a machine without targets.
    """
    with exclusive(f"out:{out.resolve()}", what=f"another run is writing {out}"):
        store.check_place(out)
        opened = {given.name: _open(given, inputs) for given in the_step.inputs}
        unknown = set(inputs) - set(opened)
        if unknown:
            raise InputError(f"{the_step.name} has no input called {', '.join(sorted(unknown))}")
        parents = _parents(opened)
        values: dict[str, Any] = dict(opened)
        values |= {name: getattr(documents, kind) for name, kind in _document_parameters(the_step)}
        values |= {section: getattr(documents.params, section) for section in the_step.sections}
        values |= _shard_value(the_step)
        if machine and "targets" in values:
            values["targets"] = targets_of(documents.params, machine)
        with store.drafting(out) as draft:
            if the_step.context:
                values[the_step.context] = Context(
                    out=draft,
                    work=_work_folder(the_step, parents, values),
                    root=documents.root,
                    say=say or _say,
                    elsewhere=elsewhere,
                    targets=documents.params.targets,
                )
            manifest = the_step.function(**values)
            return store.write(
                draft,
                manifest,
                step=the_step.commits_as,
                parents=_parents({k: v for k, v in opened.items() if k not in the_step.parts}),
                out=out,
                knobs=knobs_digest(the_step, documents.params),
            )


def targets_of(params: Params, machine: str) -> dict[str, Target]:
    """The targets of one machine. Raises UnknownName for a name that no target has."""
    found = {name: each for name, each in params.targets.items() if each.machine == machine}
    if not found:
        names = sorted({each.machine for each in params.targets.values()} - {""})
        raise UnknownName(
            f"no target belongs to the machine '{machine}'; {nearest(machine, names)}",
            where="params.yaml (targets)",
            fix=f"give `machine: {machine}` to the targets that it measures, or correct the name",
        )
    return found


def knobs_digest(the_step: Step, params: Params) -> str:
    """Names the values of every params.yaml section that the step reads, as far as they are there."""
    values = {section: getattr(params, section) for section in the_step.sections}
    return digest_of({name: value for name, value in values.items() if value is not UNSET})


@contextmanager
def exclusive(name: str, *, what: str, folder: Path | None = None) -> Iterator[None]:
    """Holds the lock called `name` in `folder`, else in the work folder; Busy at once if somebody else does.

    The kernel frees it when the holder dies, so a killed run never leaves it behind.
    """
    folder = folder or work_root() / "locks"
    with store.disk_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / hashlib.sha256(name.encode()).hexdigest()[:32]
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise Busy(what, fix="wait until it has ended, or end it") from None
        yield
    finally:
        os.close(descriptor)


def work_root() -> Path:
    """Where checkpoints, caches and locks live: $REPRUNE_WORK, else `.reprune/work`. Losing it costs time."""
    return Path(os.environ.get(WORK_VARIABLE) or ".reprune/work").resolve()


def _declared(name: str, function: Callable[..., Manifest]) -> Step:
    hints = typing.get_type_hints(function)
    output = hints.pop("return", None)
    if not (isinstance(output, type) and issubclass(output, Manifest)):
        raise TypeError(f"step {name} must return one manifest")
    inputs: list[Input] = []
    documents: list[str] = []
    sections: list[str] = []
    context: str | None = None
    sharded: str | None = None
    sections_known = typing.get_type_hints(Params)
    for parameter, hint in hints.items():
        found = _input_of(parameter, hint)
        if found is not None:
            inputs.append(found)
        elif hint in (Lock, Policy, Params):
            documents.append(f"{parameter}={hint.__name__.lower()}")
        elif hint is Context:
            context = parameter
        elif hint is Shard:
            sharded = parameter
        elif sections_known.get(parameter) == hint:
            sections.append(parameter)
        else:
            raise TypeError(f"step {name}: '{parameter}: {hint}' is no input, document or section")
    return Step(
        name=name,
        function=function,
        inputs=tuple(inputs),
        documents=tuple(documents),
        sections=tuple(sections),
        context=context,
        output=output,
        summary=(inspect.getdoc(function) or "").partition("\n")[0],
        sharded=sharded,
    )


def _input_of(parameter: str, hint: Any) -> Input | None:
    many = typing.get_origin(hint) is list
    inner = typing.get_args(hint)[0] if many else hint
    if typing.get_origin(inner) is not Artifact:
        return None
    return Input(name=parameter, kind=typing.get_args(inner)[0], many=many)


def _shard_value(the_step: Step) -> dict[str, Shard]:
    if the_step.sharded is None:
        return {}
    if the_step.shard is None:
        raise InputError(
            "needs --shard, which part of how many",
            where=the_step.name,
            fix="give its number, from 0, and how many there are: --shard 0/4",
        )
    return {the_step.sharded: the_step.shard}


def _document_parameters(the_step: Step) -> list[tuple[str, str]]:
    return [(item.partition("=")[0], item.partition("=")[2]) for item in the_step.documents]


def _open(given: Input, inputs: Mapping[str, Path | list[Path]]) -> Any:
    where = inputs.get(given.name)
    if where is None or where == []:
        raise InputError(
            f"needs --{given.name.replace('_', '-')}, a {given.kind.__name__} directory"
        )
    paths = where if isinstance(where, list) else [where]
    if not given.many and len(paths) != 1:
        raise InputError(f"--{given.name.replace('_', '-')} takes one directory, not {len(paths)}")
    opened = [store.read(path, given.kind) for path in paths]
    return opened if given.many else opened[0]


def _parents(opened: Mapping[str, Any]) -> dict[str, str]:
    parents: dict[str, str] = {}
    for name, value in opened.items():
        if isinstance(value, list):
            parents |= {f"{name}.{index}": item.digest for index, item in enumerate(value)}
        else:
            parents[name] = value.digest
    return parents


def _work_folder(the_step: Step, parents: Mapping[str, str], values: Mapping[str, Any]) -> Path:
    """Named by everything that the step's result depends on, so that a checkpoint is never mistaken."""
    knobs = {name: values[name] for name in the_step.sections if values[name] is not UNSET}
    knobs |= {name: values[name] for name, _ in _document_parameters(the_step)}
    # A shard has a folder of its own, for shards may run side by side on one machine.
    part = [str(the_step.shard)] if the_step.shard else []
    key = digest_of([the_step.name, dict(parents), knobs, *part]).removeprefix("sha256:")
    return work_root() / f"{the_step.name}-{key[:24]}"


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
