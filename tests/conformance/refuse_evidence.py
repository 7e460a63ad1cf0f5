"""Must refuse, I: what lies in the repository is not what was judged, or not what may be promoted."""

# ruff: noqa: E501 - a line of these tables is a case

from __future__ import annotations

from pathlib import Path

from tests.conformance.edits import (
    DIGEST,
    added,
    all_of,
    borrowed,
    changed,
    flipped,
    forged,
    gone,
    grown,
    judged,
    linked,
    piped,
    policied,
    raw,
    redigested,
    relocked,
    swapped,
    taken,
    written,
)
from tests.conformance.world import Case, nothing

VERDICT, CANDIDATE, ENGINES = "artifacts/verdict/", "artifacts/candidate/", "artifacts/engines/"
DEEP = b"[" * 100_000
# Every file of what was judged, by artefact: one changed byte in it.
FILES = [
    ("candidate", "weights.safetensors"), ("candidate", "task/task/digits.py"),
    ("engines", "ort-cpu/candidate.onnx"), ("engines", "ort-cpu/dense.onnx"),
    ("plan", "plan.yaml"), ("verdict", "evidence.json"), ("verdict", "policy.json"),
    ("verdict", "lock.json"), ("verdict", "params.json"),
    ("verdict", "samples/0/records.safetensors"), ("verdict", "samples/0/examples.json"),
    ("verdict", "samples/0/latency/ort-cpu.json"),
]  # fmt: skip
ARTEFACTS = ("verdict", "candidate", "engines", "plan", "profile", "sensitivity")
NOT_JUDGED = {
    "candidate": "candidate_not_judged", "engines": "engines_not_judged", "plan": "plan_not_judged",
    "profile": "profiles_not_judged", "sensitivity": "table_not_judged",
}  # fmt: skip


def _ancestor(root: Path) -> None:
    path = sorted((root / VERDICT / "ancestors").glob("*.json"))[0]
    path.write_bytes(path.read_bytes() + b" ")


def _arbitrary() -> list[Case]:
    """Whoever can write where the artefacts lie installs what they like."""
    cases = [
        Case(
            name=f"one byte of {artefact}/{file}",
            world="first",
            change=flipped(artefact, file),
            typed="payload_corrupt",
            attack="arbitrary installation",
        )
        for artefact, file in FILES
    ]
    cases += [
        Case(
            name=f"the manifest of the {artefact} edited by hand",
            world="first",
            change=raw(
                f"artifacts/{artefact}/manifest.json", lambda old: old.replace(b'"0.1', b'"9.1', 1)
            ),
            typed="manifest_edited",
            attack="arbitrary installation",
        )
        for artefact in ARTEFACTS
    ]
    for artefact, file in FILES[:5]:
        cases.append(
            Case(
                name=f"another {artefact}/{file}, with its digests corrected",
                world="first",
                change=forged(artefact, file),
                typed=NOT_JUDGED[artefact],
                attack="arbitrary installation",
            )
        )
    return cases


def _mixed() -> list[Case]:
    """Each part is whole and sound, and they do not belong together."""
    attack = "mix-and-match"
    cases = [
        Case(name=f"the {artefact} of another judged run", world="first", change=borrowed(artefact),
             typed=reason, attack=attack)
        for artefact, reason in NOT_JUDGED.items() if artefact in ("candidate", "engines")
    ]  # fmt: skip
    one = [
        ("the verdict of another run", borrowed("verdict"), "candidate_not_judged"),
        ("verdict and candidate of another run", all_of(borrowed("verdict"), borrowed("candidate")),
         "plan_not_judged"),
        ("a whole other run under this lock",
         all_of(*(borrowed(each) for each in ARTEFACTS)), "lock_changed"),
        ("the lock of another run", taken("reprune.lock.yaml"), "lock_changed"),
        ("the pruned model in the place of the recovered one",
         lambda root: (borrowed("candidate")(root), taken("artifacts/pruned/weights.safetensors")(root)),
         "candidate_not_judged"),
        ("another plan", changed("plan", fraction=0.9), "plan_not_judged"),
        ("another profile", changed("profile", uncounted=["x"]), "profiles_not_judged"),
        ("another table", changed("sensitivity", examples=3), "table_not_judged"),
        ("engines without parents", changed("engines", parents={}), "engines_not_judged"),
        ("samples of another run",
         lambda root: (taken(VERDICT + "samples/0/latency/ort-cpu.json")(root),), "payload_corrupt"),
        ("a report of another verdict",
         _report, "report_of_another"),
    ]  # fmt: skip
    return cases + [
        Case(name=name, world="first", change=change, typed=reason, attack=attack)
        for name, change, reason in one
    ]


def _report(root: Path) -> None:
    """A report that tells of another verdict."""
    from reprune.core import store
    from reprune.core.artifacts import Report

    with store.drafting(root / "artifacts/report") as draft:
        (draft / "report.md").write_text("all is well\n")
        store.write(
            draft, Report(outcome="pass", headline="all is well"), step="report", parents={"verdict": DIGEST},
            out=root / "artifacts/report",
        )  # fmt: skip


def _target() -> list[Case]:
    """The right thing, for another model, registry, machine or target."""
    attack = "wrong target"
    lines = [
        ("a verdict on another model", changed("verdict", name="letters"), "other_model"),
        ("a verdict on another dense version", changed("verdict", dense_version="2"), "other_version"),
        ("params that name another model", swapped("params.yaml", "name: digits", "name: letters"),
         "other_model"),
        ("params that name another registry", swapped("params.yaml", "uri: registry", "uri: ./registry"),
         "other_registry"),
        ("params that name another workspace",
         swapped("params.yaml", "uri: registry", "uri: registry, workspace: team"), "document"),
        ("a candidate of another dense version", changed("candidate", dense_version="9"),
         "candidate_not_judged"),
        ("another policy's targets", swapped("policy.yaml", "ort-cpu: required", "ort-cpu: required, trt: advisory"),
         "policy_changed"),
        ("another target in params.yaml", added("params.yaml", "targets: {trt: {runtime: tensorrt}}\n"),
         "params_changed"),
        ("another state of the task", written("task/digits.py", "class DigitsTask:\n    x = 1\n"),
         "task_changed"),
    ]  # fmt: skip
    return [
        Case(name=name, world="first", change=change, typed=reason, attack=attack)
        for name, change, reason in lines
    ]


def _age() -> list[Case]:
    """Evidence that is too old, and evidence from days that have not come."""
    freeze, forward = "indefinite freeze", "fast-forward"
    return [
        Case(name="evidence of 15 days", world="stale", change=nothing, typed="evidence_too_old", attack=freeze),
        Case(name="evidence of decades", world="ancient", change=nothing, typed="evidence_too_old", attack=freeze),
        Case(name="a policy that lets evidence live for a year does not bind the promoter", world="long",
             change=nothing, typed="evidence_too_old", attack=freeze),
        Case(name="older than the policy itself allows", world="short", change=nothing,
             typed="evidence_too_old", attack=freeze),
        Case(name="older than the promoter allows", world="first",
             change=swapped(".reprune/promoter/config.yaml", "days: 14", "days: 0.01"),
             typed="evidence_too_old", attack=freeze),
        Case(name="evidence from an hour ahead", world="future", change=nothing,
             typed="evidence_from_future", attack=forward),
        Case(name="evidence from millennia ahead", world="far", change=nothing,
             typed="error", attack=forward),
        Case(name="an attempt that is not the next", world="first", change=judged(attempt=7),
             typed="judgement_differs", attack=forward),
        Case(name="a procedure from the future", world="first", change=judged(procedure="999"),
             typed="procedure_unknown", attack=forward),
        Case(name="a schema from the future", world="first", change=changed("verdict", schema=2),
             typed="schema_too_new", attack=forward),
        Case(name="a lock that counts further looks", world="first", change=relocked(look=99),
             typed="lock_changed", attack=forward),
        Case(name="a lock by a later Reprune", world="first", change=relocked(reprune="99.0.0"),
             typed="lock_changed", attack=forward),
    ]  # fmt: skip


def _endless() -> list[Case]:
    """More than anybody can read, or something that never ends."""
    attack = "endless data"
    most = 64_000_001
    lines = [
        ("a manifest of 64 MB", grown(VERDICT + "manifest.json", most), "artifact"),
        ("a digest file without end", grown(VERDICT + "manifest.digest", 10_000), "artifact_missing"),
        ("a manifest that is nested without end", written(CANDIDATE + "manifest.json", DEEP), "artifact"),
        ("a manifest nested more than 64 deep",
         written(CANDIDATE + "manifest.json", b'{"kind":' + b"[" * 65 + b"]" * 65 + b"}"), "artifact"),
        ("a lock of 2 MB", grown("reprune.lock.yaml", 2_000_000), "document"),
        ("a policy of 2 MB", grown("policy.yaml", 2_000_000), "document"),
        ("params of 2 MB", grown("params.yaml", 2_000_000), "document"),
        ("a promoter's configuration of 2 MB", grown(".reprune/promoter/config.yaml", 2_000_000), "document"),
        ("overrides of 2 MB", all_of(written("reprune.overrides.yaml", "schema: 1\n"),
         grown("reprune.overrides.yaml", 2_000_000)), "document"),
        ("a pipe in the place of the weights", piped(CANDIDATE + "weights.safetensors"), "payload_corrupt"),
        ("a pipe in the place of a manifest", piped(VERDICT + "manifest.json"), "artifact"),
        ("a policy of many aliases", written("policy.yaml", "a: &a [x,x]\nb: &b [*a,*a]\nc: [*b,*b]\n"),
         "document"),
    ]  # fmt: skip
    return [
        Case(
            name=name,
            world="blocked" if "overrides" in name else "first",
            change=change,
            typed=reason,
            attack=attack,
        )
        for name, change, reason in lines
    ]


def _extra() -> list[Case]:
    """What nobody asked for, among what was."""
    attack = "unrelated extra"

    def field(old: bytes) -> bytes:
        return old.replace(b"{", b'{"extra": 1,', 1)

    def twice(old: bytes) -> bytes:
        return old.replace(b"{", b'{"kind": "Verdict",', 1)

    lines = [
        ("an unknown field in the verdict", raw(VERDICT + "manifest.json", field), "artifact"),
        ("a key given twice in the verdict", raw(VERDICT + "manifest.json", twice), "artifact"),
        ("an unknown key in the policy", added("policy.yaml", "allow_all: true\n"), "document"),
        ("a key given twice in the policy", added("policy.yaml", "size: {vs_parent: {max_ratio: 9.0}}\n"),
         "document"),
        ("an unknown key in params", added("params.yaml", "skip_gate: true\n"), "document"),
        ("a payload outside of its folder",
         changed("candidate", payload={"../../params.yaml": DIGEST}), "artifact"),
        ("an absolute payload", changed("candidate", payload={"/etc/passwd": DIGEST}), "artifact"),
        ("a payload that is a link", linked(CANDIDATE + "weights.safetensors"), "payload_corrupt"),
        ("an engine that is a link", linked(ENGINES + "ort-cpu/candidate.onnx"), "payload_corrupt"),
        ("one more listed payload", changed("plan", payload={"plan.yaml": DIGEST}), "payload_corrupt"),
        ("a further ancestor", _ancestor, "payload_corrupt"),
        ("a further file among the samples that the manifest lists",
         lambda root: (written(VERDICT + "samples/0/x.json", "{}")(root), _list_all(root)), "chain_broken"),
    ]  # fmt: skip
    return [
        Case(name=name, world="first", change=change, typed=reason, attack=attack)
        for name, change, reason in lines
    ]


def _list_all(root: Path) -> None:
    from tests.registry.promotion import redigest

    redigest(root / "artifacts/verdict")


def _forged_verdicts() -> list[Case]:
    """A verdict that says more than its samples give, with every digest in it corrected."""
    lines = [
        ("blocked", "a block called a pass", judged(outcome="pass"), "judgement_differs"),
        ("blocked", "a block without its reasons", judged(reasons=[]), "judgement_differs"),
        ("blocked", "a block without its rules", judged(rules=[]), "judgement_differs"),
        ("undecided", "an undecided verdict called a pass", judged(outcome="pass"), "judgement_differs"),
        ("first", "a friendlier headline", judged(headline="all is well"), "judgement_differs"),
        ("first", "another alpha", judged(alpha=0.04), "judgement_differs"),
        ("first", "a note more", judged(notes=["x"]), "judgement_differs"),
        ("first", "an older procedure", judged(procedure="0"), "procedure_unknown"),
        ("blocked", "a weaker alpha in the verdict's policy", policied(alpha=0.2), "payload_corrupt"),
        ("first", "evidence rewritten", redigested("verdict", "evidence.json", lambda old: old | {"name": "x"}),
         "payload_corrupt"),
        ("first", "another lock than the verdict holds", changed("verdict", lock=DIGEST), "chain_broken"),
        ("first", "another policy than the verdict holds", changed("verdict", policy=DIGEST), "chain_broken"),
        ("first", "a verdict without parents", changed("verdict", parents={}), "chain_broken"),
        ("first", "an ancestor gone", lambda root: sorted((root / VERDICT / "ancestors").glob("*"))[0].unlink(),
         "payload_corrupt"),
        ("first", "NaN in the verdict",
         raw(VERDICT + "manifest.json", lambda old: old.replace(b'"alpha": 0', b'"alpha": NaN, "_": 0')),
         "artifact"),
        ("first", "infinity in the verdict",
         raw(VERDICT + "manifest.json", lambda old: old.replace(b'"alpha": 0.', b'"alpha": 1e999, "_": 0.')),
         "artifact"),
        ("first", "half of a verdict", raw(VERDICT + "manifest.json", lambda old: old[: len(old) // 2]),
         "artifact"),
        ("first", "an empty verdict", written(VERDICT + "manifest.json", ""), "artifact"),
        ("first", "a verdict that is a list", written(VERDICT + "manifest.json", "[]"), "artifact"),
        ("first", "a profile in the place of the verdict",
         lambda root: [taken_inside(root, file) for file in ("manifest.json", "manifest.digest")], "artifact"),
    ]  # fmt: skip
    cases = [
        Case(name=name, world=world, change=change, typed=reason)
        for world, name, change, reason in lines
    ]
    for artefact in ARTEFACTS:
        cases.append(
            Case(name=f"no {artefact}", world="first", change=gone(f"artifacts/{artefact}"),
                 typed="artifact_missing")
        )  # fmt: skip
    return cases


def taken_inside(root: Path, file: str) -> None:
    (root / VERDICT / file).write_bytes((root / "artifacts/profile" / file).read_bytes())


def _outcomes() -> list[Case]:
    """What was judged and did not pass is recorded, and moves nothing."""
    lines = [
        ("blocked", 3, "block"), ("slow", 3, "block"), ("floor", 3, "block"),
        ("undecided", 4, "inconclusive"), ("dry-blocked", 0, "block"), ("failed-data", 2, "error"),
        ("mixed", 2, "error"), ("invented", 2, "champion_lost"),
    ]  # fmt: skip
    return [
        Case(name=f"a verdict that is '{world}'", world=world, change=nothing, typed=typed, code=code)
        for world, code, typed in lines
    ] + [
        Case(name="a dry run that passed", world="dry", change=nothing, typed="pass", code=0),
        Case(name="a changed lock", world="first", change=relocked(data_version="data-2"),
             typed="lock_changed"),
        Case(name="no lock", world="first", change=gone("reprune.lock.yaml"), typed="document"),
        Case(name="changed params", world="first", change=added("params.yaml", "seed: 5\n"),
             typed="params_changed"),
        Case(name="a weaker policy than was judged by", world="first",
             change=added("policy.yaml", "alpha: 0.2\n"), typed="policy_changed"),
        Case(name="a stricter policy than was judged by", world="first",
             change=added("policy.yaml", "alpha: 0.01\n"), typed="policy_changed"),
        Case(name="no policy", world="first", change=gone("policy.yaml"), typed="document"),
    ]  # fmt: skip


CASES = [
    *_arbitrary(), *_mixed(), *_target(), *_age(), *_endless(), *_extra(), *_forged_verdicts(),
    *_outcomes(),
]  # fmt: skip
