"""Runs the job in this folder: python runner.py. Needs Python 3.9, numpy, and onnxruntime or ai-edge-litert.

It is copied into every kit, and does what `reprune device-run` does, on devices that have no Reprune:
the outputs of every engine, the units of the schedule, how engines begin; each in fresh processes. It
imports nothing of Reprune, sends nothing anywhere and changes nothing outside its own folder. That it is
one file, longer than others here, is what makes it easy to carry and to read before it is trusted.
"""

from __future__ import annotations

import gc
import hashlib
import json
import math
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

JOB_FILE = "job.json"
RESULT_FILE = "result.json"
MAX_OUTPUT_BYTES = 4 * 2**30
HOST_CLOCK = "host, each call"
CONTROL = "control"
BOARD_FILES = ("/proc/device-tree/model", "/sys/firmware/devicetree/base/model")
PACKAGES = {"onnxruntime": "onnxruntime", "litert": "ai-edge-litert"}
STABLE_WITHIN = 0.02
STABLE_BLOCKS = 3
START_CALLS = 5
PULSE_PIECES = 4
PULSE_ROUNDS = 20
TERMS = np.full(1024, 1.0 / 3.0)
SUMS = np.empty_like(TERMS)


class Refused(Exception):
    """What a person must know; printed without a traceback."""


def digest_of(value: Any) -> str:
    """`sha256:<hex>` over the same bytes as Reprune's own."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return "sha256:" + hashlib.sha256(text.encode()).hexdigest()


def file_digest(path: Path) -> str:
    """`sha256:<hex>` of the file's bytes."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while chunk := stream.read(2**20):
            digest.update(chunk)
    return "sha256:" + digest.hexdigest()


def read_job(folder: Path) -> tuple[dict[str, Any], str]:
    """The job and its digest, once every file was found to be what was sealed."""
    raw = (folder / JOB_FILE).read_bytes().rstrip(b"\n")
    job: dict[str, Any] = json.loads(raw)
    for name, digest in job["files"].items():
        if not (folder / name).is_file() or file_digest(folder / name) != digest:
            raise Refused(f"{name} is missing or was changed: copy the kit again")
    if time.time() > job["expires_s"]:
        raise Refused("this kit has expired, or the clock of this device is wrong")
    return job, "sha256:" + hashlib.sha256(raw).hexdigest()


def main(arguments: list[str]) -> int:
    """`runner.py [RESULT]`; the folder RESULT must not be there yet."""
    if arguments[:1] == ["--child"]:
        return child(arguments[1], Path(arguments[2]), Path(arguments[3]))
    folder = Path(__file__).resolve().parent
    out = Path(arguments[0]).resolve() if arguments else folder / "result"
    if out.exists():
        print(f"{out} is there already: name another folder", file=sys.stderr)
        return 2
    aside = Path(tempfile.mkdtemp(prefix=".result-", dir=out.parent))
    try:
        run_all(folder, aside)
        aside.rename(out)
    except Refused as refused:
        print(f"error: {refused}", file=sys.stderr)
        return 2
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    print(f"done: bring {out} back, and run there: reprune import {out.name}", file=sys.stderr)
    return 0


def run_all(folder: Path, out: Path) -> None:
    """The whole job, and its sealed result in `out`."""
    job, digest = read_job(folder)
    opener, version = runtime_of(job["target"])
    del opener
    began = time.time()
    outputs = all_outputs(job, folder, out)
    units = [units_of(job, folder, out, place) for place in range(len(job["timings"]))]
    starts = all_starts(job, folder, out) if job.get("starting") else ""
    result = {
        "schema": 1,
        "nonce": job["nonce"],
        "job": digest,
        "reprune": job["reprune"],
        "machine": machine(job["target"]["threads"]),
        "python": platform.python_version(),
        "runtime_version": version,
        "binding": {},
        "began_s": round(began, 3),
        "ended_s": round(time.time(), 3),
        "compiled": {},
        "outputs": outputs,
        "units": units,
        "starts": starts,
        "files": {
            path.relative_to(out).as_posix(): file_digest(path)
            for path in sorted(out.rglob("*"))
            if path.is_file()
        },
    }
    (out / RESULT_FILE).write_text(json.dumps(result), encoding="utf-8")


def all_outputs(job: dict[str, Any], folder: Path, out: Path) -> dict[str, dict[str, list[str]]]:
    """Every pass through every arm; the files, by pass and arm."""
    found: dict[str, dict[str, list[str]]] = {}
    left = MAX_OUTPUT_BYTES
    for name, calls in job["passes"].items():
        found[name] = {}
        for arm, engine in sorted(job["arms"].items()):
            files = [f"outputs/{name}/{arm}/{index:06d}.npz" for index in range(len(calls))]
            spec = {
                "target": job["target"],
                "engine": str(folder / engine),
                "inputs": [str(folder / call["file"]) for call in calls],
                "outputs": [str(out / file) for file in files],
                "most_bytes": left,
            }
            left -= ask("outputs", spec, job)
            found[name][arm] = files
            say(f"{arm}: {len(files)} batches of {name}")
    return found


def units_of(job: dict[str, Any], folder: Path, out: Path, place: int) -> str:
    """The units of one timing, a few in each fresh process."""
    timing = job["timings"][place]
    units: list[Any] = []
    for process in sorted({unit["process"] for unit in timing["units"]}):
        if units and timing["pause_seconds"]:
            time.sleep(timing["pause_seconds"])
        spec = {
            "target": {**job["target"], "batch_size": timing["batch_size"]},
            "engines": {arm: str(folder / engine) for arm, engine in job["arms"].items()},
            "shapes": [str(folder / file) for file in timing["shapes"]],
            "weights": timing["weights"],
            "plan": timing["plan"],
            "units": [unit for unit in timing["units"] if unit["process"] == process],
        }
        units += ask("units", spec, job)
        say(f"{len(units)} of {len(timing['units'])} units taken")
    file = f"units/{place}.json"
    (out / "units").mkdir(exist_ok=True)
    (out / file).write_text(json.dumps(units), encoding="utf-8")
    return file


def all_starts(job: dict[str, Any], folder: Path, out: Path) -> str:
    """How each engine begins, arms in turn, each time in a fresh process."""
    asked = job["starting"]
    found: dict[str, list[Any]] = {arm: [] for arm in sorted(job["arms"])}
    for turn in asked["turns"]:
        for arm in turn:
            spec = {
                "target": job["target"],
                "engine": str(folder / job["arms"][arm]),
                "shapes": [str(folder / file) for file in asked["shapes"]],
                "weights": asked["weights"],
            }
            found[arm].append(ask("start", spec, job))
    (out / "starts.json").write_text(json.dumps(found), encoding="utf-8")
    return "starts.json"


def ask(what: str, spec: dict[str, Any], job: dict[str, Any]) -> Any:
    """What a fresh process answers; Refused with its words where it ends badly or never."""
    with tempfile.TemporaryDirectory(prefix="kit-") as name:
        told, answered = Path(name, "told.json"), Path(name, "answered.json")
        told.write_text(json.dumps(spec), encoding="utf-8")
        command = [sys.executable, os.path.abspath(__file__), "--child", what, str(told)]  # noqa: PTH100
        threads = str(spec["target"]["threads"])
        try:
            done = subprocess.run(
                [*command, str(answered)],
                env={**os.environ, "OMP_NUM_THREADS": threads},
                stdin=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                timeout=job["hang_seconds"],
                check=False,
            )
        except subprocess.TimeoutExpired:
            raise Refused(f"{what} did not end within {job['hang_seconds']:.0f} s") from None
        if done.returncode or not answered.is_file():
            words = done.stderr.decode("utf-8", errors="replace").strip().splitlines()[-3:]
            raise Refused(f"{what} ended with {done.returncode}: " + " ".join(words))
        return json.loads(answered.read_text(encoding="utf-8"))


def child(what: str, told: Path, answered: Path) -> int:
    """The fresh process's side."""
    spec = json.loads(told.read_text(encoding="utf-8"))
    does = {"outputs": take_outputs, "units": take_units, "start": take_start}
    answered.write_text(json.dumps(does[what](spec)), encoding="utf-8")
    return 0


def take_outputs(spec: dict[str, Any]) -> int:
    """Writes the outputs for every input; the bytes written."""
    session = runtime_of(spec["target"])[0](spec["engine"])
    written = 0
    for given, wanted in zip(spec["inputs"], spec["outputs"]):  # noqa: B905  # Python 3.9
        outputs = session.run(read_arrays(given))
        written += sum(output.nbytes for output in outputs)
        if written > spec["most_bytes"]:
            raise Refused("the outputs are larger than a result may be")
        Path(wanted).parent.mkdir(parents=True, exist_ok=True)
        with Path(wanted).open("wb") as stream:
            np.savez(stream, *outputs)
    return written


def take_units(spec: dict[str, Any]) -> list[Any]:
    """The units of one process; a unit is a fresh set of sessions, a permutation of blocks, its mirror."""
    opener = runtime_of(spec["target"])[0]
    shapes = [read_arrays(file) for file in spec["shapes"]]
    found = []
    for unit in spec["units"]:
        started, load = time.time(), load_average()
        gc.collect()
        gc.disable()
        arms = take_unit(opener, spec, shapes, unit)
        gc.enable()
        found.append(
            {
                "index": unit["index"],
                "process": unit["process"],
                "seed": unit["seed"],
                "started_s": round(started, 3),
                "load": round(load, 2),
                "arms": arms,
                "clock": HOST_CLOCK,
            }
        )
    return found


def take_unit(opener: Any, spec: dict[str, Any], shapes: list[Any], unit: Any) -> dict[str, Any]:
    """One unit's times, by arm."""
    ticks, engines, plan = read_ticks(), spec["engines"], spec["plan"]
    weights = spec["weights"]
    sessions = {arm: opener(engines["dense" if arm == CONTROL else arm]) for arm in unit["created"]}
    order = unit["blocks"]
    warmed = {arm: warm_up(sessions[arm], shapes, weights, plan) for arm in reversed(order)}
    blocks: dict[str, list[Any]] = {arm: [] for arm in order}
    for arm in [*order, *reversed(order)]:
        calls = calls_a_block(warmed[arm][1], plan)
        blocks[arm].append(take_block(sessions[arm], shapes, weights, plan, calls))
    stolen = stolen_share(ticks, read_ticks())
    return {
        arm: {
            "order": order.index(arm),
            "blocks_ns": [taken for taken, _ in blocks[arm]],
            "warmup_calls": warmed[arm][0],
            "conditions": [{**state, "stolen": stolen} for _, state in blocks[arm]],
        }
        for arm in order
    }


def calls_a_block(call_ns: float, plan: dict[str, Any]) -> int:
    """As many calls as fill a block."""
    wanted = math.ceil(float(plan["block_ms"]) * 1e6 / max(call_ns, 1.0))
    return max(int(plan["min_calls"]), wanted)


def warm_up(session: Any, shapes: Any, weights: Any, plan: dict[str, Any]) -> tuple[int, float]:
    """Calls until three blocks agree within 2 %, or the time is up; their number, and ns a call."""
    deadline = time.perf_counter() + plan["warmup_seconds"]
    medians: list[float] = []
    total, calls = 0, plan["min_calls"]
    while True:
        medians.append(median(timed_calls(session, shapes, weights, calls)))
        total += calls
        last = medians[-STABLE_BLOCKS:]
        stable = len(last) == STABLE_BLOCKS and max(last) <= min(last) * (1 + STABLE_WITHIN)
        if stable or time.perf_counter() >= deadline:
            return total, medians[-1]
        calls = max(plan["min_calls"], calls_a_block(medians[-1], plan) // 4)


def take_block(
    session: Any, shapes: Any, weights: Any, plan: dict[str, Any], calls: int
) -> tuple[list[int], dict[str, Any]]:
    """A pulse, calls that do not count, then those that do; their durations, and the machine meanwhile."""
    pulse = pulse_ns()
    timed_calls(session, shapes, weights, plan["discard_calls"])
    begin, before = time.perf_counter_ns(), read_waits()
    taken = timed_calls(session, shapes, weights, calls)
    after = read_waits()
    wall = time.perf_counter_ns() - begin
    waited = None
    if before is not None and after is not None:
        waited = sum(now - before.get(thread, 0) for thread, now in after.items())
    return taken, {"wall_ns": wall, "waited_ns": waited, "pulse_ns": pulse, "device": None}


def timed_calls(session: Any, shapes: Any, weights: Any, calls: int) -> list[int]:
    """Durations in ns; a call runs every shape once, and lasts their mean by traffic share."""
    run, clock = session.run, time.perf_counter_ns
    took = []
    for _ in range(calls):
        weighted = 0.0
        for inputs, weight in zip(shapes, weights):  # noqa: B905  # Python 3.9
            begin = clock()
            run(inputs)
            weighted += weight * (clock() - begin)
        took.append(round(weighted))
    return took


def take_start(spec: dict[str, Any]) -> dict[str, int]:
    """Load time, first call and peak memory of one engine in this fresh process."""
    opener = runtime_of(spec["target"])[0]
    shapes = [read_arrays(file) for file in spec["shapes"]]
    heaviest = max(range(len(shapes)), key=lambda index: spec["weights"][index])
    Path(spec["engine"]).read_bytes()
    gc.collect()
    reset = reset_peak()
    before = resident()
    begin = time.perf_counter_ns()
    session = opener(spec["engine"])
    loaded = time.perf_counter_ns()
    session.run(shapes[heaviest])
    answered = time.perf_counter_ns()
    timed_calls(session, shapes, spec["weights"], START_CALLS)
    return {
        "load_ns": loaded - begin,
        "first_call_ns": answered - loaded,
        "peak_bytes": needed(before, resident(), reset),
    }


def runtime_of(target: dict[str, Any]) -> tuple[Any, str]:
    """What opens an engine of the target's runtime here, and the runtime's version."""
    try:
        if target["runtime"] == "onnxruntime":
            import onnxruntime

            return (lambda path: OnnxSession(path, target["threads"])), onnxruntime.__version__
        if target["runtime"] == "litert":
            from importlib.metadata import version

            import_module("ai_edge_litert.interpreter")
            return (lambda path: LiteRtSession(path, target["threads"])), version("ai-edge-litert")
    except ImportError as error:
        raise Refused(f"{error}: pip install {PACKAGES[target['runtime']]}") from error
    raise Refused(f"this runner does not know the runtime {target['runtime']}")


class OnnxSession:
    """As reprune.runtimes.onnxruntime opens one."""

    def __init__(self, path: str, threads: int) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
        options.log_severity_level = 3
        if saturates():
            options.add_session_config_entry("session.x64quantprecision", "1")
        self._session = onnxruntime.InferenceSession(
            path, options, providers=["CPUExecutionProvider"]
        )
        self._names = [given.name for given in self._session.get_inputs()]

    def run(self, inputs: list[Any]) -> list[Any]:
        found: list[Any] = self._session.run(None, dict(zip(self._names, inputs)))  # noqa: B905
        return found


class LiteRtSession:
    """One interpreter of a fixed batch size; inputs by position, float outside."""

    def __init__(self, path: str, threads: int) -> None:
        litert = import_module("ai_edge_litert.interpreter")
        content = Path(path).read_bytes()
        self._interpreter: Any = litert.Interpreter(model_content=content, num_threads=threads)
        self._interpreter.allocate_tensors()
        self._in = by_position(self._interpreter, "inputs")
        self._out = by_position(self._interpreter, "outputs")
        self._size = int(self._in[0]["shape"][0])

    def run(self, inputs: list[Any]) -> list[Any]:
        count = len(inputs[0])
        parts = [
            self._call([filled(one[start : start + self._size], self._size) for one in inputs])
            for start in range(0, count, self._size)
        ]
        if len(parts) == 1 and count == self._size:
            return parts[0]
        return [np.concatenate(found)[:count] for found in zip(*parts)]  # noqa: B905

    def _call(self, inputs: list[Any]) -> list[Any]:
        for detail, values in zip(self._in, inputs):  # noqa: B905
            self._interpreter.set_tensor(detail["index"], stored(detail, values))
        self._interpreter.invoke()
        found = [(one, self._interpreter.get_tensor(one["index"])) for one in self._out]
        return [read_back(detail, values) for detail, values in found]


def by_position(interpreter: Any, which: str) -> list[Any]:
    """Inputs are named args_0, args_1, ..., outputs output_0, ...: in the order of those numbers."""
    inputs = which == "inputs"
    details = interpreter.get_input_details() if inputs else interpreter.get_output_details()
    by_index = {detail["index"]: detail for detail in details}
    names = interpreter._get_full_signature_list()["serving_default"][which]
    ordered = sorted(names.items(), key=lambda item: int(item[0].rpartition("_")[2]))
    return [by_index[index] for _, index in ordered]


def stored(detail: Any, values: Any) -> Any:
    """In the type that the engine reads."""
    scale, zero = detail["quantization"]
    if values.dtype != np.int8 and detail["dtype"] == np.int8 and scale:
        steps = np.rint(values.astype(np.float32) / np.float32(scale)) + zero
        return np.clip(steps, -128, 127).astype(np.int8)
    wanted = np.dtype(detail["dtype"])
    if values.dtype != wanted and wanted.kind in "iu" and values.size:
        holds = np.iinfo(wanted)
        if not holds.min <= values.min() <= values.max() <= holds.max:
            raise Refused(
                f"the engine holds numbers up to {holds.max}, and is given {values.max()}"
            )
    return values.astype(wanted)


def read_back(detail: Any, values: Any) -> Any:
    """In float where the engine stores int8."""
    scale, zero = detail["quantization"]
    if values.dtype == np.int8 and scale:
        return (values.astype(np.float32) - zero) * np.float32(scale)
    return values


def filled(values: Any, size: int) -> Any:
    """Made up to `size` examples with the last one."""
    missing = size - len(values)
    return values if not missing else np.concatenate([values, *[values[-1:]] * missing])


def read_arrays(file: str) -> list[Any]:
    """The arrays of an .npz, in order; no pickles."""
    with np.load(file, allow_pickle=False) as arrays:
        return [arrays[f"arr_{index}"] for index in range(len(arrays.files))]


def machine(threads: int) -> dict[str, Any]:
    """As reprune.core.machine.this_machine."""
    cpu = cpu_model()
    affinity = getattr(os, "sched_getaffinity", None)
    cpus = len(affinity(0)) if affinity else os.cpu_count() or 1
    system = f"{platform.system()} {platform.machine()}"
    kind = digest_of([cpu, system, cpus, threads])
    return {
        "instance": digest_of([machine_id(), kind]),
        "kind": kind,
        "cpu": cpu,
        "logical_cpus": cpus,
        "os": system,
        "accelerator": "",
    }


def cpu_name(cpuinfo: str, board: str, brand: str) -> str:
    """As reprune.core.machine.cpu_name."""
    cores = []
    for core in re.split(r"\n\s*\n", cpuinfo):
        told: dict[str, str] = dict(
            re.findall(r"^([^:\n]+?)[ \t]*:[ \t]*(.*?)[ \t]*$", core, re.MULTILINE)
        )
        if "CPU implementer" in told:
            maker, part, variant, revision = (
                told.get(f"CPU {name}", "?")
                for name in ("implementer", "part", "variant", "revision")
            )
            cores.append(f"ARM {maker}:{part} {variant} r{revision}")
        elif "model name" in told:
            return told["model name"]
    named = [name for name in (board.rstrip("\0").strip(), brand.strip()) if name]
    return ", ".join([*named, *dict.fromkeys(cores)])


def cpu_model() -> str:
    brand = ""
    if platform.system() == "Darwin":
        asked = ["/usr/sbin/sysctl", "-n", "machdep.cpu.brand_string"]
        with suppress(OSError, subprocess.SubprocessError):
            brand = subprocess.run(
                asked, capture_output=True, check=False, text=True, timeout=10
            ).stdout
    board = next((text for text in map(text_of, BOARD_FILES) if text), "")
    found = cpu_name(text_of("/proc/cpuinfo"), board, brand)
    return found or platform.processor() or platform.machine()


def text_of(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def machine_id() -> str:
    if os.environ.get("REPRUNE_MACHINE_ID"):
        return os.environ["REPRUNE_MACHINE_ID"]
    for path in ("/etc/machine-id", "/var/lib/dbus/machine-id"):
        try:
            text = Path(path).read_text(encoding="utf-8").strip()
        except OSError:
            continue
        if text:
            return text
    return hashlib.sha256(platform.node().encode()).hexdigest()


def saturates() -> bool:
    """As reprune.runtimes.onnxruntime: 8-bit products overflow on x86 without VNNI."""
    try:
        flags = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return False
    return "avx2" in flags and "avx512_vnni" not in flags and "avx_vnni" not in flags


def load_average() -> float:
    try:
        return os.getloadavg()[0]
    except OSError:
        return 0.0


def pulse_ns() -> int:
    """How long a fixed piece of arithmetic takes now: a slower clock makes it longer."""
    fastest = 0
    for _ in range(PULSE_PIECES):
        begin = time.perf_counter_ns()
        for _ in range(PULSE_ROUNDS):
            np.add.accumulate(TERMS, out=SUMS)
        took = time.perf_counter_ns() - begin
        fastest = min(fastest or took, took)
    return fastest


def read_waits() -> dict[str, int] | None:
    """How long each thread has stood ready for a core, in ns; None where the kernel does not tell."""
    waits: dict[str, int] = {}
    try:
        for thread in os.listdir("/proc/self/task"):  # noqa: PTH208
            try:
                raw = Path(f"/proc/self/task/{thread}/schedstat").read_bytes()
            except ProcessLookupError:
                continue
            waits[thread] = int(raw.split()[1])
    except (OSError, ValueError, IndexError):
        return None
    return waits


def read_ticks() -> tuple[int, int] | None:
    """(stolen, all) time of all cores since boot; None where the kernel does not tell."""
    try:
        fields = Path("/proc/stat").read_bytes().split(b"\n", 1)[0].split()
        counted = [int(field) for field in fields[1:9]]
        return counted[7], sum(counted)
    except (OSError, ValueError, IndexError):
        return None


def stolen_share(before: Any, after: Any) -> float | None:
    """The share of all cores' time that the hypervisor gave to others."""
    if before is None or after is None or after[1] <= before[1]:
        return None
    return float(round(max(0, after[0] - before[0]) / (after[1] - before[1]), 6))


def resident() -> tuple[int | None, int]:
    """Resident bytes now (None where the system does not tell), and the most so far."""
    try:
        text = Path("/proc/self/status").read_text(encoding="ascii")
        fields = dict(line.split(":", 1) for line in text.splitlines())
        return int(fields["VmRSS"].split()[0]) * 1024, int(fields["VmHWM"].split()[0]) * 1024
    except (OSError, KeyError, ValueError):
        import resource

        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return None, peak if sys.platform == "darwin" else peak * 1024


def reset_peak() -> bool:
    try:
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    except OSError:
        return False
    return True


def needed(before: tuple[int | None, int], after: tuple[int | None, int], reset: bool) -> int:
    """The bytes of the peak between two readings, beyond what was resident at the first."""
    if before[0] is None or after[0] is None:
        return max(0, after[1] - before[1])
    if reset or after[1] > before[1]:
        return max(0, after[1] - before[0])
    return max(0, after[0] - before[0])


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except Refused as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
