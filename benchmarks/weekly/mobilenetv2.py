"""CIFAR-10 (JPEG copy) as far as a file holds it, for MobileNetV2 at half its width."""

from __future__ import annotations

from torch import nn

from benchmarks.cifar_models import MobileNetV2

from .cifar import WeeklyCifar  # noqa: TID252  the package is `weekly` in a bundle, another one here


class WeeklyMobileNetV2(WeeklyCifar):
    """The task of `WeeklyCifar` with another network."""

    def model(self) -> nn.Module:
        return MobileNetV2(0.5)
