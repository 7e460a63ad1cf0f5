"""The files that the chart writes are those that the service reads; their schema refuses what it refuses."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import msgspec
import pytest
import yaml

from reprune.doors.service.config import ServiceConfig, read_settings
from reprune.doors.service.metrics import FAMILIES
from reprune.orchestrate.notify import Hook
from reprune.orchestrate.reconcile_watch import Watch
from tests.charts.helm import CHART, FEATURES, pods, rendered
from tests.charts.test_chart import files
from tests.charts.test_dashboard import METRICS
from tests.doors.service.test_serve import Place, kfp, place  # noqa: F401  fixtures
from tests.kfp_server import KfpServer

SCHEMA = json.loads((CHART / "values.schema.json").read_text())


@pytest.mark.parametrize("feature", FEATURES)
def test_the_service_reads_what_the_chart_writes(feature: str, tmp_path: Path) -> None:
    (written,) = (
        each["data"] for each in rendered(feature) if "serve.yaml" in each.get("data", {})
    )
    for name, text in written.items():
        (tmp_path / name).write_text(text)
    settings = read_settings(tmp_path / "serve.yaml")
    assert settings.watches.watches
    assert settings.config.webhook is not None


def test_a_watch_has_the_same_keys_and_bounds_as_a_value() -> None:
    ours = SCHEMA["definitions"]["watch"]
    theirs: dict[str, Any] = msgspec.json.schema(Watch)["$defs"]
    assert ours["properties"].keys() == theirs["Watch"]["properties"].keys()
    assert set(ours["required"]) == set(theirs["Watch"]["required"])
    assert (
        ours["properties"]["registry"]["properties"].keys()
        == theirs["WatchedRegistry"]["properties"].keys()
    )
    for name in ("max_bytes", "max_files"):
        for bound in ("minimum", "maximum"):
            value = ours["properties"]["registry"]["properties"][name]
            assert value[bound] == theirs["WatchedRegistry"]["properties"][name][bound]
    for name in ("attempts", "poll_s", "retry_first_s", "retry_longest_s"):
        for bound in ("minimum", "maximum"):
            assert ours["properties"][name][bound] == theirs["Watch"]["properties"][name][bound]


def test_the_runs_of_a_model_have_the_same_keys() -> None:
    theirs = msgspec.json.schema(ServiceConfig)["$defs"]["ModelRuns"]["properties"]
    assert SCHEMA["definitions"]["modelRuns"]["properties"].keys() == theirs.keys()


def test_a_hook_has_the_same_kinds_and_events() -> None:
    ours = SCHEMA["definitions"]["hook"]["properties"]
    theirs = msgspec.json.schema(Hook)["$defs"]["Hook"]["properties"]
    assert set(ours["kind"]["enum"]) == set(theirs["kind"]["enum"])
    assert set(ours["events"]["items"]["enum"]) == set(theirs["events"]["items"]["enum"])
    assert ours["name"]["pattern"] == theirs["name"]["pattern"]


@pytest.mark.parametrize("component", ["serve", "sweep"])
def test_every_hook_finds_its_files(component: str) -> None:
    manifests = rendered("hooks")
    (pod,) = (
        each
        for each in pods(manifests)
        if each["metadata"]["labels"]["app.kubernetes.io/component"] == component
    )
    at = files(pod["spec"], pod["spec"]["containers"][0])
    (text,) = (each["data"]["serve.yaml"] for each in manifests if each["kind"] == "ConfigMap")
    ops, audit, chat = yaml.safe_load(text)["hooks"]
    assert ops["url"] == "https://ops.example.org/reprune?team=ml"
    assert at["/etc/reprune/" + ops["secret_file"]] == ("ops-hook", "signing.key")
    assert at["/etc/reprune/" + audit["url_file"]] == ("audit", "url")
    assert at["/etc/reprune/" + audit["secret_file"]] == ("audit", "key")
    assert at["/etc/reprune/" + chat["url_file"]] == ("chat", "url")
    assert "secret_file" not in chat
    assert ("events" in ops, audit["events"]) == (False, ["promoted", "overridden"])


def test_the_dashboard_shows_all_that_the_service_counts() -> None:
    assert METRICS.keys() == FAMILIES.keys()


def test_what_the_dashboard_asks_for_is_on_the_page(
    place: Place,  # noqa: F811
    kfp: KfpServer,  # noqa: F811
) -> None:
    """Its labels too; a failed call and one that succeeded show what there is to show of a sweep."""
    place.train()
    sweep = place.sweeper()
    kfp.fail("GET", "/runs", times=2, status=503)
    assert [sweep(0)[1] for _ in range(3)] == [False, True, True]
    shown: dict[str, set[str]] = {}
    for name, labels in re.findall(
        r"^(reprune_\w+)(?:\{(.*)\})? ", sweep.metrics.text(), re.MULTILINE
    ):
        shown.setdefault(name, set()).update(re.findall(r'(\w+)="', labels))
    # Those come with an end, a delivery and a hook.
    assert METRICS.keys() - shown.keys() <= {
        *("reprune_verdicts", "reprune_verdict_lag_seconds"),
        *("reprune_deliveries_total", "reprune_notices_total"),
    }
    for name, labels in shown.items():
        assert METRICS[name] <= labels
