"""`reprune check RECEIPT`, one thing after the other: beside files of a few bytes, and a real verdict."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
import pytest

from reprune.core.artifacts import Waiver
from reprune.core.documents import decode_json
from reprune.core.errors import ArtifactError
from reprune.core.lock import ChampionRef
from reprune.core.policy import Policy
from reprune.registry.receipt_checks import Checked
from reprune.registry.receipts import (
    MAX_RECEIPT_BYTES,
    RECEIPT_FILE,
    Decision,
    Statement,
    decode,
    decode_payload,
    sign,
    subjects,
)
from reprune.steps.checking import ReceiptCheck, check_receipt, receipt_path
from reprune.steps.promoter import read_promoter
from tests.registry.memory import KEYS, OURS, STRANGER, Memory, sha
from tests.registry.promotion import copy_repository, promoted
from tests.registry.test_receipts import statement

DAY_S = 86_400
FILES = {"a": b"1", "below/b": b"2"}


def digests(files: Mapping[str, bytes]) -> dict[str, str]:
    return {name: f"sha256:{hashlib.sha256(raw).hexdigest()}" for name, raw in files.items()}


def put(folder: Path, files: Mapping[str, bytes]) -> None:
    for name, raw in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(raw)


def stated(folder: Path, files: Mapping[str, bytes] | None = None, **changes: Any) -> Path:
    """A receipt that lists `files`, signed by us; nothing lies beside it yet."""
    made = msgspec.structs.replace(
        statement(**changes), subject=subjects(digests(FILES if files is None else files))
    )
    folder.mkdir(parents=True, exist_ok=True)
    (folder / RECEIPT_FILE).write_bytes(sign(made, OURS))
    return folder / RECEIPT_FILE


def looked(path: Path, *, now: float = 2.0, minimum: Policy | None = None) -> ReceiptCheck:
    return check_receipt(path, KEYS, minimum=minimum, now=now)


def one(found: ReceiptCheck, name: str) -> Checked:
    (check,) = [each for each in found.checks if each.name == name]
    return check


def test_what_holds_is_told_in_its_order(tmp_path: Path) -> None:
    """With the statement itself, its digest, and who signed it."""
    path = stated(tmp_path)
    put(tmp_path, FILES)
    found = looked(path)
    assert [(each.name, each.held) for each in found.checks] == [
        ("form", True),
        ("signature", True),
        ("type", True),
        ("files", True),
        ("evidence", None),
        ("validity", None),
        ("chain", None),
    ]
    whole = decode(path.read_bytes(), where="r")
    assert (found.statement, found.digest) == (whole.statement, whole.digest)
    assert found.holds
    assert one(found, "signature").words == (
        f"signed by key {OURS.public_key.keyid[:16]}..., which you trust"
    )
    assert one(found, "type").words == f"a statement of type {whole.statement.predicate_type}"
    assert one(found, "files").words == "all 2 files are, byte by byte, those that it lists"
    assert one(found, "chain").words.startswith("follows none: it is the first; ")


def test_what_nobody_signed_says_nothing_else(tmp_path: Path) -> None:
    """A stranger's, none at all, what is no receipt, and what is of no kind that we know."""
    path = stated(tmp_path)
    strange = sign(statement(), STRANGER)
    unknown = path.read_bytes()
    body = decode_payload(unknown, where="r")
    for raw, words in (
        (strange, "not signed"),
        (b"{}", "the receipt "),
        (b"\xff", "the receipt is not valid JSON"),
        (b" " * (MAX_RECEIPT_BYTES + 1), "larger than"),
        *(
            (envelope(made), "the receipt is a statement of a type that Reprune does not know")
            for made in (
                b"[]",
                b"1",
                b"{}",
                b'{"predicateType":[]}',
                b'{"predicateType":"x"}',
                b'{"predicateType":"https://in-toto.io/Statement/v1"}',
            )
        ),
        (envelope(body), "the receipt "),
        (None, "No such file"),
    ):
        path.unlink(missing_ok=True)
        if raw is not None:
            path.write_bytes(raw)
        found = looked(path)
        assert [(each.name, each.held) for each in found.checks] == [("signature", False)]
        assert words in found.checks[0].words
        assert (found.statement, found.digest, found.holds) == (None, "", False)
    os.truncate(stated(tmp_path), 64_000_001)
    assert looked(path).checks[0].words == f"the receipt is larger than {MAX_RECEIPT_BYTES} bytes"
    assert not ReceiptCheck(checks=(), statement=None, digest="").holds


def envelope(body: bytes) -> bytes:
    """What somebody says, signed by a stranger."""
    from securesystemslib.dsse import Envelope

    made = Envelope(body, "application/vnd.in-toto+json", {})
    made.sign(STRANGER)
    return msgspec.json.encode(made.to_dict(), order="sorted") + b"\n"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"a": b"x"}, "1 changed: a"),
        ({"below/b": None}, "1 missing: below/b"),
        ({"c": b"3"}, "1 not listed: c"),
        ({"a": b"x", "below/b": None, "c": b"3"},
         "1 changed: a; 1 missing: below/b; 1 not listed: c"),
        ({"q": b"", "p": b"", "n/o": b"", "n/m": b""}, "4 not listed: n/m, n/o, p"),
    ],
)  # fmt: skip
def test_files_that_are_others_do_not_hold(
    tmp_path: Path, change: dict[str, bytes | None], words: str
) -> None:
    """Each kind is told apart, at most three of it by name."""
    path = stated(tmp_path)
    put(tmp_path, FILES)
    for name, raw in change.items():
        if raw is None:
            (tmp_path / name).unlink()
        else:
            put(tmp_path, {name: raw})
    found = looked(path)
    assert (one(found, "files").held, one(found, "files").words) == (False, words)
    assert not found.holds
    assert found.statement is not None


def test_of_many_files_the_first_are_named(tmp_path: Path) -> None:
    files = {f"f{n:02}": b"1" for n in range(40)}
    path = stated(tmp_path, files)
    put(tmp_path, dict.fromkeys(list(files)[:20], b"2"))
    assert one(looked(path), "files").words == (
        "20 changed: f00, f01, f02; 20 missing: f20, f21, f22"
    )


def test_a_receipt_alone_was_compared_with_nothing(tmp_path: Path) -> None:
    """Also beside files that it does not list; and folders of their names are no files."""
    path = stated(tmp_path)
    put(tmp_path, {"c": b"1"})
    (tmp_path / "a").mkdir()
    check = one(looked(path), "files")
    assert check.held is None
    assert check.words == "lists 2 files; none lies beside it, so none was hashed"


def test_a_way_out_of_the_folder_is_no_file_of_it(tmp_path: Path) -> None:
    """Through a folder that is a link, or a link to the very bytes inside it."""
    folder = tmp_path / "f"
    path = stated(folder)
    put(folder, FILES)
    (folder / "below").rename(tmp_path / "out")
    (folder / "below").symlink_to(tmp_path / "out")
    assert one(looked(path), "files").words.startswith("1 changed: below/b")
    (folder / "below").unlink()
    (tmp_path / "out").rename(folder / "below")
    assert one(looked(path), "files").held is True
    (folder / "a").rename(folder / "below/a2")
    (folder / "a").symlink_to(folder / "below/a2")
    assert one(looked(path), "files").words == "1 changed: a; 1 not listed: below/a2"


def test_records_list_what_they_speak_of(tmp_path: Path) -> None:
    """An adoption lists its whole version; a rollback names digests of elsewhere. Both are in the chain."""
    held = Memory()
    held.adopt()
    held.roll("1", None, predecessor=held.digest("1"))
    for version, words in (("1", "none: it is the first"), ("2", held.digest("1"))):
        folder = tmp_path / version
        folder.mkdir()
        _, files = held.held[int(version) - 1]
        put(folder, files)
        found = looked(folder / RECEIPT_FILE)
        assert [each.name for each in found.checks] == [
            "form",
            "signature",
            "type",
            "files",
            "chain",
        ]
        assert one(found, "files").held is None
        assert one(found, "chain").words.startswith(f"follows {words}; ")
        put(folder, {"a": b"x", "more": b"y"})
        told = {"1": "1 changed: a; 1 not listed: more", "2": "1 changed: a"}[version]
        assert one(looked(folder / RECEIPT_FILE), "files").words == told


@pytest.mark.parametrize(
    ("late_s", "changes", "held"),
    [
        (0, {}, True),
        (1, {}, False),
        (-DAY_S, {}, True),
        (1, {"outcome": "block"}, True),
        (1, {"outcome": "block", "waiver": "Ada"}, False),
    ],
)
def test_evidence_has_an_age(
    tmp_path: Path, late_s: int, changes: dict[str, Any], held: bool
) -> None:
    """To the second, when it was signed; what promotes nothing is recorded whatever its age."""
    if "waiver" in changes:
        waiver = Waiver(
            by="Ada", reason="r", expires="2026-12-24", rules=("a",), verdict=sha("a"),
            candidate=sha("a"), policy=sha("a"),
        )  # fmt: skip
        changes = changes | {"waiver": waiver}
    begun = 5 * DAY_S
    path = stated(
        tmp_path,
        valid_for_days=2.0,
        measured_until_s=begun,
        signed_at_s=begun + 2 * DAY_S + late_s,
        **changes,
    )
    assert one(looked(path), "validity").held is held


def test_how_long_it_is_valid_is_told(tmp_path: Path) -> None:
    """In days since the last sample, from now on."""
    begun = 5 * DAY_S
    path = stated(
        tmp_path,
        valid_for_days=2.0,
        measured_until_s=begun,
        signed_at_s=begun + DAY_S // 2,
    )
    for days, words in (
        (0.5, "valid for 1.5 more days"),
        (1.5, "valid for 0.5 more days"),
        (2.0, "by now too old to promote by"),
        (3.0, "by now too old to promote by"),
    ):
        check = one(looked(path, now=begun + days * DAY_S), "validity")
        assert check.words == f"signed 0.5 days after the last sample, 2 allowed; {words}"
        assert check.held


def test_where_the_receipt_lies(tmp_path: Path) -> None:
    """The file itself, or in a folder of nothing else; also a link to nowhere is there to be refused."""
    assert receipt_path(tmp_path) is None
    assert receipt_path(tmp_path / "none") is None
    path = stated(tmp_path)
    assert receipt_path(tmp_path) == path
    assert receipt_path(path) == path
    put(tmp_path, {"manifest.json": b"{}"})
    with pytest.raises(ArtifactError, match="that is no whole record") as no:
        receipt_path(tmp_path)
    assert no.value.where == str(tmp_path)
    (tmp_path / "manifest.json").unlink()
    path.unlink()
    path.symlink_to(tmp_path / "nowhere")
    assert receipt_path(tmp_path) == path
    (tmp_path / "manifest.json").symlink_to(tmp_path / "nowhere")
    with pytest.raises(ArtifactError):
        receipt_path(tmp_path)


# --- beside a verdict ----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def version(template: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A promoted version's files, made once, and the repository; what a test changes it puts back."""
    root = copy_repository(template, tmp_path_factory.mktemp("checked") / "repo")
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("REPRUNE_WORK", str(tmp_path_factory.mktemp("work")))
        patched.setattr(os, "fsync", lambda _: None)
        promoted(root)
    return root, root / "registry/digits-compressed/1/files"


CHAMPION = ChampionRef(version="9", bundle=sha("a"), receipt=sha("b"))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({}, "judged again from the stored samples: the same 'pass'"),
        ({"verdict": sha("1")}, "verdict"),
        ({"lock": sha("1")}, "lock"),
        ({"policy": sha("1")}, "policy"),
        ({"outcome": "block"}, "outcome"),
        ({"reasons": ("a",)}, "reasons"),
        ({"attempt": 7}, "attempt"),
        ({"bundle": sha("1")}, "candidate"),
        ({"champion": CHAMPION}, "champion"),
        ({"attempt": 7, "lock": sha("1")}, "lock, attempt"),
    ],
)
def test_what_the_receipt_says_of_the_verdict_is_compared(
    version: tuple[Path, Path], changes: dict[str, Any], words: str
) -> None:
    """Each field by itself: a promoter who signs something else is found out."""
    root, files = version
    path = files / RECEIPT_FILE
    raw = path.read_bytes()
    authority = read_promoter(root)
    whole: Statement = decode(raw, where="r").statement
    decision: Decision = msgspec.structs.replace(whole.predicate, **changes)
    try:
        path.write_bytes(sign(msgspec.structs.replace(whole, predicate=decision), authority.signer))
        found = check_receipt(path, authority.keys, minimum=None, now=0.0)
    finally:
        path.write_bytes(raw)
    check = one(found, "evidence")
    assert check.held is not bool(changes)
    if changes:
        words = f"says something else than the verdict beside it about: {words}"
    assert check.words == words
    assert one(found, "policy").held is None
    assert found.holds is not bool(changes)


def test_a_verdict_that_is_not_whole_is_no_evidence(version: tuple[Path, Path]) -> None:
    """Neither one whose policy changed; and none is none."""
    root, files = version
    keys = read_promoter(root).keys
    place = files / "verdict"
    policy = place / "policy.json"
    raw = policy.read_bytes()
    try:
        policy.write_bytes(raw + b" ")
        found = check_receipt(files / RECEIPT_FILE, keys, minimum=None, now=0.0)
    finally:
        policy.write_bytes(raw)
    assert one(found, "evidence").held is False
    assert one(found, "evidence").words.startswith("the verdict ")
    assert not [each for each in found.checks if each.name == "policy"]
    place.rename(files / "away")
    try:
        found = check_receipt(files / RECEIPT_FILE, keys, minimum=None, now=0.0)
    finally:
        (files / "away").rename(place)
    assert one(found, "evidence").held is None
    assert one(found, "evidence").words.startswith("the verdict does not lie beside it")


def test_the_policy_is_compared_with_the_least(version: tuple[Path, Path]) -> None:
    """Of what is weaker, five things are told."""
    root, files = version
    keys = read_promoter(root).keys
    policy = decode_json((files / "verdict/policy.json").read_bytes(), Policy, name="p")
    more = {f"t{n}": "required" for n in range(7)}
    strict = msgspec.structs.replace(policy, targets={**policy.targets, **more})
    path = files / RECEIPT_FILE
    same = check_receipt(path, keys, minimum=policy, now=0.0)
    assert one(same, "policy").held is True
    assert one(same, "policy").words == "demands at least what the promoter's minimum does"
    assert same.holds
    weak = check_receipt(path, keys, minimum=strict, now=0.0)
    assert one(weak, "policy").held is False
    assert one(weak, "policy").words.count("is missing, not required") == 5
    assert not weak.holds
