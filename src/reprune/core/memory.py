"""What a process does with memory that it has freed."""

from __future__ import annotations

import ctypes
import os

# <malloc.h> of glibc.
_TRIM_THRESHOLD, _MMAP_MAX = -1, -4
_SET_BY_HAND = ("MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_", "MALLOC_MMAP_MAX_")


def keep_freed() -> None:
    """From now on this process keeps the memory that it frees, up to its end.

    A training step frees and takes its activations again, hundreds of MB of them. glibc gives blocks of
    32 MB and more back to the system at once, which hands them out again page by page, each zeroed first:
    up to a quarter of a step's time on a virtual machine (`python -m benchmarks.training_step`). For steps
    that train or evaluate; not where latency is measured, since a service's memory is as it is.

    Does nothing without glibc, and where the environment says how malloc is to be: MALLOC_TRIM_THRESHOLD_,
    MALLOC_MMAP_THRESHOLD_ or MALLOC_MMAP_MAX_, or `glibc.malloc` in GLIBC_TUNABLES.
    """
    if any(os.environ.get(name) for name in _SET_BY_HAND):
        return
    if "glibc.malloc." in os.environ.get("GLIBC_TUNABLES", ""):
        return
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, TypeError, AttributeError):
        return
    mallopt(_MMAP_MAX, 0)
    mallopt(_TRIM_THRESHOLD, -1)
