"""The HTML report in a real browser: nothing asked, nothing broken, legible in light and dark."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from reprune.report.facts import ReportFacts
from reprune.report.html import render_html
from reprune.report.viewers import in_frame
from tests.report.scenes import SCENES

CHROMIUM = next(
    (
        found
        for name in ("chromium", "chromium-browser", "google-chrome")
        if (found := shutil.which(name))
    ),
    None,
)
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on PATH; see `make chromium`"),
]

# Every text that is seen, with the contrast of its colour to what lies behind it. Backgrounds are
# mixed from the outermost element that has one; drawings lie on the card, and marks that text may
# stand on (bands, tinted halves) are so faint that the card stands for them.
CONTRASTS = """() => {
  const parse = (css) => {
    const numbers = css.match(/[\\d.]+/g).map(Number);
    const scale = css.startsWith('color(') ? 255 : 1;
    return {rgb: numbers.slice(0, 3).map((n) => n * scale), a: numbers.length > 3 ? numbers[3] : 1};
  };
  const over = (top, below) => top.rgb.map((c, i) => c * top.a + below[i] * (1 - top.a));
  const light = (rgb) => {
    const linear = (c) => c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4;
    const [r, g, b] = rgb.map((c) => linear(c / 255));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const behind = (element) => {
    const chain = [];
    for (let e = element; e; e = e.parentElement) chain.push(parse(getComputedStyle(e).backgroundColor));
    return chain.reverse().reduce((below, top) => over(top, below), [255, 255, 255]);
  };
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  const found = [];
  while (walker.nextNode()) {
    const element = walker.currentNode.parentElement;
    if (!walker.currentNode.data.trim() || element.closest('title, desc')) continue;
    const style = getComputedStyle(element);
    const ground = behind(element);
    const ink = over(parse(element.namespaceURI.endsWith('svg') ? style.fill : style.color), ground);
    const [a, b] = [light(ink), light(ground)].sort((x, y) => y - x);
    found.push([(a + 0.05) / (b + 0.05), walker.currentNode.data.trim().slice(0, 60)]);
  }
  return found;
}"""


# The worst that axe-core found, with the places.
AXE = """async () => (await axe.run(document, {resultTypes: ['violations']})).violations
  .filter((one) => one.impact === 'serious' || one.impact === 'critical')
  .map((one) => [one.id, one.impact, one.nodes.slice(0, 3).map((node) => node.html.slice(0, 160))])"""


@pytest.fixture(scope="module")
def axe() -> str:
    """The script of axe-core; skips where it cannot be had, and fails under CI."""
    root = Path(__file__).resolve().parents[2]
    found = subprocess.run(
        [root / ".ci" / "axe.sh"], capture_output=True, text=True, timeout=120, check=False
    )
    if found.returncode:
        pytest.fail(found.stderr)
    if not found.stdout.strip():
        pytest.skip(found.stderr)
    return Path(found.stdout.strip()).read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(
            executable_path=CHROMIUM, args=["--no-sandbox", "--disable-dev-shm-usage"]
        )
        yield opened
        opened.close()


@pytest.fixture(scope="module")
def pages(told: Callable[[str], ReportFacts], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pages")
    for name in SCENES:
        (folder / f"{name}.html").write_text(render_html(told(name)), encoding="utf-8")
    return folder


class Visit:
    """A page that is open, with all it asked for and complained about."""

    def __init__(self, browser: Any, path: Path, **options: Any) -> None:
        self.context = browser.new_context(**options)
        self.page = self.context.new_page()
        self.requests: list[str] = []
        self.complaints: list[str] = []
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.on("console", lambda message: self.complaints.append(message.text))
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.goto(path.as_uri())

    def __enter__(self) -> Visit:
        return self

    def __exit__(self, *_: object) -> None:
        self.context.close()


@pytest.mark.parametrize("name", ["replanned", "first", "error", "targets", "hostile", "pictured"])
@pytest.mark.parametrize("width", [360, 1440])
def test_it_fits_and_asks_for_nothing(browser: Any, pages: Path, name: str, width: int) -> None:
    """The page is no wider than the window, folded or unfolded, and requests only itself."""
    with Visit(browser, pages / f"{name}.html", viewport={"width": width, "height": 900}) as visit:
        wide = "document.documentElement.scrollWidth"
        assert visit.page.evaluate(wide) <= width
        visit.page.evaluate(
            "document.querySelectorAll('details').forEach((d) => { d.open = true })"
        )
        assert visit.page.evaluate(wide) <= width
        assert visit.requests == [(pages / f"{name}.html").as_uri()]
        assert visit.complaints == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("name", ["returned", "pictured", "priced", "inconclusive", "error"])
def test_it_is_legible(browser: Any, pages: Path, name: str, scheme: str) -> None:
    """Every text has a contrast of 4.5 or more, and dark is dark."""
    with Visit(browser, pages / f"{name}.html", color_scheme=scheme) as visit:
        visit.page.evaluate(
            "document.querySelectorAll('details').forEach((d) => { d.open = true })"
        )
        found = visit.page.evaluate(CONTRASTS)
        assert len(found) > 50
        assert [pair for pair in found if pair[0] < 4.5] == []
        ground = visit.page.evaluate("getComputedStyle(document.body).backgroundColor")
        assert (max(int(n) for n in re.findall(r"\d+", ground)[:3]) < 60) == (scheme == "dark")


@pytest.mark.parametrize(
    ("name", "width", "scheme"),
    [("replanned", 1440, "light"), ("hostile", 360, "dark"), ("pictured", 360, "light")],
)
def test_axe_finds_nothing_serious(
    browser: Any, pages: Path, axe: str, name: str, width: int, scheme: str
) -> None:
    """With everything unfolded, axe-core has no serious and no critical finding."""
    size = {"width": width, "height": 900}
    with Visit(browser, pages / f"{name}.html", viewport=size, color_scheme=scheme) as visit:
        visit.page.evaluate(
            "document.querySelectorAll('details').forEach((d) => { d.open = true })"
        )
        visit.page.evaluate(axe)
        assert visit.page.evaluate(AXE) == []


def test_it_is_whole_without_a_script(browser: Any, pages: Path) -> None:
    """With scripts switched off the same words and drawings are there."""
    seen = []
    for allowed in (True, False):
        with Visit(browser, pages / "replanned.html", java_script_enabled=allowed) as visit:
            drawn = visit.page.locator("svg[role=img]")
            assert all(drawn.nth(place).is_visible() for place in range(drawn.count()))
            seen.append((visit.page.locator("main").inner_text(), drawn.count()))
    assert seen[0] == seen[1]
    assert seen[0][1] >= 10


@pytest.mark.parametrize("name", ["replanned", "pictured", "targets"])
def test_text_in_drawings_stays_inside(browser: Any, pages: Path, name: str) -> None:
    """No label of a figure runs over the edge of its drawing."""
    with Visit(browser, pages / f"{name}.html", viewport={"width": 1440, "height": 900}) as visit:
        outside = visit.page.evaluate(
            """() => [...document.querySelectorAll('svg[role=img] text')].filter((text) => {
              const box = text.getBBox(), view = text.ownerSVGElement.viewBox.baseVal;
              return box.x < -1 || box.y < -1 || box.x + box.width > view.width + 1
                || box.y + box.height > view.height + 1;
            }).map((text) => text.textContent)"""
        )
        assert outside == []


def test_figures_scroll_inside_a_narrow_page(browser: Any, pages: Path) -> None:
    """On a narrow screen a figure keeps its size and scrolls in its own box, which the keyboard reaches."""
    with Visit(browser, pages / "replanned.html", viewport={"width": 360, "height": 800}) as visit:
        box = visit.page.locator(".plot").first
        assert box.evaluate("(b) => b.scrollWidth > b.clientWidth")
        box.focus()
        assert box.evaluate("(b) => document.activeElement === b")


def test_it_prints(browser: Any, pages: Path) -> None:
    """On paper the page is black on white, and nothing is cut off at the side."""
    with Visit(browser, pages / "replanned.html", color_scheme="dark") as visit:
        visit.page.emulate_media(media="print")
        assert visit.page.evaluate("getComputedStyle(document.body).color") == "rgb(0, 0, 0)"
        assert (
            visit.page.evaluate("getComputedStyle(document.querySelector('.plot')).overflowX")
            == "visible"
        )
        assert len(visit.page.pdf()) > 10_000


def test_on_a_narrow_screen_the_demands_stand_below_each_other(browser: Any, pages: Path) -> None:
    """At 360 px no demand, and no feature map, has to be scrolled to: each cell stands with its head."""
    with Visit(browser, pages / "pictured.html", viewport={"width": 360, "height": 800}) as visit:
        for table in (visit.page.locator("table.stacked").first, visit.page.locator(".maps").first):
            box = table.locator("xpath=..")
            assert box.evaluate("(b) => b.scrollWidth <= b.clientWidth")
        heads = visit.page.locator("table.stacked").first.evaluate(
            "(t) => [...t.querySelectorAll('tbody tr:first-child td')].map("
            "(cell) => getComputedStyle(cell, '::before').content)"
        )
        assert heads[-1] == '"Limit"'


# As the Kubeflow UI shows an HTML artifact: the page as the srcdoc of a frame of another origin.
FRAME = """<!DOCTYPE html><title>runs</title><body style="margin: 0">
<iframe sandbox="{allowed}" style="width: {width}px; height: 600px; border: 0"></iframe></body>"""


@pytest.mark.parametrize("allowed", ["allow-scripts", ""])
@pytest.mark.parametrize(("width", "scheme"), [(900, "light"), (360, "dark")])
def test_the_kubeflow_ui_shows_all_of_it(
    browser: Any, pages: Path, tmp_path: Path, allowed: str, width: int, scheme: str
) -> None:
    """In its sandboxed frame the page says and draws what it does alone, folds and links work, nothing is
    asked for, and it is no wider than the frame.
    """
    page = in_frame((pages / "pictured.html").read_text(encoding="utf-8"))
    host = tmp_path / "host.html"
    host.write_text(FRAME.format(allowed=allowed, width=width), encoding="utf-8")
    options = {
        "viewport": {"width": width, "height": 900},
        "color_scheme": scheme,
        "reduced_motion": "reduce",
    }
    with Visit(browser, pages / "pictured.html", **options) as alone:
        expected = alone.page.locator("main").inner_text()
        drawn = alone.page.locator("svg[role=img], img").count()
        ground = alone.page.evaluate("getComputedStyle(document.body).backgroundColor")
    with Visit(browser, host, **options) as visit:
        visit.page.locator("iframe").evaluate("(frame, page) => { frame.srcdoc = page }", page)
        frame = visit.page.frame_locator("iframe")
        frame.locator("footer").wait_for()
        assert frame.locator("main").inner_text() == expected
        assert frame.locator("svg[role=img], img").count() == drawn
        body = frame.locator("body")
        assert body.evaluate("(b) => getComputedStyle(b).backgroundColor") == ground
        assert body.evaluate("(b) => b.scrollWidth") <= width
        fold = frame.locator("details").first
        fold.locator("summary").click()
        assert fold.evaluate("(d) => d.open")
        frame.locator("nav a", has_text="Engines").click()
        top = frame.locator("#parity").evaluate("(s) => s.getBoundingClientRect().top")
        assert 0 <= top < 600
        asked = [url for url in visit.requests if not url.startswith("data:")]
        assert asked == [host.as_uri()]
        # The test's own questions are scripts.
        blocked = "Blocked script execution in 'about:srcdoc'"
        assert [one for one in visit.complaints if not one.startswith(blocked)] == []
