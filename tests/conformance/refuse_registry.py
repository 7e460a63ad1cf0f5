"""Must refuse, II: the registry, the receipts in it and the promoter's own keys and terms."""

# ruff: noqa: E501 - a line of these tables is a case

from __future__ import annotations

from pathlib import Path

from securesystemslib.signer import CryptoSigner

from tests.conformance.edits import (
    DIGEST,
    aliased,
    all_of,
    config,
    demand,
    envelope,
    gone,
    grown,
    payload,
    raw,
    resigned,
    stored,
    stranger,
    swapped,
    tagged,
    written,
)
from tests.conformance.world import Case, nothing

RECEIPT_1, RECEIPT_2 = stored("1"), stored("2")
BACK = ("rollback", "--by", "Ada", "--reason", "labels")
CONFIG = ".reprune/promoter/config.yaml"
KEY = ".reprune/promoter/key.pem"


def _pem(kind: str) -> bytes:
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

    key: ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey | rsa.RSAPrivateKey
    if kind == "p384":
        key = ec.generate_private_key(ec.SECP384R1())
    elif kind == "k1":
        key = ec.generate_private_key(ec.SECP256K1())
    elif kind == "rsa":
        key = rsa.generate_private_key(65537, 2048)
    else:
        key = ed25519.Ed25519PrivateKey.generate()
    lock: serialization.KeySerializationEncryption = serialization.NoEncryption()
    if kind == "encrypted":
        lock = serialization.BestAvailableEncryption(b"secret")
    return key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, lock)


def _rolling() -> list[Case]:
    """Back to what was, by whoever may not say so."""
    attack = "rollback"
    lines = [
        ("rolled", "a version that was rolled back, by its old verdict", nothing, "rolled_back", ("promote",)),
        ("third", "the alias moved back by hand", aliased("1"), "champion_moved", ("promote",)),
        ("third", "the newest champion deleted", gone("registry/digits-compressed/2"), "champion_lost",
         ("promote",)),
        ("second", "the champion's alias deleted", aliased(None), "champion_lost", ("promote",)),
        ("second", "the champion deleted", gone("registry/digits-compressed/1"), "champion_lost",
         ("promote",)),
        ("two", "rollback to a version that never was", nothing, "version_not_found", (*BACK, "--to", "9")),
        ("two", "rollback past the first", aliased("1"), "nothing_before", BACK),
        ("tried", "rollback to a version that was blocked", nothing, "not_promoted", (*BACK, "--to", "2")),
        ("two", "rollback to bytes that have changed",
         raw(stored("1", "bundle/weights.safetensors"), lambda old: old + b"x"), "stored_differs",
         (*BACK, "--to", "1")),
        ("two", "rollback to a version with a file more", written(stored("1", "extra.py"), "x = 1\n"),
         "stored_differs", (*BACK, "--to", "1")),
        ("two", "rollback to a version with a file less", gone(stored("1", "bundle/weights.safetensors")),
         "stored_differs", (*BACK, "--to", "1")),
        ("two", "rollback to a version whose receipt is forged", resigned("1"), "receipt_invalid",
         (*BACK, "--to", "1")),
    ]  # fmt: skip
    return [
        Case(name=name, world=world, change=change, typed=reason, words=words, attack=attack)
        for world, name, change, reason, words in lines
    ]


def _frozen() -> list[Case]:
    """The champion is kept where it was, or hidden, while somebody promotes against it."""
    attack = "indefinite freeze"
    return [
        Case(name="a lock from before the champion moved", world="third", change=aliased("1"),
             typed="champion_moved", attack=attack),
        Case(name="the champion's version hidden", world="second",
             change=gone("registry/digits-compressed/1/version.json"), typed="registry_unreachable",
             attack=attack),
        Case(name="an empty registry where there was one", world="second", change=gone("registry/digits-compressed"),
             typed="champion_lost", attack=attack),
        Case(name="no registry where there was one", world="second", change=gone("registry"),
             typed="registry_unreachable", attack=attack),
    ]  # fmt: skip


def _forward() -> list[Case]:
    """Numbers, counts and dates that run ahead."""
    attack = "fast-forward"
    return [
        Case(name="an attempt counter set to a thousand in the registry", world="tried",
             change=tagged("2", reprune_attempt="1000"), typed="attempt_understated", attack=attack),
        Case(name="a stranger's version numbered far ahead, named champion", world="second",
             change=all_of(stranger("999999999"), aliased("999999999")), typed="champion_foreign",
             attack=attack),
        Case(name="the champion's receipt signed in the year 9999", world="second",
             change=resigned("1", signed_at_s=253_370_764_800), typed="champion_moved", attack=attack),
        Case(name="a copy of the champion further ahead, named champion", world="second",
             change=all_of(stranger("77", copy_of="1"), aliased("77")), typed="champion_moved", attack=attack),
    ]  # fmt: skip


def _compromised() -> list[Case]:
    """Keys that are lost, stolen, weak, or somebody else's."""
    attack = "key compromise"
    other = CryptoSigner.generate_ed25519()

    def keyid(found: dict) -> None:  # type: ignore[type-arg]
        found["signatures"][0]["sig"] = "A" * 86 + "=="

    keys = [
        ("no key", gone(KEY), "key_missing"),
        ("a key that is none", written(KEY, "x"), "key_unreadable"),
        ("an empty key", written(KEY, ""), "key_unreadable"),
        ("an RSA key", written(KEY, _pem("rsa")), "key_unreadable"),
        ("a P-384 key", written(KEY, _pem("p384")), "key_unreadable"),
        ("a secp256k1 key", written(KEY, _pem("k1")), "key_unreadable"),
        ("a key behind a passphrase", written(KEY, _pem("encrypted")), "key_unreadable"),
        ("a key in a variable that is not set", config("key: key.pem", "key: env:REPRUNE_NO_SUCH_KEY"),
         "key_missing"),
        ("a signer that nobody installed", config("key: key.pem", "key: plugin:kms:alias/x"),
         "signer_unknown"),
        ("no configuration", gone(".reprune/promoter"), "promoter_missing"),
        ("an unknown term in the configuration", swapped(CONFIG, "schema: 1", "schema: 1\nunsigned: true"),
         "document"),
        ("a trusted key that is none", config("trusted_keys: []", f"trusted_keys: ['{'zz' * 32}']"), "document"),
        ("a trusted point that is on no curve", config("trusted_keys: []", f"trusted_keys: ['02{'00' * 31}07']"),
         "receipt_invalid"),
    ]  # fmt: skip
    cases = [
        Case(name=name, world="first", change=change, typed=reason, attack=attack)
        for name, change, reason in keys
    ]
    registry = [
        ("another key since, and the old one not trusted", written(KEY, _pem("ed25519")), "champion_foreign"),
        ("the champion's receipt by a key that nobody trusts, saying the same",
         resigned("1", other), "champion_moved"),
        ("the champion's signature replaced", envelope(RECEIPT_1, keyid), "champion_foreign"),
        ("the champion's receipt without a signature",
         envelope(RECEIPT_1, lambda found: found.update(signatures=[])), "champion_foreign"),
        ("the champion's receipt with many signatures",
         envelope(RECEIPT_1, lambda found: found.update(signatures=found["signatures"] * 9)),
         "champion_foreign"),
    ]  # fmt: skip
    return cases + [
        Case(name=name, world="second", change=change, typed=reason, attack=attack)
        for name, change, reason in registry
    ]


def _receipts() -> list[Case]:
    """The champion's receipt says something else than was signed."""
    lines = [
        ("arbitrary installation", "the champion's receipt names another bundle",
         payload(RECEIPT_1, lambda told: told["predicate"].update(bundle=DIGEST))),
        ("arbitrary installation", "a stranger's version named champion", all_of(stranger("2"), aliased("2"))),
        ("endless data", "the champion's receipt of 17 MB", grown(RECEIPT_1, 17_000_000)),
        ("endless data", "the champion's receipt nested without end", written(RECEIPT_1, b"[" * 100_000)),
        ("unrelated extra", "a field more in the champion's receipt",
         payload(RECEIPT_1, lambda told: told["predicate"].update(extra=1))),
        ("unrelated extra", "a subject more in the champion's receipt",
         payload(RECEIPT_1, lambda told: told["subject"].append(
             {"name": "zz", "digest": {"sha256": "0" * 64}}))),
        ("mix-and-match", "the champion's receipt of another repository", _other_receipt),
        ("", "the champion's receipt gone", gone(RECEIPT_1)),
        ("", "the champion's receipt of another type",
         envelope(RECEIPT_1, lambda found: found.update(payloadType="text/plain"))),
        ("", "NaN in the champion's receipt", raw(RECEIPT_1, lambda old: old.replace(b'"keyid"', b'"x":NaN,"keyid"'))),
        ("", "the champion's outcome tag changed", tagged("1", reprune_outcome="block")),
        ("", "the champion's bundle tag changed", tagged("1", reprune_bundle=DIGEST)),
        ("", "the champion's receipt tag deleted", tagged("1", reprune_receipt="")),
    ]  # fmt: skip
    cases = [
        Case(name=name, world="second", change=change, typed="champion_foreign", attack=attack)
        for attack, name, change in lines
    ]
    return [
        *cases,
        Case(name="the blocked attempt named champion", world="tried", change=aliased("2"),
             typed="champion_foreign", attack="arbitrary installation"),
        Case(name="an anchor that nobody answers for", world="second", change=aliased("1", "anchor"),
             typed="anchor_foreign", attack="arbitrary installation"),
        Case(name="an anchor that is a stranger's", world="second",
             change=all_of(stranger("2"), aliased("2", "anchor")), typed="anchor_foreign",
             attack="arbitrary installation"),
        Case(name="an anchor that is gone", world="second", change=tagged("1", reprune_anchor="Ada: x"),
             typed="anchor_lost"),
        Case(name="a receipt missing from the chain", world="tried-further", change=_drop_middle,
             typed="receipts_missing", attack="mix-and-match"),
        Case(name="a version that says it was judged for this lock, without its receipt", world="two",
             change=all_of(_unpromoted, gone(RECEIPT_2)), typed="receipt_gone"),
    ]  # fmt: skip


def _unpromoted(root: Path) -> None:
    aliased("1")(root)


def _drop_middle(root: Path) -> None:
    gone("registry/digits-compressed/2")(root)


def _other_receipt(root: Path) -> None:
    """A receipt of the same promoter, for the same model in another registry."""
    from reprune.steps.promoter import read_promoter

    resigned("1", read_promoter(root).signer, registry="elsewhere")(root)


def _terms() -> list[Case]:
    """The promoter demands more than the repository does."""
    weaker = [
        ("a smaller size", "size: {vs_parent: {max_ratio: 0.7}}"),
        ("a ceiling on the size", "size: {ceiling_bytes: 10}"),
        ("a smaller alpha", "alpha: 0.01"),
        ("a faster model", "latency: {vs_parent: {max_ratio: 0.5}}"),
        ("a higher floor", "quality: {accuracy: {floor: 0.99}}"),
        ("a smaller drop", "quality: {accuracy: {vs_parent: {max_drop: 0.01, max_error_ratio: null}}}"),
        ("a further metric", "quality: {recall: {floor: 0.5}}"),
        ("slices", "quality: {accuracy: {slices: {max_drop: 0.05}}}"),
        ("an anchor's rule", "quality: {accuracy: {vs_anchor: {max_drop: 0.02}}}"),
        ("memory", "memory: {ceiling_bytes: 100000}"),
        ("throughput", "throughput: {vs_parent: {min_ratio: 1.1}}"),
        ("a percentile", "latency: {tail: {percentile: 99, vs_parent: {max_ratio: 1.0}}}"),
        ("fresher evidence", "valid_for_days: 1"),
        ("a later first look", "looks: [30, 60]"),
        ("that what is inconclusive blocks", "on_inconclusive: block"),
        ("that nothing is promoted", "mode: dry-run"),
        ("tighter parity", "parity: {min_agreement: 0.99999}"),
    ]  # fmt: skip
    return [
        Case(name=f"the promoter demands {name}", world="first", change=demand(text), typed="policy_too_weak")
        for name, text in weaker
    ] + [
        Case(name="another target is demanded", world="first",
             change=raw(CONFIG, lambda old: old +
                        b"minimum_policy: {targets: {jetson: required}, quality: {accuracy: {floor: 0.5}}}\n"),
             typed="policy_too_weak", attack="wrong target"),
        Case(name="a machine that the promoter does not trust", world="first",
             change=config("machines: []", "machines: [box-z]"), typed="machine_not_trusted",
             attack="wrong target"),
    ]  # fmt: skip


def _overrides() -> list[Case]:
    """A named person may let a verdict through: only the named, once, in time, for this very verdict."""
    from tests.conformance.overriding import allowed, overridden

    return [
        Case(name="an override by somebody who may not", world="blocked", change=overridden(),
             typed="override_not_allowed"),
        Case(name="an override that leaves a rule standing", world="blocked",
             change=all_of(allowed, overridden(rules=1)), typed="override_incomplete"),
        Case(name="an override that has expired", world="blocked",
             change=all_of(allowed, overridden(expires="2020-01-01")), typed="override_expired"),
        Case(name="an override for ever", world="blocked",
             change=all_of(allowed, overridden(expires="2999-01-01")), typed="override_too_long"),
        Case(name="an override of another candidate", world="blocked",
             change=all_of(allowed, overridden(candidate=DIGEST)), typed="override_other_candidate",
             attack="mix-and-match"),
        Case(name="an override under another policy", world="blocked",
             change=all_of(allowed, overridden(policy=DIGEST)), typed="override_other_policy",
             attack="mix-and-match"),
        Case(name="an override of another verdict", world="blocked",
             change=all_of(allowed, overridden(verdict=DIGEST)), typed="block", code=3,
             attack="mix-and-match"),
        Case(name="an override with no reason", world="blocked",
             change=all_of(allowed, overridden(reason="")), typed="document"),
        Case(name="an override of an error", world="failed-data",
             change=all_of(allowed, overridden()), typed="override_of_error"),
        Case(name="an overridden verdict below the promoter's minimum", world="blocked",
             change=all_of(allowed, overridden(), demand("alpha: 0.01")), typed="policy_too_weak"),
        Case(name="an override whose evidence is too old", world="blocked",
             change=all_of(allowed, overridden(), config("days: 14", "days: 0.01")),
             typed="evidence_too_old", attack="indefinite freeze"),
    ]  # fmt: skip


def _checks() -> list[Case]:
    """`reprune check` of a receipt, offline: what does not hold is named, and is exit 2."""
    receipt = ("check", stored("1"))
    lines = [
        ("a byte of the weights beside it", raw(stored("1", "bundle/weights.safetensors"),
         lambda old: old[:-1] + b"x"), "files"),
        ("a file beside it gone", gone(stored("1", "plan/plan.yaml")), "files"),
        ("a file beside it that it does not list", written(stored("1", "x.py"), ""), "files"),
        ("the verdict beside it edited", raw(stored("1", "verdict/manifest.json"),
         lambda old: old + b" "), "files"),
        ("another key", written(KEY, _pem("ed25519")), "signature"),
        ("no key", gone(".reprune/promoter"), "signature"),
        ("nothing in it", written(RECEIPT_1, ""), "signature"),
        ("another form of the same", raw(RECEIPT_1, lambda old: old.replace(b'{"payload"', b'{ "payloadd"')),
         "signature"),
        ("another type", payload(RECEIPT_1, lambda told: told.update(predicateType="urn:x")), "signature"),
        ("a minimum that its policy does not reach", demand("alpha: 0.01"), "policy"),
    ]  # fmt: skip
    fields = ("outcome", "bundle", "policy", "lock", "verdict", "predecessor", "champion", "machines",
              "samples", "valid_for_days", "measured_until_s", "eval_digest")  # fmt: skip
    cases = [
        Case(
            name=f"check of a receipt: {name}",
            world="promoted",
            change=change,
            typed=failed,
            words=receipt,
        )
        for name, change, failed in lines
    ]
    return cases + [
        Case(name=f"check of a receipt: '{field}' taken out", world="promoted",
             change=payload(RECEIPT_1, lambda told, field=field: told["predicate"].pop(field)),  # type: ignore[misc]
             typed="signature", words=receipt)
        for field in fields
    ]  # fmt: skip


CASES = [
    *_rolling(), *_frozen(), *_forward(), *_compromised(), *_receipts(), *_terms(), *_overrides(),
    *_checks(),
]  # fmt: skip
