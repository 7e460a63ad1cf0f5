"""A whole compressed model in one small file, and a decoder of it for microcontrollers."""

from reprune.compress.compact.container import Coding, decode, encode
from reprune.compress.compact.csource import c_sources
from reprune.compress.compact.dead import Layer, sorted_by_weights, without_dead
from reprune.compress.compact.tensors import (
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
    "Layer",
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
    "sorted_by_weights",
    "without_dead",
]
