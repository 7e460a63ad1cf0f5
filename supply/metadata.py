"""What installed distributions say of themselves: what they need, and under which licence they come."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from importlib.metadata import Distribution, distributions
from itertools import product

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

# Where Reprune runs. A need that holds nowhere here is left out.
ENVIRONMENTS = tuple(
    {
        "python_version": python,
        "python_full_version": f"{python}.9",
        "platform_machine": machine,
        "implementation_name": "cpython",
        "implementation_version": f"{python}.9",
        "os_name": "posix",
        "platform_python_implementation": "CPython",
        "platform_release": "6.12",
        "platform_system": "Linux",
        "platform_version": "1",
        "sys_platform": "linux",
    }
    for python, machine in product(("3.11", "3.12", "3.13"), ("x86_64", "aarch64"))
)

# The words of metadata that say which licence it is, in SPDX's.
_SAID = {
    "3-clause bsd license": "BSD-3-Clause",
    "2-clause bsd": "BSD-2-Clause",
    "apache": "Apache-2.0",
    "apache 2.0": "Apache-2.0",
    "apache 2.0 license": "Apache-2.0",
    "apache license 2.0": "Apache-2.0",
    "apache license version 2.0": "Apache-2.0",
    "apache license, version 2.0": "Apache-2.0",
    "bsd 2-clause license": "BSD-2-Clause",
    "bsd 3-clause license": "BSD-3-Clause",
    "freebsd": "BSD-2-Clause",
    "isc license": "ISC",
    "mit license": "MIT",
    "new bsd": "BSD-3-Clause",
}
_CLASSIFIED = {
    "Apache Software License": "Apache-2.0",
    "ISC License (ISCL)": "ISC",
    "MIT License": "MIT",
    "Mozilla Public License 2.0 (MPL 2.0)": "MPL-2.0",
    "Python Software Foundation License": "PSF-2.0",
    "Other/Proprietary License": "LicenseRef-Proprietary",
}
_SPDX = re.compile(
    r"(Apache-2\.0|BSD-[23]-Clause|EPL-2\.0|GPL-2\.0-or-later|ISC|MIT|MPL-2\.0|PSF-2\.0|WTFPL|ZPL-2\.1)"
)
_THIRD_CLAUSE = re.compile(r"(neither|nor) the names?\b", re.IGNORECASE)


@dataclass(frozen=True)
class Facts:
    """`needs` maps an extra ("" without one) to what it asks for, as `name` or `name[extra]`, sorted."""

    version: str
    licence: str
    needs: dict[str, list[str]] = field(default_factory=dict)


def installed(places: list[str]) -> dict[str, Distribution]:
    """Canonical name to distribution, of `sys.path` or of the folders named; the first one found wins."""
    found: dict[str, Distribution] = {}
    for each in distributions(path=places) if places else distributions():
        found.setdefault(canonicalize_name(each.metadata["Name"]), each)
    return found


def facts(distribution: Distribution) -> Facts:
    """What is known of it; `licence` is empty where its metadata does not say."""
    extras = ["", *sorted(distribution.metadata.get_all("Provides-Extra") or ())]
    requirements = [Requirement(line) for line in distribution.requires or ()]
    needs = {str(canonicalize_name(extra)): sorted(_asked(requirements, extra)) for extra in extras}
    plain = set(needs[""])
    return Facts(
        version=distribution.version.partition("+")[0],
        licence=licence(distribution),
        needs={
            extra: asked if not extra else [one for one in asked if one not in plain]
            for extra, asked in needs.items()
            if asked
        },
    )


def _asked(requirements: list[Requirement], extra: str) -> set[str]:
    found: set[str] = set()
    for one in requirements:
        holds = one.marker is None or any(
            one.marker.evaluate({**environment, "extra": extra}) for environment in ENVIRONMENTS
        )
        if holds:
            found.update(nodes(one.name, one.extras))
    return found


def nodes(name: str, extras: Iterable[str] = ()) -> Iterator[str]:
    """`name`, and `name[extra]` for each extra, canonical."""
    yield str(canonicalize_name(name))
    for extra in extras:
        yield f"{canonicalize_name(name)}[{canonicalize_name(extra)}]"


def licence(distribution: Distribution) -> str:
    """An SPDX expression, or empty where metadata and licence files do not tell one."""
    metadata = distribution.metadata
    if expression := metadata.get("License-Expression"):
        return str(expression)
    said = (metadata.get("License") or "").strip()
    words = said.partition("\n")[0].strip().lower()
    if words in _SAID:
        return _SAID[words]
    if said and all(_SPDX.fullmatch(word) or word in ("OR", "AND") for word in said.split()):
        return said
    classified = {
        line.rpartition(" :: ")[2]
        for line in metadata.get_all("Classifier") or ()
        if line.startswith("License ::")
    } - {"OSI Approved", "DFSG approved"}
    if len(classified) == 1:
        (one,) = classified
        if one in _CLASSIFIED:
            return _CLASSIFIED[one]
    if classified == {"BSD License"} or words in ("bsd", "bsd license"):
        return _bsd(distribution, said)
    return ""


def _bsd(distribution: Distribution, said: str) -> str:
    """Which of the two it is, by the clause that only one of them has."""
    texts = [said] if "Redistribution" in said else []
    for file in distribution.files or ():
        if ".dist-info" in str(file) and re.match(r"(?i)(licen[cs]e|copying)", file.name):
            texts.append(file.read_text(encoding="utf-8"))
    whole = " ".join(" ".join(texts).split())
    if "Redistribution and use in source and binary forms" not in whole:
        return ""
    return "BSD-3-Clause" if _THIRD_CLAUSE.search(whole) else "BSD-2-Clause"
