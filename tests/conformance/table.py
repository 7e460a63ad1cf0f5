"""The whole table, and how often each of TUF's attack classes is in it."""

from __future__ import annotations

from collections import Counter

from tests.conformance import accept, refuse_evidence, refuse_registry
from tests.conformance.world import Case

REFUSE: list[Case] = [*refuse_evidence.CASES, *refuse_registry.CASES]
ACCEPT: list[Case] = accept.CASES
ATTACKS = (
    "arbitrary installation", "endless data", "unrelated extra", "fast-forward", "indefinite freeze",
    "mix-and-match", "rollback", "key compromise", "wrong target",
)  # fmt: skip


def attacks() -> Counter[str]:
    return Counter(case.attack for case in REFUSE if case.attack)
