"""What passes between steps: one frozen, tagged manifest a kind, and the payload files it vouches for.

No manifest holds a clock, a host name, a path outside its directory or a duration: the same inputs
give the same manifest. `producer`, `parents` and `payload` are filled in by the store when a step's
result is committed; a step leaves them at their defaults.

A field that came after the first release of its kind is `UNSET` by default: it is then absent from the
canonical bytes, so that the digests of older manifests stay what they were.
"""

from __future__ import annotations

from statistics import NormalDist
from typing import ClassVar, Literal, TypeAlias, dataclass_transform

import msgspec
from msgspec import UNSET, UnsetType

from reprune.core.lock import ChampionRef, MemberRef, Name
from reprune.core.machine import Machine

Outcome: TypeAlias = Literal["pass", "block", "inconclusive", "error"]
Arm: TypeAlias = Literal["candidate", "dense", "champion", "anchor"]


@dataclass_transform(frozen_default=True, kw_only_default=True)
class Fact(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A part of a manifest."""


class Producer(Fact, kw_only=True):
    """`knobs` is the digest of the params.yaml sections that the step read."""

    step: str = ""
    version: str = ""
    knobs: str = ""


class Manifest(Fact, tag_field="kind", kw_only=True):
    """`parents` maps input names to manifest digests (lists as name.0, name.1, ...); `payload` maps
    relative POSIX paths to `sha256:<hex>` of the file's bytes.
    """

    SCHEMA: ClassVar[int] = 1
    # The largest payload file that is read at all; None where weights and engines may be as they are.
    MAX_PAYLOAD_BYTES: ClassVar[int | None] = None
    # Where a person's own decision goes, who edited a payload file; "" where none can be made.
    INSTEAD_OF_EDITING: ClassVar[str] = ""

    schema: int = 1
    producer: Producer = Producer()
    parents: dict[str, str] = {}
    payload: dict[str, str] = {}


# The payload file of every ModelBundle that holds its parameters and buffers.
WEIGHTS = "weights.safetensors"
# The payload file of a ModelBundle some of whose weights are masked: which ones, bit by bit.
MASKS = "masks.safetensors"
PAST_PLAN = "past/plan.json"
# The payload file of a Benchmark that holds examples for people to look at.
SHOWN_FILE = "shown.json"
# The payload file of Engines and of a Benchmark that holds what layers make of some examples.
MAPS_FILE = "maps.json"


class TaskFact(Fact, kw_only=True):
    """The user's code: `entry` is "module:Class"; `digest` is over the files of its folder."""

    entry: str
    digest: str
    data_version: str


class Cost(Fact, kw_only=True):
    """`bytes` is the size of parameters and buffers as stored; MACs are for one example."""

    params: int
    macs: int
    bytes: int


class GroupCut(Fact, kw_only=True):
    """A coupled group: `width` channels before, `keep` of them left. `requested` is what the plan said.

    `planned` is what leaving `requested` of this group alone was to take away, `removed` what leaving
    `keep` alone does take away, counted; both of the dense model, whatever the schedule. Groups share
    layers, so these do not add up to the whole.
    """

    group: str
    width: int
    requested: int
    keep: int
    planned: Cost | UnsetType = UNSET
    removed: Cost | UnsetType = UNSET


class BlockCut(Fact, kw_only=True):
    """A block that was to go: `planned` is what that alone was to take away, `removed` what its removal
    alone does take away, counted: nothing where it stayed.
    """

    block: str
    planned: Cost
    removed: Cost


class TensorSparsity(Fact, kw_only=True):
    """`zeros` of a tensor's `size` weights are masked; `pattern` is "unstructured" or "n:m" in numbers."""

    tensor: str
    size: int
    requested: int
    zeros: int
    pattern: str


class PruneStage(Fact, kw_only=True):
    """One cut of a schedule. `share` is the part of the whole cut that is done after it (1 at the end);
    `loss_after` is on `tune`, after the recovery that followed it.
    """

    epoch: float
    share: float
    macs: int
    params: int
    zeros: int
    loss_after: float


class Surgery(Fact, kw_only=True):
    """What a cut did. `equality_max_abs` is the largest logit difference of masked-dense and sliced.

    `loss_*` are on the calibration split: of the dense model as it came, after the cut, and after each repair
    that was tried (None where it was not); `kept` names the best of these. With `stages`, or after
    `sparse_learning` (its method), the model trained before the last of them, so that what they differ by is
    no longer the cut's alone (`untrained`). `blocks` were removed whole, `block_cuts` says what those that
    were to go came to; `unfitted` names the layers that lost inputs and that compensation left as they were,
    `left` those that run after them and were to be refitted too (prune.refit: onwards), each with the reason;
    `sparsity` lists masked tensors, `by_magnitude` those of them whose inputs the criterion was not shown, so
    that it took their magnitude; `ladder` says in words which cuts were tried and what came of them;
    `examples` went through a model for all this.
    """

    criterion: str
    groups: tuple[GroupCut, ...]
    before: Cost
    after: Cost
    equality_max_abs: float
    loss_dense: float
    loss_cut: float
    loss_compensated: float | None
    loss_recalibrated: float | None
    kept: Literal["cut", "compensated", "recalibrated"]
    blocks: tuple[str, ...] | UnsetType = UNSET
    block_cuts: tuple[BlockCut, ...] | UnsetType = UNSET
    sparsity: tuple[TensorSparsity, ...] | UnsetType = UNSET
    stages: tuple[PruneStage, ...] | UnsetType = UNSET
    ladder: tuple[str, ...] | UnsetType = UNSET
    examples: int | UnsetType = UNSET
    unfitted: dict[str, str] | UnsetType = UNSET
    left: dict[str, str] | UnsetType = UNSET
    sparse_learning: str | UnsetType = UNSET
    by_magnitude: tuple[str, ...] | UnsetType = UNSET

    @property
    def untrained(self) -> bool:
        """Whether nothing was trained before the losses were taken, so that they tell of the cut alone."""
        return not self.stages and not self.sparse_learning

    @property
    def gentler(self) -> bool:
        """Whether less was cut than the plan asked for: a ladder gave channels or blocks back."""
        gone = self.blocks or ()
        return any(item.keep > item.requested for item in self.groups) or any(
            item.block not in gone for item in self.block_cuts or ()
        )


class RecoveryEpoch(Fact, kw_only=True):
    epoch: int
    train_loss: float
    tune_loss: float
    learning_rate: float


class TriedRate(Fact, kw_only=True):
    """The loss on `tune` after a short recovery at a learning rate; None where it diverged."""

    learning_rate: float
    tune_loss: float | None


class RateChoice(Fact, kw_only=True):
    """The learning rate of a recovery: "given" in params.yaml, the "champion"'s, or the best of those that
    were "tried" for an epoch each, which took `examples`. `optimizer` is what it is for; `age` counts the
    generations since it was given or tried.
    """

    learning_rate: float
    how: Literal["given", "champion", "tried"]
    optimizer: str
    age: int = 0
    tried: tuple[TriedRate, ...] = ()
    examples: int = 0


class ChampionStart(Fact, kw_only=True):
    """Both that a recovery could begin with, by their losses on the same examples of `tune`: the cut model
    and the champion, which is of the same shape. It began with the champion where that is `taken`.
    `cost` counts examples forwarded.
    """

    taken: bool
    champion_loss: float
    cut_loss: float
    cost: int


class KnownRecovery(Fact, kw_only=True):
    """What a recovery began with of the champion's: `asked` epochs became `epochs`, of which the champion
    had needed `needed`. `second` is the digest of the champion where it taught too, with `weight`; `start`
    says whether training began with its weights, where that was asked for and possible. `age` counts the
    generations since a recovery took nothing over (not said in older ones).
    """

    champion: str
    asked: int
    epochs: int
    needed: int
    second: str = ""
    weight: float = 0.0
    start: ChampionStart | UnsetType = UNSET
    age: int | UnsetType = UNSET


class Recovery(Fact, kw_only=True):
    """Recovery fine-tuning: `examples` counts those forwarded and backwarded, the teacher's included.

    `start_loss` is that on `tune` of what training began with, where no epoch beat it (`best_epoch` 0).
    `stopped` says in words why it ended before its last epoch, where it did; `known` what was taken over
    from the champion's recovery; `rate` where its learning rate comes from, unless the task brings an
    optimiser of its own.
    """

    epochs: tuple[RecoveryEpoch, ...]
    best_epoch: int
    examples: int
    teacher: str
    start_loss: float | UnsetType = UNSET
    stopped: str | UnsetType = UNSET
    known: KnownRecovery | UnsetType = UNSET
    rate: RateChoice | UnsetType = UNSET

    @property
    def saved(self) -> int:
        """About how many examples the epochs would have taken that the champion's recovery showed not to be
        needed, less those that asking took: at what an epoch of this one took.
        """
        if not self.known or not self.epochs:
            return 0
        asking = self.known.start.cost if self.known.start else 0
        trained = self.examples - asking - (self.rate.examples if self.rate else 0)
        left_out = self.known.asked - self.known.epochs
        return max(0, round(trained / len(self.epochs) * left_out) - asking)


class ModelBundle(Manifest, tag="ModelBundle", kw_only=True):
    """A model that can be rebuilt bit-equal without pickle.

    Payload: `weights.safetensors`; `task/<package>/**` (the task's folder as it was when the model
    was made, so that `task` is the root to import it from); `architecture.json`
    where the model is not the factory's own (see compress.structure.architecture); `masks.safetensors` where
    weights are masked: they are zero, and stay so in training (see compress.masks.files);
    `trained_on.bin` in a candidate: marks of the examples it was made with (see task.trained_on).

    `members` are the dense versions that a set was made of, each under the name of its part of the model.
    """

    name: str
    dense_version: str
    task: TaskFact
    surgery: Surgery | None = None
    recovery: Recovery | None = None
    members: dict[Name, MemberRef] | UnsetType = UNSET


class MemberWeights(Manifest, tag="MemberWeights", kw_only=True):
    """The weights of one member of the set `name`, whose version is `dense_version`: of version `version`
    of the model `model`. Payload: `weights.safetensors`.
    """

    name: str
    dense_version: str
    member: str
    model: str
    version: str


class Waiver(Fact, kw_only=True):
    """A named person's decision to promote one candidate although some rules did not hold.

    `rules` are "<rule> on <target>"; `verdict`, `candidate` and `policy` are the digests that it is
    bound to. `expires` is a date (YYYY-MM-DD): until its end it can be used, once, and is shown.
    """

    by: str
    reason: str
    expires: str
    rules: tuple[str, ...]
    verdict: str
    candidate: str
    policy: str


class Asked(Fact, kw_only=True):
    """What a plan was asked, as params.yaml has it: plans that were asked otherwise make no series."""

    allocator: str
    budget: str
    fraction: float
    limits: dict[str, float] = {}


class VerdictSummary(Fact, kw_only=True):
    """One judged generation, as the registry remembers it.

    `eval_digest` names the examples it was judged on and `newest_time` the latest of their times.
    `quality_drop` is what the first metric by name lost, `quality_drops` what each did where it lost most;
    `latency_ratios` are by target. Its plan, which was `asked` that, predicted the rise `predicted_loss`,
    and left the shares `kept` of its groups and of the blocks that it removed.
    """

    dense_version: str
    compressed_version: str
    outcome: Outcome
    verdict: str
    reasons: tuple[str, ...]
    promoted: bool
    latency_ratio: float | None = None
    quality_drop: float | None = None
    flips: float | None = None
    eval_digest: str | UnsetType = UNSET
    newest_time: str | UnsetType = UNSET
    waiver: Waiver | UnsetType = UNSET
    quality_drops: dict[str, float] | UnsetType = UNSET
    latency_ratios: dict[str, float] | UnsetType = UNSET
    predicted_loss: float | UnsetType = UNSET
    kept: dict[str, float] | UnsetType = UNSET
    asked: Asked | UnsetType = UNSET


class Previous(Manifest, tag="Previous", kw_only=True):
    """What the registry knew when the run began. `champion` is None where none was ever promoted.
    `uses` maps an eval digest to the number of verdicts on record that were given on those examples.

    Payload, where there is a champion: `champion/**` (its ModelBundle artefact directory) and, as
    far as they were stored, `plan/**`, `profile/<i>/**`, `sensitivity/**`. Where an anchor is set:
    `anchor/**`, its ModelBundle.
    """

    name: str
    dense_version: str
    champion: ChampionRef | None
    anchor: ChampionRef | None
    attempts: int
    history: tuple[VerdictSummary, ...]
    uses: dict[str, int] | UnsetType = UNSET


class Expectation(Fact, kw_only=True):
    """One demand of the data contract and what was found, in words that a person can act on."""

    name: str
    split: str
    severity: Literal["critical", "warning"]
    success: bool
    observed: str


class SplitFact(Fact, kw_only=True):
    """`digest` is over the sorted pairs of id and content digest; `classes` counts labels as text."""

    examples: int
    digest: str
    classes: dict[str, int]
    slices: dict[str, dict[str, int]]
    sources: int | None


class PowerFact(Fact, kw_only=True):
    """How likely the policy passes a candidate that lost nothing, and one that lost a third of the margin.

    `flips` is the assumed share of examples whose correctness differs between the two models.
    """

    rule: str
    examples: int
    flips: float
    alpha: float
    pass_if_equal: float
    pass_if_third_lost: float


class DataReport(Manifest, tag="DataReport", kw_only=True):
    """The data contract's result. `passed` is False if any critical expectation failed.

    Payload: `trained_on.bin`, marks of the examples of all splits but eval (see task.trained_on).
    """

    task: TaskFact
    passed: bool
    expectations: tuple[Expectation, ...]
    splits: dict[str, SplitFact]
    power: tuple[PowerFact, ...]


class LayerProfile(Fact, kw_only=True):
    """One module's own share (children not counted); `output_shape` is for a batch of one."""

    layer: str
    type: str
    params: int
    macs: int
    output_shape: tuple[int, ...]


class OperatorTime(Fact, kw_only=True):
    """A fused operator of the target's own graph; `share` is of the sum over operators."""

    operator: str
    type: str
    median_us: float
    share: float


class TargetProfile(Fact, kw_only=True):
    """`latency_us` is the median of whole calls, batch as given; operators are timed in the runtime.

    `over_fp16`, of a target in int8-fp16, is its time over that of the same model all in fp16: what int8
    buys there. Against fp32 most of the gain would be that of fp16. `machine` is the device's, where the
    target's is not the one of the profile.
    """

    target: str
    runtime: str
    batch_size: int
    latency_us: float
    operators: tuple[OperatorTime, ...]
    over_fp16: float | UnsetType = UNSET
    machine: Machine | UnsetType = UNSET


class CutCheck(Fact, kw_only=True):
    """One cut that the champion's latency tables were made from, built and timed again: its latency over the
    dense model's `before` and `now`, and by what share of their time its layers' times `moved`.
    """

    widths: dict[str, int]
    before: float
    now: float
    moved: float

    @property
    def off(self) -> float:
        """The larger of both changes, as a share."""
        return max(abs(self.now / self.before - 1.0), self.moved)


class TimesReuse(Fact, kw_only=True):
    """Where a target's latency tables come from. "reused": they are those of `source` (a Profile's digest),
    measured `age` generations ago; "measured": all is new. `why` says so in words.

    `checked` are the cuts that were timed again: all that this generation built if they are "reused".
    `full_builds` is how many engines the tables were made from.
    """

    how: Literal["reused", "measured"]
    why: str
    age: int = 0
    source: str = ""
    checked: tuple[CutCheck, ...] = ()
    full_builds: int = 0

    @property
    def built(self) -> int:
        """How many engines this generation built for the tables, beside the dense model's."""
        return len(self.checked) if self.how == "reused" else self.full_builds


class TableFact(Fact, kw_only=True):
    """That a target's latency tables are in the payload. `key` is the digest of the question they answer
    (architecture, machine kind, runtime and how it runs); `builds` engines were timed for them, and their
    fit misses those engines' whole calls by the share `error` (a median). `reuse`, where it was asked for,
    says whether it was an earlier generation that measured them.
    """

    target: str
    key: str
    builds: int
    error: float
    reuse: TimesReuse | UnsetType = UNSET


class OperatorShares(Fact, kw_only=True):
    """Where the time of the dense model's engine and of the candidate's goes on one target, by arm, slowest
    first. `why` says why there is nothing to tell. Figures for people, not evidence.
    """

    arms: dict[Arm, tuple[OperatorTime, ...]] = {}
    why: str = ""


class Profile(Manifest, tag="Profile", kw_only=True):
    """What the dense model costs. `uncounted` names every operator whose MACs are not in `cost.macs`.

    Payload, where `tables` are: `tables.json` (compress.tables.table.Tables).
    """

    cost: Cost
    layers: tuple[LayerProfile, ...]
    uncounted: tuple[str, ...]
    machine: Machine
    targets: tuple[TargetProfile, ...]
    tables: tuple[TableFact, ...] | UnsetType = UNSET


class CutPoint(Fact, kw_only=True):
    """Mean rise in loss with `keep` channels left, and its standard error over examples."""

    keep: int
    loss_increase: float
    standard_error: float
    macs: int
    params: int


class GroupSensitivity(Fact, kw_only=True):
    """`macs` and `params` at each cut are of the whole model with only this group cut."""

    group: str
    width: int
    cuts: tuple[CutPoint, ...]


class BlockSensitivity(Fact, kw_only=True):
    """Mean rise in loss with the whole block removed; `macs` and `params` are of the model without it."""

    block: str
    loss_increase: float
    standard_error: float
    macs: int
    params: int


class TensorSensitivity(Fact, kw_only=True):
    """Mean rise in loss at each share of the tensor's weights masked, in the order of `shares`."""

    tensor: str
    size: int
    shares: tuple[float, ...]
    loss_increases: tuple[float, ...]
    standard_errors: tuple[float, ...]


class JointCheck(Fact, kw_only=True):
    """Random cuts of many groups at once: what the table predicts (the sum) and what was measured.

    `rank_correlation` is Kendall's tau of the two over `predicted` and `measured`.
    """

    predicted: tuple[float, ...]
    measured: tuple[float, ...]
    rank_correlation: float


class RowCheck(Fact, kw_only=True):
    """One row of the champion's table, measured again: the rise in loss with `keep` channels left (0: the
    block removed), `before` and `now`, with standard errors over examples. `why` it was chosen.
    """

    unit: str
    why: Literal["near", "random"]
    keep: int
    before: float
    before_error: float
    now: float
    now_error: float


class JointTrial(Fact, kw_only=True):
    """Two whole cuts of the new dense model, repaired without training, on the same examples of `tune`.

    `known` and `fresh` are the champion's widths and new ones by group; `worse` is what the known ones
    lose against the fresh, with its paired standard error: in `unit` "share" of examples answered wrongly,
    else in "loss". `allowed` is what may be lost, which a trial denies by mistake with `chance`: where
    `worse_low`, the lower limit of `worse` at that level, is above it. `cost` counts examples forwarded.
    """

    known: dict[str, int]
    fresh: dict[str, int]
    unit: Literal["share", "loss"]
    worse: float
    standard_error: float
    allowed: float
    examples: int
    cost: int

    chance: float | UnsetType = UNSET
    worse_low: float | UnsetType = UNSET

    @property
    def holds(self) -> bool:
        """Whether the known widths may be as good: False for `chance` of those that lose just what is
        allowed (in older trials by the normal distribution, or for those that lose more than one standard
        error beyond it).
        """
        if self.worse_low is not UNSET:
            return self.worse_low <= self.allowed
        errors = 1.0 if self.chance is UNSET else NormalDist().inv_cdf(1.0 - self.chance)
        return self.worse - errors * self.standard_error <= self.allowed

    @property
    def doubt(self) -> str:
        """In words up to how much worse the known widths may be (the upper limit at the level of `chance`),
        where they hold and that is more than is allowed: then the examples cannot tell. Else nothing.
        """
        if self.worse_low is UNSET or not self.holds:
            return ""
        high = 2.0 * self.worse - self.worse_low
        if high <= self.allowed:
            return ""
        much = f"{100.0 * high:.1f} points" if self.unit == "share" else f"{high:.3g} of loss"
        return f"cannot tell: may be up to {much} worse"


class TableReuse(Fact, kw_only=True):
    """Where a sensitivity's rows come from. "reused": those in `checked` were measured again, all others
    are the ones of `source` (a Sensitivity's digest) times `level`; "measured": all are new. `why` says so
    in words.

    `age` counts the generations since all were measured. `p_rows` is the probability of rows that moved as
    far without a shift, `p_champion` that of the champion's rise in loss; None where it was not tested.
    `check_cost` is what the check took, in examples forwarded, `full_cost` what measuring all took last.
    """

    how: Literal["reused", "measured"]
    why: str
    age: int = 0
    source: str = ""
    level: float = 1.0
    checked: tuple[RowCheck, ...] = ()
    p_rows: float | None = None
    p_champion: float | None = None
    trial: JointTrial | None = None
    check_cost: int = 0
    full_cost: int = 0


class Sensitivity(Manifest, tag="Sensitivity", kw_only=True):
    """Loss is the task's own, on `tune`, after BN recalibration or compensation as pruning does it.

    `cost` counts examples forwarded for the table, a backward pass as two more. `basis` names all that
    two tables must share to be compared row by row; `reuse` says what of it an earlier generation measured.
    """

    criterion: str
    base_loss: float
    examples: int
    groups: tuple[GroupSensitivity, ...]
    blocks: tuple[BlockSensitivity, ...] | UnsetType = UNSET
    tensors: tuple[TensorSensitivity, ...] | UnsetType = UNSET
    joint: JointCheck | UnsetType = UNSET
    cost: int | UnsetType = UNSET
    basis: str | UnsetType = UNSET
    reuse: TableReuse | UnsetType = UNSET


class SensitivityShard(Manifest, tag="SensitivityShard", kw_only=True):
    """What one part of the groups, blocks or tensors showed: part `shard`, from 0, of `shards`.

    `cuts` counts the cuts that were looked at. Payload: `seen.json`
    (compress.sensitivity.observed.Observed).
    """

    MAX_PAYLOAD_BYTES: ClassVar[int | None] = 2**28

    shard: int
    shards: int
    cuts: int


class GroupPlan(Fact, kw_only=True):
    group: str
    width: int
    keep: int


class TensorPlan(Fact, kw_only=True):
    """`zeros` of the tensor's `size` weights are to be masked."""

    tensor: str
    size: int
    zeros: int


class SparsityPlan(Fact, kw_only=True):
    """Masks instead of cuts. `pattern` is "unstructured" or "n:m" in numbers; with scope "global" the
    tensors share `zeros` between them and `tensors` says what is expected, else it is binding.
    """

    pattern: str
    scope: Literal["global", "local", "sensitivity"]
    zeros: int
    tensors: tuple[TensorPlan, ...]


class Additivity(Fact, kw_only=True):
    """Random joint cuts near the budget against sums of single cuts: the rank correlation (Kendall's tau)
    of plain sums over the first 8 `plans`, and of refitted sums over the last 8, none of which they
    were fitted to (None: not refitted). "not-additive": sums were not to be trusted.
    """

    plans: int
    before: float
    after: float | None
    outcome: Literal["additive", "refitted", "not-additive"]


class Tried(Fact, kw_only=True):
    """Joint cuts that were measured on tune for a plan: `evaluations` different ones of at most `most`, for
    `examples` forwarded (a backward pass as two more). `loss_increase` is that of the chosen widths,
    repaired and before recovery, with its standard error; `allocator` chose them.
    """

    evaluations: int
    most: int
    examples: int
    loss_increase: float
    standard_error: float
    allocator: str


class LatencyPrediction(Fact, kw_only=True):
    """The latency on one target as a share of the dense model's: what a table said of the plan, what was
    measured of it when it was cut, built and timed (None: not where it was planned, it is predicted only),
    and the factor on the table's saving that the plan was made with, after the trials before it. Where no
    table is, what stood for it (MACs, or savings in the model) forecasts. `trials` plans were timed there,
    of at most `most`.
    """

    forecast: float
    measured: float | None
    correction: float
    trials: int | UnsetType = UNSET
    most: int | UnsetType = UNSET


class CameOut(Fact, kw_only=True):
    """What came of the champion's plan, as rises in loss over its dense model: `sum_of_cuts` was predicted,
    `before` is that of the cut and repaired model, `after` that of the recovered one on `tune`. None where
    it is not known.
    """

    sum_of_cuts: float
    before: float | None
    after: float | None


class Prediction(Fact, kw_only=True):
    """What the plan expects; `latency_ratio` is None where the budget is not a latency, or was not timed.

    `loss_increase` is the sum over groups and blocks. Where joint cuts were checked, `joint_loss_increase`
    is what such a sum came to there, and `joint_rank_correlation` how well sums ranked them.
    `additivity` is the same near this plan's budget; `tried` is there where joint cuts were measured.
    `optimality_gap`, where the allocator knows it, is by what share of its own the sum could still be lower
    at most; `latencies` are by target, where tables predicted them. `champion` is what came of a plan that
    answered the same question, a prior for what will come of this one; it decided nothing.
    """

    params: int
    macs: int
    loss_increase: float | None
    latency_ratio: float | None
    joint_loss_increase: float | UnsetType = UNSET
    joint_rank_correlation: float | UnsetType = UNSET
    additivity: Additivity | UnsetType = UNSET
    tried: Tried | UnsetType = UNSET
    optimality_gap: float | UnsetType = UNSET
    latencies: dict[str, LatencyPrediction] | UnsetType = UNSET
    champion: CameOut | UnsetType = UNSET


def block_key(block: str) -> str:
    """The name under which a block is an option beside the groups: 1 keeps it, 0 removes it."""
    return f"block {block}"


class Plan(Manifest, tag="Plan", kw_only=True):
    """Which groups are cut to what width, which blocks go, which weights are masked. Payload:
    `plan.yaml`, the same for people to read and diff.

    With `head_dimensions` the dimensions of attention heads are among the groups. `tried` is how the
    champion's widths did against fresh ones on this model, where both were cut. `limits` are budgets
    beside the first one, and `floors` what each member's cuts might add to the predicted loss at most; the
    groups, blocks and masked tensors in `by_hand` were set by a person. Widths that an allocator chose are
    multiples of what `round_to` means for their group (see compress.structure.alignment). `age` counts the
    generations since widths were chosen without looking at a champion's; UNSET where none were looked at.
    `block_losses` is the rise in loss that each of `blocks` alone is predicted to cost.
    """

    INSTEAD_OF_EDITING: ClassVar[str] = (
        "widths of your own go into params.yaml (plan.widths; blocks: plan.removed_blocks; masks: "
        "plan.sparsities), then plan again"
    )

    allocator: str
    budget: str
    fraction: float
    before: Cost
    groups: tuple[GroupPlan, ...]
    predicted: Prediction
    blocks: tuple[str, ...] | UnsetType = UNSET
    sparsity: SparsityPlan | UnsetType = UNSET
    head_dimensions: bool | UnsetType = UNSET
    limits: dict[str, float] | UnsetType = UNSET
    floors: dict[str, float] | UnsetType = UNSET
    by_hand: tuple[str, ...] | UnsetType = UNSET
    tried: JointTrial | UnsetType = UNSET
    round_to: int | UnsetType = UNSET
    age: int | UnsetType = UNSET
    block_losses: dict[str, float] | UnsetType = UNSET

    @property
    def asked(self) -> Asked:
        """What it was asked."""
        return Asked(
            allocator=self.allocator,
            budget=self.budget,
            fraction=self.fraction,
            limits=self.limits or {},
        )

    @property
    def left(self) -> dict[str, float]:
        """The share that is left of each group, and of each removed block by its key: 0 of what is gone. A
        group inside a removed block is recorded whole, for it was not cut, and is gone all the same.
        """
        gone = tuple(self.blocks or ())
        inside = tuple(f"{block}." for block in gone)
        found = {block_key(block): 0.0 for block in gone}
        for item in self.groups:
            lost = item.keep == item.width and (item.group in gone or item.group.startswith(inside))
            if item.width:
                found[item.group] = 0.0 if lost else item.keep / item.width
        return found

    @property
    def kept_champions(self) -> bool | None:
        """Whether the champion's widths and blocks were kept, where they were tried against fresh ones; else
        None.
        """
        if not self.tried:
            return None
        known = dict(self.tried.known)
        same = all(known.pop(item.group, None) == item.keep for item in self.groups)
        # What is left are blocks.
        gone = {key for key, kept in known.items() if kept == 0}
        return same and gone == {block_key(block) for block in self.blocks or ()}


class Parity(Fact, kw_only=True):
    """An engine's outputs against its bundle's, on calibration examples. `agreement` is of task outcomes."""

    examples: int
    max_abs: float
    cosine: float
    agreement: float


class LayerError(Fact, kw_only=True):
    """How far one layer of an engine is from the bundle's: `relative` is |difference| / |value| in the
    Euclidean norm over all its elements and examples.
    """

    layer: str
    relative: float


class BuildFact(Fact, kw_only=True):
    """What a build found and chose, in the runtime's own terms; nothing of it depends on the clock.

    `float_layers` were left in float, the first the one that hurt most. `sparsity` is the pattern that the
    engine makes use of, "" for none (the zeros are then computed like any number); `fallbacks` counts
    the layers that run elsewhere than on the asked device. `details` are for people.
    """

    float_layers: tuple[str, ...] = ()
    sparsity: str = ""
    fallbacks: int = 0
    notes: tuple[str, ...] = ()
    details: dict[str, str] = {}


class EngineFact(Fact, kw_only=True):
    """One arm built for one target. `file` is in the payload; `bundle` is the arm's manifest digest.

    `<file>.json` beside it is its sidecar (runtimes.sidecar). `machine` is the device that it was built
    for where that is not the one the step ran on. `copies` are further builds of the same, for a target
    that is rebuilt on its device. `worst_layers` are named where outputs differ.
    """

    arm: Arm
    target: str
    runtime: str
    runtime_version: str
    precision: str
    file: str
    bytes: int
    bundle: str
    weights: str
    inputs: tuple[str, ...]
    parity: Parity
    cost: Cost
    built: BuildFact | UnsetType = UNSET
    worst_layers: tuple[LayerError, ...] | UnsetType = UNSET
    copies: tuple[str, ...] | UnsetType = UNSET
    machine: Machine | UnsetType = UNSET


class StorageFact(Fact, kw_only=True):
    """Bytes of all floats of a model as `dtype` numbers: in each form alone, and in `file`, a real file in
    which each tensor has its smallest form (runtimes.sparse). `pattern` is that of the form n:m.
    """

    dtype: str
    pattern: str
    forms: dict[str, int]
    file: int


class Engines(Manifest, tag="Engines", kw_only=True):
    """Every arm built with today's toolchain, for the targets of one machine. `storage` tells, of each
    arm whose weights are masked, what its zeros come to in bytes, whatever the target. Payload beside
    the engines, where params.yaml asks for it: MAPS_FILE, ShownMaps.
    """

    machine: Machine
    engines: tuple[EngineFact, ...]
    storage: dict[Arm, tuple[StorageFact, ...]] | UnsetType = UNSET


class Recorded(Fact, kw_only=True):
    """The sealed evaluation of all arms, example by example.

    Payload: `records.safetensors` holds, for each key of judge.evidence.QualityEvidence.arms and each
    column, an int64 tensor named `<key>/<column>`; `examples.json` holds
    {"ids": [...], "slices": {family: [...]}, "sources": [...] or null}, and "times" where there are any.
    `dropped` counts the examples of the split that are not in there because the champion or the anchor
    was made with them; None for one of which that is not known.
    """

    examples: int
    eval_digest: str
    columns: tuple[str, ...]
    dropped: dict[str, int | None] | UnsetType = UNSET


class ShownExample(Fact, kw_only=True):
    """An example as people see it: in words, or as a picture by rows, `channels` (1 or 3) bytes a pixel."""

    id: str
    text: str = ""
    width: int = 0
    height: int = 0
    channels: int = 0
    pixels: bytes = b""


class MapPair(Fact, kw_only=True):
    """What one layer makes of one example in the dense model and in the candidate: the mean of its absolute
    outputs over the dense model's channels, by rows, one byte a pixel, 255 being `peak`. A channel that was
    cut counts as 0.
    """

    width: int
    height: int
    peak: float
    dense: bytes
    candidate: bytes


class MappedLayer(Fact, kw_only=True):
    """`relative` is |difference| / |dense| over the maps of all examples, one of `maps` an example.

    `strength` and `candidate_strength` have a byte for each of the first channels of `channels`: its mean
    absolute output, 255 being the strongest of both models; `absent` are those that were cut.
    """

    layer: str
    relative: float
    channels: int
    absent: tuple[int, ...]
    strength: bytes
    candidate_strength: bytes
    maps: tuple[MapPair, ...]


class ShownMaps(Fact, kw_only=True):
    """Payload MAPS_FILE: examples of the calibration split (never sealed ones) whose outputs changed most,
    and the layers that differ most on them, in the model's order. For people; no rule reads it.
    """

    examples: tuple[ShownExample, ...]
    layers: tuple[MappedLayer, ...]


class BatchSamples(Fact, kw_only=True):
    """Payload `throughput/<target>-<batch_size>.json` holds the units."""

    batch_size: int
    units: int
    file: str


class TargetSamples(Fact, kw_only=True):
    """Payload `latency/<target>.json` holds the units (see judge.evidence.Unit), `memory/<target>.json`
    the peak resident bytes of each arm's processes, `starts/<target>.json` how each arm's engine
    began in them (judge.evidence.Start). `machine` is the device where that is not the benchmark's own.
    """

    target: str
    batch_size: int
    units: int
    file: str
    throughput: tuple[BatchSamples, ...] | UnsetType = UNSET
    memory: str | UnsetType = UNSET
    starts: str | UnsetType = UNSET
    machine: Machine | UnsetType = UNSET


class Benchmark(Manifest, tag="Benchmark", kw_only=True):
    """Interleaved samples and per-example records of all arms, measured on one machine.

    `uses` counts the looks at these eval examples that the local ledger knows of, this one included.
    Payload beside the samples, where params.yaml asks for it: SHOWN_FILE, ShownExamples that changed, and
    the engines' MAPS_FILE; `operators/<target>.json` tells where the time goes (OperatorShares).
    """

    machine: Machine
    dense_version: str
    attempt: int
    arms: dict[str, str]
    engines: tuple[EngineFact, ...]
    targets: tuple[TargetSamples, ...]
    recorded: Recorded
    uses: int | UnsetType = UNSET


class RuleResult(Fact, kw_only=True):
    """One demand and what was measured. `low` and `high` are the interval; `limit` is the policy's.

    `words` is a whole sentence for a reviewer; `decide` says what would decide an inconclusive one.
    """

    rule: str
    baseline: str
    target: str | None
    outcome: Outcome
    required: bool
    unit: str
    baseline_value: float | None
    candidate_value: float | None
    change: float | None
    low: float | None
    high: float | None
    limit: float
    direction: Literal["at most", "at least"]
    samples: int
    words: str
    decide: str = ""


class SliceResult(Fact, kw_only=True):
    """Harm on one slice: shown, or "undecided": not shown, and not so unlikely that the rule could hold.

    `detectable` is the smallest harm that n could have shown, in the metric's unit. `slice` is
    "family=value"; `rule` and `target` name the RuleResult that it is a part of. `changed`
    counts the examples with another record where one example of the metric can get neither worse nor
    better; `right_to_wrong` and `wrong_to_right` are then 0.
    """

    slice: str
    rule: str = ""
    target: str = ""
    examples: int
    outcome: Literal["ok", "harm", "undecided", "not judged"]
    right_to_wrong: int
    wrong_to_right: int
    change: float
    low: float
    high: float
    detectable: float
    required: bool
    changed: int | UnsetType = UNSET


class GuardResult(Fact, kw_only=True):
    """Whether a target's measurement can be trusted. One that tripped turns its passes into inconclusive.

    `value` is None where the machine does not tell, and `limit` where the policy switched it off.
    """

    guard: str
    target: str
    outcome: Literal["ok", "tripped", "unknown", "off"]
    value: float | None
    limit: float | None
    words: str


class Judgement(Fact, kw_only=True):
    """The decision and its grounds; a pure function of the evidence. `procedure` names the statistics.

    With `dry_run` nothing may be promoted, whatever the outcome. `waivers` are the overrides of earlier
    promotions that still held when the evidence was measured.
    """

    procedure: str
    outcome: Outcome
    headline: str
    reasons: tuple[str, ...]
    attempt: int
    alpha: float
    rules: tuple[RuleResult, ...]
    slices: tuple[SliceResult, ...]
    notes: tuple[str, ...]
    guards: tuple[GuardResult, ...] | UnsetType = UNSET
    dry_run: bool | UnsetType = UNSET
    waivers: tuple[Waiver, ...] | UnsetType = UNSET


class Verdict(Manifest, tag="Verdict", kw_only=True):
    """A judgement with everything needed to make it again.

    Payload: `evidence.json` (judge.evidence.Evidence, assembled from the rest), `policy.json`,
    `lock.json`, `params.json`, `samples/<benchmark>/**` (its records and latency units, byte for
    byte), `ancestors/<digest hex>.json` (a copy of every ancestor's manifest; `parents` names them), and
    PAST_PLAN, the manifest of the champion's plan, where the registry held one.
    """

    MAX_PAYLOAD_BYTES: ClassVar[int | None] = 2**30

    name: str
    dense_version: str
    lock: str
    policy: str
    champion: ChampionRef | None
    judgement: Judgement


class Report(Manifest, tag="Report", kw_only=True):
    """Payload: `report.md`, `report.html`, `junit.xml`, `metrics.json`, `plots/*.csv`."""

    outcome: Outcome
    headline: str


class Receipt(Manifest, tag="Receipt", kw_only=True):
    """A signed record of what promote did. Payload: `receipt.dsse.json`. `receipt` is its digest."""

    name: str
    outcome: Outcome
    compressed_version: str
    promoted: bool
    champion_after: str | None
    verdict: str
    bundle: str
    receipt: str
    predecessor: str | None
    signer: str


AnyManifest: TypeAlias = (
    ModelBundle
    | MemberWeights
    | Previous
    | DataReport
    | Profile
    | Sensitivity
    | SensitivityShard
    | Plan
    | Engines
    | Benchmark
    | Verdict
    | Report
    | Receipt
)

KINDS: dict[str, type[Manifest]] = {
    kind.__name__: kind
    for kind in (
        ModelBundle,
        MemberWeights,
        Previous,
        DataReport,
        Profile,
        Sensitivity,
        SensitivityShard,
        Plan,
        Engines,
        Benchmark,
        Verdict,
        Report,
        Receipt,
    )
}
