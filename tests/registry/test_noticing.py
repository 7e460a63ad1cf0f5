"""What the promoter's hooks are told: once a version, whatever happens, and at no cost to the outcome."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml

from reprune.core.lock import LOCK_FILE, read_lock
from reprune.core.params import PARAMS_FILE, read_params
from reprune.core.policy import POLICY_FILE, read_policy
from reprune.core.step import Documents, run
from reprune.doors.cli import main
from reprune.doors.kfp.run import Texts, run_promote
from reprune.registry.tags import TOLD
from reprune.steps import get_step
from reprune.steps.noticing import tell_promotion, tell_rollback
from reprune.steps.promote import PromoteResult
from reprune.steps.rollback import rollback
from tests.chain import Story
from tests.hook_server import SECRET, HookServer
from tests.registry.promotion import (
    COMPRESSED,
    NOW_S,
    copy_repository,
    next_generation,
    promoted,
    ready,
    registry_of,
)

PLACES = ("plan", "sensitivity", "engines", "profile")
SLACK = "/services/T000/B000/hush-hush"


@pytest.fixture
def server() -> Iterator[HookServer]:
    with HookServer() as running:
        yield running


@pytest.fixture
def root(template: Path, tmp_path: Path) -> Path:
    return copy_repository(template, tmp_path / "repo")


def configure(root: Path, *hooks: dict[str, Any]) -> Path:
    path = root / ".reprune" / "promoter" / "config.yaml"
    given = yaml.safe_load(path.read_text()) | {"hooks": list(hooks)}
    path.write_text(yaml.safe_dump(given))
    (path.parent / "hook-secret").write_text(SECRET)
    return path


def ops(server: HookServer, *events: str, **more: Any) -> dict[str, Any]:
    hook = {"name": "ops", "kind": "webhook", "url": server.url, "secret_file": "hook-secret"}
    return hook | ({"events": list(events)} if events else {}) | more


def handed(path: Path, *, many: bool = False) -> Any:
    one = SimpleNamespace(path=str(path), metadata={})
    return [one] if many else one


def tell(root: Path, result: PromoteResult) -> list[str]:
    said: list[str] = []
    tell_promotion(root, result, say=said.append)
    return said


def told_tags(root: Path, version: str) -> dict[str, str]:
    (tags,) = (
        each.tags for each in registry_of(root).versions(COMPRESSED) if each.version == version
    )
    return {name: text for name, text in tags.items() if name.startswith(TOLD)}


def test_a_promotion_is_told_once_with_its_facts(root: Path, server: HookServer) -> None:
    configure(root, ops(server, "promoted"))
    result = promoted(root)
    assert tell(root, result) == []
    [came] = server.came
    data = came.body["data"]
    receipt = result.artifact.manifest
    assert came.body["type"] == "promoted"
    assert (data["model"], data["dense_version"], data["version"]) == ("digits", "1", "1")
    assert (data["verdict"], data["outcome"], data["promoted"]) == (receipt.verdict, "pass", True)
    assert (data["champion_before"], data["champion_after"], data["by"]) == (None, "1", None)
    assert "which is now the champion" in data["words"]
    assert told_tags(root, "1") == {f"{TOLD}ops": came.headers["webhook-id"]}
    again = promoted(root)
    assert again.already_done
    assert tell(root, again) == []
    assert len(server.came) == 1


def test_one_that_could_not_be_told_is_told_by_the_next_promote(
    root: Path, server: HookServer
) -> None:
    configure(root, ops(server, "promoted"))
    server.answers = [400]
    assert tell(root, promoted(root)) == ["warning: hook 'ops' was not told: answers 400"]
    assert told_tags(root, "1") == {}
    assert tell(root, promoted(root)) == []
    first, second = server.came
    assert first.headers["webhook-id"] == second.headers["webhook-id"]
    assert tell(root, promoted(root)) == []
    assert len(server.came) == 2


def test_by_default_nobody_is_told_of_a_promotion(root: Path, server: HookServer) -> None:
    configure(root, ops(server))
    assert tell(root, promoted(root)) == []
    assert server.came == []


def test_a_block_is_told_with_its_reasons(tmp_path: Path, server: HookServer) -> None:
    root = tmp_path / "repo"
    root.mkdir()
    ready(root, Story(candidate_wrong=60))
    chat = {"name": "chat", "kind": "slack", "url": server.url + SLACK}
    configure(root, ops(server), chat)
    result = promoted(root)
    assert result.outcome == "block"
    assert tell(root, result) == []
    by_path = {came.path: came.body for came in server.came}
    assert by_path["/"]["type"] == "blocked"
    assert by_path["/"]["data"]["promoted"] is False
    for reason in result.reasons:
        assert reason in by_path["/"]["data"]["words"]
    assert "*Blocked*: `digits` version `1`" in by_path[SLACK]["text"]
    assert told_tags(root, "1").keys() == {f"{TOLD}ops", f"{TOLD}chat"}


def test_a_rollback_is_told_with_who_and_why(root: Path, server: HookServer) -> None:
    promoted(root)
    next_generation(root, dense_version="2")
    promoted(root)
    configure(root, ops(server))
    said: list[str] = []
    for later in (60, 120):
        result = rollback(
            root, to=None, by="Ada", reason="wrong labels", now=NOW_S + later, say=said.append
        )
        tell_rollback(root, result, now=NOW_S + later, say=said.append)
    [came] = server.came
    assert came.body["type"] == "rolled-back"
    data = came.body["data"]
    assert (data["champion_before"], data["champion_after"]) == ("2", "1")
    assert (data["by"], data["because"]) == ("Ada", "wrong labels")
    assert told_tags(root, result.record_version).keys() == {f"{TOLD}ops"}


@pytest.mark.parametrize(
    "broken",
    [
        {"secret_file": "gone"},
        {"url": "https://127.0.0.1:1/hush-hush", "ca_file": "gone"},
    ],
)
def test_the_command_ends_as_without_hooks(
    root: Path,
    server: HookServer,
    broken: dict[str, str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """One line of warning on stderr; exit code and the object on stdout are the promotion's."""
    monkeypatch.chdir(root)
    monkeypatch.setattr("time.time", lambda: NOW_S)
    configure(root, ops(server, "promoted", **broken))
    assert main(["promote", "-C", str(root), "--json"]) == 0
    out, err = capsys.readouterr()
    assert json.loads(out)["promoted"] is True
    assert err.count("warning:") == 1
    assert "hook 'ops' was not told" in err
    assert "hush" not in err
    assert SECRET not in err + out


@pytest.mark.slow
def test_in_a_pod_the_hooks_come_with_the_promoters_secret(
    root: Path,
    server: HookServer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """As Kubernetes mounts a secret: links, through a folder that is replaced as a whole."""
    real = tmp_path / "mounted" / "..2026_11_27"
    config = configure(
        root, {"name": "chat", "kind": "slack", "url_file": "chat-url", "events": ["promoted"]}
    )
    real.mkdir(parents=True)
    for each in config.parent.iterdir():
        each.rename(real / each.name)
    (real / "chat-url").write_text(server.url + SLACK + "\n")
    (real.parent / "..data").symlink_to(real.name)
    for each in real.iterdir():
        (real.parent / each.name).symlink_to(Path("..data") / each.name)
    monkeypatch.setenv("REPRUNE_PROMOTER", str(real.parent / "config.yaml"))
    monkeypatch.setenv("REPRUNE_PROJECT", str(root))
    monkeypatch.setattr("time.time", lambda: NOW_S)
    texts = [(root / name).read_text() for name in (LOCK_FILE, PARAMS_FILE, POLICY_FILE)]
    documents = Documents(
        root=root,
        params=read_params(root / PARAMS_FILE),
        policy=read_policy(root / POLICY_FILE),
        lock=read_lock(root / LOCK_FILE),
    )
    made = root / "artifacts" / "report"
    verdict = {"verdict": root / "artifacts" / "verdict"}
    run(get_step("report"), verdict, documents, made, say=lambda _: None)
    given = dict(zip(("plan", "table", "engines", "profiles"), PLACES, strict=True))
    given |= {name: name for name in ("verdict", "candidate", "report")}
    inputs = {
        name: handed(root / "artifacts" / folder, many=name in ("engines", "profiles"))
        for name, folder in given.items()
    }
    server.answers = [500]
    run_promote(Texts(*texts), inputs, handed(tmp_path / "receipt"))
    first, second = server.came
    assert first.path == second.path == SLACK
    assert "*Promoted*: `digits` version `1`" in second.body["text"]
    last = capsys.readouterr().err.rstrip().rpartition("\n")[2]
    assert "which is now the champion" in last


def test_whatever_goes_wrong_is_a_warning(
    root: Path, server: HookServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    configure(root, ops(server, "promoted"))
    result = promoted(root)

    def crash(*_: object, **__: object) -> None:
        raise ZeroDivisionError("hush")

    monkeypatch.setattr("reprune.steps.noticing.deliver", crash)
    assert tell(root, result) == ["warning: telling the hooks crashed: ZeroDivisionError"]


def test_a_repository_cannot_name_hooks(
    root: Path,
    server: HookServer,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Only the promoter's own file does: what is judged tells nobody."""
    monkeypatch.chdir(root)
    params = root / "params.yaml"
    params.write_text(
        params.read_text() + f"hooks: [{{name: a, kind: slack, url: {server.url}}}]\n"
    )
    assert main(["promote", "-C", str(root)]) == 2
    assert "unknown key 'hooks'" in capsys.readouterr().err
    assert server.came == []


def receive(headers: dict[str, str], body: bytes) -> bool:
    """What a receiver does that has never heard of us."""
    key = base64.b64decode(SECRET.removeprefix("whsec_"))
    text = f"{headers['webhook-id']}.{headers['webhook-timestamp']}.".encode() + body
    mac = base64.b64encode(hmac.new(key, text, hashlib.sha256).digest()).decode()
    return headers["webhook-signature"] == f"v1,{mac}"


def test_the_receiver_of_the_page_takes_what_is_ours_and_nothing_else(
    root: Path, server: HookServer
) -> None:
    page = (Path(__file__).parents[2] / "docs" / "hooks.md").read_text()
    code = page.partition("```python\n")[2].partition("```")[0]
    assert len(code.strip().splitlines()) <= 12
    scope: dict[str, Any] = {}
    exec(compile(code, "docs/hooks.md", "exec"), scope)
    verify = scope["verified"]
    configure(root, ops(server, "promoted"))
    tell(root, promoted(root))
    [came] = server.came
    assert receive(came.headers, came.raw)
    assert verify(SECRET, came.headers, came.raw) == came.body
    for wrong in (
        (SECRET, came.headers, came.raw + b" "),
        (SECRET, came.headers | {"webhook-id": "reprune_0"}, came.raw),
        (SECRET, came.headers | {"webhook-timestamp": "1"}, came.raw),
        (SECRET.swapcase().replace("WHSEC_", "whsec_"), came.headers, came.raw),
    ):
        with pytest.raises(ValueError, match="not"):
            verify(*wrong)


def test_telling_loads_nothing_heavy() -> None:
    import subprocess

    code = (
        "import sys, reprune.steps.noticing\n"
        "print([m for m in ('torch', 'kfp', 'mlflow', 'requests') if m in sys.modules])"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "[]"
