"""Feature maps in the page: drawn where they were stored, told in numbers, given up before anything else."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from reprune.core.artifacts import MAPS_FILE, MapPair, ShownExample, TensorSparsity, Verdict
from reprune.core.documents import canonical
from reprune.core.store import read
from reprune.report import html, words
from reprune.report.facts import ReportFacts, read_facts
from reprune.report.feature_maps import added_share, laid_over, lost_share, maps_section, silent
from reprune.report.html import render_html
from reprune.steps.gate import confirm
from tests.chain import Story, write_chain
from tests.report.scenes import BLOCKED, HOSTILE
from tests.report.verdicts import operator_shares, shown_maps

Told = Callable[[str], ReportFacts]


def maps(page: str) -> str:
    return page.partition('id="maps"')[2].partition("</section>")[0]


@pytest.mark.slow
@given(st.lists(st.tuples(st.integers(0, 255), st.integers(0, 255)), min_size=1, max_size=60))
def test_the_overlay_tells_lost_from_added(pixels: list[tuple[int, int]]) -> None:
    """Equal is grey, lost is at least as red as anything else, added at least as blue."""
    pair = MapPair(
        width=len(pixels),
        height=1,
        peak=1.0,
        dense=bytes(was for was, _ in pixels),
        candidate=bytes(now for _, now in pixels),
    )
    drawn = laid_over(pair)
    assert len(drawn) == 3 * len(pixels)
    for place, (was, now) in enumerate(pixels):
        red, green, blue = drawn[3 * place : 3 * place + 3]
        if was == now:
            assert red == green == blue == was
        elif now < was:
            assert red >= was >= green == blue
        else:
            assert blue >= was >= green == red
    assert 0 <= lost_share(pair) <= 1
    if all(was == now for was, now in pixels):
        assert lost_share(pair) == added_share(pair) == 0


def test_everything_lost_is_all_of_it() -> None:
    pair = MapPair(width=2, height=1, peak=1.0, dense=b"\x80\xff", candidate=b"\x00\x00")
    assert lost_share(pair) == 1
    assert added_share(pair) == 0
    assert laid_over(pair)[3:] == b"\xff\x00\x00"


def test_each_picture_has_its_words(told: Told) -> None:
    """Three pictures a layer and example, each said in words; the first example open, the others not."""
    page = maps(render_html(told("pictured")))
    pictures = re.findall(r'<img src="data:image/png;base64,[^"]+" alt="([^"]+)">', page)
    assert len(pictures) == 3 + 3 * 4 * 3
    assert pictures[:3] == [
        "Input of example tile-00",
        "Dense map of conv1, example tile-00",
        "Pruned map of conv1, example tile-00",
    ]
    assert (
        page.index("tile-00") < page.index("The same for 2 other examples") < page.index("tile-01")
    )
    assert page.count('class="how"') == 2
    assert "no rule rests on these pictures" in page


def test_the_numbers_stand_in_a_table(told: Told) -> None:
    """The table says what the pictures show, the masked share of each layer's weights beside it."""
    known = told("pictured")
    assert known.candidate is not None
    assert known.candidate.surgery is not None
    sparsity = (
        TensorSparsity(
            tensor="conv2.weight", size=200, requested=190, zeros=190, pattern="unstructured"
        ),
    )
    surgery = msgspec.structs.replace(known.candidate.surgery, sparsity=sparsity)
    masked = replace(known, candidate=msgspec.structs.replace(known.candidate, surgery=surgery))
    table = maps(render_html(masked)).rpartition("<table")[2]
    rows = [re.findall(r"<td[^>]*>([^<]*)</td>", row) for row in table.split("<tr>")[2:]]
    assert rows[1][0].startswith("95.0")
    assert rows[0][0] == words.EN_DASH
    assert [row[1].replace("\u00a0", " ") for row in rows] == [
        "20.0 %",
        "40.0 %",
        "60.0 %",
        "80.0 %",
    ]
    assert all(row[2].count("%") == 3 for row in rows)


def test_where_nothing_is_masked_the_table_counts_channels(told: Told) -> None:
    table = maps(render_html(told("pictured"))).rpartition("<table")[2]
    rows = [re.findall(r"<td[^>]*>([^<]*)</td>", row) for row in table.split("<tr>")[2:]]
    assert "Channels cut" in table
    assert [row[0] for row in rows] == ["1 of 16", "2 of 16", "3 of 16", "4 of 16"]


def test_without_stored_maps_there_is_no_section(told: Told) -> None:
    assert 'id="maps"' not in render_html(told("block"))
    assert maps_section(told("block")) is None


def test_silent_channels_are_not_those_that_were_cut() -> None:
    layer = msgspec.structs.replace(
        shown_maps().layers[0],
        channels=4,
        absent=(0,),
        strength=bytes([200, 200, 200, 0]),
        candidate_strength=bytes([0, 9, 11, 0]),
    )
    assert silent(layer) == 1


def test_hostile_names_are_only_shown(told: Told) -> None:
    stored = shown_maps(examples=1, layers=1)
    layers = tuple(msgspec.structs.replace(one, layer=HOSTILE) for one in stored.layers)
    examples = tuple(msgspec.structs.replace(one, id=HOSTILE) for one in stored.examples)
    hostile = msgspec.structs.replace(stored, layers=layers, examples=examples)
    page = maps(render_html(replace(told("block"), maps=hostile)))
    assert "<script" not in page
    assert "&lt;script&gt;" in page
    assert "\u202e" not in page


@pytest.mark.parametrize("wrong", [b"", b"\x00" * 5])
def test_a_map_of_another_size_is_not_drawn(told: Told, wrong: bytes) -> None:
    stored = shown_maps(examples=1, layers=1)
    pair = msgspec.structs.replace(stored.layers[0].maps[0], dense=wrong)
    layers = (msgspec.structs.replace(stored.layers[0], maps=(pair,)),)
    page = maps(
        render_html(replace(told("block"), maps=msgspec.structs.replace(stored, layers=layers)))
    )
    assert page.count("not drawn") == 2


@pytest.mark.slow
def test_pictures_go_first_and_words_never(told: Told, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the page is too large, pictures of layers go, then examples; tables and the verdict stay."""
    known = told("pictured")
    assert known.evidence is not None
    names = known.evidence.quality.ids[:40]
    shown = tuple(
        ShownExample(id=name, width=48, height=48, channels=3, pixels=bytes(48 * 48 * 3))
        for name in names
    )
    crowded = replace(known, shown=shown)
    sizes = []
    for limit, layers, examples in (
        (3_000_000, 3, 40),
        (600_000, 1, 40),
        (300_000, 1, 12),
        (230_000, 0, 12),
        (10, 0, 0),
    ):
        monkeypatch.setattr(html, "MAX_BYTES", limit)
        page = render_html(crowded)
        sizes.append(len(page.encode()))
        assert page.count('alt="Dense map of') == 4 * layers
        assert page.count('alt="Example ') == examples
        assert "The same in numbers" in page
        assert BLOCKED.headline in page
    assert sizes == sorted(sizes, reverse=True)


def test_the_page_of_the_digits_stays_below_half_a_megabyte(told: Told) -> None:
    """With the largest pictures that a benchmark stores."""
    assert len(render_html(told("pictured")).encode()) < 500_000


def test_pictures_are_no_evidence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A verdict with maps and operators judges as one without, to the byte, and carries both."""
    monkeypatch.setenv("REPRUNE_WORK", str(tmp_path / "work"))
    beside = {
        MAPS_FILE: canonical(shown_maps()),
        "operators/ort-cpu.json": canonical(operator_shares()),
    }
    found = {}
    for name, story in (("plain", Story()), ("pictured", Story(beside=beside))):
        chain = write_chain(tmp_path / name, story)
        chain.judged()
        found[name] = read(chain.path("verdict"), Verdict)
        assert confirm(found[name]) == found[name].manifest.judgement
    plain, pictured = found.values()
    assert canonical(plain.manifest.judgement) == canonical(pictured.manifest.judgement)
    assert plain.file("evidence.json").read_bytes() == pictured.file("evidence.json").read_bytes()
    assert read_facts(plain).maps is None
    assert read_facts(pictured).maps == shown_maps()
    assert read_facts(pictured).operators == {"ort-cpu": operator_shares()}
