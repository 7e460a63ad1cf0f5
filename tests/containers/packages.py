"""pip's configuration as a build inside a container needs it: local folders are out of its sight.

Whatever folders this machine's pip finds packages in are served on the loopback address; a build on
the host's network then finds the same packages there.
"""

from __future__ import annotations

import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

LISTS = ("find-links", "extra-index-url", "index-url")
# In every pip.conf of ours and nowhere else: where pip names no place, all else is in pip's own files too.
# It is the same in each run, so that it is found in a layer that an earlier one left.
CANARY = "canary-68a7bd2d29959572bee70f79946cd7ea"


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        pass


@contextmanager
def served(folder: Path) -> Iterator[str]:
    """The address at which `folder` lies while the block runs."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder)))
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def configured() -> dict[str, str]:
    """What pip is told here: option to value, the environment's word last."""
    listed = subprocess.run(
        [sys.executable, "-m", "pip", "config", "list"], capture_output=True, text=True, check=True
    ).stdout
    found: dict[str, str] = {}
    for line in sorted(listed.splitlines(), key=lambda line: line.startswith(":env:")):
        name, _, value = line.partition("=")
        found[name.rpartition(".")[2]] = value.strip("'").replace("\\n", "\n")
    return found


@contextmanager
def pip_for_builds(path: Path) -> Iterator[Path]:
    """A pip.conf at `path` that holds inside a build on the host's network while the block runs.

    Its last line is the canary.
    """
    lines = ["[global]"]
    with ExitStack() as stack:
        for option, value in configured().items():
            if option not in LISTS:
                continue
            places = [_reachable(place, stack) for place in value.split()]
            lines.append(f"{option} = " + "\n    ".join(places))
        path.write_text("\n".join([*lines, f"# {CANARY}"]) + "\n")
        yield path


def authority() -> Path | None:
    """The file of certificates that pip trusts here, where it is told of one."""
    named = configured().get("cert")
    return Path(named) if named else None


def _reachable(place: str, stack: ExitStack) -> str:
    parts = urlsplit(place)
    if parts.scheme not in ("", "file"):
        return place
    folder = Path(unquote(parts.path))
    # An index refers to files beside it.
    if re.search(r"/simple/?$", parts.path):
        return stack.enter_context(served(folder.parent)) + f"{folder.name}/"
    return stack.enter_context(served(folder))
