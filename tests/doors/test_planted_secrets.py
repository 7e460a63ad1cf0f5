"""Secrets that lie about, in the environment and in addresses: nothing that a run says holds one."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote, quote_plus

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import UNSET

from reprune.core.addresses import shown
from reprune.core.params import Params, read_params
from reprune.doors import cli
from reprune.doors.init import TEMPLATE
from tests.registry.promotion import promoted, ready

SECRET = "pl4nted/s3cret+of=nobody"
VARIABLES = (
    "MLFLOW_TRACKING_TOKEN", "MLFLOW_TRACKING_PASSWORD", "REPRUNE_REGISTRY_TOKEN", "GITHUB_TOKEN",
    "GITLAB_TOKEN", "REPRUNE_KFP_TOKEN", "AWS_SECRET_ACCESS_KEY", "REPRUNE_SLACK_URL",
)  # fmt: skip
ADDRESSES = {
    "mlflow": "http://user:{}@127.0.0.1:9/base",
    "mlflow with a query": "http://127.0.0.1:9/base?token={}",
    "a database": "postgresql://user:{}@127.0.0.1:9/db",
    "a database with a query": "postgresql+psycopg2://127.0.0.1:9/db?password={}",
    "kubeflow": "https://user:{}@127.0.0.1:9",
    "kubeflow with a query": "https://127.0.0.1:9/?key={}",
    "files": "s3://user:{}@bucket/x",
}


def forms() -> Iterator[str]:
    yield from (
        SECRET,
        quote(SECRET),
        quote_plus(SECRET),
        quote(SECRET, safe=""),
        SECRET.split("/")[1],
    )


def refuse_planted(text: str) -> None:
    for form in forms():
        assert form not in text


def written(root: Path, but: tuple[str, ...] = ()) -> Iterator[tuple[Path, str]]:
    for path in sorted(root.rglob("*")):
        if path.is_file() and path.name not in but:
            yield path, path.read_bytes().decode("latin-1")


@pytest.fixture
def planted(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    for name in VARIABLES:
        monkeypatch.setenv(name, SECRET)
    monkeypatch.setenv("REPRUNE_WORK", str(tmp_path / "work"))
    return tmp_path / "repo"


def test_nothing_that_a_generation_leaves_or_says_holds_a_secret(
    planted: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Chain, verdict, report, registry and receipts; then the commands that tell of them."""
    planted.mkdir()
    monkeypatch.chdir(planted)
    ready(planted)
    promoted(planted)
    for words in (("history",), ("history", "--json"), ("check", "artifacts/verdict"), ("doctor",)):
        cli.main(["-C", str(planted), *words])
        said = capfd.readouterr()
        refuse_planted(said.out + said.err)
    count = 0
    for _, text in written(planted.parent):
        count += 1
        refuse_planted(text)
    assert count > 50


def ended_with(root: Path, words: tuple[str, ...]) -> object:
    try:
        return cli.main(["-C", str(root), *words])
    except SystemExit as ended:
        return ended.code


@pytest.mark.parametrize("case", ADDRESSES)
def test_an_address_with_a_secret_is_refused_without_showing_it(
    planted: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], case: str
) -> None:
    """On the terminal, as JSON and in every file that is written meanwhile."""
    planted.mkdir()
    monkeypatch.chdir(planted)
    ready(planted)
    uri = ADDRESSES[case].format(quote(SECRET, safe=""))
    word = case.split(maxsplit=1)[0]
    kind = word if word in ("kubeflow", "files") else "mlflow"
    text = (planted / "params.yaml").read_text()
    assert "{kind: files, uri: registry}" in text
    changed = text.replace("{kind: files, uri: registry}", f"{{kind: {kind}, uri: '{uri}'}}")
    (planted / "params.yaml").write_text(changed)
    assert read_params(planted / "params.yaml").registry.uri == uri
    for words in (
        ("update",),
        ("update", "--json"),
        ("history",),
        ("promote",),
        ("adopt", "--by", "x"),
    ):
        with pytest.MonkeyPatch.context() as patched:
            patched.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
            assert ended_with(planted, words) != 0
        said = capfd.readouterr()
        refuse_planted(said.out + said.err)
    for _, found in written(planted, but=("params.yaml",)):
        refuse_planted(found)


@settings(max_examples=200, deadline=None)
@given(
    scheme=st.sampled_from(["http", "https", "postgresql", "mysql+pymysql", "s3", "abfss"]),
    secret=st.text("abcXYZ0189._~!$&'()*+,;=:%-", min_size=8, max_size=40),
    host=st.sampled_from(["h", "10.0.0.1:80", "[::1]:5"]),
    path=st.sampled_from(["", "/", "/a/b"]),
    place=st.sampled_from(["user", "query", "fragment"]),
)
def test_law_no_shown_address_holds_what_stands_where_secrets_stand(
    scheme: str, secret: str, host: str, path: str, place: str
) -> None:
    """As user, password, query or fragment; the host and the path stay readable."""
    made = {
        "user": f"{scheme}://u:{secret}@{host}{path}",
        "query": f"{scheme}://{host}{path}?token={secret}",
        "fragment": f"{scheme}://{host}{path}#{secret}",
    }[place]
    assert secret not in shown(made)
    assert host in shown(made)
    assert shown(f"{scheme}://{host}{path}") == f"{scheme}://{host}{path}"
    assert shown(f"./{host}{path}") == f"./{host}{path}"


def test_what_init_writes_asks_for_no_picture_of_an_example() -> None:
    """Whoever keeps its params.yaml and brings data of patients publishes none of them."""
    written = read_params(TEMPLATE / "params.yaml")
    assert written.benchmark.shown_examples is UNSET
    assert written.build.shown_maps is UNSET
    assert written.report.show_examples is False


def test_examples_are_shown_to_nobody_unless_somebody_asked() -> None:
    """Neither stored with the verdict nor put into the page, pictures and text alike."""
    given_nothing = Params(name="x", task="task.x:X")
    assert given_nothing.benchmark.shown_examples is UNSET
    assert given_nothing.build.shown_maps is UNSET
    assert given_nothing.report.show_examples is False
    assert os.environ.get("REPRUNE_SHOW_EXAMPLES") is None
