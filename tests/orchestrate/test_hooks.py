"""Messages to hooks: their bodies, their signature, and their delivery over real sockets."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import re
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reprune.core.documents import decode_yaml
from reprune.core.errors import DocumentError
from reprune.orchestrate import notify
from reprune.orchestrate.notices import (
    MAX_BLOCK,
    Message,
    Notice,
    message,
    signed_headers,
    slack_body,
    webhook_body,
)
from reprune.orchestrate.notify import Hook, deliver, refuse_twins, secret_texts
from reprune.steps.promoter import Promoter
from tests.hook_server import SECRET, HookServer

SCHEMA = json.loads(
    (Path(__file__).parents[2] / "docs" / "schemas" / "notice.schema.json").read_text()
)
HOSTILE = "<!channel> *b* `x` @here & <https://evil|click>\n\r\x1b[31m\u202e\ud800"
TEXTS = st.text(st.characters(), max_size=80) | st.sampled_from([HOSTILE, "&" * 5000, "<" * 9000])


def notice(**more: Any) -> Notice:
    given = {"model": "digits", "registry": "files:/r", "workspace": "default", "words": "blocked"}
    return Notice(**(given | {"dense_version": "3", "version": "2"} | more))


def told(**more: Any) -> Message:
    return message("blocked", notice(**more), at_s=1_000_000.5)


@pytest.fixture
def server() -> Iterator[HookServer]:
    with HookServer() as running:
        yield running


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "secret").write_text(SECRET + "\n")
    return tmp_path


def webhook(url: str, name: str = "ops", **more: Any) -> Hook:
    return Hook(name=name, kind="webhook", url=url, secret_file="secret", **more)


def by_hand(secret: str, text: bytes) -> str:
    """HMAC as RFC 2104 has it."""
    key = base64.b64decode(secret.removeprefix("whsec_")).ljust(64, b"\0")
    inner = hashlib.sha256(bytes(each ^ 0x36 for each in key) + text).digest()
    outer = hashlib.sha256(bytes(each ^ 0x5C for each in key) + inner).digest()
    return "v1," + base64.b64encode(outer).decode()


def test_the_signature_is_the_one_that_the_standard_gives_as_its_example() -> None:
    example = Message(event="blocked", at_s=0, data=notice(), key="msg_p5jXN8AQM9LWM0D4loKWxJek")
    key = base64.b64decode(SECRET.removeprefix("whsec_"))
    headers = signed_headers(key, example, b'{"test": 2432232314}', 1614265330.9)
    assert headers == {
        "webhook-id": "msg_p5jXN8AQM9LWM0D4loKWxJek",
        "webhook-timestamp": "1614265330",
        "webhook-signature": "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=",
    }


def test_a_webhook_arrives_signed_and_fits_its_schema(server: HookServer, folder: Path) -> None:
    before = int(time.time())
    assert deliver([webhook(f"{server.url}/a/?b=c&d")], told(), folder) == ()
    [came] = server.came
    assert came.path == "/a/?b=c&d"
    assert came.headers["content-type"] == "application/json"
    stamp, key = came.headers["webhook-timestamp"], came.headers["webhook-id"]
    assert before <= int(stamp) <= time.time()
    signed = f"{key}.{stamp}.".encode() + came.raw
    assert hmac.compare_digest(came.headers["webhook-signature"], by_hand(SECRET, signed))
    jsonschema.validate(came.body, SCHEMA)
    assert (came.body["type"], came.body["timestamp"]) == ("blocked", "1970-01-12T13:46:40Z")
    assert came.body["data"]["dense_version"] == "3"


@pytest.mark.slow
@given(st.fixed_dictionaries({}, optional=dict.fromkeys(("model", "words", "by", "run"), TEXTS)))
@settings(max_examples=60, deadline=None)
def test_whatever_the_texts_are_the_bodies_are_whole(texts: dict[str, str]) -> None:
    """Schema and limits hold; in mrkdwn there is no link, no mention and no broken escape of theirs."""
    made = told(**texts)
    jsonschema.validate(json.loads(webhook_body(made)), SCHEMA)
    body = json.loads(slack_body(made))
    blocks = [each["text"]["text"] for each in body["blocks"]]
    assert 2 <= len(blocks) <= 50
    assert "\n".join(blocks) == body["text"]
    for text in blocks:
        assert 0 < len(text) <= MAX_BLOCK
        assert re.search(r"@(?!\u200b)", re.sub(r"<[^<>]*>", "", text)) is None
        links = re.findall(r"<([^<>]*)>", text)
        assert all(re.fullmatch(r"https?://[^|\s]+\|The run", each) for each in links)
        assert "<" not in re.sub(r"<[^<>]*>", "", text)
        assert re.search(r"&(?!amp;|lt;|gt;)", text) is None


def test_a_hostile_name_is_only_shown() -> None:
    body = json.loads(slack_body(told(model=HOSTILE, by=HOSTILE)))
    head = body["blocks"][0]["text"]["text"]
    assert head.startswith(
        "*Blocked*: `&lt;!channel&gt; *b* 'x' @\u200bhere &amp; &lt;https://evil|click"
    )
    assert "\n" not in head
    assert "\x1b" not in body["text"]
    assert body["blocks"][0]["text"]["verbatim"] is True


@given(TEXTS, TEXTS)
def test_the_id_is_of_the_event_and_not_of_its_words(words: str, other: str) -> None:
    assert told(words=words, by=words).key == told(words=other, run="https://x").key
    assert re.fullmatch(r"reprune_[0-9a-f]{40}", told().key)


def test_another_event_has_another_id() -> None:
    keys = {
        told().key,
        told(version="1").key,
        told(dense_version="2").key,
        told(registry="files:/s").key,
        told(workspace="w").key,
        told(model="m").key,
        message("error", notice(), at_s=0).key,
        message("blocked", notice(), at_s=0, again="x").key,
    }
    assert len(keys) == 8


def test_what_passes_is_tried_again_and_signed_anew(server: HookServer, folder: Path) -> None:
    server.answers = [500, 429]
    assert deliver([webhook(server.url)], told(), folder) == ()
    first, second, third = server.came
    assert first.raw == second.raw == third.raw
    assert first.headers["webhook-id"] == third.headers["webhook-id"]
    for came in server.came:
        signed = f"{came.headers['webhook-id']}.{came.headers['webhook-timestamp']}.".encode()
        assert came.headers["webhook-signature"] == by_hand(SECRET, signed + came.raw)


@pytest.mark.parametrize("status", [400, 401, 404, 410, 301, 302, 307, 308])
def test_a_no_is_not_asked_again_and_a_redirect_not_followed(
    server: HookServer, folder: Path, status: int
) -> None:
    server.answers = [status]
    [failure] = deliver([webhook(f"{server.url}/hush-hush")], told(), folder)
    assert not failure.passing
    assert failure.why.startswith(f"answers {status}")
    assert "hush" not in failure.why
    assert [came.path for came in server.came] == ["/hush-hush"]


def dead() -> str:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{taken.getsockname()[1]}"


@pytest.mark.slow
def test_dead_slow_and_endless_hosts_share_one_deadline_and_the_good_one_is_told(
    server: HookServer, folder: Path
) -> None:
    with HookServer() as slow, HookServer() as endless, HookServer() as busy:
        slow.answers = [slow.hang] * 9
        endless.answers = [endless.drip] * 9
        busy.answers = [503] * 99
        hooks = [
            webhook(dead(), "dead"),
            webhook(slow.url, "slow"),
            webhook(endless.url, "endless"),
            webhook(busy.url, "busy"),
            webhook(server.url, "good"),
        ]
        began = time.monotonic()
        failures = deliver(hooks, told(), folder, deadline_s=1.5)
        assert time.monotonic() - began < 3.0
    assert {each.hook: each.why for each in failures} == {
        "dead": "does not answer",
        "slow": failures[1].why,
        "endless": "did not answer within 1.5 s",
        "busy": "answers 503",
    }
    assert all(each.passing for each in failures)
    assert len(server.came) == 1
    assert len(busy.came) > 1


@pytest.mark.slow
def test_a_host_that_answers_for_ever_holds_few_threads(folder: Path) -> None:
    with HookServer() as endless:
        endless.answers = [endless.drip] * 9
        said = [
            deliver([webhook(endless.url, "held")], told(), folder, deadline_s=0.2)[0].why
            for _ in range(6)
        ]
        names = [each.name for each in threading.enumerate()]
    assert said == ["did not answer within 0.2 s"] * 3 + ["still holds what was sent before"] * 3
    assert names.count("hook-held") == 3


def test_a_host_that_says_when_is_not_asked_before(server: HookServer, folder: Path) -> None:
    def later(handler: Any) -> None:
        handler.send_response(429)
        handler.send_header("Retry-After", "30")
        handler.send_header("Content-Length", "0")
        handler.end_headers()

    server.answers = [later]
    [failure] = deliver([webhook(server.url)], told(), folder, deadline_s=5)
    assert (failure.why, failure.passing) == ("answers 429", True)
    assert len(server.came) == 1


@pytest.mark.parametrize(
    ("secret", "address", "words"),
    [
        (None, None, "cannot be read"),
        ("hush-hush-hush-hush-hush", None, "holds no secret"),
        ("whsec_aHVzaA==", None, "holds no secret"),
        ("whsec_not base64 hush", None, "no single word"),
        (SECRET, "http://hush.example.org/hush", "use https"),
        (SECRET, "https://me:hush@example.org/", "user name"),
        (SECRET, "ftp://hush", "begins with https"),
        (SECRET, "https://[hush", "is none"),
        (SECRET, "", "no single word"),
    ],
)
def test_files_that_hold_something_else_are_said_and_never_shown(
    folder: Path, secret: str | None, address: str | None, words: str
) -> None:
    (folder / "secret").unlink()
    if secret is not None:
        (folder / "secret").write_text(secret)
    (folder / "address").write_text("https://127.0.0.1:1/hush" if address is None else address)
    hook = Hook(name="ops", kind="webhook", url_file="address", secret_file="secret")
    [failure] = deliver([hook], told(), folder, deadline_s=0.5)
    assert words in failure.why
    assert not failure.passing
    assert "hush" not in failure.why
    assert SECRET not in failure.why


@pytest.mark.parametrize(
    ("hook", "words"),
    [
        ("{name: a, kind: slack}", "needs `url` or `url_file`"),
        ("{name: a, kind: slack, url: 'https://x/hush', url_file: u}", "one of them"),
        ("{name: a, kind: webhook, url: 'https://x/hush'}", "needs `secret_file`"),
        ("{name: a, kind: slack, url: 'https://x/hush', secret_file: s}", "has no use for"),
        ("{name: a, kind: slack, url: 'http://x.org/hush'}", "use https"),
        ("{name: a, kind: slack, url: 'https://u:hush@x.org/'}", "user name"),
        ("{name: a, kind: slack, url: 'https://x/hush', events: []}", "length"),
        ("{name: a, kind: slack, url: 'https://x/hush', events: [superseded]}", "superseded"),
        ("{name: a, kind: mail, url: 'https://x/hush'}", "mail"),
        ("{name: 'A b', kind: slack, url: 'https://x/hush'}", "matching"),
        (
            "{name: a, kind: slack, url: 'https://x/hush'}, {name: a, kind: slack, url_file: u}",
            "two hooks called 'a'",
        ),
    ],
)
def test_a_hook_that_could_not_work_is_refused(hook: str, words: str) -> None:
    with pytest.raises(DocumentError) as caught:
        decode_yaml(f"schema: 1\nkey: k\nhooks: [{hook}]\n", Promoter, name="config.yaml")
    assert words in str(caught.value)
    assert "hush" not in str(caught.value)


def test_slack_gets_its_body_and_no_signature(server: HookServer, folder: Path) -> None:
    (folder / "address").write_text(f"{server.url}/services/T0/B0/hush\n")
    hook = Hook(name="chat", kind="slack", url_file="address")
    assert deliver([hook], told(by="Ada <ada@example.org>"), folder) == ()
    [came] = server.came
    assert came.path == "/services/T0/B0/hush"
    assert not [name for name in came.headers if name.startswith("webhook-")]
    assert came.body.keys() == {"text", "blocks"}
    assert "Ada &lt;ada@\u200bexample.org&gt;" in came.body["text"]


def test_what_no_log_may_show_is_known(folder: Path) -> None:
    (folder / "address").write_text("https://x/hush\n")
    hooks = [
        Hook(name="a", kind="slack", url="https://y/hush"),
        Hook(name="b", kind="slack", url_file="address"),
        Hook(name="c", kind="webhook", url_file="gone", secret_file="secret"),
    ]
    assert secret_texts(hooks, folder) == ("https://y/hush", "https://x/hush", SECRET)
    refuse_twins(hooks)


def test_a_certificate_of_nobody_whom_we_trust_is_no_delivery(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And whatever else goes wrong in the thread is told by its kind, not in its words."""

    def crash(*_: object) -> None:
        raise ZeroDivisionError("https://hush")

    monkeypatch.setattr(notify, "hand_over", crash)
    [failure] = deliver([webhook("https://127.0.0.1:1/hush")], told(), folder)
    assert failure.why == "crashed: ZeroDivisionError"
    (folder / "ca").write_text("none")
    monkeypatch.undo()
    hook = webhook("https://127.0.0.1:1/hush", ca_file="ca")
    [failure] = deliver([hook], told(), folder)
    assert "holds no certificates" in failure.why


def test_no_thread_is_left_of_what_was_taken(server: HookServer, folder: Path) -> None:
    for _ in range(5):
        deliver([webhook(server.url)], told(), folder)
    names = [each.name for each in threading.enumerate()]
    until = time.monotonic() + 5
    while any(name == "hook-ops" for name in names) and time.monotonic() < until:
        time.sleep(0.02)
        names = [each.name for each in threading.enumerate()]
    assert "hook-ops" not in names
    assert msgspec.to_builtins(told().data)["model"] == "digits"
