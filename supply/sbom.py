"""Writes the bill of materials, a CycloneDX document in JSON: `python -m supply.sbom FILE`.

It lists every package of the locks with its version, licence, needs and the SHA-256 of each of its files,
and says which of them Reprune takes at run time. The same repository gives the same bytes.
"""

from __future__ import annotations

import json
import re
import sys
import uuid
from pathlib import Path
from typing import Any

from supply.asked import DEVELOPMENT, askers, everything, roots
from supply.closure import closure
from supply.locks import ROOT, Packages

SPEC = "1.6"


def bill(packages: Packages, table: dict[str, Any], version: str) -> dict[str, Any]:
    """The document. Its serial number follows from its content."""
    takers = askers(packages, table)
    own = f"pkg:pypi/{table['name']}@{version}"
    direct = sorted({name for extras in _direct(table) for name in extras if name in packages})
    document: dict[str, Any] = {
        "bomFormat": "CycloneDX",
        "specVersion": SPEC,
        "version": 1,
        "metadata": {
            "lifecycles": [{"phase": "pre-build"}],
            "component": {
                "type": "application",
                "bom-ref": own,
                "name": table["name"],
                "version": version,
                "purl": own,
                "licenses": [{"expression": table["license"]}],
            },
        },
        "components": [
            _component(name, packages[name], takers.get(name, [])) for name in sorted(packages)
        ],
        "dependencies": [
            {"ref": own, "dependsOn": [_purl(name, packages[name]) for name in direct]},
            *(_dependency(name, packages) for name in sorted(packages)),
        ],
    }
    content = json.dumps(document, sort_keys=True)
    serial = uuid.uuid5(uuid.NAMESPACE_URL, content)
    return {"$schema": f"http://cyclonedx.org/schema/bom-{SPEC}.schema.json"} | (
        {"serialNumber": f"urn:uuid:{serial}"} | document
    )


def _direct(table: dict[str, Any]) -> list[set[str]]:
    return [set(roots(extra, table)) for extra in ["", *table["optional-dependencies"]]]


def _purl(name: str, package: dict[str, Any]) -> str:
    return f"pkg:pypi/{name}@{package['version']}"


def _component(name: str, package: dict[str, Any], extras: list[str]) -> dict[str, Any]:
    rest = [extra for extra in extras if extra != DEVELOPMENT]
    scope = "required" if "" in extras else "optional" if rest else "excluded"
    files = [
        {
            "type": "distribution",
            "url": file,
            "hashes": [{"alg": "SHA-256", "content": digest}],
        }
        for file, digest in sorted(package["files"].items())
    ]
    found: dict[str, Any] = {
        "type": "library",
        "bom-ref": _purl(name, package),
        "name": name,
        "version": package["version"],
        "scope": scope,
        "licenses": [{"expression": package["licence"]}],
        "purl": _purl(name, package),
        "externalReferences": files,
    }
    if scope != "required":
        found["properties"] = [{"name": "reprune:extras", "value": ",".join(rest or [DEVELOPMENT])}]
    return found


def _dependency(name: str, packages: Packages) -> dict[str, Any]:
    """What it needs, without its extras: who asks for an extra has the extra's needs as its own."""
    needs = packages[name]["needs"].get("", [])
    plain = {one for one in needs if "[" not in one}
    asked = {one for one in needs if "[" in one}
    extra = {
        need.partition("[")[0]
        for one in asked
        for need in packages[one.partition("[")[0]]["needs"].get(one.partition("[")[2][:-1], ())
    }
    named = sorted((plain | extra) & closure([name], packages))
    return {"ref": _purl(name, packages[name]), "dependsOn": [_purl(n, packages[n]) for n in named]}


def version_of(root: Path = ROOT) -> str:
    """Reprune's own, read and not imported."""
    text = (root / "src/reprune/__init__.py").read_text(encoding="utf-8")
    match = re.search(r'^__version__ = "(.+)"$', text, re.MULTILINE)
    if match is None:
        raise LookupError("src/reprune/__init__.py has no __version__")
    return match[1]


def text(document: dict[str, Any]) -> str:
    """The document as it is written."""
    return json.dumps(document, indent=1, ensure_ascii=False) + "\n"


def main(words: list[str]) -> int:
    (target,) = words
    packages, table = everything()
    Path(target).parent.mkdir(parents=True, exist_ok=True)
    Path(target).write_text(text(bill(packages, table, version_of())), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
