"""report: the verdict as people and CI read it."""

from __future__ import annotations

from reprune.core.artifacts import Report, Verdict
from reprune.core.params import ReportParams
from reprune.core.step import Context, step
from reprune.core.store import Artifact
from reprune.report.facts import read_facts
from reprune.report.html import render_html
from reprune.report.junit import render_junit
from reprune.report.markdown import render_markdown
from reprune.report.metrics import render_metrics
from reprune.report.plots import render_plots


@step("report")
def report(verdict: Artifact[Verdict], report: ReportParams, ctx: Context) -> Report:
    """Writes the verdict as Markdown for the pull request, HTML for people, JUnit, metrics and plots for CI.

    Reads the verdict directory only, and decides nothing.
    """
    facts = read_facts(verdict)
    for name, text in (
        ("report.md", render_markdown(facts)),
        ("report.html", render_html(facts, show_examples=report.show_examples)),
        ("junit.xml", render_junit(facts)),
        ("metrics.json", render_metrics(facts)),
        *render_plots(facts).items(),
    ):
        (ctx.out / name).parent.mkdir(exist_ok=True)
        (ctx.out / name).write_text(text, encoding="utf-8")
    judgement = facts.judgement
    ctx.say(f"{judgement.outcome}: {judgement.headline}")
    return Report(outcome=judgement.outcome, headline=judgement.headline)
