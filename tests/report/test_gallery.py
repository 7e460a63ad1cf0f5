"""The examples themselves: only where they were stored, as pictures that every reader can open."""

from __future__ import annotations

import base64
import io
import math
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from reprune.core import store
from reprune.core.artifacts import SHOWN_FILE, ShownExample, Verdict
from reprune.core.documents import canonical
from reprune.report import png
from reprune.report.facts import ReportFacts, read_facts
from reprune.report.html import render_html
from tests.report.scenes import BLOCKED, HOSTILE
from tests.report.verdicts import write_verdict

Told = Callable[[str], ReportFacts]
SQUARE = ShownExample(id="digit-0001", width=2, height=2, channels=1, pixels=b"\x00\x40\x80\xff")


def bytes_of(count: int) -> st.SearchStrategy[bytes]:
    return st.binary(min_size=count, max_size=count)


SIZES = st.tuples(st.integers(1, 9), st.integers(1, 9), st.sampled_from((1, 3)))


@settings(deadline=None)
@given(SIZES.flatmap(lambda size: st.tuples(st.just(size), bytes_of(math.prod(size)))))
def test_a_picture_is_what_was_given(case: tuple[tuple[int, int, int], bytes]) -> None:
    """Another library reads the same pixels back."""
    (width, height, channels), pixels = case
    uri = png.data_uri(width, height, channels, pixels)
    assert uri is not None
    raw = base64.b64decode(uri.removeprefix("data:image/png;base64,"), validate=True)
    image = Image.open(io.BytesIO(raw))
    assert image.size == (width, height)
    assert image.convert("L" if channels == 1 else "RGB").tobytes() == pixels


@pytest.mark.parametrize(
    ("width", "height", "channels", "pixels"),
    [(0, 0, 1, b""), (2, 2, 1, b"\x00"), (2, 2, 2, b"\x00" * 8), (10**6, 1, 1, b"\x00" * 10**6)],
)
def test_what_is_no_picture_is_none(width: int, height: int, channels: int, pixels: bytes) -> None:
    assert png.data_uri(width, height, channels, pixels) is None


def test_stored_examples_are_shown(told: Told) -> None:
    """With what became of each, and its slices; ids that were not judged are left out."""
    known = told("block")
    wrong = re.findall(r"digit-\d{4}", render_html(known, show_examples=True))[0]
    shown = (
        ShownExample(id=wrong, width=2, height=2, channels=1, pixels=b"\x00\x40\x80\xff"),
        ShownExample(id="nobody", text="not one of them"),
        ShownExample(id="digit-0003", text=HOSTILE),
    )
    page = render_html(replace(known, shown=shown))
    assert page.count('<img src="data:image/png;base64,') == 1
    assert f'alt="Example {wrong}"' in page
    assert "became wrong on ort-cpu; digit=" in page
    assert "not one of them" not in page
    assert "became wrong on ort-cpu: class 4 → 9; digit=" in render_html(
        answering(replace(known, shown=shown), dense=4, candidate=9)
    )
    assert "<script" not in page
    assert "gallery" not in render_html(known).partition("<body>")[2]


def answering(known: ReportFacts, **classes: int) -> ReportFacts:
    """The facts with records that say which class every example was taken for."""
    evidence = known.evidence
    assert evidence is not None
    arms = dict(evidence.quality.arms)
    for arm, seen in classes.items():
        key = arm if arm == "dense" else f"{arm}@ort-cpu"
        columns = {**arms[key].columns, "answer": (seen,) * len(evidence.quality.ids)}
        arms[key] = msgspec.structs.replace(arms[key], columns=columns)
    quality = msgspec.structs.replace(evidence.quality, arms=arms)
    return replace(known, evidence=msgspec.structs.replace(evidence, quality=quality))


def test_they_come_from_the_benchmarks_file(tmp_path: Path) -> None:
    """The verdict carries them as the benchmark wrote them; each example once."""
    verdict = write_verdict(BLOCKED, tmp_path)
    with store.drafting(tmp_path / "more") as draft:
        for name in verdict.manifest.payload:
            (draft / name).parent.mkdir(exist_ok=True, parents=True)
            (draft / name).write_bytes(verdict.file(name).read_bytes())
        (draft / "samples" / "0").mkdir(parents=True)
        (draft / "samples" / "0" / SHOWN_FILE).write_bytes(canonical((SQUARE, SQUARE)))
        parents = verdict.manifest.parents
        store.write(draft, verdict.manifest, step="gate", parents=parents, out=tmp_path / "more")
    assert read_facts(store.read(tmp_path / "more", Verdict)).shown == (SQUARE,)
