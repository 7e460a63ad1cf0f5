"""Who may wake the service: the whole table of refusals, hostile bodies, and nothing of them in a log."""

from __future__ import annotations

import base64
import hashlib
import hmac
import io
import json
import logging
from collections.abc import Iterator, Mapping

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from starlette.applications import Starlette

from reprune.core.errors import InputError
from reprune.doors.service.app import Service, build_app
from reprune.doors.service.events import Hint, NotAnEvent, concerns, of_cloudevent, of_mlflow
from reprune.doors.service.logs import LOGGER, JsonLines
from reprune.doors.service.loop import Loop
from reprune.doors.service.metrics import Metrics
from reprune.doors.service.openapi import OPENAPI
from reprune.doors.service.signatures import Claim, Refused, Seen, check, sign
from tests.doors.service.asgi import Reply, call

SECRET = b"a-secret-of-enough-bytes"
OLDER = b"the-secret-from-before"
NOW_S = 1_795_346_063
BODY = (
    b'{"entity": "model_version", "action": "created", "timestamp": "t", "data": {"name": "digits", '
    b'"version": "1", "source": "models:/m-1", "run_id": null, "tags": {}, "description": null}}'
)
MARK = "mark-that-no-log-may-show"


class Counting(Loop):
    """A loop that only counts who woke it."""

    def __init__(self) -> None:
        super().__init__(sweep=lambda _: (0.0, True))
        self.woken = 0

    def wake(self) -> None:
        self.woken += 1


def service(limit: int = 10_000, secrets: tuple[bytes, ...] = (OLDER, SECRET)) -> Service:
    return Service(
        loop=Counting(),
        metrics=Metrics(clock=lambda: 0.0),
        models=(("digits", "default"),),
        secrets=lambda: secrets,
        window_s=300,
        max_body_bytes=limit,
        clock=lambda: float(NOW_S),
    )


def mlflow(
    body: bytes = BODY, *, delivery: bytes = b"d-1", at_s: int = NOW_S, secret: bytes = SECRET
) -> dict[str, bytes]:
    stamp = str(at_s).encode()
    # Written out as MLflow does it, not by our own function.
    digest = hmac.new(secret, delivery + b"." + stamp + b"." + body, hashlib.sha256).digest()
    return {
        "content-type": b"application/json",
        "x-mlflow-delivery-id": delivery,
        "x-mlflow-timestamp": stamp,
        "x-mlflow-signature": b"v1," + base64.b64encode(digest),
    }


def cloudevent(body: bytes, **changes: bytes) -> dict[str, bytes]:
    stamp = str(NOW_S).encode()
    headers = {
        "content-type": b"application/json; charset=utf-8",
        "ce-specversion": b"1.0",
        "ce-type": b"org.example.registered",
        "ce-source": b"/registry",
        "ce-id": b"e-1",
        "x-reprune-timestamp": stamp,
        "x-reprune-signature": sign(SECRET, b"e-1", stamp, body),
    }
    return headers | {key.replace("_", "-"): value for key, value in changes.items()}


def post(one: Service, headers: Mapping[str, bytes], *chunks: bytes, to: str = "mlflow") -> Reply:
    return call(build_app(one), "POST", f"/webhooks/{to}", headers, chunks or (BODY,))


@pytest.fixture(autouse=True)
def log() -> Iterator[io.StringIO]:
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(JsonLines(lambda: (SECRET.decode(),)))
    LOGGER.addHandler(handler)
    LOGGER.setLevel(logging.INFO)
    yield stream
    LOGGER.removeHandler(handler)
    text = stream.getvalue()
    assert MARK not in text
    assert SECRET.decode() not in text
    for line in text.splitlines():
        assert {"time", "level", "event", "model", "version", "run"} <= set(json.loads(line))


@pytest.mark.parametrize("secret", [SECRET, OLDER])
def test_what_mlflow_signs_wakes_the_loop_once(secret: bytes) -> None:
    one = service()
    assert post(one, mlflow(secret=secret)).json == {"result": "woken"}
    replayed = post(one, mlflow(secret=secret))
    assert (replayed.status, replayed.json) == (409, {"result": "replayed"})
    assert one.loop.woken == 1


def without(name: str) -> dict[str, bytes]:
    return {key: value for key, value in mlflow().items() if key != name}


REFUSED = {
    "no id": (without("x-mlflow-delivery-id"), 401),
    "no time": (without("x-mlflow-timestamp"), 401),
    "no signature": (without("x-mlflow-signature"), 401),
    "no kind": (without("content-type"), 415),
    "another kind": (mlflow() | {"content-type": b"application/cloudevents+json"}, 415),
    "another secret": (mlflow(secret=b"somebody-else's-secret"), 401),
    "an empty secret": (mlflow(secret=b""), 401),
    "another body": (mlflow(BODY + b" "), 401),
    "another id": (mlflow() | {"x-mlflow-delivery-id": b"d-2"}, 401),
    "another time": (mlflow() | {"x-mlflow-timestamp": str(NOW_S + 1).encode()}, 401),
    "too old": (mlflow(at_s=NOW_S - 301), 401),
    "from the future": (mlflow(at_s=NOW_S + 301), 401),
    "a time that is none": (mlflow() | {"x-mlflow-timestamp": b"1e9"}, 400),
    "a negative time": (mlflow() | {"x-mlflow-timestamp": b"-5"}, 400),
    "digits of elsewhere": (mlflow() | {"x-mlflow-timestamp": "١٢".encode()}, 400),
    "an id with a space": (mlflow(delivery=b"d 1"), 400),
    "an id without end": (mlflow(delivery=b"d" * 201), 400),
    "no version": (
        mlflow() | {"x-mlflow-signature": mlflow()["x-mlflow-signature"].removeprefix(b"v1,")},
        401,
    ),
    "truncated": (mlflow() | {"x-mlflow-signature": mlflow()["x-mlflow-signature"][:-4]}, 401),
    "padded": (mlflow() | {"x-mlflow-signature": mlflow()["x-mlflow-signature"] + b"="}, 401),
    "an empty signature": (mlflow() | {"x-mlflow-signature": b""}, 401),
    "not ASCII": (mlflow() | {"x-mlflow-signature": b"v1,\xff\xfe"}, 401),
    "too large, as it says": (mlflow() | {"content-length": b"10001"}, 413),
    "no length": (mlflow() | {"content-length": b"-1"}, 413),
}


@pytest.mark.parametrize("case", REFUSED)
def test_nobody_else_wakes_it(case: str) -> None:
    headers, status = REFUSED[case]
    one = service()
    reply = post(one, headers)
    assert reply.status == status
    assert one.loop.woken == 0
    # A refused delivery is not remembered: the true one with the same id is still heard.
    assert post(one, mlflow()).status == 202


def test_a_header_that_is_there_twice_is_refused() -> None:
    pairs = [(key.encode(), value) for key, value in mlflow().items()]
    forged = [*pairs, (b"x-mlflow-signature", b"v1,AAAA")]
    assert call(build_app(service()), "POST", "/webhooks/mlflow", forged, (BODY,)).status == 400


def test_the_body_is_not_read_before_the_headers_are_right_nor_beyond_the_limit() -> None:
    parts = [b"x" * 1000] * 50
    assert post(service(), without("x-mlflow-signature"), *parts).read == 0
    reply = post(service(), mlflow(b"".join(parts)), *parts)
    assert (reply.status, reply.read) == (413, 11)


HOSTILE = {
    "nested lists": b'{"entity":' + b"[" * 4000,
    "nested in what is skipped": b'{"x":'
    + b"[" * 4000
    + b"]" * 4000
    + b',"entity":"model_version"}',
    "not UTF-8": b'{"entity": "\xff\xfe"}',
    "not UTF-8 in a name": BODY.replace(b"digits", b"dig\xc3its"),
    "half a pair": BODY.replace(b"digits", b"\\ud800"),
    "a list": b"[]",
    "a number": b"1e999999",
    "NaN": b"NaN",
    "nothing": b"",
    "UTF-16": BODY.decode().encode("utf-16"),
    "two": BODY + BODY,
    "no name": BODY.replace(b'"name"', b'"nome"'),
    "a name that is none": BODY.replace(b'"digits"', b"null"),
}


@pytest.mark.parametrize("case", HOSTILE)
@pytest.mark.parametrize("to", ["mlflow", "cloudevents"])
def test_a_signed_body_that_is_no_event_is_refused_and_not_told(case: str, to: str) -> None:
    body = HOSTILE[case].replace(b"x", MARK.encode())
    one = service(limit=1_000_000)
    headers = mlflow(body) if to == "mlflow" else cloudevent(body)
    if (case, to) in {("no name", "cloudevents")} or to == "mlflow":
        assert post(one, headers, body, to=to).status == 400
    else:
        # What a CloudEvent does not need may be anything that is JSON.
        assert post(one, headers, body, to=to).status in (202, 400)
    assert one.loop.woken == 0


@pytest.mark.parametrize(
    ("name", "result"),
    [
        ("digits", "woken"),
        ("digits-compressed", "woken"),
        ("digit", "ignored"),
        ("digits/../../etc", "ignored"),
        ("{{digits}}", "ignored"),
        ("example_model", "ignored"),
        ("", "ignored"),
    ],
)
def test_a_name_is_compared_and_never_used(name: str, result: str) -> None:
    body = json.dumps({"name": name, "version": MARK}).encode()
    one = service()
    assert post(one, cloudevent(body), body, to="cloudevents").json == {"result": result}
    assert one.loop.woken == (result == "woken")


def test_other_events_of_mlflow_and_other_workspaces_are_none_of_ours() -> None:
    alias = BODY.replace(b'"model_version"', b'"model_version_alias"')
    assert of_mlflow(alias) is None
    tagged = BODY.replace(b'"model_version"', b'"model_version_tag"').replace(b"created", b"set", 1)
    assert of_mlflow(tagged) is None
    hint = of_mlflow(tagged.replace(b'"digits"', b'"digits-compressed"'))
    assert hint is not None
    assert concerns(hint, "digits", "default")
    elsewhere = BODY.replace(b'"entity"', b'"workspace": "other", "entity"')
    hint = of_mlflow(elsewhere)
    assert hint == Hint(name="digits", workspace="other")
    assert not concerns(hint, "digits", "default")
    assert concerns(hint, "digits", "other")


@pytest.mark.parametrize(
    "change", [{"ce_specversion": b"0.3"}, {"ce_type": b""}, {"ce_source": b""}]
)
def test_a_cloudevent_is_whole(change: dict[str, bytes]) -> None:
    body = b'{"name": "digits"}'
    assert post(service(), cloudevent(body, **change), body, to="cloudevents").status == 400


def test_without_a_secret_that_can_be_read_nothing_is_believed() -> None:
    def gone() -> tuple[bytes, ...]:
        raise InputError("the webhook secret cannot be read", where="/etc/secret")

    one = service()
    object.__setattr__(one, "secrets", gone)
    reply = post(one, mlflow())
    assert (reply.status, one.loop.woken) == (503, 0)
    assert post(service(secrets=()), mlflow()).status == 401


def test_a_delivery_is_remembered_as_long_as_its_time_is_good_and_then_forgotten() -> None:
    now_s = 1000.0
    seen = Seen(window_s=300, clock=lambda: now_s, limit=2)
    ahead = Claim(delivery=b"a", timestamp=b"1300", signature=b"")
    seen.once(ahead)
    now_s = 1600.0
    with pytest.raises(Refused, match="replayed"):
        seen.once(ahead)
    seen.once(Claim(delivery=b"b", timestamp=b"1600", signature=b""))
    with pytest.raises(Refused, match="busy"):
        seen.once(Claim(delivery=b"c", timestamp=b"1600", signature=b""))
    now_s = 1601.0
    seen.once(Claim(delivery=b"c", timestamp=b"1601", signature=b""))


@given(
    body=st.binary(max_size=200),
    flip=st.integers(0, 10_000),
    secret=st.binary(min_size=1, max_size=40),
)
@settings(max_examples=200, deadline=None)
def test_law_one_bit_more_or_less_is_another_delivery(
    body: bytes, flip: int, secret: bytes
) -> None:
    signature = sign(secret, b"d", b"1", body)
    check(Claim(delivery=b"d", timestamp=b"1", signature=signature), body, [secret])
    place = flip % (len(signature) * 8)
    changed = bytearray(signature)
    changed[place // 8] ^= 1 << (place % 8)
    with pytest.raises(Refused, match="forged"):
        check(Claim(delivery=b"d", timestamp=b"1", signature=bytes(changed)), body, [secret])
    if body:
        other = bytearray(body)
        other[flip % len(body)] ^= 1
        with pytest.raises(Refused, match="forged"):
            check(Claim(delivery=b"d", timestamp=b"1", signature=signature), bytes(other), [secret])


JSON = st.recursive(
    st.none() | st.booleans() | st.floats() | st.text(max_size=10),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(["entity", "action", "data", "name", "workspace", "x"]),
            inner,
            max_size=6,
        )
    ),
)


@pytest.mark.slow
@given(body=st.binary(max_size=300) | JSON.map(lambda value: json.dumps(value).encode()))
@settings(max_examples=300, deadline=None)
def test_law_any_signed_body_is_answered_and_none_with_5xx(body: bytes) -> None:
    for to, headers in (("mlflow", mlflow(body)), ("cloudevents", cloudevent(body))):
        one = service()
        reply = post(one, headers, body, to=to)
        assert reply.status in (202, 400)
        read = of_mlflow if to == "mlflow" else of_cloudevent
        try:
            hint = read(body)
        except NotAnEvent:
            hint = None
            assert reply.status == 400
        assert one.loop.woken == (hint is not None and concerns(hint, "digits", "default"))


@pytest.mark.slow
@given(
    names=st.lists(
        st.tuples(
            st.sampled_from([*mlflow(), *cloudevent(b""), "content-length", "x"]),
            st.binary(max_size=40) | st.sampled_from([*mlflow().values()]),
        ),
        max_size=9,
    ),
    to=st.sampled_from(["mlflow", "cloudevents"]),
)
@settings(max_examples=300, deadline=None)
def test_law_no_headers_give_5xx_and_none_but_signed_ones_wake(
    names: list[tuple[str, bytes]], to: str
) -> None:
    one = service()
    pairs = [(name.encode(), value) for name, value in names]
    reply = call(build_app(one), "POST", f"/webhooks/{to}", pairs, (b'{"name": "digits"}',))
    assert 400 <= reply.status < 500
    assert one.loop.woken == 0


def test_the_description_names_the_routes_and_every_answer() -> None:
    app = build_app(service())
    assert isinstance(app, Starlette)
    routes = {(route.path, *sorted(route.methods - {"HEAD"})) for route in app.routes}  # type: ignore[attr-defined]
    described = {
        (path, *sorted(method.upper() for method in about))
        for path, about in OPENAPI["paths"].items()
    }
    assert routes == described
    assert call(app, "GET", "/openapi.json").json == OPENAPI
    answers = set(OPENAPI["paths"]["/webhooks/mlflow"]["post"]["responses"])
    seen = {str(status) for _, status in REFUSED.values()} | {"202", "409", "408", "503"}
    assert answers == seen
    for method, path in (("GET", "/webhooks/mlflow"), ("POST", "/metrics"), ("GET", "/elsewhere")):
        assert call(app, method, path).status in (404, 405)
