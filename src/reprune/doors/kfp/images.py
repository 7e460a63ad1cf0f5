"""Which image a component runs in: one place for all of them, and one way to point them at a digest.

The variables are read when a pipeline is compiled: `REPRUNE_COMPRESS_IMAGE=.../compress@sha256:...`.
What a pipeline is given as a parameter wins over both.
"""

from __future__ import annotations

import os

from reprune import __version__


def _image(name: str) -> str:
    return os.environ.get(f"REPRUNE_{name.upper()}_IMAGE") or f"reprune/{name}:{__version__}"


# Reads and writes the registry, judges, reports: no torch in it.
CONTROL = _image("control")
# Everything that runs the user's model on a CPU.
COMPRESS = _image("compress")
# The same beside NVIDIA's libraries.
TENSORRT = _image("tensorrt")
