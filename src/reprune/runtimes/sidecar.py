"""What lies beside an engine, so that everybody knows where it may run; elsewhere it is refused."""

from __future__ import annotations

from pathlib import Path

from reprune.core.artifacts import BuildFact, Fact
from reprune.core.documents import canonical, decode_json, read_bounded
from reprune.core.errors import BuildError
from reprune.core.params import Target
from reprune.core.store import write_bytes
from reprune.runtimes.base import Binding, Runtime, Session, get_runtime
from reprune.runtimes.guarded import GuardedSession


class Sidecar(Fact, kw_only=True):
    """`engine` is the sha256 of the file beside it, `bundle` the manifest digest of what it was built
    from, `source` the digest of everything else that it was built with: target, calibration examples,
    knobs. `binding` is what ties it to a machine (Runtime.binding). `batch_size` is None where any runs.
    """

    engine: str
    runtime: str
    runtime_version: str
    precision: str
    device: str
    batch_size: int | None
    binding: Binding
    bundle: str
    source: str
    built: BuildFact


def sidecar_path(engine: Path) -> Path:
    """`<engine>.json`."""
    return engine.with_name(f"{engine.name}.json")


def write_sidecar(engine: Path, sidecar: Sidecar) -> None:
    """Afterwards the sidecar lies beside the engine, whole."""
    write_bytes(sidecar_path(engine), canonical(sidecar) + b"\n")


def read_sidecar(engine: Path) -> Sidecar:
    """Raises BuildError for an engine without one, DocumentError for one that does not decode."""
    path = sidecar_path(engine)
    try:
        raw = read_bounded(path)
    except (FileNotFoundError, NotADirectoryError):
        raise BuildError(
            "nothing says where this engine may run: its sidecar is missing",
            where=str(path),
            fix="run build again (dvc repro)",
        ) from None
    return decode_json(raw, Sidecar, name=str(path))


def open_engine(engine: Path, target: Target) -> Session:
    """A fresh session of an engine that lies beside its sidecar, if it may run here and for `target`; in a
    process of its own where the runtime may crash.

    Raises BuildError saying what differs: the runtime, its version, the precision, the batch size or
    the machine that it is bound to.
    """
    runtime = get_runtime(target.runtime)
    differs = strange(read_sidecar(engine), runtime, target)
    if differs:
        raise BuildError(
            f"this engine may not run here: {'; '.join(differs)}",
            where=str(engine),
            fix="run build on the machine that is to run it",
        )
    if runtime.capabilities.may_crash:
        return GuardedSession(engine, target)
    return runtime.open(engine, target)


def strange(sidecar: Sidecar, runtime: Runtime, target: Target) -> list[str]:
    """What speaks against running that engine here for `target`, in words; empty if nothing does."""
    version, binding = runtime.version(), runtime.binding(target)
    pairs = {
        "runtime": (sidecar.runtime, target.runtime),
        f"version of {target.runtime}": (sidecar.runtime_version, version),
        "precision": (sidecar.precision, target.precision),
        "device": (sidecar.device, target.device),
        **{
            name: (sidecar.binding.get(name, "none"), binding.get(name, "none"))
            for name in sorted({*sidecar.binding, *binding})
        },
    }
    if sidecar.batch_size is not None:
        pairs["batch size"] = (str(sidecar.batch_size), str(target.batch_size))
    return [
        f"it was built for the {name} {built}, and here it is {here}"
        for name, (built, here) in pairs.items()
        if built != here
    ]
