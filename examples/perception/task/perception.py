"""The three members as one model that answers for a frame. Finding digits matters most."""

from reprune.task.bases import TaskSet
from task.depth import DepthTask
from task.detector import DetectorTask
from task.segmenter import SegmenterTask


class PerceptionTask(TaskSet):
    members = {"depth": DepthTask, "detector": DetectorTask, "segmenter": SegmenterTask}
    weights = {"detector": 2.0, "segmenter": 1.0, "depth": 10.0}
