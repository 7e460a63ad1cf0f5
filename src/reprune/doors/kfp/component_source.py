"""The source of a component, taken apart: its signature, its decorator, and the one call of its body."""

from __future__ import annotations

import ast
from dataclasses import dataclass
from pathlib import Path

RUNS = ("run_component", "run_fetch", "run_fetch_set", "run_promote")


@dataclass(frozen=True)
class Parameter:
    """`type` is the annotation without `dsl.`: "str", "Input[list[Artifact]]"."""

    type: str
    optional: bool


@dataclass(frozen=True, kw_only=True)
class Component:
    """What a component's file says.

    `call` is the function that its last statement calls, `positional` the names given to it in order
    (empty for what is no name), `step` its first argument if that is a word. `inputs`, `place` and
    `shown` map names of the called side to parameters. `passed` are all names that the body reads.
    """

    name: str
    docstring: str
    settings: dict[str, str]
    images: tuple[str, ...]
    imports: tuple[str, ...]
    parameters: dict[str, Parameter]
    statements: int
    call: str
    step: str
    positional: tuple[str, ...]
    texts: tuple[str, ...]
    inputs: dict[str, str]
    out: str
    place: dict[str, str]
    shown: dict[str, str]
    passed: frozenset[str]


def read_component(path: Path) -> Component:
    """The component in the file. Raises ValueError, in words, for a file that defines none."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    functions = [node for node in tree.body if isinstance(node, ast.FunctionDef)]
    if len(functions) != 1:
        raise ValueError(f"defines {len(functions)} functions, not one")
    function = functions[0]
    body = function.body[1:] if ast.get_docstring(function) else function.body
    call = _last_call(body)
    values = _assigned(body)
    arguments = [_resolved(each, values) for each in call.args]
    return Component(
        name=function.name,
        docstring=ast.get_docstring(function) or "",
        settings=_settings(function),
        images=_imported(tree, "reprune.doors.kfp.images"),
        imports=_modules(tree),
        parameters=_parameters(function),
        statements=len(body),
        call=_name(call.func),
        step=_constant(call.args[0]) if call.args else "",
        positional=tuple(_name(each) for each in call.args),
        texts=_texts(arguments),
        inputs=_mapping(arguments),
        out=_out(call),
        place=_place(arguments),
        shown={each.arg: _name(each.value) for each in call.keywords if each.arg},
        passed=_read(body),
    )


def _last_call(body: list[ast.stmt]) -> ast.Call:
    match body[-1:]:
        case [ast.Expr(value=ast.Call() as last) | ast.Return(value=ast.Call() as last)]:
            pass
        case _:
            raise ValueError("does not end with its call")
    calls = [node for each in body for node in ast.walk(each) if isinstance(node, ast.Call)]
    if sum(_name(each.func) in RUNS for each in calls) > 1:
        raise ValueError("makes more than one call")
    if any(not isinstance(each, ast.ImportFrom | ast.Assign) for each in body[:-1]):
        raise ValueError("does more than name things and make one call")
    return last


def _assigned(body: list[ast.stmt]) -> dict[str, ast.expr]:
    return {
        target.id: each.value
        for each in body
        if isinstance(each, ast.Assign)
        for target in each.targets
        if isinstance(target, ast.Name)
    }


def _resolved(value: ast.expr, values: dict[str, ast.expr]) -> ast.expr:
    return values.get(value.id, value) if isinstance(value, ast.Name) else value


def _settings(function: ast.FunctionDef) -> dict[str, str]:
    for each in function.decorator_list:
        if isinstance(each, ast.Call) and ast.unparse(each.func) == "dsl.component":
            return {given.arg or "**": ast.unparse(given.value) for given in each.keywords}
    raise ValueError("has no @dsl.component(...)")


def _parameters(function: ast.FunctionDef) -> dict[str, Parameter]:
    given = function.args.args
    required = len(given) - len(function.args.defaults)
    return {
        each.arg: Parameter(
            ast.unparse(each.annotation).replace("dsl.", "") if each.annotation else "nothing",
            optional=index >= required,
        )
        for index, each in enumerate(given)
    }


def _modules(tree: ast.Module) -> tuple[str, ...]:
    found: list[str] = []
    for node in tree.body:
        if isinstance(node, ast.Import):
            found += [each.name for each in node.names]
        elif isinstance(node, ast.ImportFrom):
            found.append(node.module or "")
    return tuple(found)


def _imported(tree: ast.Module, module: str) -> tuple[str, ...]:
    return tuple(
        each.name
        for node in tree.body
        if isinstance(node, ast.ImportFrom) and node.module == module
        for each in node.names
    )


def _texts(arguments: list[ast.expr]) -> tuple[str, ...]:
    for each in arguments:
        if isinstance(each, ast.Call) and _name(each.func) == "Texts" and not each.keywords:
            return tuple(_name(given) for given in each.args)
    return ()


def _mapping(arguments: list[ast.expr]) -> dict[str, str]:
    for each in arguments:
        if isinstance(each, ast.Dict):
            return {
                _constant(key): _name(value)
                for key, value in zip(each.keys, each.values, strict=True)
            }
    return {}


def _place(arguments: list[ast.expr]) -> dict[str, str]:
    for each in arguments:
        if isinstance(each, ast.Call) and _name(each.func) == "Place":
            named = {given.arg: _name(given.value) for given in each.keywords if given.arg}
            fields = ("machine", "workspace")
            return {
                **{field: _name(value) for field, value in zip(fields, each.args, strict=False)},
                **named,
            }
    return {}


def _out(call: ast.Call) -> str:
    """The fourth of run_component(step, texts, inputs, out, ...), the third of run_promote(texts, ...)."""
    position = {"run_component": 3, "run_promote": 2}.get(_name(call.func))
    if position is None or len(call.args) <= position:
        return ""
    return _name(call.args[position])


def _read(body: list[ast.stmt]) -> frozenset[str]:
    return frozenset(
        node.id
        for each in body
        for node in ast.walk(each)
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load)
    )


def _name(value: ast.expr) -> str:
    return value.id if isinstance(value, ast.Name) else ""


def _constant(value: ast.expr | None) -> str:
    return str(value.value) if isinstance(value, ast.Constant) else ""
