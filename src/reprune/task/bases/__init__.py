"""Ready-made bases: give the arrays and the model, get a whole task.

    from reprune.task.bases import Classification, Examples, hash_ids

A base holds every example in memory, cuts the splits, orders `train` by (seed, epoch, id), and makes
losses and records. `tests/task` holds them to the Task protocol; `reprune.template` is an example.
"""

from reprune.task.bases.arrays import ArrayTask
from reprune.task.bases.classification import Classification
from reprune.task.bases.detection import Detection, iou
from reprune.task.bases.examples import Examples
from reprune.task.bases.order import carve, epoch_order, hash_ids
from reprune.task.bases.regression import Regression
from reprune.task.bases.segmentation import Segmentation
from reprune.task.bases.sets import TaskSet
from reprune.task.bases.text import TextClassification, hash_tokens

__all__ = [
    "ArrayTask",
    "Classification",
    "Detection",
    "Examples",
    "Regression",
    "Segmentation",
    "TaskSet",
    "TextClassification",
    "carve",
    "epoch_order",
    "hash_ids",
    "hash_tokens",
    "iou",
]
