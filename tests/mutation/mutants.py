"""Every mutant of a module: the syntax tree with one small thing changed, and a name that outlives edits.

What only people read is left alone: docstrings, annotations, texts with a space in them, what is given to
a name in TEXT (`words=...`), and the message of an error that is raised. So is `strict=True` of a zip.

With `more`, every condition is also replaced by True and by False, and what an `except` catches by nothing,
by all but one of its types, and by Exception.
"""

from __future__ import annotations

import ast
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

# Fields and variables that hold sentences.
TEXT = frozenset(
    {
        "words",
        "facts",
        "short",
        "allowed",
        "decide",
        "doubt",
        "headline",
        "message",
        "help",
        "noun",
        "_OPENING",
        "_DRY",
        "_ENDING",
        "where",
        "fix",
    }
)
# Arguments of errors that are no sentences.
CODES = frozenset({"reason", "code"})
# Keywords that only stop a mistake of ours earlier.
_CHECKS = frozenset({"strict"})
_COMPARED: dict[type[ast.cmpop], tuple[type[ast.cmpop], ...]] = {
    ast.Lt: (ast.LtE, ast.GtE),
    ast.LtE: (ast.Lt, ast.Gt),
    ast.Gt: (ast.GtE, ast.LtE),
    ast.GtE: (ast.Gt, ast.Lt),
    ast.Eq: (ast.NotEq,),
    ast.NotEq: (ast.Eq,),
    ast.Is: (ast.IsNot,),
    ast.IsNot: (ast.Is,),
    ast.In: (ast.NotIn,),
    ast.NotIn: (ast.In,),
}
_COMPUTED: dict[type[ast.operator], type[ast.operator]] = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.Div,
    ast.Div: ast.Mult,
    ast.FloorDiv: ast.Div,
    ast.Mod: ast.Mult,
    ast.Pow: ast.Mult,
    ast.BitOr: ast.BitAnd,
    ast.BitAnd: ast.BitOr,
    ast.LShift: ast.RShift,
    ast.RShift: ast.LShift,
}
_NAMES = {"min": "max", "max": "min", "any": "all", "all": "any", "ceil": "floor", "floor": "ceil"}
_DROPPED_CALLS = ("sorted", "abs", "rounded", "reversed")
# Parts of a statement or expression that are left alone.
_NEVER = ("annotation", "returns", "decorator_list", "type_params", "ctx", "target", "targets")


@dataclass(frozen=True, kw_only=True)
class Mutant:
    """`apply` changes the tree that it was found in, for good. `lines` are those of the statement (its
    head only, if it is a block); `live` says that the change lies in the body of a function, so that
    the code of the loaded function can be exchanged.
    """

    function: str
    change: str
    line: int
    lines: range
    live: bool
    apply: Callable[[], None] = field(compare=False)

    @property
    def name(self) -> str:
        return f"{self.function}: {self.change}"


def mutants(tree: ast.Module, *, more: bool = False) -> list[Mutant]:
    """All mutants of the module, in the order of its lines. Names are unique: a repeated one is numbered."""
    found = sorted(_Walk(more).module(tree), key=lambda one: one.line)
    seen: Counter[str] = Counter()
    named = []
    for one in found:
        seen[one.name] += 1
        repeat = seen[one.name]
        change = one.change if repeat == 1 else f"{one.change} #{repeat}"
        named.append(
            Mutant(
                function=one.function,
                change=change,
                line=one.line,
                lines=one.lines,
                live=one.live,
                apply=one.apply,
            )
        )
    return named


@dataclass(frozen=True, kw_only=True)
class _Place:
    """Where the walk is: the names around it, the statement's lines, and the expression around it."""

    scope: tuple[str, ...] = ()
    lines: range = range(0)
    live: bool = False
    around: ast.AST | None = None

    def within(self, **changed: Any) -> _Place:
        return _Place(**{**self.__dict__, **changed})


class _Walk:
    def __init__(self, more: bool) -> None:
        self.more = more

    def module(self, tree: ast.Module) -> Iterator[Mutant]:
        yield from self._block(tree.body, _Place())

    def _block(self, body: list[ast.stmt], place: _Place) -> Iterator[Mutant]:
        for index, statement in enumerate(body):
            yield from self._statement(body, index, place.within(lines=_head(statement)))

    def _statement(self, body: list[ast.stmt], index: int, place: _Place) -> Iterator[Mutant]:
        node = body[index]
        if isinstance(node, ast.Import | ast.ImportFrom | ast.Global | ast.Nonlocal | ast.Pass):
            return
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield from self._function(node, place)
        elif isinstance(node, ast.ClassDef):
            yield from self._block(node.body, place.within(scope=(*place.scope, node.name)))
        elif isinstance(node, ast.If) and _is_type_checking(node.test):
            return
        else:
            yield from self._simple(body, index, place)

    def _function(
        self, node: ast.FunctionDef | ast.AsyncFunctionDef, place: _Place
    ) -> Iterator[Mutant]:
        inner = place.within(scope=(*place.scope, node.name))
        for defaults in (node.args.defaults, node.args.kw_defaults):
            yield from self._list(defaults, inner.within(around=None))
        yield from self._block(node.body, inner.within(live=True))

    def _simple(self, body: list[ast.stmt], index: int, place: _Place) -> Iterator[Mutant]:
        node = body[index]
        yield from self._removed(body, index, place)
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            return  # a docstring, or `...`
        if isinstance(node, ast.Raise):
            yield from self._codes(node, place)
            return
        if _is_type(node):
            return
        if isinstance(node, ast.AugAssign):
            yield from self._augmented(node, place)
        if isinstance(node, ast.Break | ast.Continue):
            other = ast.Continue if isinstance(node, ast.Break) else ast.Break
            yield self._mutant(body, index, other(), place)
        if isinstance(node, ast.If | ast.While | ast.Assert):
            yield from self._condition(node, "test", place)
        if isinstance(node, ast.For):
            empty = ast.List(elts=[], ctx=ast.Load())
            yield self._mutant(node, "iter", empty, place, f"for in {ast.unparse(node.iter)} => []")
        if isinstance(node, ast.Assign | ast.AnnAssign) and _is_text(node):
            return
        for name, value in ast.iter_fields(node):
            yield from self._field(node, name, value, place)

    def _removed(self, body: list[ast.stmt], index: int, place: _Place) -> Iterator[Mutant]:
        node = body[index]
        gone = (isinstance(node, ast.Expr) and isinstance(node.value, ast.Call | ast.Await)) or (
            isinstance(node, ast.Raise | ast.AugAssign)
        )
        if gone and not _is_said(node):
            yield self._mutant(body, index, ast.Pass(), place, f"{_short(node)} => pass")
        if isinstance(node, ast.Return) and node.value is not None and not _is_empty(node.value):
            none = ast.Return(value=ast.Constant(value=None))
            yield self._mutant(body, index, none, place, f"{_short(node)} => return None")

    def _codes(self, node: ast.Raise, place: _Place) -> Iterator[Mutant]:
        """Of an error that is raised, what programs read: its reason."""
        keywords = node.exc.keywords if isinstance(node.exc, ast.Call) else []
        for keyword in keywords:
            if keyword.arg in CODES:
                at = place.within(around=keyword)
                yield from self._expression(keyword, "value", keyword.value, at)

    def _augmented(self, node: ast.AugAssign, place: _Place) -> Iterator[Mutant]:
        other = _COMPUTED.get(type(node.op))
        if other is not None:
            yield self._mutant(node, "op", other(), place, f"{_short(node)} => {other.__name__}")

    def _field(self, node: ast.AST, name: str, value: Any, place: _Place) -> Iterator[Mutant]:
        if name in _NEVER:
            return
        if isinstance(value, list):
            if value and isinstance(value[0], ast.stmt):
                yield from self._block(value, place.within(around=None))
            else:
                yield from self._list(value, place)
        elif isinstance(value, ast.expr):
            yield from self._expression(node, name, value, place)
        elif isinstance(value, ast.AST):
            yield from self._inside(value, place)

    def _list(self, values: list[Any], place: _Place) -> Iterator[Mutant]:
        for index, value in enumerate(values):
            if isinstance(value, ast.expr):
                yield from self._expression(values, index, value, place)
            elif isinstance(value, ast.ExceptHandler | ast.match_case):
                if self.more and isinstance(value, ast.ExceptHandler):
                    yield from self._caught(value, place)
                yield from self._block(value.body, place.within(around=None))
            elif isinstance(value, ast.AST):
                yield from self._inside(value, place)

    def _inside(self, node: ast.AST, place: _Place) -> Iterator[Mutant]:
        for name, value in ast.iter_fields(node):
            yield from self._field(node, name, value, place)

    def _expression(
        self, owner: Any, key: str | int, node: ast.expr, place: _Place
    ) -> Iterator[Mutant]:
        if isinstance(node, ast.JoinedStr) and _is_sentence(node):
            return
        for other, change in _changes(node, place.around):
            yield self._mutant(owner, key, other, place, change)
        if isinstance(node, ast.Call):
            yield from self._keywords(node, place)
        if isinstance(node, ast.IfExp):
            yield from self._condition(node, "test", place)
        if isinstance(node, ast.Lambda):
            inner = place.within(scope=(*place.scope, "<lambda>"), live=True, around=node)
            yield from self._expression(node, "body", node.body, inner)
            return
        inner = place.within(around=node)
        for name, value in ast.iter_fields(node):
            if name == "keywords" and isinstance(node, ast.Call):
                yield from self._arguments(node, inner)
            elif name == "generators":
                for generator in value:
                    yield from self._generator(generator, inner)
            else:
                yield from self._field(node, name, value, inner)

    def _arguments(self, node: ast.Call, place: _Place) -> Iterator[Mutant]:
        for keyword in node.keywords:
            if keyword.arg not in TEXT | _CHECKS:
                at = place.within(around=keyword)
                yield from self._expression(keyword, "value", keyword.value, at)

    def _generator(self, node: ast.comprehension, place: _Place) -> Iterator[Mutant]:
        yield from self._expression(node, "iter", node.iter, place)
        for index, test in enumerate(node.ifs):
            true = ast.Constant(value=True)
            yield self._mutant(node.ifs, index, true, place, f"if {ast.unparse(test)} => if True")
            if not isinstance(test, ast.Compare | ast.BoolOp | ast.UnaryOp):
                yield self._mutant(node.ifs, index, _negated(test), place)
            yield from self._expression(node.ifs, index, test, place)

    def _condition(self, node: Any, key: str, place: _Place) -> Iterator[Mutant]:
        test = getattr(node, key)
        if self.more and not isinstance(test, ast.Constant):
            for value in (True, False):
                change = f"when {_short(test)} => when {value}"
                yield self._mutant(node, key, ast.Constant(value=value), place, change)
        if not isinstance(test, ast.Compare | ast.UnaryOp | ast.BoolOp | ast.Constant):
            yield self._mutant(node, key, _negated(test), place, f"if {_short(test)} => if not")

    def _caught(self, node: ast.ExceptHandler, place: _Place) -> Iterator[Mutant]:
        if node.type is None:
            return
        types = node.type.elts if isinstance(node.type, ast.Tuple) else [node.type]
        others: list[ast.expr] = [_tuple([])]
        if len(types) > 1:
            others += [_tuple([*types[:at], *types[at + 1 :]]) for at in range(len(types))]
        if ast.unparse(node.type) not in ("Exception", "BaseException"):
            others.append(ast.Name(id="Exception", ctx=ast.Load()))
        for other in others:
            change = f"except {_short(node.type)} => except {_short(other)}"
            yield self._mutant(node, "type", other, place, change)

    def _keywords(self, node: ast.Call, place: _Place) -> Iterator[Mutant]:
        for index, keyword in enumerate(node.keywords):
            if keyword.arg is None or keyword.arg in TEXT | _CHECKS:
                continue
            called = ast.unparse(node.func)
            change = f"{called}({keyword.arg}={_short(keyword.value)}) => {called}()"
            yield self._mutant(node.keywords, slice(index, index + 1), [], place, change)

    def _mutant(
        self, owner: Any, key: Any, other: Any, place: _Place, change: str | None = None
    ) -> Mutant:
        here = _get(owner, key)
        line = next((one.lineno for one in (here, owner) if hasattr(one, "lineno")), 0)
        if change is None:
            change = f"{_short(here)} => {_short(other)}"

        def apply() -> None:
            if isinstance(other, ast.AST) and isinstance(here, ast.expr | ast.stmt):
                ast.copy_location(other, here)
            if isinstance(owner, list):
                owner[key] = other
            else:
                setattr(owner, key, other)

        return Mutant(
            function=".".join(place.scope) or "<module>",
            change=change,
            line=line or place.lines.start,
            lines=place.lines,
            live=place.live,
            apply=apply,
        )


def _changes(node: ast.expr, around: ast.AST | None) -> Iterator[tuple[ast.expr, str | None]]:
    """What an expression can be changed into, and how to call the change where not by both texts."""
    if isinstance(node, ast.Constant):
        yield from _constants(node, around)
        return
    others: Iterator[ast.expr] = iter(())
    if isinstance(node, ast.Compare):
        others = _comparisons(node)
    elif isinstance(node, ast.BoolOp):
        others = _joined(node)
    elif isinstance(node, ast.BinOp):
        others = _sums(node)
    elif isinstance(node, ast.Call):
        others = _calls(node)
    elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not | ast.USub | ast.Invert):
        others = iter([node.operand])
    elif isinstance(node, ast.JoinedStr):
        others = iter([ast.Constant(value="")])
    for other in others:
        yield other, None


def _comparisons(node: ast.Compare) -> Iterator[ast.expr]:
    for index, operator in enumerate(node.ops):
        for other in _COMPARED[type(operator)]:
            ops = [*node.ops[:index], other(), *node.ops[index + 1 :]]
            yield ast.Compare(left=node.left, ops=ops, comparators=node.comparators)


def _joined(node: ast.BoolOp) -> Iterator[ast.expr]:
    other = ast.Or() if isinstance(node.op, ast.And) else ast.And()
    yield ast.BoolOp(op=other, values=node.values)
    for index in range(len(node.values)):
        rest = [*node.values[:index], *node.values[index + 1 :]]
        yield rest[0] if len(rest) == 1 else ast.BoolOp(op=node.op, values=rest)


def _sums(node: ast.BinOp) -> Iterator[ast.expr]:
    is_text = isinstance(node.op, ast.Mod) and isinstance(node.left, ast.Constant | ast.JoinedStr)
    other = _COMPUTED.get(type(node.op))
    if other is not None and not is_text:
        yield ast.BinOp(left=node.left, op=other(), right=node.right)


def _constants(node: ast.Constant, around: ast.AST | None) -> Iterator[tuple[ast.expr, str | None]]:
    value = node.value
    other: Any
    if isinstance(value, bool):
        other = not value
    elif isinstance(value, int | float):
        other = value + 1
    elif isinstance(value, str | bytes):
        if isinstance(value, str) and " " in value:
            return
        other = value[:0] if value else ("mutated" if isinstance(value, str) else b"mutated")
    else:
        return
    where = ""
    if isinstance(around, ast.expr | ast.keyword):
        where = f" in {_short(around)}"
    yield ast.Constant(value=other), f"{value!r} => {other!r}{where}"


def _calls(node: ast.Call) -> Iterator[ast.expr]:
    name = node.func.attr if isinstance(node.func, ast.Attribute) else ast.unparse(node.func)
    if name in _NAMES:
        other: ast.expr = ast.Name(id=_NAMES[name], ctx=ast.Load())
        if isinstance(node.func, ast.Attribute):
            other = ast.Attribute(value=node.func.value, attr=_NAMES[name], ctx=ast.Load())
        yield ast.Call(func=other, args=node.args, keywords=node.keywords)
    if name in _DROPPED_CALLS and node.args and isinstance(node.func, ast.Name):
        first = node.args[0]
        listed = ast.Call(func=ast.Name(id="list", ctx=ast.Load()), args=[first], keywords=[])
        yield listed if name in ("sorted", "reversed") else first


def _tuple(types: list[ast.expr]) -> ast.expr:
    return ast.Tuple(elts=types, ctx=ast.Load())


def _negated(node: ast.expr) -> ast.expr:
    return ast.UnaryOp(op=ast.Not(), operand=node)


def _get(owner: Any, key: Any) -> Any:
    return owner[key] if isinstance(owner, list) else getattr(owner, key)


def _short(node: Any) -> str:
    """The source of the node on one line, cut where it is long."""
    if isinstance(node, list):
        return ", ".join(_short(one) for one in node)
    text = " ".join(ast.unparse(ast.fix_missing_locations(node)).split())
    return text if len(text) <= 120 else f"{text[:117]}..."


def _head(node: ast.stmt) -> range:
    """The lines of a statement without those of the statements inside it."""
    inner = [one.lineno for one in ast.walk(node) if isinstance(one, ast.stmt) and one is not node]
    end = min(inner, default=(node.end_lineno or node.lineno) + 1)
    return range(node.lineno, max(end, node.lineno + 1))


def _is_empty(node: ast.expr) -> bool:
    """None, or what is as false as None: the type checker tells these apart."""
    return isinstance(node, ast.Constant) and not node.value


def _is_said(node: ast.stmt) -> bool:
    """Whether the statement does nothing but tell a person how far it is."""
    called = (
        node.value.func if isinstance(node, ast.Expr) and isinstance(node.value, ast.Call) else None
    )
    return called is not None and ast.unparse(called).split(".")[-1] == "say"


def _is_type(node: ast.stmt) -> bool:
    """Whether it names a type, or what a module shows: only checkers read that."""
    if isinstance(node, ast.Assign):
        shown = ast.unparse(node.targets[0]) == "__all__"
        return shown or ast.unparse(node.value).startswith("TypeVar(")
    return isinstance(node, ast.AnnAssign) and ast.unparse(node.annotation) == "TypeAlias"


def _is_text(node: ast.Assign | ast.AnnAssign) -> bool:
    targets = node.targets if isinstance(node, ast.Assign) else [node.target]
    names = [n for one in targets for n in (one.elts if isinstance(one, ast.Tuple) else [one])]
    return all(isinstance(one, ast.Name) and one.id in TEXT for one in names)


def _is_sentence(node: ast.JoinedStr) -> bool:
    parts = (one.value for one in node.values if isinstance(one, ast.Constant))
    return any(" " in str(part) for part in parts)


def _is_type_checking(node: ast.expr) -> bool:
    return ast.unparse(node).endswith("TYPE_CHECKING")
