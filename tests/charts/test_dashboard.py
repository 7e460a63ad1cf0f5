"""The dashboard is what Grafana takes, and shows the metrics that the service has."""

from __future__ import annotations

import itertools
import json
import re
from typing import Any

import pytest

from tests.charts.helm import CHART, rendered

METRICS = {
    "reprune_versions_seen_total",
    "reprune_runs",
    "reprune_verdicts_total",
    "reprune_verdict_lag_seconds_bucket",
    "reprune_reconcile_age_seconds",
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
    assert shown == METRICS


def test_every_query_is_of_the_chosen_namespace_and_source(dashboard: Any) -> None:
    variables = {each["name"] for each in dashboard["templating"]["list"]}
    for panel in dashboard["panels"]:
        for target in panel["targets"]:
            assert target["datasource"]["uid"] == "${datasource}"
            assert target["expr"].count("(") == target["expr"].count(")")
            assert target["expr"].count("reprune_") == target["expr"].count("$namespace")
            used = set(re.findall(r"\$(\w+)", target["expr"]))
            assert used - {"__range"} <= variables


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
