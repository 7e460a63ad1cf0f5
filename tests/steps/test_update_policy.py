"""What a policy has to speak about, before anything is pinned."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from reprune.core.errors import DocumentError
from reprune.core.params import PARAMS_FILE, read_params
from reprune.core.policy import POLICY_FILE, read_policy
from reprune.steps.update import check_together

MARGIN = {"vs_parent": {"max_drop": 0.02}}


def checked(root: Path, *metrics: str, members: tuple[str, ...] = ("car", "lane")) -> None:
    """`check_together` of a set (no members: of one model) whose policy asks these metrics."""
    params = {"name": "drive", "task": "task.drive:DriveTask", "targets": {"cpu": {}}}
    if members:
        params["members"] = {member: f"{member}-net" for member in members}
    policy = {"targets": {"cpu": "required"}, "quality": dict.fromkeys(metrics, MARGIN)}
    (root / PARAMS_FILE).write_text(json.dumps(params))
    (root / POLICY_FILE).write_text(json.dumps(policy))
    check_together(read_params(root / PARAMS_FILE), read_policy(root / POLICY_FILE), root)


def test_every_member_of_a_set_is_judged_by_a_metric_of_its_own(tmp_path: Path) -> None:
    """One that nobody asks would be cut and promoted whatever it lost."""
    checked(tmp_path, "car.f1", "lane.accuracy")
    with pytest.raises(
        DocumentError, match="nothing of the quality of the member 'lane'"
    ) as refused:
        checked(tmp_path, "car.f1", "car.accuracy")
    assert refused.value.where == f"{tmp_path / POLICY_FILE} (quality)"
    assert "lane.accuracy" in refused.value.fix


def test_a_metric_of_nobody_is_refused_with_the_nearest_member(tmp_path: Path) -> None:
    for metric in ("lanes.accuracy", "accuracy"):
        with pytest.raises(DocumentError, match=f"'{metric}' is no metric of a member"):
            checked(tmp_path, "car.f1", "lane.accuracy", metric)


def test_a_model_that_is_no_set_has_metrics_without_members(tmp_path: Path) -> None:
    checked(tmp_path, "accuracy", members=())
