"""Numbers for Prometheus, in its text format. What a watch shows is replaced as a whole, look by look."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TypeAlias

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

Labels: TypeAlias = tuple[tuple[str, str], ...]

FAMILIES: dict[str, tuple[str, str]] = {
    "reprune_build_info": ("gauge", "Always 1; the version of Reprune is a label."),
    "reprune_versions_seen": ("gauge", "Versions of the dense model that the registry lists."),
    "reprune_runs": ("gauge", "Runs of the model in Kubeflow Pipelines, by their state there."),
    "reprune_verdicts": ("gauge", "Versions of the dense model by the end that they came to."),
    "reprune_verdict_lag_seconds": (
        "gauge",
        "From the registration of the newest version that has an end to the moment it was seen here.",
    ),
    "reprune_waiting_seconds": (
        "gauge",
        "Since the newest version was registered, while it has no end; else 0.",
    ),
    "reprune_seconds_since_full_reconcile": (
        "gauge",
        "Since the last sweep in which every call succeeded; of the start, before the first.",
    ),
    "reprune_sweeps_total": ("counter", "Sweeps over all watches, by how they ended."),
    "reprune_call_failures_total": ("counter", "Calls that did not succeed, by what was asked."),
    "reprune_deliveries_total": ("counter", "Webhook deliveries, by what became of them."),
    "reprune_notices_total": ("counter", "Messages to hooks, by hook and by what became of them."),
}


@dataclass
class Metrics:
    """Safe to use from several threads. `clock` counts seconds and never runs backwards."""

    clock: Callable[[], float]
    full_at_s: float = 0.0
    _values: dict[str, dict[Labels, float]] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def __post_init__(self) -> None:
        """Time begins now."""
        self.full_at_s = self.clock()

    def put(self, name: str, value: float, **labels: str) -> None:
        """The value of one series from now on."""
        with self._lock:
            self._values.setdefault(name, {})[_labels(labels)] = value

    def add(self, name: str, **labels: str) -> None:
        """One more of a counter."""
        with self._lock:
            series = self._values.setdefault(name, {})
            key = _labels(labels)
            series[key] = series.get(key, 0.0) + 1.0

    def replace(
        self, name: str, by: str, counts: Mapping[str, int], about: Mapping[str, str]
    ) -> None:
        """All series of `name` that are `about` this, one for each value of the label `by`."""
        own = set(about.items())
        with self._lock:
            series = self._values.setdefault(name, {})
            for key in [key for key in series if own <= set(key)]:
                del series[key]
            for word, count in counts.items():
                series[_labels({**about, by: word})] = count

    def full(self) -> None:
        """Every watch was reconciled just now."""
        with self._lock:
            self.full_at_s = self.clock()

    def text(self) -> str:
        """The whole page."""
        self.put("reprune_seconds_since_full_reconcile", self.clock() - self.full_at_s)
        lines: list[str] = []
        with self._lock:
            for name, (kind, about) in FAMILIES.items():
                lines += [f"# HELP {name} {about}", f"# TYPE {name} {kind}"]
                for labels, value in sorted(self._values.get(name, {}).items()):
                    inside = ",".join(f'{key}="{_escaped(text)}"' for key, text in labels)
                    lines.append(
                        f"{name}{{{inside}}} {value:.10g}" if inside else f"{name} {value:.10g}"
                    )
        return "\n".join(lines) + "\n"


def _labels(labels: Mapping[str, str]) -> Labels:
    return tuple(sorted(labels.items()))


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
