"""What each command prints with `--json`: one object on stdout, its schema committed under docs/schemas."""

from __future__ import annotations

from reprune.core.artifacts import Fact, Judgement, Outcome
from reprune.core.machine import Machine
from reprune.measure.promises import Conformance
from reprune.registry.generations import History
from reprune.registry.receipt_checks import Checked
from reprune.report.differences import Difference
from reprune.steps.doctor import Diagnosis


class ErrorOutput(Fact, kw_only=True):
    """Printed by every command that fails. `reason` is the typed cause of a refused promotion."""

    ok: bool = False
    code: str
    what: str
    where: str
    fix: str
    exit_code: int
    reason: str = ""


class StepOutput(Fact, kw_only=True):
    ok: bool = True
    step: str
    kind: str
    out: str
    digest: str


class InitOutput(Fact, kw_only=True):
    ok: bool = True
    root: str
    written: tuple[str, ...]
    dense_version: str | None
    next: str


class UpdateOutput(Fact, kw_only=True):
    ok: bool = True
    lock: str
    changed: bool
    dense_version: str
    champion_version: str | None
    look: int = 1


class ProjectOutput(Fact, kw_only=True):
    ok: bool = True
    written: str
    changed: bool
    data_version: str


class ServeOutput(Fact, kw_only=True):
    """Printed when the service listens, and with `--once` when the sweep has ended. `failures` are the
    calls of that sweep that did not succeed.
    """

    ok: bool = True
    host: str
    port: int
    watches: int
    failures: int = 0


class CheckOutput(Fact, kw_only=True):
    """`recomputed` is True where the judgement was made again from the samples and found equal."""

    ok: bool = True
    name: str
    dense_version: str
    verdict: str
    lock: str
    recomputed: bool
    judgement: Judgement


class CheckReceiptOutput(Fact, kw_only=True):
    """Printed by `reprune check RECEIPT`. `ok` is False, and the exit code 2, unless all that could be
    looked at holds. Without a signature that counts nothing of the receipt is told. `outcome` and
    `promotes` are what the receipt of a judged candidate states; an evaluation states an outcome only.
    """

    ok: bool
    receipt: str
    type: str
    checks: tuple[Checked, ...]
    outcome: Outcome | None = None
    promotes: bool | None = None


class OverrideOutput(Fact, kw_only=True):
    """`uncovered` are rules that did not hold and that the entry leaves standing: promote will refuse."""

    ok: bool = True
    written: str
    changed: bool
    rules: tuple[str, ...]
    uncovered: tuple[str, ...]
    verdict: str
    expires: str


class PromoteOutput(Fact, kw_only=True):
    """`waived_by` is who overrode the verdict; with `dry_run` nothing was promoted, whatever it says."""

    ok: bool = True
    outcome: Outcome
    promoted: bool
    already_done: bool
    compressed_version: str
    champion_after: str | None
    receipt: str
    reasons: tuple[str, ...]
    waived_by: str | None = None
    dry_run: bool = False


class SubmitOutput(Fact, kw_only=True):
    """`run` is the name that the lock gives it; `run_id` and `link` are empty, and `state` is "JUDGED",
    where the registry held a verdict already. `attached` means that nothing was submitted. Without
    waiting, or before the end, `outcome` and what follows it say nothing.
    """

    ok: bool = True
    run: str
    run_id: str
    link: str
    state: str
    attached: bool
    lock: str
    outcome: Outcome | None = None
    promoted: bool = False
    dry_run: bool = False
    compressed_version: str | None = None
    champion: str | None = None
    reasons: tuple[str, ...] = ()
    waived_by: str | None = None


class AnchorOutput(Fact, kw_only=True):
    ok: bool = True
    version: str
    before: str | None
    moved: bool


class RollbackOutput(Fact, kw_only=True):
    """`version` serves now. `record` is the digest of the signed record, which `record_version` holds; `by`
    and `reason` are those of the record, also where an earlier call wrote it.
    """

    ok: bool = True
    version: str
    before: str | None
    record: str
    record_version: str
    by: str
    reason: str
    already_done: bool


class AdoptOutput(Fact, kw_only=True):
    """`version` serves now, a copy of `origin`. `record` is the digest of the signed record that it carries;
    `by` and `reason` are those of the record, also where an earlier call wrote it.
    """

    ok: bool = True
    version: str
    before: str | None
    origin: str
    dense_version: str
    bundle: str
    record: str
    by: str
    reason: str
    already_done: bool


class HistoryOutput(Fact, kw_only=True):
    """With `--waiting` there are no generations in it; what waits is always there."""

    ok: bool = True
    history: History


class DiffOutput(Fact, kw_only=True):
    ok: bool = True
    difference: Difference


class CommentOutput(Fact, kw_only=True):
    """`comment` is created, updated, same or older, or why there is none: dry-run, nothing,
    no-pull-request, refused, unreachable. `conclusion` is what the check says, `check` the same if the
    commit was told. `swept` are the pull requests that `--sweep` told to run `reprune update`.
    """

    ok: bool = True
    comment: str
    number: int | None
    conclusion: str
    check: str | None
    body: str
    warnings: tuple[str, ...]
    swept: tuple[int, ...] = ()


class ProposeOutput(Fact, kw_only=True):
    """`done` is nothing (the base has the lock), same (the pull request had it) or opened."""

    ok: bool = True
    done: str
    lock: str
    number: int | None


class DeviceRunOutput(Fact, kw_only=True):
    """Printed where the job lay in a folder; over a pipe the result itself is what is printed."""

    ok: bool = True
    out: str
    nonce: str
    job: str


class KitOutput(Fact, kw_only=True):
    """`folders` and `nonces` are by target; all kits of one call are one look, number `attempt`."""

    ok: bool = True
    folders: dict[str, str]
    nonces: dict[str, str]
    attempt: int


class ImportOutput(Fact, kw_only=True):
    """`kept` is the copy that the benchmark takes, from the root of the repository."""

    ok: bool = True
    target: str
    nonce: str
    machine: Machine
    runtime_version: str
    units: int
    kept: str


class CompiledFile(Fact, kw_only=True):
    """`digest` is that of the package; manifests made of it name their version by it."""

    pipeline: str
    path: str
    digest: str


class CompileOutput(Fact, kw_only=True):
    ok: bool = True
    written: tuple[CompiledFile, ...]


class SourcesOutput(Fact, kw_only=True):
    """`code_bytes` as `code_measured` says; `ram_bytes` without the stack."""

    ok: bool = True
    out: str
    files: tuple[str, ...]
    model_bytes: int
    code_bytes: int
    code_measured: str
    ram_bytes: int


class DoctorOutput(Fact, kw_only=True):
    """`ok` is False, and the exit code 2, if a required target cannot be built or measured."""

    ok: bool
    diagnosis: Diagnosis


class SelftestOutput(Fact, kw_only=True):
    """Printed by `reprune doctor --selftest`; `kept` is the file that remembers it."""

    ok: bool
    selftest: Conformance
    kept: str


OUTPUTS: dict[str, type[Fact]] = {
    "error": ErrorOutput,
    "step": StepOutput,
    "init": InitOutput,
    "update": UpdateOutput,
    "project": ProjectOutput,
    "serve": ServeOutput,
    "check": CheckOutput,
    "check-receipt": CheckReceiptOutput,
    "explain": CheckOutput,
    "override": OverrideOutput,
    "promote": PromoteOutput,
    "anchor": AnchorOutput,
    "rollback": RollbackOutput,
    "adopt": AdoptOutput,
    "history": HistoryOutput,
    "diff": DiffOutput,
    "comment": CommentOutput,
    "propose": ProposeOutput,
    "submit": SubmitOutput,
    "device-run": DeviceRunOutput,
    "kit": KitOutput,
    "import": ImportOutput,
    "compile": CompileOutput,
    "sources": SourcesOutput,
    "doctor": DoctorOutput,
    "doctor-selftest": SelftestOutput,
}
