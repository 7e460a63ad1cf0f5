"""What was looked at in a receipt, one thing at a time."""

from __future__ import annotations

from reprune.core.artifacts import Fact


class Checked(Fact, kw_only=True):
    """One thing that was looked at. `held` is None where it could not be, and `words` say why."""

    name: str
    held: bool | None
    words: str
