"""The reports for viewers that are no browser and no forge, as the Kubeflow UI is."""

from __future__ import annotations

import html
import re

from reprune.report import plain

_MARKER = re.compile(r"^<!--.*?-->\n?", re.DOTALL)
_SUMMARY = re.compile(r"^<details><summary>(.*)</summary>$", re.MULTILINE)
_CLOSING = re.compile(r"^</details>\n?", re.MULTILINE)
_CODE = re.compile(r"<code>(.*?)</code>")
_UNSEEN = "\u200b"
_SMALL = re.compile(r"^<sub>(.*)</sub>$", re.MULTILINE)


def in_frame(page: str) -> str:
    """What render_html wrote, for a viewer that hands it to a frame as its `srcdoc`: there a link within the
    page would lead to the viewer's own address. It stands before the policy, which forbids any base.
    """
    return page.replace("<head>", '<head><base href="about:srcdoc">', 1)


def untagged(report: str) -> str:
    """What render_markdown wrote, for a viewer that shows tags as text: the same words and no tag. What is
    folded there is a section under a heading here, names in code are escaped text, the marker is gone.
    """
    text = _MARKER.sub("", report)
    text = _SUMMARY.sub(r"#### \1", text)
    text = _CLOSING.sub("", text)
    text = _SMALL.sub(r"\1", text)
    text = _CODE.sub(lambda found: plain.text(html.unescape(found[1]), 4000), text)
    # As a character, because such viewers know few entities; before the slashes, because they take what
    # comes after them for the address.
    text = text.replace("&#8203;", _UNSEEN).replace(f"://{_UNSEEN}", f"{_UNSEEN}://")
    return text.rstrip() + "\n"
