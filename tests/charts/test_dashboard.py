"""The dashboard is what Grafana takes, and shows the metrics that the service has."""

from __future__ import annotations

import itertools
import json
import re
from typing import Any

import pytest

from tests.charts.helm import CHART, rendered

# What `/metrics` of the service shows, with the labels that are asked about.
METRICS = {
    "reprune_build_info": {"version"},
    "reprune_versions_seen": {"model"},
    "reprune_runs": {"model", "state"},
    "reprune_verdicts": {"model", "state"},
    "reprune_verdict_lag_seconds": {"model"},
    "reprune_waiting_seconds": {"model"},
    "reprune_seconds_since_full_reconcile": set(),
    "reprune_sweeps_total": {"result"},
    "reprune_call_failures_total": {"call"},
    "reprune_deliveries_total": {"result"},
    "reprune_notices_total": {"hook", "result"},
}


@pytest.fixture(scope="module")
def dashboard() -> Any:
    (found,) = (
        each
        for each in rendered("monitoring")
        if each["metadata"]["labels"].get("grafana_dashboard") == "1"
    )
    assert found["metadata"]["annotations"] == {"grafana_folder": "Models"}
    (content,) = found["data"].values()
    return json.loads(content)


def test_it_arrives_whole(dashboard: Any) -> None:
    assert dashboard == json.loads((CHART / "dashboards" / "reprune.json").read_text())


def test_it_shows_every_metric_and_no_other(dashboard: Any) -> None:
    shown = {
        name
        for panel in dashboard["panels"]
        for target in panel["targets"]
        for name in re.findall(r"\breprune_\w+", target["expr"])
    }
    assert shown == METRICS.keys()


def test_it_asks_for_labels_that_the_metric_has(dashboard: Any) -> None:
    for panel in dashboard["panels"]:
        for target in panel["targets"]:
            (name,) = re.findall(r"\breprune_\w+", target["expr"])
            grouped = [
                each
                for by in re.findall(r"by \(([^)]*)\)", target["expr"])
                for each in by.split(", ")
            ]
            chosen = re.findall(r"(\w+)(?:=~|!=|=)", target["expr"])
            told = re.findall(r"\{\{(\w+)\}\}", target["legendFormat"])
            assert {*grouped, *chosen} - {"namespace"} <= METRICS[name]
            assert set(told) <= set(grouped)


def test_every_query_is_of_the_chosen_namespace_and_source(dashboard: Any) -> None:
    variables = {each["name"] for each in dashboard["templating"]["list"]}
    for panel in dashboard["panels"]:
        for target in panel["targets"]:
            assert target["datasource"]["uid"] == "${datasource}"
            assert target["expr"].count("(") == target["expr"].count(")")
            assert 'namespace="$namespace"' in target["expr"]
            used = set(re.findall(r"\$(\w+)", target["expr"]))
            assert used <= variables


def test_panels_lie_beside_each_other(dashboard: Any) -> None:
    taken = [
        {
            (x, y)
            for x in range(at["x"], at["x"] + at["w"])
            for y in range(at["y"], at["y"] + at["h"])
        }
        for at in (panel["gridPos"] for panel in dashboard["panels"])
    ]
    assert all(not a & b for a, b in itertools.combinations(taken, 2))
    assert max(x for cells in taken for x, _ in cells) < 24
    assert len({panel["id"] for panel in dashboard["panels"]}) == len(taken)
