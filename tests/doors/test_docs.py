"""What the documents tell people to type and to write is what the code takes; nobody else runs them.

Every command line in a code block or between backticks is given to its parser, every YAML block is loaded
and, where it is a part of params.yaml, decoded; every Python block compiles; every link leads somewhere.
"""

from __future__ import annotations

import argparse
import ast
import json
import re
import shlex
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

import pytest
import yaml

from reprune.core.documents import decode_yaml
from reprune.core.params import Params
from reprune.doors.cli import COMMANDS
from reprune.runtimes.base import RUNTIMES, get_runtime
from reprune.steps import STEPS

ROOT = Path(__file__).parents[2]
PAGES = sorted(
    path.relative_to(ROOT).as_posix()
    for path in (*(ROOT / "docs").glob("*.md"), ROOT / "README.md", ROOT / "CONTRIBUTING.md")
)
TABLED = sorted(
    path.relative_to(ROOT).as_posix()
    for path in (*(ROOT / "docs").rglob("*.md"), *ROOT.glob("*.md"))
)
_BLOCK = re.compile(r"^ *```(\w*)\n(.*?)^ *```$", re.DOTALL | re.MULTILINE)
_INLINE = re.compile(r"`(reprune [^`]+)`")
_TABLE = re.compile(r"(?:^ *\|.*(?:\n|\Z))+", re.MULTILINE)
_LINK = re.compile(r"\]\(([^)#:]+)(#[^)]*)?\)")
# Whatever stands for something: it is what a reader replaces.
_END = re.compile(r"\s(?:#|&&|\||;|>)\s?.*$")


def blocks(page: str, language: str) -> list[str]:
    text = (ROOT / page).read_text(encoding="utf-8")
    return [content for found, content in _BLOCK.findall(text) if found == language]


def command_lines(page: str) -> Iterator[str]:
    """Every `reprune ...` that a page says, without prompts and comments."""
    text = (ROOT / page).read_text(encoding="utf-8")
    shown = [
        content
        for language, content in _BLOCK.findall(text)
        if language in ("", "bash", "sh", "console")
    ]
    for content in shown:
        for line in content.replace("\\\n", " ").splitlines():
            for part in line.strip().removeprefix("$ ").split(" && "):
                if part.startswith("reprune "):
                    yield part
    yield from _INLINE.findall(_BLOCK.sub("", text))


def broken_tables(text: str) -> Iterator[str]:
    """Every row without the cells of its head, and every row that no head and line of dashes stand above."""
    for table in _TABLE.findall(_BLOCK.sub("", text)):
        head, *rows = table.strip().splitlines()
        if not rows or re.fullmatch(r"[|: -]+", rows[0]) is None:
            yield f"no head: {head}"
            continue
        yield from (f"other cells than its head: {row}" for row in rows if bars(row) != bars(head))


def bars(row: str) -> int:
    """How many bars end its cells: one in code does too, unless it is escaped."""
    return row.replace("\\|", "").count("|")


def words(line: str) -> list[str]:
    return shlex.split(_END.sub("", f"{line} "))[1:]


def parser_of(command: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog=command, add_help=True)
    parser.add_argument("-C", dest="root")
    parser.add_argument("--json", action="store_true")
    if command in COMMANDS:
        module, define = COMMANDS[command][1], f"define_{command.replace('-', '_')}"
    else:
        module, define = "steps", "define_step"
    getattr(import_module(f"reprune.doors.{module}"), define)(parser)
    return parser


def faults(line: str) -> Iterator[str]:
    """What of a command line is unknown: the command, or a flag of it."""
    command, *rest = words(line)
    if command.startswith("-") or command in ("COMMAND", "<step>"):
        return
    if command not in {*COMMANDS, *STEPS}:
        yield f"`{line}`: there is no command '{command}'"
        return
    known = {text for action in parser_of(command)._actions for text in action.option_strings}
    for word in rest:
        flag = word.strip("[],.").partition("=")[0]
        if flag.startswith("-") and flag not in (*known, "-", "--", "..."):
            yield f"`{line}`: {command} has no {flag}"


@pytest.mark.parametrize("page", PAGES)
def test_every_command_line_is_one(page: str) -> None:
    """The command exists, and has every flag that it is shown with."""
    assert [fault for line in command_lines(page) for fault in faults(line)] == []


def test_a_wrong_command_line_is_found() -> None:
    """An unknown command and an unknown flag; a prompt, a comment and a placeholder are none."""
    assert list(faults("reprune promot")) == ["`reprune promot`: there is no command 'promot'"]
    assert len(list(faults("reprune check VERDICT --recompte"))) == 1
    assert list(faults("reprune check VERDICT --recompute  # judges again")) == []
    assert any(line.startswith("reprune diff 41 42") for line in command_lines("docs/diff.md"))
    assert sum(len(list(command_lines(page))) for page in PAGES) > 80


@pytest.mark.parametrize("page", PAGES)
def test_every_yaml_block_is_yaml(page: str) -> None:
    """What has sections of params.yaml is taken as that file is."""
    sections = set(Params.__struct_fields__)
    for text in blocks(page, "yaml"):
        for found in yaml.safe_load_all(text):
            assert found is not None, text
            if isinstance(found, dict) and set(found) <= sections and set(found) != {"targets"}:
                whole = {"name": "digits", "task": "task.digits:DigitsTask"} | found
                decode_yaml(yaml.safe_dump(whole), Params, name=page)


@pytest.mark.parametrize("page", PAGES)
def test_every_python_block_compiles(page: str) -> None:
    for text in blocks(page, "python"):
        ast.parse(text, filename=page)


@pytest.mark.parametrize("page", PAGES)
def test_every_link_leads_somewhere(page: str) -> None:
    """To a file of the repository, and to a heading that it has."""
    text = _BLOCK.sub("", (ROOT / page).read_text(encoding="utf-8"))
    for path, anchor in _LINK.findall(text):
        target = ((ROOT / page).parent / path).resolve()
        assert target.exists(), f"{page}: {path}"
        if anchor and target.suffix == ".md":
            heads = re.findall(r"^#+ (.*)$", target.read_text(encoding="utf-8"), re.MULTILINE)
            slugs = {
                re.sub(r"[^\w\- ]", "", head.lower()).strip().replace(" ", "-") for head in heads
            }
            assert anchor[1:] in slugs, f"{page}: {path}{anchor}"


def test_the_table_of_targets_has_each_runtime_with_its_precisions() -> None:
    """Those that `build` takes, no fewer and no more."""
    table = (
        (ROOT / "docs" / "targets.md").read_text(encoding="utf-8").partition("## What there is")[2]
    )
    told: dict[str, set[str]] = {}
    for names, precisions in re.findall(r"^\| (`[^|]+) \| ([^|]+) \|", table, re.MULTILINE):
        words = set(re.findall(r"[a-z]+\d+(?:-\w+)?", precisions))
        told |= dict.fromkeys(re.findall(r"`([\w-]+)`", names), words)
    assert told == {name: set(get_runtime(name).capabilities.precisions) for name in RUNTIMES}


def test_every_page_is_named_in_the_readme() -> None:
    """Else only who knows of it finds it."""
    named = {path for path, _ in _LINK.findall((ROOT / "README.md").read_text(encoding="utf-8"))}
    assert [page for page in PAGES if page.startswith("docs/") and page not in named] == []


@pytest.mark.parametrize("page", TABLED)
def test_every_row_of_a_table_has_the_cells_of_its_head(page: str) -> None:
    """A blank line within one ends it: what follows is no row, and is shown as text with bars."""
    assert list(broken_tables((ROOT / page).read_text(encoding="utf-8"))) == []


@pytest.mark.parametrize(
    "text",
    [
        "| a | b |\n|---|---|\n| 1 |",
        "| a | b |\n|---|---|\n| 1 | 2 | 3 |",
        "| a | b |\n|---|---|\n\n| 1 | 2 |\n| 3 | 4 |",
        "| a | b |\n|---|---|\n| 1 | 2 |\n\n| 3 | 4 |\nand more",
        "| a | b |\n|---|---|\n| 1 | 2",
    ],
)
def test_a_broken_table_is_found(text: str) -> None:
    assert list(broken_tables(text))
    assert list(broken_tables("| a | b |\n|---|--:|\n| `x\\|y` | \\| |\n")) == []


def test_a_figure_in_the_params_is_the_measured_one() -> None:
    """What a later generation cost: as the committed result has it."""
    text = (ROOT / "src/reprune/template/params.yaml").read_text(encoding="utf-8")
    result = json.loads((ROOT / "benchmarks/results/generations.json").read_text(encoding="utf-8"))
    (told,) = re.findall(r"later generation then took ([\d.]+) of", text)
    assert told == f"{result['figures']['warm_total_cost_ratio']:.2f}"


def texts(path: Path) -> Iterator[str]:
    """The string literals of a module, its docstrings among them; what is filled in is an X."""
    tree = ast.parse(path.read_text(encoding="utf-8"), filename=str(path))
    parts = {
        id(part)
        for node in ast.walk(tree)
        if isinstance(node, ast.JoinedStr)
        for part in ast.walk(node)
        if part is not node
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            values = (getattr(part, "value", None) for part in node.values)
            yield "".join(value if isinstance(value, str) else "X" for value in values)
        elif isinstance(node, ast.Constant) and id(node) not in parts:
            yield str(node.value)


def said(text: str) -> Iterator[str]:
    """The command lines in what the code says: between backticks, or the whole of it. Not those whose command
    is filled in.
    """
    yield from (line for line in _INLINE.findall(text) if not line.startswith("reprune X"))
    if re.fullmatch(r"reprune [a-z-]+( (-|[A-Z]).*)?", text):
        yield text


@pytest.mark.slow
def test_every_command_line_that_the_code_says_is_one() -> None:
    """Advice in errors, reports and pages: nobody types it before somebody has to."""
    modules = sorted((ROOT / "src").rglob("*.py"))
    telling = [
        path for path in modules if re.search(r'[`"]reprune [a-z{]', path.read_text("utf-8"))
    ]
    told = [(path, line) for path in telling for text in texts(path) for line in said(text)]
    assert len(told) > 100
    wrong = [f"{path.name}: {fault}" for path, line in told for fault in faults(line)]
    assert wrong == []
