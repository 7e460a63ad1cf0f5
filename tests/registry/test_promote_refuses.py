"""promote denies by default: everything that could be forged, old, weak or foreign, each with its reason."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from importlib.resources import files
from pathlib import Path

import msgspec
import pytest
import yaml

from reprune.core import store
from reprune.core.artifacts import Verdict
from reprune.core.documents import canonical, decode_json, digest_of
from reprune.core.errors import DocumentError, PromotionRefused
from reprune.core.lock import LOCK_FILE, read_lock
from reprune.core.params import read_params
from reprune.core.policy import Policy
from reprune.steps.acceptance import (
    COUNT_AGAIN,
    MEASURE_AGAIN,
    Case,
    check_acceptance,
    check_integrity,
)
from reprune.steps.promoter import make_promoter, read_promoter
from reprune.steps.staging import stage
from tests.chain import Story, reencode
from tests.registry.promotion import (
    NOW_S,
    copy_repository,
    evidence,
    flip,
    promoted,
    ready,
    redigest,
    refused,
    registry_of,
    versions,
    write_lock,
)

DAY_S = 86_400
DOCS = Path(__file__).parents[2] / "docs"
# Whether alone, and which stage.
FORCED = re.compile(r"dvc repro (-s )?-f ([a-z-]+)")


@pytest.fixture
def root(template: Path, tmp_path: Path) -> Path:
    return copy_repository(template, tmp_path / "repo")


def artifact(root: Path, name: str) -> Path:
    return root / "artifacts" / name


def append(path: Path, text: str) -> None:
    path.write_text(path.read_text() + text)


def edit_manifest(root: Path, name: str) -> None:
    path = artifact(root, name) / "manifest.json"
    path.write_text(path.read_text().replace("digits", "digitz", 1))


def edit_judgement(root: Path, **changes: object) -> None:
    folder = artifact(root, "verdict")
    judgement = store.read(folder, Verdict).manifest.judgement
    reencode(folder, judgement=msgspec.to_builtins(msgspec.structs.replace(judgement, **changes)))


def edit_sample(root: Path) -> None:
    path = artifact(root, "verdict") / "samples" / "0" / "latency" / "ort-cpu.json"
    text = path.read_text()
    at = text.index("blocks_ns") + len('blocks_ns":[[')
    path.write_text(text[:at] + ("1" if text[at] != "1" else "2") + text[at + 1 :])


def edit_sample_carefully(root: Path) -> None:
    edit_sample(root)
    redigest(artifact(root, "verdict"))


def edit_policy_carefully(root: Path) -> None:
    """A weaker policy in the verdict, with every digest of it corrected."""
    folder = artifact(root, "verdict")
    path = folder / "policy.json"
    weak = decode_json(path.read_bytes(), Policy, name="policy.json")
    weak = msgspec.structs.replace(weak, alpha=0.2)
    path.write_bytes(canonical(weak))
    redigest(folder)
    reencode(folder, policy=digest_of(weak))


def edit_ancestor_carefully(root: Path) -> None:
    folder = artifact(root, "verdict")
    path = next((folder / "ancestors").glob("*.json"))
    path.write_text(path.read_text().replace('"digits"', '"digitz"').replace("0.1.0", "0.1.1"))
    redigest(folder)


def edit_evidence_carefully(root: Path) -> None:
    folder = artifact(root, "verdict")
    append(folder / "evidence.json", " ")
    redigest(folder)


def replace_candidate(root: Path) -> None:
    """Another bundle, whole and sound, where the judged candidate lay."""
    shutil.rmtree(artifact(root, "candidate"))
    shutil.copytree(artifact(root, "pruned"), artifact(root, "candidate"))


def reencoded(name: str, /, **changes: object) -> Callable[[Path], None]:
    return lambda root: reencode(artifact(root, name), **changes)


def link_payload(root: Path) -> None:
    path = artifact(root, "candidate") / "weights.safetensors"
    target = root / "elsewhere"
    path.rename(target)
    path.symlink_to(target)


def escape_payload(root: Path) -> None:
    reencode(artifact(root, "candidate"), payload={"../../params.yaml": "sha256:" + "0" * 64})


def change_lock(root: Path) -> None:
    lock = read_lock(root / LOCK_FILE)
    write_lock(root, msgspec.structs.replace(lock, data_version="data-2"))


def change_params(root: Path) -> None:
    """params.yaml edited after the lock was written; the lock and the policy are as judged."""
    append(root / "params.yaml", "seed: 5\n")


def configure(root: Path, text: str) -> None:
    append(root / ".reprune" / "promoter" / "config.yaml", text)


def minimum(root: Path) -> None:
    configure(root, "minimum_policy: {targets: {ort-cpu: required}, size: {ceiling_bytes: 10}}\n")


def machines(root: Path) -> None:
    path = root / ".reprune" / "promoter" / "config.yaml"
    path.write_text(path.read_text().replace("machines: []", "machines: [box-z]"))


def shorter(root: Path) -> None:
    path = root / ".reprune" / "promoter" / "config.yaml"
    path.write_text(path.read_text().replace("days: 14", "days: 0.01"))


def change_registry(found: str) -> Callable[[Path], None]:
    def change(root: Path) -> None:
        path = root / "params.yaml"
        path.write_text(path.read_text().replace("uri: registry", found))

    return change


REFUSALS: list[tuple[str, Callable[[Path], object]]] = [
    ("payload_corrupt", edit_sample),
    ("payload_corrupt", edit_sample_carefully),
    ("payload_corrupt", edit_evidence_carefully),
    ("payload_corrupt", lambda root: flip(artifact(root, "candidate") / "weights.safetensors")),
    ("payload_corrupt", lambda root: flip(artifact(root, "engines") / "ort-cpu/candidate.onnx")),
    ("payload_corrupt", lambda root: (artifact(root, "plan") / "plan.yaml").unlink()),
    ("payload_corrupt", link_payload),
    ("payload_corrupt", lambda root: (artifact(root, "plan") / "manifest.digest").unlink()),
    ("artifact", escape_payload),
    ("artifact", lambda root: copy_over(root, "plan", "profile")),
    ("manifest_edited", lambda root: edit_manifest(root, "verdict")),
    ("manifest_edited", lambda root: edit_manifest(root, "candidate")),
    ("artifact_missing", lambda root: shutil.rmtree(artifact(root, "engines"))),
    ("artifact_missing", lambda root: shutil.rmtree(artifact(root, "verdict"))),
    ("schema_too_new", reencoded("verdict", schema=2)),
    ("payload_corrupt", edit_policy_carefully),
    ("chain_broken", edit_ancestor_carefully),
    ("chain_broken", reencoded("verdict", lock="sha256:" + "0" * 64)),
    ("judgement_differs", lambda root: edit_judgement(root, headline="all is well")),
    ("judgement_differs", lambda root: edit_judgement(root, outcome="block")),
    ("judgement_differs", lambda root: edit_judgement(root, attempt=7)),
    ("judgement_differs", lambda root: edit_judgement(root, alpha=0.04)),
    ("procedure_unknown", lambda root: edit_judgement(root, procedure="0")),
    ("other_version", reencoded("verdict", dense_version="2")),
    ("other_model", reencoded("verdict", name="letters")),
    ("candidate_not_judged", replace_candidate),
    ("candidate_not_judged", reencoded("candidate", dense_version="9")),
    ("engines_not_judged", reencoded("engines", parents={})),
    ("plan_not_judged", reencoded("plan", fraction=0.9)),
    ("profiles_not_judged", reencoded("profile", uncounted=["x"])),
    ("table_not_judged", reencoded("sensitivity", examples=3)),
    ("other_registry", change_registry("uri: ./registry")),
    ("lock_changed", change_lock),
    ("params_changed", change_params),
    ("policy_changed", lambda root: append(root / "policy.yaml", "alpha: 0.2\n")),
    ("policy_too_weak", minimum),
    ("machine_not_trusted", machines),
    ("evidence_too_old", shorter),
    ("promoter_missing", lambda root: shutil.rmtree(root / ".reprune" / "promoter")),
    ("key_missing", lambda root: (root / ".reprune" / "promoter" / "key.pem").unlink()),
    ("key_unreadable", lambda root: (root / ".reprune/promoter/key.pem").write_text("x")),
]


def copy_over(root: Path, name: str, other: str) -> None:
    shutil.rmtree(artifact(root, name))
    shutil.copytree(artifact(root, other), artifact(root, name))


@pytest.mark.parametrize(
    ("reason", "break_it"), REFUSALS, ids=[f"{i}-{r[0]}" for i, r in enumerate(REFUSALS)]
)
def test_refused_with_its_reason(
    root: Path, reason: str, break_it: Callable[[Path], object]
) -> None:
    """One thing is wrong: refused for just that, nothing registered, and the whole one still passes."""
    break_it(root)
    with refused(root, reason):
        promoted(root)
    assert versions(root) == []


def test_a_refusal_names_the_users_file(root: Path) -> None:
    """What is wrong is told of the artefact that was handed in, not of promote's own copy."""
    path = artifact(root, "candidate") / "weights.safetensors"
    flip(path)
    with pytest.raises(PromotionRefused) as caught:
        promoted(root)
    assert caught.value.where == str(path)
    assert caught.value.fix


def test_the_unbroken_template_passes(root: Path) -> None:
    """What the refusals above break is promoted when nothing is broken."""
    assert promoted(root).promoted


@pytest.mark.parametrize("page", ["devices.md", "trust.md"])
def test_what_init_writes_takes_samples_of_any_machine(root: Path, page: str) -> None:
    """As the pages say; `machine_not_trusted` above is where the configuration names some."""
    assert read_promoter(root).promoter.machines == ()
    assert promoted(root).promoted
    text = " ".join((DOCS / page).read_text(encoding="utf-8").split())
    assert "`machines: []`, as `reprune init` writes it, takes" in text


@pytest.mark.parametrize(
    ("age_days", "reason"),
    [
        (14.5, "evidence_too_old"),
        (-0.1, "evidence_from_future"),
        (float("nan"), "evidence_too_old"),
    ],
)
def test_evidence_has_an_age(root: Path, age_days: float, reason: str) -> None:
    """Older than the policy allows, from the future, or with a clock that is none: refused."""
    with refused(root, reason):
        promoted(root, now=NOW_S + age_days * DAY_S)
    assert promoted(root, now=NOW_S + 13 * DAY_S).promoted


def judged_case(root: Path) -> Case:
    folder = root / "staged"
    return check_integrity(stage(evidence(root), folder), read_params(root / "params.yaml"))


@pytest.mark.parametrize(
    ("second", "reason"),
    [
        (-13.0, ""),
        (-14.5, "evidence_too_old"),
        (0.1, "evidence_from_future"),
        (None, "evidence_undated"),
    ],
)
def test_every_target_has_an_age_of_its_own(root: Path, second: float | None, reason: str) -> None:
    """A fresh sample of one target says nothing about another; `second` is the other's, days from now."""
    case = judged_case(root)
    first = case.evidence.targets[0]
    started_s = NOW_S + (second or 0.0) * DAY_S
    units = [msgspec.structs.replace(unit, started_s=started_s) for unit in first.units]
    other = msgspec.structs.replace(
        first, target="cuda", units=() if second is None else tuple(units)
    )
    both = msgspec.structs.replace(case.evidence, targets=(first, other))
    given = read_params(root / "params.yaml")
    check: Callable[[], object] = lambda: check_acceptance(  # noqa: E731
        replace(case, evidence=both),
        read_promoter(root),
        registry_of(root),
        root=root,
        given=given,
        now=NOW_S,
    )
    if not reason:
        check()
        return
    with pytest.raises(PromotionRefused, match="cuda") as caught:
        check()
    assert caught.value.reason == reason


def test_what_is_to_be_run_again_is_a_stage(root: Path) -> None:
    """The cures of old evidence and of a missed attempt name stages that `reprune init` writes."""
    for fix, stage_name in ((MEASURE_AGAIN, "benchmark"), (COUNT_AGAIN, "previous")):
        assert [name for _, name in FORCED.findall(fix)] == [stage_name]
        assert "then `dvc repro`" in fix
    shorter(root)
    with pytest.raises(PromotionRefused) as caught:
        promoted(root)
    assert caught.value.fix == MEASURE_AGAIN
    assert "reprune update --again" in MEASURE_AGAIN


def test_a_stage_is_forced_alone_where_others_lead_to_it() -> None:
    """Without `-s` DVC forces these too: what is profiled anew may be planned otherwise."""
    package = files("reprune")
    stages = yaml.safe_load(package.joinpath("template/dvc.yaml").read_text())["stages"]
    source = Path(str(package))
    pages = [*source.rglob("*.py"), *(source.parents[1] / "docs").glob("*.md")]
    told = [each for page in pages for each in FORCED.findall(page.read_text(encoding="utf-8"))]
    assert len(told) > 4
    for alone, name in told:
        follows = any(dep.startswith("artifacts/") for dep in stages[name]["deps"])
        assert bool(alone) == follows, name


def test_a_block_is_recorded_whatever_has_changed_since(tmp_path: Path) -> None:
    """Terms, lock and age guard the champion; the record of a failed attempt needs none of them."""
    ready(tmp_path, Story(candidate_wrong=70))
    minimum(tmp_path)
    change_lock(tmp_path)
    result = promoted(tmp_path, now=NOW_S + 1000 * DAY_S)
    assert (result.outcome, result.promoted) == ("block", False)
    assert versions(tmp_path) == ["1"]


def test_extra_files_are_not_registered(root: Path) -> None:
    """A file that no manifest lists stays behind."""
    (artifact(root, "candidate") / "extra.py").write_text("evil = 1\n")
    assert promoted(root).promoted
    assert not list((root / "registry").rglob("extra.py"))


def test_the_promoters_own_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Made once, readable by this user only, kept on the second call, and found by $REPRUNE_PROMOTER."""
    config = make_promoter(tmp_path)
    key = config.parent / "key.pem"
    assert [path.stat().st_mode & 0o777 for path in (config, key, key.parent)] == [
        0o600,
        0o600,
        0o700,
    ]
    before = key.read_bytes()
    assert make_promoter(tmp_path) == config
    assert key.read_bytes() == before
    keyid = read_promoter(tmp_path).signer.public_key.keyid
    monkeypatch.setenv("REPRUNE_PROMOTER", str(config))
    assert read_promoter(tmp_path / "nowhere").signer.public_key.keyid == keyid
    config.write_text("schema: 1\nkey: key.pem\nmachine: [a]\n")
    with pytest.raises(DocumentError, match="did you mean 'machines'"):
        read_promoter(tmp_path)


def test_another_kind_of_key_is_refused(tmp_path: Path) -> None:
    """Only Ed25519 and P-256 sign receipts."""
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric.ec import SECP384R1, generate_private_key

    config = make_promoter(tmp_path)
    pem = generate_private_key(SECP384R1()).private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    (config.parent / "key.pem").write_bytes(pem)
    with pytest.raises(PromotionRefused, match="Ed25519"):
        read_promoter(tmp_path)
