"""What the terminal at the other end can show: how wide it is, and which characters it has."""

from __future__ import annotations

import codecs
import os
import shutil
import sys
from io import TextIOWrapper

WIDEST = 100
NARROWEST = 40

# One sign for one, so that columns stay aligned; a bar becomes its height.
_PLAIN = {
    **{ord(bar): str(height) for height, bar in enumerate("▁▂▃▄▅▆▇█", start=1)},
    **dict.fromkeys((0x2212, 0x2013, 0x2014, 0x2011, 0x2796), "-"),
    **dict.fromkeys(map(ord, "✓✅"), "+"),
    **dict.fromkeys((ord("✗"), ord("❌"), 0xD7), "x"),
    **dict.fromkeys((0x2018, 0x2019), "'"),
    **dict.fromkeys((0x201C, 0x201D), '"'),
    **{0xA0: " ", 0xB5: "u", 0xB7: ".", 0xFE0F: ""},
    **{ord(sign): like for sign, like in zip("❔⚠‼●…→←↩↑↓≥≤", "?!!*~><<^v><", strict=True)},
}


def columns() -> int:
    """The width to write for: the terminal's, at most WIDEST; WIDEST where nobody looks at a terminal."""
    if not os.environ.get("COLUMNS", "").isdecimal() and not sys.stdout.isatty():
        return WIDEST
    return max(NARROWEST, min(WIDEST, shutil.get_terminal_size((WIDEST, 24)).columns))


def write_what_it_has(*, as_json: bool) -> None:
    """Afterwards a character that the encoding of stdout or stderr lacks is written as one that looks like
    it, else by its code point, and never ends the command. With `as_json` stdout has JSON's own escapes.
    """
    codecs.register_error("reprune-text", _look_alike)
    codecs.register_error("reprune-json", _escaped)
    for stream, errors in ((sys.stdout, "reprune-json" if as_json else ""), (sys.stderr, "")):
        if isinstance(stream, TextIOWrapper) and stream.encoding.lower().replace("-", "") != "utf8":
            stream.reconfigure(errors=errors or "reprune-text")


def _look_alike(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    shown = error.object[error.start : error.end].translate(_PLAIN)
    return shown.encode("ascii", "backslashreplace").decode("ascii"), error.end


def _escaped(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    units = error.object[error.start : error.end].encode("utf-16-be", "surrogatepass")
    pairs = [units[at : at + 2].hex() for at in range(0, len(units), 2)]
    return "".join(f"\\u{pair}" for pair in pairs), error.end
