"""What runs in the control image loads nothing heavy until it needs it."""

from __future__ import annotations

import subprocess
import sys

HEAVY = ("torch", "mlflow", "sqlalchemy", "cryptography", "onnxruntime", "dvc")


def test_importing_the_steps_loads_no_heavy_library() -> None:
    """fetch, update and promote can be imported, and their help shown, without a heavy library."""
    code = (
        "import sys, reprune.steps.fetch, reprune.steps.update, reprune.steps.promote\n"
        "import reprune.registry.mlflow_registry\n"
        f"print([name for name in {HEAVY} if name in sys.modules])\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
