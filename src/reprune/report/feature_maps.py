"""What was cut, laid over the feature maps: which layers no longer see what the dense model saw."""

from __future__ import annotations

from itertools import zip_longest

from reprune.core.artifacts import MapPair, MappedLayer, ShownExample, ShownMaps
from reprune.report import png, svg, words
from reprune.report.facts import ReportFacts
from reprune.report.markup import Safe, details, esc, join, tag, visible
from reprune.report.markup import table as html_table
from reprune.report.masked import masked_tensors
from reprune.report.sections import Section

MOST_EXAMPLES = 3
MOST_LAYERS = 4
_STRIP, _ROW = 590.0, 64.0
HOW = (
    "A map is the mean of a layer's absolute outputs over the dense model's channels, the brighter the more; "
    "both models share one scale, and a channel that was cut counts as black. "
    "In the last column the dense model's map is grey, red is what the pruned model lost, blue what it "
    "added."
)


def maps_section(facts: ReportFacts, examples: int = MOST_EXAMPLES) -> Section | None:
    """The pictures of at most `examples` examples, the channels, and their numbers as a table; None where
    no maps were stored.
    """
    maps = facts.maps
    if maps is None or not maps.layers:
        return None
    layers = maps.layers[:MOST_LAYERS]
    drawn = [
        _example(one, place, layers)
        for place, one in enumerate(maps.examples[: min(examples, MOST_EXAMPLES)])
    ]
    content = [*drawn[:1]]
    if drawn[1:]:
        more = f"The same for {words.plural(len(drawn) - 1, 'other example')}"
        content.append(details(more, *drawn[1:]))
    content += [svg.framed(_channels_figure(layers)), _table(facts, maps, layers)]
    return Section(
        key="maps",
        title="What was cut, laid over the feature maps",
        lead="The calibration examples whose outputs the cut changed most, and the layers that differ most "
        "on them. For looking at: no rule rests on these pictures.",
        content=tuple(content),
    )


def _example(one: ShownExample, place: int, layers: tuple[MappedLayer, ...]) -> Safe:
    """One example: its picture, and what each layer makes of it before, after, and laid over each other."""
    name = f"{one.id}, changed most" if place == 0 else one.id
    rows = [
        tag(
            "tr",
            tag(
                "th", tag("bdi", esc(layer.layer, 60)), tag("small", esc(_told(layer))), scope="row"
            ),
            *(tag("td", cell) for cell in _pictures(layer, layer.maps[place], one.id)),
        )
        for layer in layers
        if place < len(layer.maps)
    ]
    heads = [
        tag("th", esc(head), scope="col") for head in ("Layer", "Dense", "Pruned", "Laid over")
    ]
    caption = tag("caption", _input(one), tag("span", esc("Example "), tag("bdi", esc(name, 80))))
    table = tag(
        "table", caption, tag("thead", tag("tr", *heads)), tag("tbody", *rows), class_="maps"
    )
    box = tag(
        "div",
        table,
        class_="scroll",
        tabindex=0,
        role="region",
        aria_label=visible(f"Feature maps of example {one.id}", 120),
    )
    how = tag(
        "figcaption",
        tag("strong", esc("Feature maps before and after")),
        Safe(" "),
        tag("span", esc(HOW, 1000), class_="how"),
    )
    return tag("figure", *([how] if place == 0 else []), box)


def _input(one: ShownExample) -> Safe:
    drawn = png.data_uri(one.width, one.height, one.channels, one.pixels)
    if drawn is None:
        return Safe("")
    return tag("img", src=drawn, alt=visible(f"Input of example {one.id}", 80))


def _told(layer: MappedLayer) -> str:
    return f"{words.percent(layer.relative, 0)} different"


def _pictures(layer: MappedLayer, pair: MapPair, example: str) -> list[Safe]:
    of = f"{layer.layer}, example {example}"
    drawn = [
        (png.data_uri(pair.width, pair.height, 1, pair.dense), f"Dense map of {of}"),
        (png.data_uri(pair.width, pair.height, 1, pair.candidate), f"Pruned map of {of}"),
        (
            png.data_uri(pair.width, pair.height, 3, laid_over(pair)),
            f"{words.percent(lost_share(pair), 0)} of the map of {of} was lost",
        ),
    ]
    return [
        esc("not drawn") if uri is None else tag("img", src=uri, alt=visible(words_, 160))
        for uri, words_ in drawn
    ]


def laid_over(pair: MapPair) -> bytes:
    """The dense map in grey; what was lost turns it red, what was added blue: rows of three bytes a pixel."""
    found = bytearray()
    for was, now in zip(pair.dense, pair.candidate, strict=False):
        lost, added = max(0, was - now), max(0, now - was)
        keep = 255 - max(lost, added)
        red, blue = was + (255 - was) * lost // 255, was + (255 - was) * added // 255
        grey = was * keep // 255
        found += bytes((red if lost else grey, grey, blue if added else grey))
    return bytes(found)


def lost_share(pair: MapPair) -> float:
    """Of all that the dense map shows, the share that the pruned one shows less."""
    whole = sum(pair.dense)
    lost = sum(max(0, was - now) for was, now in zip(pair.dense, pair.candidate, strict=False))
    return lost / whole if whole else 0.0


def added_share(pair: MapPair) -> float:
    """What the pruned map shows more, as a share of all that the dense one shows."""
    whole = sum(pair.dense)
    added = sum(max(0, now - was) for was, now in zip(pair.dense, pair.candidate, strict=False))
    return added / whole if whole else 0.0


def _channels_figure(layers: tuple[MappedLayer, ...]) -> svg.Figure:
    """Each channel as a bar: its outline the dense model's strength, its filling the pruned one's."""
    marks: list[Safe] = []
    for index, layer in enumerate(layers):
        bottom = 12 + _ROW * (index + 1) - 14
        marks.append(svg.label(0, bottom - 20, layer.layer, limit=28))
        marks.append(svg.label(0, bottom - 4, _counted(layer), "tick", limit=34))
        step = min(16.0, _STRIP / max(1, len(layer.strength)))
        absent = frozenset(layer.absent)
        pairs = zip_longest(layer.strength, layer.candidate_strength, fillvalue=0)
        for place, (was, now) in enumerate(pairs):
            x, high = 225 + step * place, _ROW - 20
            width = max(0.8, step - (1.5 if step > 5 else 0.5))
            marks.append(svg.box(x, bottom - high * was / 255, width, high * was / 255, "before"))
            if place in absent:
                marks.append(svg.line(x, bottom + 5, x + width, bottom + 5, "gone"))
            else:
                height = high * now / 255
                marks.append(svg.box(x, bottom - height, width, height, "bar mine"))
        marks.append(svg.line(225, bottom, 225 + step * len(layer.strength), bottom, "zero"))
    return svg.Figure(
        key="map-channels",
        title="The channels of these layers",
        description="; ".join(f"{one.layer}: {_counted(one)}" for one in layers),
        how="The outline is how strong a channel is in the dense model, the filling in the pruned one; a "
        "mark below the line is a channel that was cut. What is only outlined went silent.",
        height=20 + _ROW * len(layers),
        marks=tuple(marks),
        numbers=_channels_table(layers),
    )


def _counted(layer: MappedLayer) -> str:
    drawn = len(layer.strength)
    first = f", the first {drawn} drawn" if drawn < layer.channels else ""
    gone = f", {len(layer.absent)} cut" if layer.absent else ""
    return f"{words.plural(layer.channels, 'channel')}{gone}{first}"


def silent(layer: MappedLayer) -> int:
    """Channels that are there and hardly say anything any more: below a twentieth of what they said."""
    absent = frozenset(layer.absent)
    pairs = zip(layer.strength, layer.candidate_strength, strict=False)
    return sum(
        was > 0 and now < was / 20 for place, (was, now) in enumerate(pairs) if place not in absent
    )


def _channels_table(layers: tuple[MappedLayer, ...]) -> Safe:
    rows = [
        [
            tag("bdi", esc(one.layer, 120)),
            esc(words.count(one.channels)),
            esc(words.count(len(one.absent))),
            esc(words.count(silent(one))),
        ]
        for one in layers
    ]
    return html_table("Channels", ["Layer", "Dense", "Cut", "Silent"], rows, numbers=1)


def _table(facts: ReportFacts, maps: ShownMaps, layers: tuple[MappedLayer, ...]) -> Safe:
    masked = {one.tensor.removesuffix(".weight"): one for one in masked_tensors(facts)}
    rows = []
    for one in layers:
        hidden = masked.get(one.layer)
        share = words.EN_DASH if hidden is None else words.percent(hidden.zeros / hidden.size, 1)
        cut = share if masked else f"{len(one.absent)} of {words.count(one.channels)}"
        rows.append(
            [
                tag("bdi", esc(one.layer, 120)),
                esc(cut),
                esc(words.percent(one.relative, 1)),
                _by_example([lost_share(pair) for pair in one.maps]),
                _by_example([added_share(pair) for pair in one.maps]),
            ]
        )
    what = "Weights masked" if masked else "Channels cut"
    head = ["Layer", what, "Maps differ by", "Lost, by example", "Added, by example"]
    seen = words.plural(len(maps.examples), "example")
    return html_table(f"The same in numbers, {seen}", head, rows, numbers=1)


def _by_example(shares: list[float]) -> Safe:
    return join([esc(words.percent(share, 0)) for share in shares], ", ")
