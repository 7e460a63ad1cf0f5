"""`params.yaml`: every knob of the steps, typed and ranged. A step names the sections it reads."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal, TypeAlias

from msgspec import UNSET, Meta, UnsetType, field

from reprune.core.documents import Document, read_yaml
from reprune.core.errors import DocumentError
from reprune.core.lock import Name
from reprune.core.plan_checks import check_plan
from reprune.core.schedule_checks import check_schedule, check_training

PARAMS_FILE = "params.yaml"

Share: TypeAlias = Annotated[float, Meta(gt=0.0, le=1.0)]
Count: TypeAlias = Annotated[int, Meta(ge=1, le=100_000_000)]
Positive: TypeAlias = Annotated[float, Meta(gt=0.0, le=1e9)]
# How an engine computes and stores; each runtime offers some (runtimes.base.Capabilities). "int8-fp16" is
# int8 where it is quantised and fp16 elsewhere; "int8-weights" and "palette4" store weights small and
# compute in float.
Precision: TypeAlias = Literal[
    "fp32", "fp16", "bf16", "int8", "int8-fp16", "int8-weights", "palette4"
]
SplitName: TypeAlias = Literal["train", "tune", "calibration", "eval"]
Entry: TypeAlias = Annotated[str, Meta(pattern=r"^[A-Za-z_][\w.]*:[A-Za-z_]\w*$")]

MIN_EXAMPLES: dict[SplitName, int] = {"train": 100, "tune": 50, "calibration": 50, "eval": 100}

MaxBytes: TypeAlias = Annotated[int, Meta(ge=1_000, le=2**50)]
MaxFiles: TypeAlias = Annotated[int, Meta(ge=1, le=1_000_000)]
PublicKey: TypeAlias = Annotated[str, Meta(pattern=r"^([0-9a-f]{64}|0[23][0-9a-f]{64})$")]


class Registry(Document, kw_only=True):
    """Where versions live. `uri` is what the adapter understands; relative paths are from params.yaml.

    `artifacts` is the folder below which the files of versions lie, for a registry that keeps none
    itself. A version of more than `max_bytes` or `max_files` is neither fetched nor registered.
    `trusted_keys` are public keys of promoters (hex): steps that cannot reach the promoter's
    configuration run a champion only if one of them signed it. Promote asks its own configuration alone.
    """

    kind: str = "mlflow"
    uri: str = "sqlite:///.reprune/registry.db"
    workspace: str = "default"
    allow_pickle: bool = False
    artifacts: str = ""
    max_bytes: MaxBytes = 20 * 2**30
    max_files: MaxFiles = 10_000
    trusted_keys: tuple[PublicKey, ...] | UnsetType = UNSET


class Target(Document, kw_only=True):
    """Where the model will run. `runtime` is a name of `reprune.runtimes`; `device` is one of its words
    ("cpu", "gpu:0", "dla:0"; empty: its usual one), `options` are its own knobs.

    Latency is measured at `batch_size`, throughput there and at each of `throughput_batch_sizes`.
    In int8 the ranges come from `calibration` examples by `ranges`; `float_layers` (module names or
    patterns of them) stay in float whatever they cost. `run` is the command that reaches a device
    that is not this machine, with {args} in it ("ssh jetson reprune {args}"); with `kit` the device
    is reached by carrying a folder there and back. `python` is the interpreter of an environment of
    its own in which the runtime's converter is installed. With `rebuilt` the device builds its own
    engine from what is promoted, so that several builds are judged (`build.builds`). `machine` names
    the node of a cluster on which profile, build and benchmark of this target run; where all steps run
    on one machine it means nothing.
    """

    runtime: str = "onnxruntime"
    precision: Precision = "fp32"
    device: Annotated[str, Meta(pattern=r"^([a-z]+(:\d+)?)?$")] = ""
    batch_size: Annotated[int, Meta(ge=1, le=4096)] = 1
    threads: Annotated[int, Meta(ge=1, le=256)] = 1
    throughput_batch_sizes: tuple[Annotated[int, Meta(ge=1, le=4096)], ...] = ()
    ranges: Literal["minmax", "entropy", "percentile"] = "minmax"
    float_layers: tuple[str, ...] = ()
    run: str = ""
    kit: bool = False
    python: str = ""
    rebuilt: bool = False
    machine: Annotated[str, Meta(pattern=r"^([A-Za-z0-9][A-Za-z0-9._-]{0,62})?$")] = ""
    options: dict[str, bool | int | float | str] = {}


class ValidateParams(Document, kw_only=True):
    """The data contract. `classes` 0 means: do not check the label range. A split that `min_examples` does
    not name keeps its default.
    """

    min_examples: dict[SplitName, Count] = field(default_factory=lambda: dict(MIN_EXAMPLES))
    classes: Annotated[int, Meta(ge=0, le=1_000_000)] = 0
    max_class_share: Share = 0.9
    min_slice_examples: Annotated[int, Meta(ge=0)] = 0
    flips: Annotated[float, Meta(gt=0.0, lt=1.0)] = 0.02


class TableParams(Document, kw_only=True):
    """Latency tables by layer and width: at most `builds` builds of the model a target, each of them timed
    in `rounds` fresh sessions. Widths are timed at multiples of `step` channels, so that `plan.round_to`
    must be one. With `head_dimensions` they know the dimensions of attention heads beside whole heads,
    which a plan by latency with `plan.head_dimensions` needs.
    """

    builds: Annotated[int, Meta(ge=1, le=1000)] = 24
    step: Annotated[int, Meta(ge=1, le=1024)] = 8
    rounds: Annotated[int, Meta(ge=1, le=100)] = 3
    head_dimensions: bool = False


class ProfileParams(Document, kw_only=True):
    """`calls` whole-model calls and as many profiled ones, after `warmup_calls`. With `tables` it is also
    measured what every layer takes at other widths.
    """

    calls: Annotated[int, Meta(ge=10, le=100_000)] = 200
    warmup_calls: Annotated[int, Meta(ge=0, le=100_000)] = 50
    tables: TableParams | UnsetType = UNSET


class SensitivityParams(Document, kw_only=True):
    """`cuts` are shares of each group's channels that are removed.

    "full" measures each of them on `examples` of `tune`. "calibrated" estimates all and measures few,
    for at most `budget` of what that costs in examples forwarded; a group is measured until every cut
    is known to `precision` of itself (a standard deviation). Joint cuts are checked at about
    `joint_fraction` of the MACs.
    """

    cuts: Annotated[tuple[Annotated[float, Meta(gt=0.0, lt=1.0)], ...], Meta(min_length=1)] = (
        0.25,
        0.5,
        0.75,
    )
    examples: Count = 2000
    method: Literal["full", "calibrated"] = "full"
    budget: Share = 0.1
    precision: Annotated[float, Meta(gt=0.0, le=1.0)] = 0.1
    joint_fraction: Annotated[float, Meta(gt=0.0, lt=1.0)] = 0.5


class SearchParams(Document, kw_only=True):
    """How the allocator "search" looks: TPE for the least loss under the budget, or NSGA-II for the front of
    loss and cost, from which the best that fits is taken.
    """

    sampler: Literal["tpe", "nsga2"] = "tpe"


class PlanParams(Document, kw_only=True):
    """`fraction` of the dense `budget` that may be left; widths are multiples of `round_to` (0: of 8 and of
    what each target's runtime is fastest with in its precision).

    `min_keep` is the least share of a group that any allocator may leave. `method` is what is taken
    away: channels (with `depth` whole blocks too, with `head_dimensions` the dimensions of attention
    heads beside whole heads), or weights by masks: `sparsity` of all weights that may be masked, shared
    out by `scope`, or `pattern` ("2:4": 2 of every 4 stay) everywhere.
    A latency budget is allocated by MACs, or ("in-model") by what each cut was measured to save in the
    built model; either way the whole cut is timed, at most `latency_trials` times. The allocator
    "latency" plans by the profile's tables where there are any.

    `limits` are further budgets beside the first one, as fractions of the dense model's: "macs",
    "params", "bytes", "latency@<target>"; or in units: "latency_ms@<target>", milliseconds of a call at the
    target's batch size, measured against what `profile` found the dense model to take, and "size_bytes",
    of parameters and buffers as stored. `floors`, in a set, say by member how much its cuts may add to the
    set's loss at most, as plan.yaml predicts it (`members`: `predicted_loss`). `widths`,
    `removed_blocks` and, of masks, `sparsities` are set by hand: those groups have these widths, exactly
    those blocks go, and of those tensors that share is masked.

    Allocators that try (search, amc, evolutionary, netadapt) measure the loss of joint cuts on
    `evaluation_examples` of `tune` (1000), at most `evaluations` times (100). For an allocator that adds
    up single cuts, `evaluations` lets the sum be checked on joint cuts and refitted, and replaced by
    `search` where cuts do not add up.
    """

    method: Literal["channels", "weights", "n:m"] = "channels"
    depth: bool = False
    head_dimensions: bool = False
    sparsity: Annotated[float, Meta(gt=0.0, lt=1.0)] = 0.9
    scope: Literal["global", "local", "sensitivity"] = "global"
    pattern: Annotated[str, Meta(pattern=r"^[1-9]\d?:[1-9]\d?$")] = "2:4"
    allocator: str = "sensitivity"
    budget: Literal["macs", "params", "bytes", "latency"] = "macs"
    fraction: Share = 0.5
    round_to: Annotated[int, Meta(ge=0, le=256)] = 0
    min_keep: Share = 0.125
    latency_target: str = ""
    latency_trials: Annotated[int, Meta(ge=1, le=20)] = 5
    latency_model: Literal["macs", "in-model"] = "macs"
    evaluations: Annotated[int, Meta(ge=1, le=100_000)] | UnsetType = UNSET
    evaluation_examples: Count | UnsetType = UNSET
    search: SearchParams | UnsetType = UNSET
    limits: dict[str, Annotated[float, Meta(gt=0.0, le=1e15)]] | UnsetType = UNSET
    floors: dict[Name, Annotated[float, Meta(ge=0.0, le=1e9)]] | UnsetType = UNSET
    widths: dict[str, int] | UnsetType = UNSET
    removed_blocks: tuple[str, ...] | UnsetType = UNSET
    sparsities: dict[str, Annotated[float, Meta(ge=0.0, lt=1.0)]] | UnsetType = UNSET


class ScheduleParams(Document, kw_only=True):
    """How a cut is spread over recovery training: `steps` cuts over `epochs`; see compress.training.schedule.

    One-shot takes no training of its own (`steps` and `epochs` stay 1 and 0): recovery is the distill step's.
    Epochs are whole ones; channels need one for each of the `steps`, which is what they recover in.

    Masks have more of it. `begin` and `end` are shares of the training: from `begin` on `initial` of the
    weights are masked, from `end` on as many as the plan says, and the `steps` cuts lie between at equal
    distances. Where neither is given the first cut is made at once, and the last is followed by as much
    training as the others; but `polynomial` and `constant`, whose values are those of TF-MOT's schedules,
    run from 0 to 1 then. With `regrow` a masked weight comes back, as it was, where it outranks another
    at a later cut. `power` (3) is the exponent of `polynomial`.
    """

    kind: str = "one-shot"
    steps: Annotated[int, Meta(ge=1, le=100_000)] = 1
    epochs: Annotated[float, Meta(ge=0.0, le=10_000.0)] = 0.0
    initial: Annotated[float, Meta(ge=0.0, lt=1.0)] | UnsetType = UNSET
    begin: Annotated[float, Meta(ge=0.0, lt=1.0)] | UnsetType = UNSET
    end: Share | UnsetType = UNSET
    power: Annotated[float, Meta(gt=0.0, le=100.0)] | UnsetType = UNSET
    regrow: bool | UnsetType = UNSET


class SparseLearningParams(Document, kw_only=True):
    """Training that pushes channels towards zero before the cut; see compress.training.sparse_learning."""

    method: Literal["none", "group-norm", "bn-scale", "growing"] = "none"
    epochs: Annotated[int, Meta(ge=0, le=10_000)] = 1
    strength: Positive = 1e-4


class LadderParams(Document, kw_only=True):
    """Gentler cuts to fall back on: `fractions` of the wanted cut, tried in turn after the whole one.

    Each keeps the widths' alignment, and at most that fraction of the plan's blocks goes: those that hurt
    most are given back first. A cut is taken when a trial recovery of `epochs` reaches the distill section's
    bar; the last fraction is taken without a trial. A trial ends early where its curve cannot reach the bar,
    which no curve of fewer than 3 epochs tells: shorter ones always run to their end. Empty: the wanted cut
    is made whatever comes of it.
    """

    fractions: tuple[Annotated[float, Meta(gt=0.0, lt=1.0)], ...] = ()
    epochs: Annotated[int, Meta(ge=1, le=10_000)] = 1


class PruneParams(Document, kw_only=True):
    """`equality_max_abs` bounds the logit difference of the masked-dense and the sliced model.

    A channel's score is `reduction` over the layers of its group, made comparable between groups by
    `normalizer`. Compensation refits the `readers` of cut channels, or `onwards` the linear layers and
    convolutions too that run after the first change, behind removed blocks: for a cut that is not trained.
    """

    criterion: str = "taylor"
    reduction: Literal["sum", "mean", "max", "prod", "first"] = "sum"
    normalizer: Literal["none", "sum", "mean", "max", "standardize", "gaussian", "lamp"] = "none"
    schedule: ScheduleParams = ScheduleParams()
    sparse_learning: SparseLearningParams = SparseLearningParams()
    ladder: LadderParams = LadderParams()
    examples: Count = 512
    compensate: bool = True
    refit: Literal["readers", "onwards"] = "readers"
    recalibrate: bool = True
    ridge: Positive = 1e-3
    equality_max_abs: Positive = 1e-3


class DistillParams(Document, kw_only=True):
    """Recovery training, in the distill step and between the cuts of a schedule.

    The loss is (1 - weight) x the task's + weight x the distance of the outputs to the teacher's (0 is plain
    fine-tuning; the task's `outputs_are` says what they are) + `features` x that of the outputs of
    `feature_modules` (the task's `features` where it is empty) + `attention` x that of their attention maps,
    over places or tokens; with `balance` the parts keep these shares of the whole whatever their sizes, up to
    a thousandfold. The `teacher` may be the student itself, as it came ("self") or as its moving average
    ("ema").

    The learning rate rises over `warmup_epochs`, is held until `hold_epochs` (where training takes more or
    fewer than `epochs`, for the same share of it), and falls along a cosine unless `rate` is constant.
    `learning_rate: auto` takes the champion's, where `generations.reuse` is on and that is known for this
    optimiser; else the distill step tries some for an epoch each and takes the best on `tune`. A task's own
    `optimizer` wins over `optimizer`, and over `learning_rate`. `ema` is the decay of a moving average that
    is then judged and returned instead of the weights (0: none). Parameters whose names fit a pattern in
    `freeze` are not trained. `clip_norm` 0 does not clip. The teacher's outputs are kept where they fit
    `teacher_cache_bytes` and the task's `train` is not augmented.

    With `processes` above 1 the distill step trains in so many processes, each with its share of every
    batch: on GPUs where there are any, one each. They learn what one process would, but for rounding and
    dropout. They run on this machine, or where `launcher` starts them: a command with {args} in it
    ("torchrun --nproc-per-node {processes} {args}"). Each keeps a teacher cache of its own.

    `bar` is the loss on `tune` to reach, or `bar_ratio` times the dense model's, whichever is lower
    (0: none): training stops when even an optimistic look at its curve cannot reach it; between the cuts of
    a schedule it does not, for what comes last has to meet the bar. With `patience` training also stops after
    so many epochs without a gain on `tune`; on a cosine the last epochs gain most, so that a small one gives
    those away. Epochs before the last mask do not count for either. With
    `quantize` the model trains, and is judged, with weights and activations rounded to that; what is
    returned are its float weights.

    With `memory_format` channels-last, the weights of convolutions over images lie in that order while the
    model trains, and in the usual one afterwards.
    """

    epochs: Annotated[int, Meta(ge=0, le=10_000)] = 4
    optimizer: Literal["sgd", "adamw", "adam"] = "sgd"
    learning_rate: Positive | Literal["auto"] = 0.01
    warmup_epochs: Annotated[float, Meta(ge=0.0)] = 0.5
    hold_epochs: Annotated[float, Meta(ge=0.0)] = 0.0
    rate: Literal["cosine", "constant"] = "cosine"
    weight_decay: Annotated[float, Meta(ge=0.0)] = 5e-4
    momentum: Annotated[float, Meta(ge=0.0, lt=1.0)] = 0.9
    clip_norm: Annotated[float, Meta(ge=0.0, le=1e9)] = 0.0
    ema: Annotated[float, Meta(ge=0.0, lt=1.0)] = 0.0
    freeze: tuple[str, ...] = ()
    dropout: bool = True
    teacher: Literal["dense", "self", "ema"] = "dense"
    temperature: Positive = 4.0
    weight: Annotated[float, Meta(ge=0.0, le=1.0)] = 0.9
    features: Annotated[float, Meta(ge=0.0, le=1e9)] = 0.0
    feature_modules: tuple[str, ...] = ()
    feature_distance: Literal["normalized", "mse"] = "normalized"
    attention: Annotated[float, Meta(ge=0.0, le=1e9)] = 0.0
    balance: bool = False
    teacher_cache_bytes: Annotated[int, Meta(ge=0)] = 268_435_456
    bar: Annotated[float, Meta(ge=0.0)] = 0.0
    bar_ratio: Annotated[float, Meta(ge=0.0)] = 0.0
    patience: Annotated[int, Meta(ge=1, le=10_000)] | UnsetType = UNSET
    quantize: Literal["none", "int8", "int4"] = "none"
    precision: Literal["no", "fp16", "bf16"] = "no"
    memory_format: Literal["contiguous", "channels-last"] | UnsetType = UNSET
    processes: Annotated[int, Meta(ge=1, le=1024)] = 1
    launcher: str = ""
    checkpoint_seconds: Annotated[float, Meta(ge=0.0, le=86_400.0)] = 60.0


class BuildParams(Document, kw_only=True):
    """Engines are compared with their bundles on `parity_examples` of the calibration split, and int8
    ranges are taken on `calibration_examples` of it.

    Quantised, a model may lose `max_drop` of the share of examples answered rightly, or, where its
    records are no 0/1, let its loss rise by `max_loss_rise` of itself, on `tune`; the layers that hurt
    most are left in float until it does, after at most `trials` builds. `builds` engines are made of
    each arm for a target that is `rebuilt` on its device. One build may take `max_seconds`. With `cache` what
    was built before from the same is used again. What layers make of `shown_maps` calibration
    examples, in the dense model and in the candidate, is stored as pictures for the report to show;
    whoever reads the verdict can see them.
    """

    parity_examples: Count = 128
    calibration_examples: Count = 256
    max_drop: Annotated[float, Meta(gt=0.0, le=1.0)] = 0.005
    max_loss_rise: Annotated[float, Meta(gt=0.0, le=10.0)] = 0.02
    trials: Annotated[int, Meta(ge=1, le=1000)] = 40
    builds: Annotated[int, Meta(ge=3, le=20)] = 3
    max_seconds: Annotated[float, Meta(ge=1.0, le=86_400.0)] = 1800.0
    cache: bool = True
    shown_maps: Annotated[int, Meta(ge=1, le=3)] | UnsetType = UNSET


class BenchmarkParams(Document, kw_only=True):
    """How units are taken; how many is the policy's `looks`. `processes` are spread over the units.

    `shown_examples` of the sealed examples that changed their answer are stored with the verdict, as
    pictures or in the task's words, for the report to show; whoever reads the verdict can see them.
    """

    block_ms: Annotated[float, Meta(ge=1.0, le=1000.0)] = 10.0
    min_calls: Annotated[int, Meta(ge=5, le=10_000)] = 5
    discard_calls: Annotated[int, Meta(ge=1, le=10_000)] = 5
    warmup_seconds: Annotated[float, Meta(ge=0.0, le=60.0)] = 0.3
    units_per_process: Annotated[int, Meta(ge=1, le=15)] = 2
    pause_seconds: Annotated[float, Meta(ge=0.0, le=600.0)] = 0.0
    memory_processes: Annotated[int, Meta(ge=1, le=20)] = 3
    shown_examples: Annotated[int, Meta(ge=1, le=48)] | UnsetType = UNSET


class ReportParams(Document, kw_only=True):
    """`show_examples` lists the ids of the examples that changed their answer in the HTML page. The examples
    themselves are there wherever the benchmark stored some (`benchmark.shown_examples`).
    """

    show_examples: bool = False


class GenerationsParams(Document, kw_only=True):
    """What is taken over from the generation that became champion; where this section is missing, or
    `reuse` is false, every generation starts from nothing.

    The champion's sensitivity is used again after a spot check on `examples` of `tune`: the share `near`
    of the groups whose choice would flip first (rounded, at least one), and as many at random, are measured
    again. Everything is measured anew where they moved more than retraining moves them, or the champion does
    worse on this generation's data, with a chance of `false_alarm` where nothing changed; where, but for the
    same chance, the old table's plan loses more than `tolerance` (a share of examples answered rightly)
    against the new one's; and in every generation number `cold_every` since that was last done. Its latency
    tables are used again where machine, runtime and knobs are the same, and cuts that are timed again come
    out within `latency_tolerance` (a share, 0.1) of what they were.

    With `try_champion` the champion's widths and fresh ones are both cut and compared on `tune`; the
    champion's are kept unless they lose more than `tolerance`, but for the same chance; without it they are
    not looked at. Recovery takes the
    epochs in which the champion's came within `epochs_within` of all that it gained, and at least half of
    those of `distill` (0: all of them). `champion_weight` is the share of what is learnt from teachers that
    is learnt from the champion. With `champion_start` training begins with the champion's weights where it
    has the shape of the cut model, the same task code and less loss on `examples` of `tune`; at least a
    quarter of the epochs are taken then. In every generation number `cold_every` since that was last so, the
    champion's widths are not looked at, and recovery takes nothing over.
    """

    reuse: bool = True
    cold_every: Annotated[int, Meta(ge=2, le=1000)] = 8
    near: Annotated[float, Meta(gt=0.0, le=0.5)] = 0.125
    examples: Count = 500
    tolerance: Annotated[float, Meta(gt=0.0, lt=1.0)] = 0.002
    false_alarm: Annotated[float, Meta(gt=0.0, le=0.5)] = 0.05
    try_champion: bool = True
    epochs_within: Annotated[float, Meta(ge=0.0, lt=1.0)] = 0.02
    champion_weight: Annotated[float, Meta(ge=0.0, lt=1.0)] = 0.0
    champion_start: bool | UnsetType = UNSET
    latency_tolerance: Annotated[float, Meta(gt=0.0, lt=1.0)] | UnsetType = UNSET


class CiParams(Document, kw_only=True):
    """`runner` are the labels (on GitLab: tags) of the machine that judges, where `reprune init --ci` is to
    write workflows for it.
    """

    runner: Annotated[
        tuple[Annotated[str, Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$")], ...],
        Meta(min_length=1, max_length=10),
    ] = ("ubuntu-latest",)


class CostParams(Document, kw_only=True):
    """What computing costs, so that reports can say what the change is worth; no rule is about it.

    `price_per_hour`, by target and in `currency`, is for what one session of the benchmark occupies.
    `utilisation` is the share of a paid hour in which it computes. `requests_per_year`, of one example
    each, is of all targets priced here, each taken alone; 0: nothing is said about a year.
    """

    price_per_hour: Annotated[dict[Name, Positive], Meta(min_length=1)]
    currency: Annotated[str, Meta(pattern=r"^[A-Za-z]{1,12}$")] = "USD"
    requests_per_year: Annotated[int, Meta(ge=0, le=10**15)] = 0
    utilisation: Share = 1.0


class Params(Document, kw_only=True):
    """The whole file. `seed` and `threads` hold for every step.

    `members` makes it a set: several models of the registry, under short names, that the task runs as one
    (see task.bases.TaskSet) and that are compressed, judged and promoted together as `name`.
    """

    schema: Literal[1] = 1
    name: Name
    task: Entry
    members: dict[Name, Name] | UnsetType = UNSET
    registry: Registry = Registry()
    targets: dict[Name, Target] = field(default_factory=lambda: {"ort-cpu": Target()})
    seed: Annotated[int, Meta(ge=0, lt=2**31)] = 0
    threads: Annotated[int, Meta(ge=1, le=256)] = 1
    validate: ValidateParams = ValidateParams()
    profile: ProfileParams = ProfileParams()
    sensitivity: SensitivityParams = SensitivityParams()
    plan: PlanParams = PlanParams()
    prune: PruneParams = PruneParams()
    distill: DistillParams = DistillParams()
    build: BuildParams = BuildParams()
    benchmark: BenchmarkParams = BenchmarkParams()
    report: ReportParams = ReportParams()
    generations: GenerationsParams | UnsetType = UNSET
    ci: CiParams | UnsetType = UNSET
    cost: CostParams | UnsetType = UNSET


def read_params(path: Path) -> Params:
    """The params at `path`. Raises DocumentError with file, key and line."""
    params = read_yaml(path, Params)
    check_params(params, path)
    return params


def check_params(params: Params, path: Path) -> None:
    """Returns only if `params` could be the file at `path`: nothing in it contradicts itself, and each knob
    does something. Raises DocumentError.
    """
    if not params.targets:
        raise DocumentError("names no target", where=f"{path} (targets)", fix="name at least one")
    if params.members is not UNSET:
        _check_members(params.members, params.name, path)
    unknown = sorted(set(params.cost.price_per_hour if params.cost else ()) - set(params.targets))
    if unknown:
        raise DocumentError(
            f"gives a price for '{unknown[0]}', which is no target of this file",
            where=f"{path} (cost.price_per_hour)",
            fix=f"use one of: {', '.join(sorted(params.targets))}",
        )
    check_schedule(params, path)
    check_training(params, path)
    check_plan(params, path)
    latency_target = params.plan.latency_target
    if params.plan.budget == "latency" and latency_target not in params.targets:
        raise DocumentError(
            f"a latency budget needs a target of this file, not '{latency_target}'",
            where=f"{path} (plan.latency_target)",
            fix=f"use one of: {', '.join(sorted(params.targets))}",
        )
    if params.plan.budget == "latency" and params.targets[latency_target].kit:
        raise DocumentError(
            f"the device of '{latency_target}' is reached by a kit, which a person carries: no plan is "
            "timed there",
            where=f"{path} (plan.latency_target)",
            fix="name another target, reach the device by `run`, or plan for macs or params",
        )


def _check_members(members: Mapping[str, str], name: str, path: Path) -> None:
    """A set has members, each a model of its own and none of them the set itself."""
    models = list(members.values())
    twice = sorted({model for model in models if models.count(model) > 1})
    dotted = sorted(member for member in members if "." in member)
    taken = sorted({"latency", "throughput", "memory", "size", "parity"} & members.keys())
    what = ""
    if not members:
        what = "names no member"
    elif twice:
        what = f"names the model '{twice[0]}' twice"
    elif name in models:
        what = f"names the set '{name}' as a member of itself"
    elif taken:
        what = f"a member is called '{taken[0]}', as a section of the policy is"
    elif dotted:
        what = (
            f"the member '{dotted[0]}' has a dot in its name, which separates it from its metrics"
        )
    if what:
        raise DocumentError(
            what, where=f"{path} (members)", fix="give each member a short name and one model"
        )
