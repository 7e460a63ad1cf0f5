"""Tensors with zeros as real bytes: every form that is in use, the smallest of them, one file of many."""

from reprune.runtimes.sparse.file import read_tensors, write_tensors
from reprune.runtimes.sparse.forms import FORMS, Stored, restored, sizes, smallest, stored
from reprune.runtimes.sparse.words import StorageLine, sparsity_words, storage_lines

__all__ = [
    "FORMS",
    "StorageLine",
    "Stored",
    "read_tensors",
    "restored",
    "sizes",
    "smallest",
    "sparsity_words",
    "storage_lines",
    "stored",
    "write_tensors",
]
