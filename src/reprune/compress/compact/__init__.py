"""What makes a model small as a compact file (reprune.runtimes.compact): dead neurons, few values."""

from reprune.compress.compact.dead import Layer, sorted_by_weights, without_dead

__all__ = ["Layer", "sorted_by_weights", "without_dead"]
