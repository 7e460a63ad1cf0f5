"""What is wrong with the simulated GPU: a test says it in the environment, every process reads it there."""

from __future__ import annotations

import json
import os
from typing import Any

VARIABLE = "REPRUNE_SIMULATED_GPU"


def trouble(name: str, otherwise: Any) -> Any:
    """What the environment says of `name`."""
    return json.loads(os.environ.get(VARIABLE, "{}")).get(name, otherwise)
