"""The environment in which models are converted to LiteRT: `make .venv-litert/.stamp` builds it, and the
Makefile names its interpreter in REPRUNE_LITERT_PYTHON.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest


def converter_python() -> str:
    """Its interpreter. Without one a test is skipped, and fails where CI is set."""
    named = os.environ.get("REPRUNE_LITERT_PYTHON", "")
    if named and Path(named).is_file():
        return named
    reason = "REPRUNE_LITERT_PYTHON names no interpreter that has litert-torch"
    if os.environ.get("CI"):
        pytest.fail(reason)
    pytest.skip(reason)
