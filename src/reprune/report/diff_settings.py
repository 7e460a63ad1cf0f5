"""What two verdicts were made under: settings, versions and machines that are not the same."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec

from reprune.core.machine import Machine
from reprune.core.params import PARAMS_FILE
from reprune.core.policy import POLICY_FILE
from reprune.report import words
from reprune.report.differences import KeyDiff
from reprune.report.facts import ReportFacts

NOTHING = "not set"
UNKNOWN = "not known"
# The lock's digests of files whose contents are compared key by key anyway.
_TOLD_ELSEWHERE = {"params", "policy", "schema"}


def settings(before: ReportFacts, after: ReportFacts) -> tuple[KeyDiff, ...]:
    """Every difference: the lock, params.yaml, policy.yaml, data, machines, toolchain, statistics.

    What one of the two does not hold at all is told as not known; what neither holds is left out.
    """
    places = (
        ("lock", _lock),
        (PARAMS_FILE, lambda facts: msgspec.to_builtins(facts.params)),
        (POLICY_FILE, lambda facts: msgspec.to_builtins(facts.policy)),
        ("data", _data),
        ("machine", _machines),
        ("toolchain", _toolchain),
        ("judged by", _judge),
    )
    found: list[KeyDiff] = []
    for place, read in places:
        was, now = read(before), read(after)
        if was and now:
            found += _changes(place, "", was, now)
        elif was or now:
            ends = ("known", UNKNOWN) if was else (UNKNOWN, "known")
            found.append(KeyDiff(place=place, key="", before=ends[0], after=ends[1]))
    return tuple(found)


def _changes(place: str, key: str, was: Any, now: Any) -> Iterator[KeyDiff]:
    """The innermost keys that differ; a part that only one of the two has is one difference."""
    if isinstance(was, dict) and isinstance(now, dict):
        for name in dict.fromkeys((*was, *now)):
            inner = f"{key}.{name}" if key else str(name)
            yield from _changes(place, inner, was.get(name), now.get(name))
    elif was != now:
        yield KeyDiff(place=place, key=key, before=_text(was), after=_text(now))


def _text(value: Any) -> str:
    """A value as the file would say it, on one line."""
    if value is None:
        return NOTHING
    if isinstance(value, dict):
        told = [f"{name}: {_text(inner)}" for name, inner in value.items() if inner is not None]
        return f"{{{', '.join(told)}}}"
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_text, value))}]"
    if isinstance(value, float):
        return f"{value:g}"
    return value if isinstance(value, str) and value else msgspec.json.encode(value).decode()


def _lock(facts: ReportFacts) -> dict[str, Any]:
    """The lock, without its digests of files that are compared key by key."""
    told = msgspec.to_builtins(facts.lock) or {}
    return {key: value for key, value in told.items() if key not in _TOLD_ELSEWHERE}


def _data(facts: ReportFacts) -> dict[str, str]:
    found: dict[str, str] = {}
    if facts.data is not None:
        for name, split in facts.data.splits.items():
            found[f"{name} examples"] = str(split.examples)
            found[name] = split.digest
    if facts.evidence is not None:
        quality = facts.evidence.quality
        found["judged examples"] = str(len(quality.ids))
        found["evaluation set"] = quality.eval_digest
    return found


def _machines(facts: ReportFacts) -> dict[str, str]:
    """What each target was measured on."""
    found: dict[str, str] = {}
    for given in facts.evidence.targets if facts.evidence is not None else ():
        machine: Machine = given.machine
        found |= {
            f"{given.target}: this very machine": machine.instance,
            f"{given.target}: processor": f"{machine.cpu}, {machine.logical_cpus} CPUs",
            f"{given.target}: system": machine.os,
            f"{given.target}: accelerator": machine.accelerator or "none",
        }
    return found


def _toolchain(facts: ReportFacts) -> dict[str, str]:
    found: dict[str, str] = {}
    for engines in facts.engines:
        for one in engines.engines:
            if one.arm == "candidate":
                found[f"{one.target}: runtime"] = f"{one.runtime} {one.runtime_version}"
                found[f"{one.target}: precision"] = one.precision
    return found


def _judge(facts: ReportFacts) -> dict[str, str]:
    return {
        "Reprune": facts.verdict.producer.version or UNKNOWN,
        "statistics": facts.judgement.procedure,
        "error rate of each side": words.number(facts.judgement.alpha),
    }
