"""One request: as whom, how long, how much; and what a person is told when it fails."""

from __future__ import annotations

import ipaddress
import logging
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from reprune.core.errors import (
    AccessDenied,
    InputError,
    OrchestratorError,
    OrchestratorUnreachable,
    RunNotFound,
)
from reprune.orchestrate import ask
from reprune.orchestrate.ask import get
from reprune.orchestrate.endpoint import Backoff, Endpoint
from reprune.orchestrate.runs import check_service, find_runs, run_state
from tests.kfp_server import KfpServer, State

SECRET = "a-token-that-nobody-may-see"


@pytest.mark.parametrize(
    "host",
    [
        "kubeflow.example.org",
        "ftp://host",
        "https://",
        "https://host/?a=1",
        "https://host/#/runs",
        "https://ho st",
        "https://[::1",
        "https://host:99999",
    ],
)
def test_a_host_that_is_no_address_is_refused(host: str) -> None:
    """At once, not as a connection that failed."""
    with pytest.raises(InputError, match="is no address"):
        Endpoint(host=host)


def test_a_password_in_the_host_is_refused_and_not_shown() -> None:
    """It would be in every link."""
    with pytest.raises(InputError) as caught:
        Endpoint(host=f"https://me:{SECRET}@host/pipeline")
    assert SECRET not in str(caught.value)


def test_a_link_is_below_the_ui() -> None:
    """Where people look, not where the API is."""
    assert Endpoint(host="http://api.svc:8888/").link("a/b") == (
        "http://api.svc:8888/#/runs/details/a%2Fb"
    )
    both = Endpoint(host="http://api:8888", ui="https://kubeflow.example.org/pipeline/")
    assert both.link("1") == "https://kubeflow.example.org/pipeline/#/runs/details/1"


def test_a_token_is_read_anew_each_time(tmp_path: Path) -> None:
    """A pod's token is replaced while we wait: the new one is used, through the link that it is."""
    (tmp_path / "1").write_text("first\n")
    (tmp_path / "2").write_text("second")
    link = tmp_path / "token"
    link.symlink_to(tmp_path / "1")
    with KfpServer(token="first") as server:
        endpoint = Endpoint(host=server.url, token_file=link)
        check_service(endpoint)
        server.token = "second"
        with pytest.raises(AccessDenied):
            check_service(endpoint)
        link.unlink()
        link.symlink_to(tmp_path / "2")
        check_service(endpoint)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "is empty"),
        (b"two words", "more than one word"),
        (b"line\r\nInjected: yes", "more than one word"),
        (b"\xff\xfe", "not ASCII"),
        (b"x" * 70_000, "more than one word"),
    ],
)
def test_a_file_without_a_token_is_refused(tmp_path: Path, content: bytes, says: str) -> None:
    """Nothing but one word becomes a header, and no part of the file is shown."""
    path = tmp_path / "token"
    path.write_bytes(content)
    with pytest.raises(InputError, match=says) as caught:
        Endpoint(host="http://localhost", token_file=path).token()
    assert "Injected" not in str(caught.value)
    path.unlink()
    with pytest.raises(InputError, match="cannot be read"):
        Endpoint(host="http://localhost", token_file=path).token()


def test_a_token_never_travels_in_clear_text(monkeypatch: pytest.MonkeyPatch) -> None:
    """Over http only to this machine, or to a service of this cluster; refused before connecting."""
    monkeypatch.setenv("SOME_TOKEN", SECRET)
    with pytest.raises(InputError, match="clear text") as caught:
        get(Endpoint(host="http://kubeflow.example.org", token_variable="SOME_TOKEN"), "/healthz")
    assert SECRET not in str(caught.value)


@pytest.mark.parametrize("status", [400, 401, 403, 409, 500])
def test_a_token_that_comes_back_is_not_shown(
    server: KfpServer,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    status: int,
) -> None:
    """A careless proxy repeats the request in its answer; neither errors nor logs do."""
    caplog.set_level(logging.DEBUG)
    monkeypatch.setenv("SOME_TOKEN", SECRET)
    echo = f'{{"error": "refused: Bearer {SECRET} \\u001b[31m"}}'.encode()
    server.fail("GET", "/healthz", times=2, status=status, raw=echo)
    endpoint = Endpoint(
        host=server.url, token_variable="SOME_TOKEN", backoff=Backoff(tries=2, first_s=0.0)
    )
    with pytest.raises(OrchestratorError) as caught:
        get(endpoint, "/healthz")
    chain = [caught.value, caught.value.__cause__, caught.value.__context__]
    assert SECRET not in "".join(map(str, chain)) + repr(caught.value) + caplog.text
    assert SECRET not in repr(endpoint)
    assert f"answered {status}: refused: Bearer ***" in str(caught.value)
    assert "\x1b" not in str(caught.value)


@pytest.mark.parametrize("status", [401, 403])
def test_a_refusal_is_told_at_once(server: KfpServer, endpoint: Endpoint, status: int) -> None:
    """It says whether a token was sent at all."""
    server.fail("GET", "/healthz", status=status)
    with pytest.raises(AccessDenied, match="give a token") as caught:
        check_service(endpoint)
    assert caught.value.exit_code == 2
    assert len(server.requests) == 1


def test_a_redirect_is_not_followed(server: KfpServer, endpoint: Endpoint) -> None:
    """It leads to a login page, and would be handed our request."""
    server.fail("GET", "/healthz", status=302, headers=(("Location", f"{server.url}/login"),))
    with pytest.raises(AccessDenied, match="redirect"):
        check_service(endpoint)
    assert [each.path for each in server.requests] == ["/healthz"]


@pytest.mark.parametrize(
    "raw",
    [b"<html>log in</html>", b'{"multi_user": NaN}', b'{"a": 1, "a": 2}', b"\xff", b"[1]", b"{"],
)
def test_an_answer_that_is_none_is_refused(
    server: KfpServer, endpoint: Endpoint, raw: bytes
) -> None:
    """Doubtful JSON is no answer, and no reason to ask again."""
    server.fail("GET", "/healthz", raw=raw)
    with pytest.raises(OrchestratorError, match="answer"):
        check_service(endpoint)
    assert len(server.requests) == 1


def test_a_long_answer_is_cut_off(
    server: KfpServer, endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody fills our memory."""
    monkeypatch.setattr(ask, "MAX_REPLY_BYTES", 1000)
    server.fail("GET", "/healthz", raw=b'{"a": "' + b"x" * 2000 + b'"}')
    with pytest.raises(OrchestratorError, match="more than 1000 bytes"):
        check_service(endpoint)


@pytest.mark.parametrize(
    "fault",
    [{"drop": True}, {"status": 500}, {"status": 503}, {"status": 429}, {"raw": b"{}", "truncated": True}],
    ids=str,
)  # fmt: skip
def test_a_question_is_asked_again(
    server: KfpServer, endpoint: Endpoint, pauses: list[float], fault: dict[str, object]
) -> None:
    """Lost connections and "not now" pass; the pauses double; in the end somebody is told."""
    server.fail("GET", "/healthz", times=3, **fault)
    check_service(endpoint)
    assert pauses == [0.5, 1.0, 2.0]
    server.fail("GET", "/healthz", times=4, **fault)
    with pytest.raises(OrchestratorUnreachable) as caught:
        check_service(endpoint)
    assert caught.value.exit_code == 2
    # What was cut off was an answer, too.
    assert ("cannot answer" in str(caught.value)) == ("drop" not in fault)
    assert caught.value.silent == ("drop" in fault)


def test_what_the_service_asks_for_is_heard(
    server: KfpServer, endpoint: Endpoint, pauses: list[float]
) -> None:
    """Retry-After, within reason."""
    server.fail("GET", "/healthz", status=429, headers=(("Retry-After", "7"),))
    server.fail("GET", "/healthz", status=429, headers=(("Retry-After", "86400"),))
    server.fail("GET", "/healthz", status=429, headers=(("Retry-After", "soon"),))
    check_service(endpoint)
    assert pauses == [7.0, 60.0, 2.0]


def test_a_slow_answer_is_not_waited_for(server: KfpServer) -> None:
    """Every request has a time limit."""
    server.fail("GET", "/healthz", slow_s=20.0)
    endpoint = Endpoint(host=server.url, timeout_s=0.1, backoff=Backoff(tries=1))
    began = time.monotonic()
    with pytest.raises(OrchestratorUnreachable, match="timed out"):
        check_service(endpoint)
    assert time.monotonic() - began < 10


def test_nobody_there(endpoint: Endpoint) -> None:
    """A dead host is named with what to check."""
    dead = Endpoint(host="http://127.0.0.1:9", backoff=Backoff(tries=2))
    with pytest.raises(OrchestratorUnreachable, match="does not answer") as caught:
        find_runs(dead, "x")
    assert caught.value.where == "http://127.0.0.1:9"


def test_what_is_not_there(server: KfpServer, endpoint: Endpoint) -> None:
    """404 for a run is "no such run"; for the API itself it is the wrong address."""
    with pytest.raises(RunNotFound):
        run_state(endpoint, "run-9")
    server.fail("GET", "/healthz", status=404)
    with pytest.raises(OrchestratorError, match="is the address right") as caught:
        check_service(endpoint)
    assert not isinstance(caught.value, RunNotFound)


def test_a_run_id_is_no_path(server: KfpServer, endpoint: Endpoint) -> None:
    """Whatever a service calls its runs, we ask for a run."""
    with pytest.raises(RunNotFound):
        run_state(endpoint, "../experiments?x=1#")
    assert server.requests[-1].path == "/runs/..%2Fexperiments%3Fx%3D1%23"


def test_many_users_need_a_namespace() -> None:
    """A namespace is asked for where it is needed, and then sent with each list."""
    with KfpServer(multi_user=True) as server:
        with pytest.raises(InputError, match="--namespace"):
            check_service(Endpoint(host=server.url))
        endpoint = Endpoint(host=server.url, namespace="team")
        check_service(endpoint)
        server.add("a", State("FAILED"))
        assert [run.state for run in find_runs(endpoint, "a")] == ["FAILED"]
        assert server.requests[-1].query["namespace"] == "team"


def test_a_certificate_must_be_trusted(tmp_path: Path) -> None:
    """TLS is verified: an unknown CA is refused at once, the one that --ca-file names is taken."""
    chain, key = _certificate(tmp_path)
    with KfpServer(token=SECRET, certificate=(str(chain), str(key))) as server:
        (tmp_path / "token").write_text(SECRET)
        stranger = Endpoint(host=server.url, token_file=tmp_path / "token")
        with pytest.raises(OrchestratorError, match="certificate is not trusted"):
            check_service(stranger)
        assert server.requests == []
        known = Endpoint(host=server.url, token_file=tmp_path / "token", ca_file=chain)
        check_service(known)
        with pytest.raises(InputError, match="holds no certificates"):
            check_service(Endpoint(host=server.url, ca_file=tmp_path / "token"))


def _certificate(folder: Path) -> tuple[Path, Path]:
    """For 127.0.0.1, signed by itself."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "loopback")])
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(
            x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]),
            critical=False,
        )
        .sign(key, hashes.SHA256())
    )
    chain, private = folder / "chain.pem", folder / "key.pem"
    chain.write_bytes(made.public_bytes(serialization.Encoding.PEM))
    private.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    return chain, private
