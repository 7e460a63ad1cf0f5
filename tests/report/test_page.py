"""The HTML report as text: one file, whole, for everybody, and nothing in it that could ask anyone."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from typing import Any

import msgspec
import pytest

from reprune.core.artifacts import Expectation, PruneStage, TensorSparsity
from reprune.core.params import CostParams
from reprune.report import words
from reprune.report.facts import ReportFacts, read_facts
from reprune.report.html import render_html
from reprune.report.markdown import MAX_BYTES, render_markdown
from tests.report.scenes import BLOCKED, HOSTILE, PASSED, PICTURED, SCENES, before, slice_result
from tests.report.verdicts import bare, facts, rule, write_verdict

Told = Callable[[str], ReportFacts]
VOID = {"meta", "br", "hr", "wbr", "img"}
FIGURES = {"rules", "flips", "slices-0", "widths", "sensitivity", "recovery"}


class Page(HTMLParser):
    """The elements of a page in order, with their attributes, and the text of all."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.text: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if not {"style", "script"} & set(self.open):
            self.text.append(data)

    def all(self, *tags: str) -> list[dict[str, str | None]]:
        return [attributes for tag, attributes in self.elements if tag in tags]


@pytest.mark.parametrize("name", sorted(SCENES))
def test_the_page_is_well_formed(name: str, told: Told) -> None:
    """Every element is closed where it should be, ids are unique, and links lead to an id of the page."""
    page = Page(render_html(told(name)))
    assert page.open == []
    ids = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    assert {link["href"] for link in page.all("a")} <= {f"#{one}" for one in ids}


@pytest.mark.parametrize("name", sorted(SCENES))
def test_the_page_asks_nobody(name: str, told: Told) -> None:
    """There is no script, no handler, nothing to load, and a policy that forbids all three."""
    text = render_html(told(name))
    page = Page(text)
    names = {tag for tag, _ in page.elements}
    assert not names & {"script", "link", "iframe", "object", "form", "base", "use", "image"}
    for tag, attributes in page.elements:
        assert not [key for key in attributes if key.startswith("on") or key == "srcset"]
        assert str(attributes.get("src", "data:image/png;base64,")).startswith("data:image/png;")
        assert "src" not in attributes or (tag == "img" and attributes["alt"])
        assert tag != "a" or str(attributes["href"]).startswith("#")
    assert "url(" not in text
    assert "@import" not in text
    (policy,) = [m["content"] for m in page.all("meta") if "http-equiv" in m]
    assert policy is not None
    assert policy.startswith("default-src 'none'; style-src 'unsafe-inline'; img-src data:")


@pytest.mark.parametrize("name", sorted(SCENES))
def test_the_page_is_for_everybody(name: str, told: Told) -> None:
    """Language, one main and one h1, headings in order, captions, scopes, and words for each drawing."""
    page = Page(render_html(told(name)))
    assert page.all("html")[0]["lang"] == "en"
    assert len(page.all("main")) == len(page.all("h1")) == 1
    # A label that was cut short has a title too, which has no id.
    assert sum("id" in title for title in page.all("title")) == len(drawings(page))
    levels = [int(tag[1]) for tag, _ in page.elements if re.fullmatch("h[1-6]", tag)]
    assert all(after <= before + 1 for before, after in pairwise(levels))
    assert len(page.all("caption")) == len(page.all("table"))
    assert all(cell.get("scope") in ("col", "row") for cell in page.all("th"))
    ids = {attributes.get("id") for _, attributes in page.elements}
    for drawing in drawings(page):
        assert drawing["role"] == "img"
        assert set(str(drawing["aria-labelledby"]).split()) <= ids
    scrolling = [box for box in page.all("div") if "scroll" in str(box.get("class"))]
    assert all(box.get("tabindex") == "0" and box.get("aria-label") for box in scrolling)


def drawings(page: Page) -> list[dict[str, str | None]]:
    return [svg for svg in page.all("svg") if svg.get("aria-hidden") != "true"]


def test_every_figure_is_there_with_its_numbers(told: Told) -> None:
    """A full verdict shows every figure, each with one sentence and the table of its numbers."""
    text = render_html(told("block"))
    keys = set(re.findall(r'id="fig-([\w-]+?)"', text))
    assert keys > FIGURES
    target = b"ort-cpu".hex()
    assert {f"ratio-{target}-dense", f"ratio-{target}-champion", f"calls-{target}"} < keys
    for figure in re.findall(r"<figure>.*?</figure>", text, re.DOTALL):
        assert '<span class="how">' in figure
        assert "<summary>The numbers</summary>" in figure
        assert "<table" in figure.partition("<summary>")[2]


def test_what_was_asked_stands_beside_what_was_done(told: Told) -> None:
    """In the open, with what was tried, where a gentler cut was taken; on demand where all is as planned."""
    text = render_html(told("gentler"))
    section = text.partition('id="plan"')[2].partition("</section>")[0]
    assert "Gentler than planned in 4 groups and 1 block" in section
    assert "Tried: 50% of the cut, layer2.1 not removed" in section
    table = section.partition("What each cut took away")[2].partition("</table>")[0]
    cells = [re.sub("<[^>]+>", "", cell) for cell in re.findall("<t[hd].*?</t[hd]>", table)]
    plain = [cell.replace(words.NBSP, " ") for cell in cells[6:]]
    rows = {plain[at]: plain[at + 1 : at + 6] for at in range(0, len(plain), 6)}
    spent = ["6.00 k of 12.0 k", "120 k of 240 k", "24.0 kB of 48.0 kB"]
    assert rows["conv3"] == ["64 → 24", "64 → 44", *spent]
    assert rows["layer2.1"][:3] == ["goes", "stays", "0 of 9.31 k"]
    assert rows["layer3.1"][:3] == ["goes", "gone", "18.6 k of 18.6 k"]
    assert list(rows) == ["All together", "layer2.1", "layer3.1", "conv1", "conv2", "conv3", "fc1"]
    assert "<summary>Asked and done: 4 cuts were made as planned</summary>" in render_html(
        told("pass")
    )


STAGES = tuple(
    PruneStage(epoch=float(n), share=n / 2, macs=1, params=1, zeros=0, loss_after=0.1)
    for n in (1, 2)
)
MASKED = (TensorSparsity(tensor="a.weight", size=10, requested=5, zeros=5, pattern="unstructured"),)


@pytest.mark.parametrize(
    ("surgery", "lead", "title"),
    [
        ({}, "First the cut is repaired in closed form, then", "Repair before any training"),
        (
            {"sparse_learning": "group-norm"},
            "First the model is trained to be sparse, then the cut is repaired",
            "Repair of the cut, after sparse learning",
        ),
        (
            {"stages": STAGES},
            "First it is made in 2 cuts, each of them repaired",
            "Repair of the last cut, after training between the cuts",
        ),
        (
            {"stages": STAGES, "sparsity": MASKED, "groups": ()},
            "First masks grow while the model trains",
            "Before and after masks grew in training",
        ),
    ],
    ids=["at once", "pushed", "stages", "masks"],
)
def test_what_the_losses_before_recovery_are_is_said_truly(
    tmp_path: Path, surgery: dict[str, Any], lead: str, title: str
) -> None:
    """Only a cut that nothing was trained before is called repaired before any training."""
    text = " ".join(Page(render_html(facts(replace(PASSED, surgery=surgery), tmp_path))).text)
    assert lead in text
    assert title in text
    assert ("Repair before any training" in text) == (not surgery)


def test_layers_that_compensation_left_are_named(told: Told, tmp_path: Path) -> None:
    """With the reason of each; nothing is said where there is none."""
    surgery = {"unfitted": {"lstm": "no least squares for LSTM"}, "left": {"head": "too few rows"}}
    text = " ".join(Page(render_html(facts(replace(PASSED, surgery=surgery), tmp_path))).text)
    assert re.search(r"Run behind the cut, and kept their weights\s.*head\s+too few rows", text)
    assert re.search(r"kept their weights\s.*lstm\s+no least squares for LSTM", text)
    assert "kept their weights" not in " ".join(Page(render_html(told("pass"))).text)


def test_what_a_criterion_did_not_see_is_named(told: Told, tmp_path: Path) -> None:
    """Tensors that Wanda or SparseGPT masked by magnitude; nothing is said where there is none."""
    surgery = {"criterion": "wanda", "by_magnitude": ("lstm.weight_hh_l0",)}
    text = " ".join(Page(render_html(facts(replace(PASSED, surgery=surgery), tmp_path))).text)
    said = r"Masked by magnitude: wanda did not see their inputs\s.*lstm\.weight_hh_l0"
    assert re.search(said, text)
    assert "Masked by magnitude" not in " ".join(Page(render_html(told("pass"))).text)


def test_every_section_is_there(told: Told) -> None:
    """The page answers for the verdict, time, quality, the cut, the data, the engines and the lineage."""
    page = Page(render_html(told("pass")))
    sections = [section["id"] for section in page.all("section")]
    expected = (
        "demands latency quality plan predicted sensitivity recovery data parity lineage method"
    )
    assert sections == expected.split()


def test_the_banner_tells_of_overrides_and_dry_runs(told: Told) -> None:
    """Who overrode what stands in the banner, escaped; a dry run says that it promotes nothing."""
    banner = render_html(told("waived")).partition("</header>")[0]
    assert "Override: </strong>The champion was promoted by an override of Ada Lovelace" in banner
    assert "see | `INC-7` &lt;b&gt;now&lt;/b&gt;" in banner
    assert "judged on 23 times" in banner
    assert "nothing is promoted, whatever the outcome" in render_html(told("dry_run"))
    assert "nothing is promoted" not in render_html(told("block"))


def test_guards_are_in_a_table_tripped_first(told: Told) -> None:
    """A guard that tripped stands above the figures; what held opens on demand."""
    page = render_html(told("tripped"))
    assert "Guard tripped:</strong> In 38 of 60 units" in page.partition("</header>")[0]
    text = page.partition('id="latency"')[2].partition("</section>")[0]
    table = text.partition("<table")[2].partition("</table>")[0]
    assert re.findall(r'class="chip (\w+)"', table) == [
        "inconclusive",
        "advisory",
        "advisory",
        "pass",
    ]
    assert text.index("In 38 of 60 units") < text.index("<figure")
    held = render_html(told("waived")).partition('id="latency"')[2]
    assert held.index("<figure") < held.index("What kept the measurement honest")


def test_the_lineage_runs_from_dense_to_verdict(told: Told) -> None:
    """The lineage names every ancestor by its whole digest, the dense model first, the verdict last."""
    known = told("pass")
    text = render_html(known).partition('class="chain"')[2]
    found = re.findall(r"sha256:[0-9a-f]{64}", text.partition("</ol>")[0])
    assert found[0] == known.verdict.parents["dense"]
    assert found[-1] == known.digest
    assert set(known.verdict.parents.values()) <= set(found)


def test_a_verdict_without_ancestors_is_still_a_report(tmp_path: Path) -> None:
    """Where a verdict carries no ancestors, or nothing at all, the page shows what there is."""
    alone = facts(replace(BLOCKED, ancestors=False), tmp_path)
    for known in (alone, bare(BLOCKED)):
        page = Page(render_html(known))
        assert page.open == []
        assert BLOCKED.headline in "".join(page.text)
        assert "plan" not in [section["id"] for section in page.all("section")]


def test_hostile_text_is_shown_and_nothing_else(tmp_path: Path) -> None:
    """Names from anywhere add no element and no attribute, and are all there to read."""
    scene = replace(
        BLOCKED,
        name=HOSTILE,
        headline=HOSTILE,
        reasons=(HOSTILE,),
        groups=((HOSTILE, 16, 8), ("b" * 300, 32, 16)),
        rules=tuple(msgspec.structs.replace(one, words=HOSTILE) for one in BLOCKED.rules),
        slices=tuple(msgspec.structs.replace(s, slice=HOSTILE) for s in BLOCKED.slices),
        notes=(HOSTILE,),
        expectations=(
            Expectation(
                name=HOSTILE, split=HOSTILE, severity="critical", success=False, observed=HOSTILE
            ),
        ),
    )
    text = render_html(facts(scene, tmp_path))
    plain = render_html(facts(replace(scene, headline="x"), tmp_path))
    assert len(Page(text).elements) - len(Page(plain).elements) in range(-3, 4)
    assert "<script" not in text
    assert "\u202e" not in text
    assert "\x1b" not in text
    assert "<script>alert(1)</script>" in "".join(Page(text).text)


def test_the_digits_report_is_small(told: Told) -> None:
    """The page of the default example stays far below its budget of 500 KB."""
    assert len(render_html(told("pass")).encode()) < 200_000


def test_a_large_models_page_is_bounded(tmp_path: Path) -> None:
    """200 layers, 3 targets, 120 units, 50 slices a target: under 1 MB and 10 s of CPU."""
    targets = ("ort-cpu", "jetson", "phone")
    scene = replace(
        PASSED,
        targets=targets,
        units=120,
        groups=tuple((f"stage{i // 20}.block{i % 20}.conv", 256, 64 + i) for i in range(200)),
        rules=tuple(
            rule(f"m{i}.vs_parent", "dense", "pass", target=t, change=0.0, low=-0.01, high=0.01)
            for t in targets
            for i in range(8)
        ),
        slices=tuple(
            slice_result(
                f"{t}={i}",
                outcome="ok",
                flips=(1, 2),
                change=0.0,
                low=-0.1,
                high=0.1,
                detectable=0.2,
            )
            for t in targets
            for i in range(50)
        ),
    )
    scene = replace(
        scene,
        cost=CostParams(price_per_hour=dict.fromkeys(targets, 1.0), requests_per_year=10**9),
        history=tuple(before(str(i), "pass", 0.5 + i / 99, i / 1e4) for i in range(50)),
        past_groups=tuple((group, width, keep + 8) for group, width, keep in scene.groups),
    )
    verdict = write_verdict(scene, tmp_path)
    started = time.process_time()
    known = read_facts(verdict)
    text, markdown = render_html(known, show_examples=True), render_markdown(known)
    assert time.process_time() - started < 10
    assert len(text.encode()) < 1_000_000
    assert len(markdown.encode()) <= MAX_BYTES
    assert Page(text).open == []


@pytest.mark.slow
def test_a_page_is_never_too_large_to_open(tmp_path: Path) -> None:
    """Of 5000 layers, with every picture: below 3 MB, and the captions say what a table leaves out."""
    groups = tuple((f"stage{i // 20}.block{i % 20}.conv", 256, 64 + i % 190) for i in range(5000))
    page = render_html(facts(replace(PICTURED, groups=groups), tmp_path))
    assert len(page.encode()) < 3_000_000
    count = words.count
    assert f"Channels of each group; the first {count(2000)} of {count(5000)}" in page
    assert f"Loss added by each cut; the first {count(2000)} of {count(15_000)}" in page


def test_the_examples_that_changed_are_shown_on_demand(told: Told) -> None:
    """Ids of examples appear only where params.yaml asks for them."""
    assert "digit-0" not in render_html(told("block"))
    text = render_html(told("block"), show_examples=True)
    assert text.count("became wrong</td>") == 27 + 25
    assert "digit-0" in text


def test_a_recovery_that_did_not_help_says_so(told: Told) -> None:
    """Where no epoch was better than the cut model, no epoch is marked as kept."""
    known = told("block")
    assert known.candidate is not None
    assert known.candidate.recovery is not None
    vain = msgspec.structs.replace(known.candidate.recovery, best_epoch=0)
    candidate = msgspec.structs.replace(known.candidate, recovery=vain)
    changed = replace(known, candidate=candidate)
    assert "the model as it was cut was kept" in render_html(changed)
    assert "no epoch was better than the model as it was cut" in render_markdown(changed)
    assert "epoch 3 was kept" in render_html(known)
