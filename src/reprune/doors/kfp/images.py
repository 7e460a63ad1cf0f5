"""Which image a component runs in: one place for all of them, and one way to point them at a digest.

The variables are read when a pipeline is compiled: `REPRUNE_COMPRESS_IMAGE=.../compress@sha256:...`.
What a pipeline is given as a parameter wins over both.
"""

from __future__ import annotations

import os
import re

from reprune import __version__

_OURS = re.compile(r"reprune/(control|compress|tensorrt)(:[^@]*)?")


def built_in(image: str) -> bool:
    """Whether it is named as Reprune's own images are before anybody says where theirs lie.

    Nobody publishes these names, so a cluster would run whatever their owner puts there; and our own
    images hold no project.
    """
    return _OURS.fullmatch(image) is not None


def _image(name: str) -> str:
    return os.environ.get(f"REPRUNE_{name.upper()}_IMAGE") or f"reprune/{name}:{__version__}"


# Reads and writes the registry, judges, reports: no torch in it.
CONTROL = _image("control")
# Everything that runs the user's model on a CPU.
COMPRESS = _image("compress")
# The same beside NVIDIA's libraries.
TENSORRT = _image("tensorrt")
