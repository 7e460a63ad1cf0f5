"""The data contract: what is demanded of the splits, and what each finding means, in words."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from reprune.core.artifacts import Expectation
from reprune.core.params import MIN_EXAMPLES, ValidateParams
from reprune.steps.expectations import Demand, Severity, Table
from reprune.task.protocol import Split
from reprune.task.seal import Census

SHOWN = 5
# What `str` makes of a value that is not there.
MISSING = frozenset({"", "nan", "None", "<NA>"})


def demands(
    censuses: Mapping[Split, Census], validate: ValidateParams
) -> tuple[list[Demand], list[Expectation]]:
    """All demands on these splits, and what can be said without a table."""
    found: list[Demand] = []
    for split, census in censuses.items():
        found += _of_one_split(split, census, validate)
    found += _of_eval(censuses, validate)
    found += _across(censuses)
    return found, _remarks(censuses)


def _of_one_split(split: Split, census: Census, validate: ValidateParams) -> list[Demand]:
    count = len(census.ids)
    least = validate.min_examples.get(split, MIN_EXAMPLES[split])
    labels = None if census.labels is None else _present(census.labels)
    table: dict[str, list[Any]] = {"id": _present(census.ids)}
    found = [
        Demand(
            name="enough examples",
            split=split,
            severity="critical",
            table=table,
            expects="ExpectTableRowCountToBeBetween",
            arguments={"min_value": least},
            words=lambda _: (
                f"{count} examples; at least {least} are demanded "
                f"(validate.min_examples.{split} in params.yaml)"
            ),
        ),
        _not_null("ids given", split, table, "id"),
        _unique("ids unique", split, table, "id", "critical", "an id stands there more than once"),
    ]
    if labels is None:
        return found
    table["label"] = labels
    found.append(_not_null("labels given", split, table, "label"))
    if validate.classes:
        table["number"] = [None if label is None else _number(label) for label in labels]
        found.append(_in_range(split, table, validate.classes))
    return [*found, _class_share(split, labels, validate.max_class_share)]


def _of_eval(censuses: Mapping[Split, Census], validate: ValidateParams) -> list[Demand]:
    census, train = censuses["eval"], censuses["train"]
    found = [
        _unique(
            "no example twice",
            "eval",
            {"content": list(census.contents), "id": list(census.ids)},
            "content",
            "warning",
            "the same inputs stand there more than once, so they count more than once",
        )
    ]
    if census.labels is not None and train.labels is not None:
        found.append(
            Demand(
                name="classes known from train",
                split="eval",
                severity="critical",
                table={"label": _present(census.labels)},
                expects="ExpectColumnValuesToBeInSet",
                arguments={"column": "label", "value_set": sorted(set(train.labels))},
                words=lambda result: _words(
                    result,
                    good="every class in eval is also in train",
                    bad="in eval, but never in train: {values}; give train examples of them",
                ),
            )
        )
    rows = [
        (f"{family}={value}", count)
        for family, values in sorted(census.slices.items())
        for value, count in sorted(Counter(values).items())
    ]
    least = validate.min_slice_examples
    if rows and least:
        sizes = dict(rows)
        small = ", ".join(f"{name} has {size}" for name, size in rows if size < least)
        found.append(
            Demand(
                name="slices large enough",
                split="eval",
                severity="warning",
                table={"slice": list(sizes), "examples": list(sizes.values())},
                expects="ExpectColumnValuesToBeBetween",
                arguments={"column": "examples", "min_value": least},
                words=lambda _: (
                    f"{small}; at least {least} are wanted, smaller ones are judged together"
                    if small
                    else f"{len(sizes)} slices, each with at least {least} examples"
                ),
            )
        )
    return found


def _across(censuses: Mapping[Split, Census]) -> list[Demand]:
    sources = {s: c for s, c in censuses.items() if c.sources is not None}
    found = [
        _disjoint("no id in two splits", "ids", _places(censuses, lambda c: c.ids)),
        _disjoint("no example in two splits", "contents", _places(censuses, lambda c: c.contents)),
    ]
    if sources:
        places = _places(sources, lambda c: c.sources or ())
        found.append(_disjoint("no source in two splits", "sources", places))
    return found


def _places(
    censuses: Mapping[Split, Census], values: Callable[[Census], Iterable[str]]
) -> dict[str, dict[Split, str]]:
    """For each value the splits that have it, and the id of one example that has it there."""
    places: dict[str, dict[Split, str]] = {}
    for split, census in censuses.items():
        for value, name in zip(values(census), census.ids, strict=True):
            places.setdefault(value, {}).setdefault(split, name)
    return places


def _disjoint(name: str, what: str, places: Mapping[str, Mapping[Split, str]]) -> Demand:
    pairs = [(value, split) for value, splits in places.items() for split in splits]

    def words(result: Mapping[str, Any]) -> str:
        if not result.get("unexpected_count"):
            return f"{len(places)} different {what}, each in one split"
        twice = [splits for splits in places.values() if len(splits) > 1]
        shown = "; ".join(
            " and ".join(f"{id_} in {split}" for split, id_ in splits.items())
            for splits in twice[:SHOWN]
        )
        more = f" and {len(twice) - SHOWN} more" if len(twice) > SHOWN else ""
        return (
            f"the splits overlap: {len(twice)} {what} are in two splits ({shown}{more}). What a "
            "model was trained on cannot judge it; remove them from one of the splits"
        )

    return Demand(
        name=name,
        split="all",
        severity="critical",
        table={"value": [value for value, _ in pairs], "split": [split for _, split in pairs]},
        expects="ExpectColumnValuesToBeUnique",
        arguments={"column": "value"},
        words=words,
    )


def _unique(
    name: str, split: str, table: Table, column: str, severity: Severity, bad: str
) -> Demand:
    def words(result: Mapping[str, Any]) -> str:
        if not result.get("unexpected_count"):
            return f"{len(table[column])} {column}s, each once"
        counts = Counter(table[column])
        rows = [n for n, value in enumerate(table[column]) if counts[value] > 1]
        return f"{bad}: {_some(table['id'][row] for row in rows)}"

    return Demand(
        name=name,
        split=split,
        severity=severity,
        table=table,
        expects="ExpectColumnValuesToBeUnique",
        arguments={"column": column},
        words=words,
    )


def _not_null(name: str, split: Split, table: Table, column: str) -> Demand:
    return Demand(
        name=name,
        split=split,
        severity="critical",
        table=table,
        expects="ExpectColumnValuesToNotBeNull",
        arguments={"column": column},
        words=lambda result: (
            f"{result['unexpected_count']} examples have no {column}"
            if result.get("unexpected_count")
            else f"every example has its {column}"
        ),
    )


def _in_range(split: Split, table: Table, classes: int) -> Demand:
    def words(result: Mapping[str, Any]) -> str:
        if not result.get("unexpected_count"):
            return f"labels are whole numbers from 0 to {classes - 1}"
        outside = [
            n for n, x in enumerate(table["number"]) if x is not None and not 0 <= x < classes
        ]
        shown = _some(f"{table['id'][row]} has '{table['label'][row]}'" for row in outside)
        return f"labels must be 0 to {classes - 1} (validate.classes in params.yaml): {shown}"

    return Demand(
        name="labels in range",
        split=split,
        severity="critical",
        table=table,
        expects="ExpectColumnValuesToBeBetween",
        arguments={"column": "number", "min_value": 0, "max_value": classes - 1},
        words=words,
    )


def _class_share(split: Split, labels: list[str | None], limit: float) -> Demand:
    counts = Counter(label for label in labels if label is not None).most_common()
    shares = {label: count / len(labels) for label, count in counts}
    largest = next(iter(shares), "")
    return Demand(
        name="no class dominates",
        split=split,
        severity="warning",
        table={"label": list(shares), "share": list(shares.values())},
        expects="ExpectColumnValuesToBeBetween",
        arguments={"column": "share", "max_value": limit},
        words=lambda _: (
            f"class '{largest}' is {shares[largest]:.1%} of the examples; at most {limit:.0%} is wanted"
            if shares
            else "there are no labels"
        ),
    )


def _remarks(censuses: Mapping[Split, Census]) -> list[Expectation]:
    found = []
    for split, census in censuses.items():
        if census.labels is None:
            words = "the task gives no labels, so classes are not checked"
            found.append(_remark("labels given", split, words, success=True))
        if census.augmented:
            words = (
                "train is augmented, so an example that is also in another split cannot be seen; "
                "give the task a method `plain(split)` that yields batches without augmentation"
            )
            found.append(_remark("contents comparable", split, words, success=False))
    return found


def _remark(name: str, split: str, words: str, *, success: bool) -> Expectation:
    return Expectation(name=name, split=split, severity="warning", success=success, observed=words)


def _words(result: Mapping[str, Any], *, good: str, bad: str) -> str:
    if not result.get("unexpected_count"):
        return good
    values = sorted({str(value) for value in result.get("partial_unexpected_list", ())})
    return bad.format(values=_some(values))


def _some(words: Iterable[str]) -> str:
    found = list(words)
    more = f" and {len(found) - SHOWN} more" if len(found) > SHOWN else ""
    return ", ".join(map(str, found[:SHOWN])) + more


def _present(values: Iterable[str]) -> list[str | None]:
    return [None if value in MISSING else value for value in values]


def _number(label: str) -> int:
    """The class number; -1, which no range holds, for what is no whole number."""
    return int(label) if label.isascii() and label.isdecimal() else -1
