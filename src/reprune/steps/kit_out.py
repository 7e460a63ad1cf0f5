"""`reprune kit`: a folder that carries a benchmark's work to a device that nobody can call."""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from msgspec import structs

from reprune.core.artifacts import DataReport, Engines, ModelBundle, Previous
from reprune.core.documents import canonical
from reprune.core.errors import InputError, nearest
from reprune.core.machine import this_machine
from reprune.core.params import Target
from reprune.core.step import Documents
from reprune.core.store import Artifact, disk_errors, write_bytes
from reprune.measure.device_job import KIT_FILE, DeviceJob, add_pass, new_job, seal
from reprune.steps.answerable import refuse_unanswerable
from reprune.steps.kits import EVAL, PARITY, Kit, remember
from reprune.steps.looking import check_reach, look_at, refuse_unfit, timed_jobs
from reprune.steps.refusals import refuse_failed_data, refuse_strangers

if TYPE_CHECKING:
    from reprune.measure.latency import LatencyJob
    from reprune.task.protocol import Split
    from reprune.task.seal import Sealed

RUNNER = "runner.py"
RUNNERS = {"onnxruntime": "onnxruntime", "litert": "ai-edge-litert"}
README = """\
A kit of Reprune: it measures the engines in this folder on the device that it is carried to.

1. On the device: pip install numpy{package}
2. There, while nothing else runs: {command}
3. Bring the folder {result} back, and run where the kit was made: reprune import {result}

It holds the inputs of the sealed evaluation split: keep it to yourself. It is good until {until} (UTC), and
for one result. The target is {name}: {runtime}, {precision}, batch size {batch_size}, {threads} thread(s).
"""


@dataclass(frozen=True, kw_only=True)
class Parts:
    """What a kit is made of: the benchmark's own inputs."""

    engines: Artifact[Engines]
    dense: Artifact[ModelBundle]
    previous: Artifact[Previous]
    data: Artifact[DataReport]


def make_kits(
    documents: Documents,
    parts: Parts,
    out: Path,
    *,
    target: str = "",
    say: Callable[[str], None],
) -> tuple[int, dict[str, Kit]]:
    """Counts one look, then writes `out/<target>` for the target, or for all with `kit: true`.

    (attempt, kits by target). Nobody can stop a kit, so it takes as many units as the last look of the
    policy asks for. Raises as the benchmark does, and InputError where there is no such target; before a
    look is counted for everything but a full disk.
    """
    params, policy = documents.params, documents.policy
    refuse_failed_data(parts.data)
    refuse_unanswerable(policy, parts.data)
    check_reach(params.targets)
    refuse_strangers(parts.dense, {"data report": parts.data})
    refuse_unfit(parts.engines, parts.dense, parts.previous, this_machine(params.threads))
    names = _kit_targets(params.targets, target)
    if out.exists() and any(out.iterdir()):
        raise InputError("is not empty", where=str(out), fix="name a new folder with --out")
    import torch

    from reprune.compress.bundle import load_bundle
    from reprune.measure.attempts import ATTEMPTS_FILE, next_attempt

    torch.set_num_threads(params.threads)
    torch.manual_seed(params.seed)
    sealed: tuple[Split, ...] = ("calibration",)
    task = load_bundle(parts.dense, splits=sealed).task
    look = look_at(parts.engines, parts.dense, parts.data)
    jobs = timed_jobs(parts.engines, task, params.targets, params.benchmark, policy, look)
    missing = [name for name in names if name not in jobs]
    if missing:
        raise InputError(
            f"no engines were built for '{missing[0]}'",
            where=str(parts.engines.path),
            fix="run build again (dvc repro)",
        )
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=".kit-") as scratch:
        drafts = {}
        for name in names:
            folder = Path(scratch, name)
            folder.mkdir()
            drafts[name] = _draft(folder, name, jobs[name], task, documents)
        attempt = next_attempt(
            documents.root / ATTEMPTS_FILE, look, registered=parts.previous.manifest.attempts
        )
        say(f"attempt {attempt} for dense version {look.dense_version}: opening the sealed split")
        kits = {}
        for name, draft in drafts.items():
            folder = Path(scratch, name)
            job = _sealed(folder, draft, parts.dense)
            kits[name] = Kit(job=job, engines=parts.engines.digest, attempt=attempt, look=look)
            # Beside the sealed files, for an import on another machine than this.
            write_bytes(folder / KIT_FILE, canonical(kits[name]) + b"\n")
        with disk_errors(out):
            out.mkdir(exist_ok=True)
            for name in names:
                Path(scratch, name).rename(out / name)
    for kit in kits.values():
        remember(documents.root, kit)
    return attempt, kits


def _kit_targets(targets: dict[str, Target], wanted: str) -> list[str]:
    kits = sorted(name for name, target in targets.items() if target.kit)
    if wanted and wanted not in kits:
        raise InputError(
            f"'{wanted}' is no target with `kit: true`; {nearest(wanted, kits)}",
            where="params.yaml (targets)",
        )
    if not kits:
        raise InputError(
            "no target has `kit: true`",
            where="params.yaml (targets)",
            fix="set it for the target whose device cannot be called",
        )
    return [wanted] if wanted else kits


def _draft(
    folder: Path, name: str, job: LatencyJob, task: Sealed, documents: Documents
) -> DeviceJob:
    """Everything that goes into the kit but the sealed examples."""
    from reprune.measure.source import calibration_batches
    from reprune.steps.remote import arrays, put_engines, starting, timing

    policy, params = documents.policy, documents.params
    empty = new_job(
        name,
        job.target,
        hang_seconds=job.hang_seconds,
        valid_s=policy.valid_for_days * 86400.0,
    )
    batches = calibration_batches(task, params.build.parity_examples)
    timings = [
        timing(folder, one, range(units), 0) for one, units in _units_asked(job, task, documents)
    ]
    return structs.replace(
        empty,
        arms=put_engines(folder, job.engines),
        # Its sidecar names the version here; any version of the runtime may be on the device, and the
        # result says which.
        bound=False,
        passes={PARITY: add_pass(folder, PARITY, arrays(batches))},
        timings=tuple(timings),
        starting=starting(folder, job),
    )


def _units_asked(
    job: LatencyJob, task: Sealed, documents: Documents
) -> Sequence[tuple[LatencyJob, int]]:
    """Each batch size with the most units that the policy could want there."""
    from reprune.judge.decided import stops
    from reprune.steps.batch_sizes import other_batch_sizes
    from reprune.steps.sampling import at_batch_size

    policy = documents.policy
    most = (stops(policy, set(job.engines)) or policy.looks[:1])[-1]
    others = [at_batch_size(job, task, size) for size in other_batch_sizes(job.target, policy)]
    return [(job, most), *((other, policy.looks[-1]) for other in others)]


def _sealed(folder: Path, draft: DeviceJob, dense: Artifact[ModelBundle]) -> DeviceJob:
    """Opens the sealed split, writes its inputs, the runner and what to do; afterwards all is sealed."""
    from reprune.compress.bundle import load_bundle
    from reprune.steps.remote import arrays

    opened: tuple[Split, ...] = ("eval",)
    batches = list(load_bundle(dense, splits=opened).task.batches("eval", epoch=0, seed=0))
    ids = [list(batch.ids) for batch in batches]
    write_bytes(folder / "ids.json", canonical(ids) + b"\n")
    package = RUNNERS.get(draft.target.runtime)
    if package:
        shutil.copyfile(Path(__file__).parents[1] / "measure" / "kit_runner.py", folder / RUNNER)
    until = time.strftime("%Y-%m-%d %H:%M", time.gmtime(draft.expires_s))
    text = README.format(
        package=f" {package}" if package else f" 'reprune=={draft.reprune}' and the runtime",
        command=f"python {RUNNER} result" if package else "reprune device-run . --out result",
        result="result",
        until=until,
        name=draft.name,
        runtime=draft.target.runtime,
        precision=draft.target.precision,
        batch_size=draft.target.batch_size,
        threads=draft.target.threads,
    )
    write_bytes(folder / "README.txt", text.encode())
    passes = {**draft.passes, EVAL: add_pass(folder, EVAL, arrays(batches))}
    return seal(folder, structs.replace(draft, passes=passes))
