"""Signatures of deliveries against Project Wycheproof's vectors, and deliveries that come again."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from reprune.doors.service.app import build_app
from reprune.doors.service.signatures import (
    MAX_SECRETS,
    Claim,
    Refused,
    Seen,
    check,
    claim,
    matches,
    sign,
)
from reprune.doors.service.signatures import MLFLOW as NAMES
from reprune.doors.service.wiring import make_sweeper
from tests.doors.service import test_deliveries as deliveries
from tests.doors.service.staging import TOKEN, Stage
from tests.kfp_server import KfpServer, State

VECTORS = Path(__file__).resolve().parents[2] / "data" / "wycheproof_hmac_sha256.json"
NOW_S = 1_800_000_000


def rows() -> list[tuple[int, int, bytes, bytes, bytes, str]]:
    found = json.loads(VECTORS.read_bytes())["tests"]
    return [
        (number, size, bytes.fromhex(key), bytes.fromhex(message), bytes.fromhex(tag), result)
        for number, size, key, message, tag, result in found
    ]


def test_exactly_the_whole_valid_tags_of_wycheproof_match() -> None:
    """174 vectors: the 33 valid ones of 256 bits, and none of the 87 that are cut to 128 bits."""
    found = rows()
    assert len(found) == 174
    matched = {
        number
        for number, _, key, message, tag, _ in found
        if matches(key, message, b"v1," + base64.b64encode(tag))
    }
    assert matched == {
        number for number, size, *_, result in found if (size, result) == (256, "valid")
    }
    assert len(matched) == 33
    assert sum(size == 128 for _, size, *_ in found) == 87


@pytest.mark.parametrize("change", ["lower", "url", "twice", "blank", "raw", "hex", "v2", "line"])
def test_another_spelling_of_a_signature_is_none(change: str) -> None:
    """Only the bytes themselves are compared: no list, no other alphabet, no other version."""
    good = sign(b"secret", b"d-1", b"1", b"\xff\xfe" * 20)
    raw = base64.b64decode(good.removeprefix(b"v1,"))
    spelt = {
        "lower": good.lower(),
        "url": b"v1," + base64.urlsafe_b64encode(raw).rstrip(b"="),
        "twice": good + b" " + good,
        "blank": b" " + good,
        "raw": b"v1," + raw,
        "hex": b"v1," + raw.hex().encode(),
        "v2": good.replace(b"v1", b"v2"),
        "line": good + b"\n",
    }[change]
    given = Claim(delivery=b"d-1", timestamp=b"1", signature=spelt)
    with pytest.raises(Refused, match="forged"):
        check(given, b"\xff\xfe" * 20, [b"secret"])


def test_at_most_five_secrets_are_tried_and_one_signature() -> None:
    """Neither a long list of ours nor ten thousand of somebody else's cost time."""
    given = Claim(delivery=b"d", timestamp=b"1", signature=sign(b"s5", b"d", b"1", b""))
    secrets = [f"s{number}".encode() for number in range(MAX_SECRETS + 1)]
    with pytest.raises(Refused, match="forged"):
        check(given, b"", secrets)
    check(given, b"", secrets[1:])
    many = [(b"x-mlflow-signature", given.signature)] * 10_000
    headers = [(b"x-mlflow-delivery-id", b"d"), (b"x-mlflow-timestamp", b"1"), *many]
    with pytest.raises(Refused, match="malformed"):
        claim(headers, NAMES, now_s=1, window_s=300)


def test_a_body_of_more_than_a_mebibyte_is_not_read() -> None:
    """With the limit as it is set unless somebody sets another."""
    from reprune.doors.service.config import Webhook

    limit = Webhook(secret_files=("s",)).max_body_bytes
    assert limit <= 2**20
    one = deliveries.service(limit)
    body = b" " * 2**20
    reply = deliveries.post(one, deliveries.mlflow(body), *[body[:65_536]] * 16)
    assert reply.status == 413


@pytest.fixture
def kfp() -> Iterator[KfpServer]:
    with KfpServer(token=TOKEN) as server:
        server.plan = [State("RUNNING")]
        yield server


def test_a_replay_has_no_effect_within_the_window_outside_it_and_across_a_restart(
    tmp_path: Path, kfp: KfpServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Sixty deliveries, of which one is new: one run is started, whoever hears them."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("REPRUNE_WORK", str(tmp_path / "work"))
    stage = Stage(tmp_path, kfp.url)
    stage.train("digits")
    headers = deliveries.mlflow()
    for _ in range(3):
        # Each is a service that has just been started: it remembers nothing of the one before.
        one, sweep = deliveries.service(), make_sweeper(stage.settings())
        answers = [deliveries.post(one, headers).status for _ in range(10)]
        assert answers == [202, *[409] * 9]
        late = deliveries.mlflow(at_s=deliveries.NOW_S - 301)
        assert {deliveries.post(one, late).status for _ in range(10)} == {401}
        assert one.loop.woken == 1  # type: ignore[attr-defined]
        sweep(0)
        sweep(0)
    assert len(kfp.posted()) == 1
    assert build_app(one) is not None


def test_what_is_remembered_outlives_the_time_that_it_could_be_good() -> None:
    """A timestamp of tomorrow's edge, heard at once and again at the last moment."""
    now = [float(NOW_S)]
    seen = Seen(window_s=300, clock=lambda: now[0])
    given = Claim(delivery=b"d", timestamp=str(NOW_S + 300).encode(), signature=b"")
    seen.once(given)
    now[0] += 600
    with pytest.raises(Refused, match="replayed"):
        seen.once(given)
