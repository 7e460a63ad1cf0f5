"""Everything that a decision rests on, as one value. `judge.verdict.judge(evidence, policy)` decides."""

from __future__ import annotations

from msgspec import UNSET, UnsetType

from reprune.core.artifacts import EngineFact, Expectation, Fact, PowerFact, Waiver
from reprune.core.documents import MAX_SAMPLES_BYTES, decode_json
from reprune.core.machine import Machine

# A second session of the dense model in every unit: whatever it differs by is not the model.
CONTROL = "control"
# Unit.clock where calls are timed from outside: one reading before and one after each call.
HOST_CLOCK = "host, each call"


class DeviceConditions(Fact, kw_only=True):
    """An accelerator while one block ran, as its driver tells. `throttle` names the active reasons."""

    clock_mhz: int
    memory_clock_mhz: int
    power_limit_w: float
    throttle: tuple[str, ...]
    other_processes: int


class Conditions(Fact, kw_only=True):
    """The machine while one block of calls ran. What the machine does not tell is None.

    `waited_ns` is how long this process's threads stood ready for a core that others had;
    `stolen` the share of all cores' time that the hypervisor gave to others; `pulse_ns` how long a fixed
    piece of arithmetic took just before the block: a slower clock makes it longer.
    """

    wall_ns: int
    waited_ns: int | None
    stolen: float | None
    pulse_ns: int
    device: DeviceConditions | None = None


class ArmTimes(Fact, kw_only=True):
    """One arm in one unit: durations of single calls in ns, a list for each of its two blocks.

    The first calls after a switch of arms are not in here. `order` is the place in the permutation.
    `conditions` holds one entry a block; it is empty where they were not recorded. `build` numbers the
    engine where several were built of each arm (judge.builds).
    """

    order: int
    blocks_ns: tuple[tuple[int, ...], ...]
    warmup_calls: int
    conditions: tuple[Conditions, ...] = ()
    build: int | UnsetType = UNSET


class Unit(Fact, kw_only=True):
    """One freshly created set of sessions, one an arm: the unit of latency evidence.

    `process` numbers the fresh process it ran in; `started_s` is Unix time, used only for the age of
    the evidence. `load` is the machine's 1-minute load average when it began. `arms` may hold CONTROL
    beside the judged arms. `clock` names how calls were timed. `board` is how a board that can be set
    (a Jetson) was set when the unit began, by the names of BuildFact.details (judge.boards).
    """

    index: int
    process: int
    seed: int
    started_s: float
    load: float
    arms: dict[str, ArmTimes]
    clock: str = HOST_CLOCK
    board: dict[str, str] | UnsetType = UNSET


class Phases(Fact, kw_only=True):
    """What a call on an accelerator is made of, by its own clock: copies in, computing, copies out."""

    h2d_us: float
    compute_us: float
    d2h_us: float


class Start(Fact, kw_only=True):
    """One fresh process: how long the engine took to load and its first call to return, and the peak of
    resident bytes beyond what the process had before. Shown beside the verdict, never judged but for
    the memory. The engine file was read just before, so that it came from memory and not from the disk.
    `phases` is there where the session can tell; so is `clock`, by which it times its calls.
    """

    load_ns: int
    first_call_ns: int
    peak_bytes: int
    phases: Phases | UnsetType = UNSET
    clock: str | UnsetType = UNSET


class BatchUnits(Fact, kw_only=True):
    """The units of a target at one more batch size, for throughput."""

    batch_size: int
    units: tuple[Unit, ...]


class TargetEvidence(Fact, kw_only=True):
    """All units of one target on one machine, in the order they were taken.

    `throughput` holds the target's other batch sizes. `memory` maps arm to the peak resident bytes of
    one fresh process each; it is empty where the policy has no rule about it.
    """

    target: str
    machine: Machine
    batch_size: int
    units: tuple[Unit, ...]
    throughput: tuple[BatchUnits, ...] = ()
    memory: dict[str, tuple[int, ...]] = {}


class ArmRecords(Fact, kw_only=True):
    """One arm's records over all judged examples: column name to one integer an example."""

    columns: dict[str, tuple[int, ...]]


class QualityEvidence(Fact, kw_only=True):
    """The same examples through all arms, in one order. `slices` maps family to value per example.

    Keys of `arms`: `<arm>@<target>` for every arm's engine on every target, and `dense` for the
    dense model as trained (run by its own framework), which is what `vs_parent` means. `times` says
    when each example was taken, as text that sorts; None where the task does not. `dropped` counts, by
    arm, the examples that were left out because that arm was made with them; None means unknown.
    """

    eval_digest: str
    ids: tuple[str, ...]
    slices: dict[str, tuple[str, ...]]
    sources: tuple[str, ...] | None
    arms: dict[str, ArmRecords]
    times: tuple[str, ...] | None = None
    dropped: dict[str, int | None] = {}


class Problem(Fact, kw_only=True):
    """Something that makes the evidence unusable: the outcome is `error`, never a pass."""

    code: str
    words: str


class Evidence(Fact, kw_only=True):
    """The whole of it. `arms` maps arm to bundle digest; candidate and dense are always there.

    `attempt` is 1 for the first look at the sealed data for this dense version. `problems` are what
    the gate found when it assembled the evidence (wrong machine, stale lock, failed data contract).
    `uses` counts the verdicts, this one included, that were given on these eval examples; 0 means
    unknown. `champion_newest` is the latest `time` among the examples that the champion was judged on.
    `contract` is the data contract's findings, `waivers` those of earlier promotions that may still hold.
    """

    name: str
    dense_version: str
    champion_version: str | None
    seed: str
    attempt: int
    arms: dict[str, str]
    engines: tuple[EngineFact, ...]
    targets: tuple[TargetEvidence, ...]
    quality: QualityEvidence
    power: tuple[PowerFact, ...]
    problems: tuple[Problem, ...]
    uses: int = 0
    champion_newest: str | None = None
    contract: tuple[Expectation, ...] = ()
    waivers: tuple[Waiver, ...] = ()


def decode_units(raw: bytes, *, name: str = "units") -> tuple[Unit, ...]:
    """The units in a `latency/<target>.json` payload. Raises DocumentError, which names `name`."""
    return decode_json(raw, tuple[Unit, ...], name=name, max_bytes=MAX_SAMPLES_BYTES)


def decode_evidence(raw: bytes, *, name: str) -> Evidence:
    """A verdict's `evidence.json`. Raises DocumentError, which names `name`."""
    return decode_json(raw, Evidence, name=name, max_bytes=MAX_SAMPLES_BYTES)
