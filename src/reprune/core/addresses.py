"""Addresses as they may be shown: in errors, logs and reports nobody reads a password."""

from __future__ import annotations

import re

_USER = re.compile(r"(?P<scheme>[A-Za-z][A-Za-z0-9+.-]*:)?//[^/?#\s]*@")
_QUERY = re.compile(r"[?#].*\Z", re.DOTALL)


def shown(address: str) -> str:
    """The address without user, password, query and fragment; a path or a plain address as it is."""
    if "://" not in address and not address.startswith("//"):
        return address
    return _QUERY.sub("?...", _USER.sub(lambda found: f"{found['scheme'] or ''}//...@", address))
