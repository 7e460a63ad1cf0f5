"""A whole compressed model in one small file, and a decoder of it for microcontrollers."""

from reprune.runtimes.compact.container import Coding, decode, encode
from reprune.runtimes.compact.csource import c_sources
from reprune.runtimes.compact.tensors import (
    Levels,
    Quantised,
    Tensors,
    cluster,
    linear_levels,
    quantised,
    recoded,
    snapped,
)

__all__ = [
    "Coding",
    "Levels",
    "Quantised",
    "Tensors",
    "c_sources",
    "cluster",
    "decode",
    "encode",
    "linear_levels",
    "quantised",
    "recoded",
    "snapped",
]
