"""When a version was registered: said by the registry, and not by what is written later."""

from __future__ import annotations

import os
from pathlib import Path

from reprune.core import params
from reprune.registry.files import FILES
from reprune.registry.open import open_registry


def test_setting_tags_makes_a_version_no_younger(tmp_path: Path) -> None:
    given = params.Registry(kind="files", uri="registry")
    registry = open_registry(given, tmp_path)
    (tmp_path / "content").mkdir()
    registry.register("digits", tmp_path / "content", {})
    os.utime(tmp_path / "registry" / "digits" / "1" / FILES, (5.0, 5.0))
    registry.set_tags("digits", "1", {"a": "b"})
    assert registry.versions("digits")[0].registered_s == 5.0
