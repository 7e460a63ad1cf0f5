"""One thread that sweeps: on time, early when it is woken, later after failures, never twice at once."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from reprune.doors.service.logs import crashed

# However often it is woken: so long between the end of a sweep and the next one.
GAP_S = 1.0
FIRST_PAUSE_S = 5.0
LONGEST_PAUSE_S = 300.0
# A sweep that takes longer than this hangs.
STUCK_S = 1800.0


@dataclass
class Loop:
    """`sweep` is told how many sweeps in a row had failures before this one. It returns how many seconds
    may pass until the next, and whether all went well.
    """

    sweep: Callable[[int], tuple[float, bool]]
    gap_s: float = GAP_S
    swept: int = 0
    failures: int = 0
    _woken: threading.Event = field(default_factory=threading.Event)
    _stopping: threading.Event = field(default_factory=threading.Event)
    _heard_s: float = field(default_factory=time.monotonic)
    _thread: threading.Thread | None = None

    def start(self) -> None:
        """Begins the first sweep at once. The thread ends with the process, whatever it does then."""
        self._thread = threading.Thread(target=self._run, name="sweeps", daemon=True)
        self._thread.start()

    def wake(self) -> None:
        """Somebody says that there is news."""
        self._woken.set()

    def stop(self, timeout_s: float) -> bool:
        """Begins no further sweep, and waits for the one that is under way, but not for ever; whether it
        ended. One that did not is cut short with the process, as by a crash: the next start goes on.
        """
        self._stopping.set()
        self._woken.set()
        if self._thread is not None:
            self._thread.join(timeout_s)
        return self._thread is None or not self._thread.is_alive()

    @property
    def alive(self) -> bool:
        """Whether sweeps go on."""
        running = self._thread is not None and self._thread.is_alive()
        return running and time.monotonic() - self._heard_s < STUCK_S

    @property
    def ready(self) -> bool:
        """Whether every watch was looked at once, and more is to come."""
        return self.alive and self.swept > 0 and not self._stopping.is_set()

    def _run(self) -> None:
        while not self._stopping.is_set():
            self._woken.clear()
            pause_s = self._once()
            self.swept += 1
            until_s = time.monotonic() + pause_s
            # Failures are not tried again at the pace of whoever sends events.
            gap_s = self.gap_s if not self.failures else min(pause_s, FIRST_PAUSE_S / 2)
            self._stopping.wait(gap_s)
            while not self._woken.is_set():
                left_s = until_s - time.monotonic()
                self._heard_s = time.monotonic()
                if left_s <= 0:
                    break
                self._woken.wait(min(left_s, 60.0))

    def _once(self) -> float:
        self._heard_s = time.monotonic()
        try:
            pause_s, well = self.sweep(self.failures)
        except Exception:  # noqa: BLE001 - whatever one sweep died of, the next one begins anew
            crashed("the sweep crashed")
            pause_s, well = (
                min(LONGEST_PAUSE_S, FIRST_PAUSE_S * 2.0 ** min(self.failures, 30)),
                False,
            )
        self.failures = 0 if well else self.failures + 1
        return max(pause_s, 0.0)
