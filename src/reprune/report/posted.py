"""What is posted of a report: its body with what only the run knows, the check, annotations, the summary.

Pure: the report and the circumstances in, text out. What is posted never changes the verdict.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal, TypeAlias

from msgspec import to_builtins

from reprune.core.marker import Marker, Order, marker_line
from reprune.core.policy import Policy
from reprune.report import plain, words
from reprune.report.facts import ReportFacts
from reprune.report.markdown import MAX_BYTES, marker, render_markdown
from reprune.report.markup import visible

Conclusion: TypeAlias = Literal["success", "failure", "action_required"]
# GitHub shows ten of a kind for each step, and hides the rest without a word.
MOST_ANNOTATIONS = 10
# A step's summary above 1 MiB is dropped whole.
MAX_SUMMARY_BYTES = 1024 * 1024
# What the marker and the last line add to a report.
MAX_FOOTER_BYTES = 600
MOST_CHANGES = 5
UPDATE = "reprune update"


@dataclass(frozen=True, kw_only=True)
class Circumstances:
    """`policy` is what the second line says about it, `moved` what is said of a champion that moved since
    the lock was written, `unsure` where nobody could say, each empty if there is nothing; `foreign` is
    evidence that anybody could have shaped. `head` and `order` say which commit and which run.
    """

    head: str = ""
    order: Order = ()
    policy: str = ""
    moved: str = ""
    unsure: str = ""
    foreign: bool = False
    run_link: str = ""


@dataclass(frozen=True, kw_only=True)
class Draft:
    """Everything that is posted, before what was said earlier is known (`body`). Without `create` a comment
    is only brought up to date.
    """

    marker: Marker
    text: str
    conclusion: Conclusion
    title: str
    annotations: tuple[str, ...]
    create: bool = True

    def body(self, said: Marker | None) -> str:
        """The comment, given the marker of what it says now."""
        before = _before(self.marker, said)
        lines = self.text.rstrip().splitlines()
        told = [f"<sub>{part}</sub>" for part in _since(self.marker.head, before)]
        return "\n".join((marker_line(replace(self.marker, before=before)), *lines, "", *told, ""))


def draft(facts: ReportFacts, around: Circumstances) -> Draft:
    """The report of a verdict, with the circumstances after its first line; still below MAX_BYTES."""
    room = MAX_BYTES - len(_with_lines("", around).encode()) - MAX_FOOTER_BYTES
    text = render_markdown(facts, max_bytes=room).partition("\n")[2]
    judgement = facts.judgement
    return Draft(
        marker=replace(marker(facts), head=around.head, order=around.order),
        text=_with_lines(text, around),
        conclusion=conclusion(judgement.outcome, around),
        title=visible(_title(judgement.headline, around), 200),
        annotations=tuple(annotated(facts)),
    )


def without_verdict(key: str, lock: str, why: str, around: Circumstances) -> Draft:
    """What is posted where a run ended without a verdict for its lock, so that no old one is believed."""
    link = f" [The run's log]({around.run_link}) says more." if around.run_link else ""
    text = (
        f"### {words.ICON['error']} Reprune gave no verdict\n\n{plain.text(why)}{link}\n\n"
        "**Nothing is promoted, and what this comment said before no longer holds.**\n"
    )
    return Draft(
        marker=Marker(
            key=key,
            verdict="error",
            lock=lock.removeprefix("sha256:")[:16],
            head=around.head,
            order=around.order,
        ),
        text=_with_lines(text, around),
        conclusion="failure",
        title="Reprune gave no verdict",
        annotations=(_command("error", "Reprune gave no verdict", why),),
    )


def nothing_to_judge(key: str, around: Circumstances) -> Draft:
    """What is said where a pull request changes nothing that is judged; a comment only where there is one."""
    return Draft(
        marker=Marker(key=key, verdict="none", head=around.head, order=around.order),
        text="### Nothing to judge\n\nThe lock and what it pins are as on the base branch.\n",
        conclusion="success",
        title="Nothing to judge: the lock and what it pins are as on the base branch",
        annotations=(),
        create=False,
    )


def conclusion(outcome: str, around: Circumstances) -> Conclusion:
    """What the check says. Never `neutral`: GitHub counts that as passed."""
    if outcome in ("block", "error"):
        return "failure"
    if outcome != "pass" or around.moved or around.unsure or around.foreign:
        return "action_required"
    return "success"


def policy_words(judged: Policy, base: Policy, weaker: Sequence[str], branch: str) -> str:
    """Markdown that says how the policy judged by differs from the base branch's; empty if it does not.

    `weaker` is what it demands less of, in words.
    """
    changes = list(_changes("", to_builtins(base), to_builtins(judged)))
    if not changes:
        return ""
    start = f"**The policy is not {plain.code(branch)}'s:**"
    if weaker:
        listed = _listed([plain.text(each, 200) for each in weaker])
        return f"⚠️ {start} it demands less: {listed}."
    return f"{start} it demands no less; changed: {_listed(changes)}."


def annotated(facts: ReportFacts) -> Iterator[str]:
    """Workflow commands for the demands that did not hold, worst first; ten at most, the rest counted."""
    open_ = [
        one
        for one in words.worst_first(facts.judgement.rules)
        if one.required and one.outcome != "pass"
    ]
    if facts.judgement.outcome == "pass":
        return
    if not open_:
        kind = "warning" if facts.judgement.outcome == "inconclusive" else "error"
        yield _command(kind, "Reprune", facts.judgement.headline)
    shown = open_ if len(open_) <= MOST_ANNOTATIONS else open_[: MOST_ANNOTATIONS - 1]
    for one in shown:
        kind = "warning" if one.outcome == "inconclusive" else "error"
        yield _command(kind, f"{words.label(one)} {words.against(one, facts)}", one.words)
    if len(shown) < len(open_):
        yield _command("warning", "Reprune", f"{len(open_) - len(shown)} more demands did not hold")


def fitted(text: str, room: int) -> str:
    """As many whole lines as fit into `room` bytes; open folds are closed, and it says that it was cut."""
    if len(text.encode()) <= room:
        return text
    kept: list[str] = []
    left = room - 200
    for line in text.splitlines():
        left -= len(line.encode()) + 1
        if left < 0:
            break
        kept.append(line)
    cut = "\n".join(kept)
    folds = cut.count("<details>") - cut.count("</details>")
    closing = "\n\n</details>" * folds
    return f"{cut}{closing}\n\nThe rest was cut: there is no room for more.\n" if kept else ""


def warning_command(text: str) -> str:
    """A warning as GitHub shows it in the run."""
    return _command("warning", "Reprune", visible(text, 1000))


def _with_lines(text: str, around: Circumstances) -> str:
    """The report with the circumstances right below its first line that people see."""
    first, _, rest = text.partition("\n")
    foreign = (
        "⚠️ **Measured by a run of a fork**, whose code could have shaped what was measured: this passes "
        "nothing. Somebody of this repository has to judge it here."
        if around.foreign
        else ""
    )
    extra = [line for line in (around.policy, around.moved, around.unsure, foreign) if line]
    return "\n\n".join((first, *extra, rest.lstrip("\n")))


def _title(headline: str, around: Circumstances) -> str:
    if around.moved:
        return f"The champion moved meanwhile: run `{UPDATE}`"
    if around.unsure:
        return f"Whether the champion moved is not known: {headline}"
    if around.foreign:
        return f"From a fork, to be judged here: {headline}"
    return headline


def _before(mine: Marker, said: Marker | None) -> str:
    """What was said of the commit before this one."""
    if said is None:
        return ""
    if said.head == mine.head:
        return said.before
    return f"{said.verdict}@{said.head[:12]}" if said.head else said.verdict


def _since(head: str, before: str) -> Iterator[str]:
    if not head:
        return
    verdict, _, commit = before.partition("@")
    earlier = f" · before: {plain.text(verdict)}" if before else ""
    at = f" at {plain.code(commit)}" if commit else ""
    yield f"of commit {plain.code(head[:12])}, updated in place{earlier}{at}"


def _changes(path: str, old: object, new: object) -> Iterator[str]:
    if isinstance(old, dict) and isinstance(new, dict):
        for key in sorted({*old, *new}):
            below = f"{path}.{key}" if path else str(key)
            yield from _changes(below, old.get(key), new.get(key))
    elif old != new:
        yield f"{plain.code(path)} {_shown(old)} → {_shown(new)}"


def _shown(value: object) -> str:
    return plain.code("none" if value is None else str(value), 60)


def _listed(parts: Sequence[str]) -> str:
    more = f"; and {len(parts) - MOST_CHANGES} more" if len(parts) > MOST_CHANGES else ""
    return "; ".join(parts[:MOST_CHANGES]) + more


def _command(kind: str, title: str, message: str) -> str:
    """A workflow command on one line, whatever the words hold."""
    named = _escaped(visible(title, 200)).replace(":", "%3A").replace(",", "%2C")
    return f"::{kind} title={named}::{_escaped(message[:2000])}"


def _escaped(text: str) -> str:
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")
