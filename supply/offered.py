"""What files pip's configured places offer of pinned versions, each with its SHA-256.

It asks as pip itself does (indexes, folders, proxies and certificates of its configuration), so it stands
on pip's internals: for the person who renews the locks, never for a build or a test.
"""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

from pip._internal.cli import cmdoptions
from pip._internal.cli.req_command import IndexGroupCommand
from pip._internal.cli.status_codes import SUCCESS
from pip._internal.index.collector import IndexContent, LinkCollector, parse_links
from pip._internal.models.link import Link
from pip._vendor.packaging.utils import (
    InvalidSdistFilename,
    InvalidWheelFilename,
    parse_sdist_filename,
    parse_wheel_filename,
)
from pip._vendor.packaging.version import InvalidVersion, Version

Files = dict[str, set[str]]


class _Ask(IndexGroupCommand):
    """A command of pip's that is given `name==version`s and fills `found`."""

    ignore_require_venv = True

    def add_options(self) -> None:
        group = cmdoptions.make_option_group(cmdoptions.index_group, self.parser)
        self.parser.insert_option_group(0, group)
        self.found: dict[str, Files] = {}

    def run(self, options: Any, args: list[str]) -> int:
        with self._build_session(options) as session:
            collector = LinkCollector.create(session, options=options, suppress_no_index=True)
            for number, pin in enumerate(args, 1):
                print(f"\r{number}/{len(args)} {pin:60}", end="", file=sys.stderr)
                name, _, version = pin.partition("==")
                self.found[pin] = _files(collector, name, Version(version))
        print(file=sys.stderr)
        return SUCCESS


def offered(pins: list[str]) -> dict[str, Files]:
    """For each `name==version`, the files there are and the digests that are told of each.

    A build's local label (`2.13.0+cpu`) counts as its version. Raises LookupError for a pin without a file.
    """
    ask = _Ask("lock", "Tell the files of pinned versions.")
    code = ask.main(list(pins))
    if code != SUCCESS:
        raise LookupError(f"pip ended with {code}")
    missing = [pin for pin in pins if not ask.found.get(pin)]
    if missing:
        raise LookupError(f"nothing offers {', '.join(missing)}")
    return ask.found


def _files(collector: LinkCollector, name: str, version: Version) -> Files:
    found: Files = {}
    for link in _links(collector, name):
        if _version(link.filename) == version:
            found.setdefault(link.filename, set()).add(_digest(link))
    return found


def _links(collector: LinkCollector, name: str) -> Iterator[Link]:
    def of_page(page: Link) -> Iterator[Any]:
        content: IndexContent | None = collector.fetch_response(page)
        return iter(parse_links(content)) if content else iter(())

    for source in _sources(collector, name, of_page):
        yield from source.page_candidates()
        yield from source.file_links()


def _sources(collector: LinkCollector, name: str, of_page: Any) -> Iterator[Any]:
    collected = collector.collect_sources(name, candidates_from_page=of_page)
    for source in (*collected.find_links, *collected.index_urls):
        if source is not None:
            yield source


def _version(filename: str) -> Version | None:
    """The version that a wheel or an archive of sources says it is, without its local label."""
    try:
        if filename.endswith(".whl"):
            version = parse_wheel_filename(filename)[1]
        else:
            version = parse_sdist_filename(filename)[1]
    except (InvalidWheelFilename, InvalidSdistFilename, InvalidVersion):
        return None
    return Version(version.public)


def _digest(link: Link) -> str:
    if link.hash_name == "sha256" and link.hash:
        return str(link.hash)
    if link.is_file:
        return _of_file(link.file_path)
    raise LookupError(f"no SHA-256 is told of {link.filename}")


@cache
def _of_file(path: str) -> str:
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
