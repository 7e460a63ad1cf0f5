"""What pruning and int8 buy on every target that runs on this machine: size, and latency side by side.

    python -m benchmarks.targets [--quick] [--verify] [--json FILE] [--only RUNTIME,...] [--docs]

The four models of tests/zoo.py (a CNN with odd channel counts, ResNet-20, a small U-Net, MiniLM of 32
tokens), dense and cut by our own surgery, each as an engine of each runtime in fp32 and int8. All
engines of one model are timed in one process, interleaved (one thread, batch 1), in several fresh
processes; a ratio is the median over processes. `--quick` takes one process and leaves MiniLM out;
`--verify` takes one runtime and one model again and compares with the committed result; `--docs` writes
the table of the committed result into docs/targets.md.
"""

from __future__ import annotations

import argparse
import math
import os
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.common import committed, options, result, table, write
from reprune.core.errors import RepruneError
from reprune.core.params import Target
from reprune.runtimes.base import RUNTIMES, get_runtime

MODELS = ("odd-cnn", "residual", "segmentation", "minilm")
FORMS = ("dense", "pruned")
PRECISIONS = ("fp32", "int8")
PROCESSES = 5
# fp32 of the dense model in this runtime is what all others are compared with.
REFERENCE = "onnxruntime"
# What a user would write for a transformer: ranges without the outliers, and in float the layers that
# outliers come out of. The CNNs are quantised whole.
MINILM_INT8 = {"ranges": "percentile", "float_layers": ("head", "*.output.dense")}
# Between two runs on one shared machine.
VERIFY_WITHIN = 0.25
PAGE = Path(__file__).parents[1] / "docs" / "targets.md"
BEGIN, END = "<!-- table: benchmarks.targets -->", "<!-- end of table -->"


@dataclass(frozen=True, kw_only=True)
class Engine:
    """One engine and how near it is to its own module on 64 examples that it was not calibrated on."""

    runtime: str
    form: str
    precision: str
    path: Path
    bytes: int
    cosine: float
    agreement: float

    @property
    def key(self) -> str:
        return f"{self.runtime} {self.form} {self.precision}"


def main() -> int:
    given = options(__doc__, _more)
    if given.docs:
        PAGE.write_text(page_with(PAGE.read_text(), committed("targets")["rows"]))
        return 0
    if given.verify:
        return verify()
    names = given.only.split(",") if given.only else runtimes_here()
    models = MODELS[:3] if given.quick else MODELS
    processes = 1 if given.quick else PROCESSES
    rows: list[dict[str, Any]] = []
    for model in models:
        rows += measured(model, names, processes)
        if given.json:  # what is measured stays, whatever becomes of the next model
            write(given.json, result(figures(rows), rows, processes=processes))
    print(table(rows, COLUMNS))
    return 0


COLUMNS = (
    "model", "runtime", "form", "precision", "bytes", "cosine", "agreement", "ms", "to_dense", "to_reference"
)  # fmt: skip


def _more(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--only", default="", help="runtimes, with commas between")
    parser.add_argument("--docs", action="store_true", help="write the table into docs/targets.md")


def runtimes_here() -> list[str]:
    """Those whose times mean something on this machine, the reference first."""
    found = []
    for name in RUNTIMES:
        runtime = get_runtime(name)
        try:
            runtime.version()
        except (RepruneError, ImportError):
            continue
        if runtime.capabilities.latency and "cpu" in runtime.capabilities.devices:
            found.append(name)
    return sorted(found, key=lambda name: (name != REFERENCE, name))


def measured(model: str, names: Sequence[str], processes: int) -> list[dict[str, Any]]:
    """One row an engine: its size, its nearness and its time over those of the others."""
    with tempfile.TemporaryDirectory(prefix="reprune-targets-") as folder:
        engines = [
            engine
            for name in names
            for form in FORMS
            for engine in _built(model, name, form, Path(folder))
        ]
        ms = _timed(model, engines, processes)
    return [_row(model, engine, engines, ms) for engine in engines]


def _built(model: str, name: str, form: str, folder: Path) -> Iterator[Engine]:
    import numpy as np
    import torch

    from reprune.runtimes.base import Source
    from tests import zoo

    runtime = get_runtime(name)
    held = getattr(zoo, form)(model)
    inputs = [tensor.numpy() for tensor in held.held]
    with torch.no_grad():
        wanted = held.module(*held.held).numpy()
    for precision in PRECISIONS:
        if precision not in runtime.capabilities.precisions:
            continue
        path = folder / f"{name}-{form}-{precision}{runtime.suffix}"
        source = Source(
            module=held.module,
            example_inputs=held.example_inputs,
            input_names=held.input_names,
            calibration=held.calibration,
        )
        target = _target(name, precision, model)
        try:
            runtime.build(source, target, path)
            (found,) = runtime.open(path, target).run(inputs)
        except RepruneError as error:
            print(f"{model}: {name} {form} {precision}: {error}", flush=True)
            continue
        yield Engine(
            runtime=name,
            form=form,
            precision=precision,
            path=path,
            bytes=path.stat().st_size,
            cosine=round(_cosine(wanted, np.asarray(found, dtype=np.float32)), 6),
            agreement=round(float((_answers(wanted) == _answers(found)).mean()), 4),
        )
        print(f"{model}: {name} {form} {precision} built", flush=True)


def _target(name: str, precision: str, model: str = "") -> Target:
    python = os.environ.get("REPRUNE_LITERT_PYTHON", "") if name == "litert" else ""
    knobs = MINILM_INT8 if (model, precision) == ("minilm", "int8") else {}
    return Target(runtime=name, precision=precision, python=python, **knobs)  # type: ignore[arg-type]


def _cosine(one: Any, other: Any) -> float:
    one, other = one.ravel().astype("float64"), other.ravel().astype("float64")
    return float(one @ other / math.sqrt(float(one @ one) * float(other @ other)))


def _answers(outputs: Any) -> Any:
    """The class, or for one output a place whether it is above zero."""
    return outputs.argmax(axis=1) if outputs.ndim == 2 and outputs.shape[1] > 1 else outputs > 0


def _timed(model: str, engines: Sequence[Engine], processes: int) -> list[dict[str, float]]:
    """For each fresh process, every engine's time a call in ms, all interleaved."""
    paths = {one.key: (one.runtime, one.precision, str(one.path)) for one in engines}
    with ProcessPoolExecutor(1, mp_context=get_context("spawn"), max_tasks_per_child=1) as pool:
        taken = []
        for turn in range(processes):
            taken.append(pool.submit(one_process, model, paths, turn).result())
            print(f"{model}: {turn + 1} of {processes} processes", flush=True)
    return taken


def one_process(
    model: str, paths: Mapping[str, tuple[str, str, str]], turn: int
) -> dict[str, float]:
    """All engines opened in a seeded order, warmed up, and timed in a permutation and its mirror."""
    from reprune.measure.calls import Shape
    from reprune.measure.unit import (
        Bench,
        BlockPlan,
        block_order,
        calls_a_block,
        creation_order,
        take_block,
        warm_up,
    )
    from tests import zoo

    held = zoo.dense(model)
    shapes = (Shape(inputs=tuple(x[:1].numpy() for x in held.held), weight=1.0),)
    plan = BlockPlan(block_ms=10.0, min_calls=5, discard_calls=5, warmup_seconds=0.15)
    benches = {
        key: Bench(
            runtime=get_runtime(name), target=_target(name, precision), shapes=shapes, blocks=plan
        )
        for key, (name, precision, _) in paths.items()
    }
    keys = sorted(paths)
    sessions = {
        key: benches[key].runtime.open(Path(paths[key][2]), benches[key].target)
        for key in creation_order(keys, turn)
    }
    order = block_order(keys, turn)
    warmed = {key: warm_up(sessions[key], shapes, plan) for key in reversed(order)}
    logs: dict[str, list[float]] = {key: [] for key in keys}
    for key in (*order, *reversed(order)):
        block = take_block(sessions[key], benches[key], calls_a_block(warmed[key].call_ns, plan))
        logs[key].append(math.log(median(block.calls_ns)))
    return {key: math.exp(sum(found) / len(found)) / 1e6 for key, found in logs.items()}


def _row(
    model: str, engine: Engine, engines: Sequence[Engine], ms: Sequence[Mapping[str, float]]
) -> dict[str, Any]:
    mine = f"{engine.runtime} dense fp32"
    reference = f"{REFERENCE} dense fp32"
    sizes = {one.key: one.bytes for one in engines}

    def over(other: str) -> float | None:
        if other not in sizes:
            return None
        return round(math.exp(median(math.log(one[engine.key] / one[other]) for one in ms)), 4)

    return {
        "model": model,
        "runtime": engine.runtime,
        "form": engine.form,
        "precision": engine.precision,
        "bytes": engine.bytes,
        "size_percent": round(100 * engine.bytes / sizes[mine], 2),
        "cosine": engine.cosine,
        "agreement": engine.agreement,
        "ms": round(median(one[engine.key] for one in ms), 4),
        "to_dense": over(mine),
        "to_reference": over(reference),
    }


def figures(rows: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Of the pruned models: `<runtime>_<model>_<precision>_cosine` to their own modules, `_ratio` and
    `_size_percent` over the dense fp32 engine of the same runtime.
    """
    found: dict[str, float] = {}
    for row in rows:
        if row["form"] == "pruned":
            stem = f"{row['runtime']}_{row['model']}_{row['precision']}"
            found[f"{stem}_cosine"] = row["cosine"]
            found[f"{stem}_ratio"] = row["to_dense"]
            found[f"{stem}_size_percent"] = row["size_percent"]
    return found


def markdown(rows: Sequence[Mapping[str, Any]]) -> str:
    """The table of docs/targets.md: a line for each model and runtime."""
    lines = [
        "| model | runtime | dense fp32 | dense int8 | pruned fp32 | pruned int8 | cosine of pruned int8 |",
        "|---|---|--:|--:|--:|--:|--:|",
    ]
    places = dict.fromkeys((row["model"], row["runtime"]) for row in rows)
    for model, runtime in places:
        held = {
            (row["form"], row["precision"]): row
            for row in rows
            if (row["model"], row["runtime"]) == (model, runtime)
        }
        cells = [_cell(held.get((form, precision))) for form in FORMS for precision in PRECISIONS]
        last = held.get(("pruned", "int8"))
        cells.append("" if last is None else f"{last['cosine']:.4f}")
        lines.append(f"| {model} | {runtime} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _cell(row: Mapping[str, Any] | None) -> str:
    if row is None:
        return ""
    faster = "" if row["to_reference"] is None else f"x{row['to_reference']:.2f}, "
    return f"{faster}{row['bytes'] / 1000:,.0f} kB"


def page_with(page: str, rows: Sequence[Mapping[str, Any]]) -> str:
    """The page with the rows' table in its place."""
    before, _, rest = page.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n{markdown(rows)}\n{END}{after}"


def verify() -> int:
    """The odd CNN in ONNX Runtime again: sizes to the byte, ratios within a quarter."""
    rows = measured("odd-cnn", [REFERENCE], 3)
    told = {
        (row["form"], row["precision"]): row
        for row in committed("targets")["rows"]
        if (row["model"], row["runtime"]) == ("odd-cnn", REFERENCE)
    }
    bad = [
        row
        for row in rows
        for was in [told[row["form"], row["precision"]]]
        if row["bytes"] != was["bytes"]
        or abs(math.log(row["to_dense"] / was["to_dense"])) > VERIFY_WITHIN
    ]
    print(table(rows, COLUMNS))
    print("differs: " + str(bad) if bad else "as committed")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
