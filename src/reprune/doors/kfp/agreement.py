"""Whether each component says what its step says: the same inputs, texts and kinds, in one call.

A component is read, not run: its module is parsed, and compared with the signature of the step that
its body names. What a component may be is narrow on purpose, so that nothing is left to read.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

from reprune.core.artifacts import DataReport, Manifest, ModelBundle
from reprune.core.step import Step
from reprune.doors.kfp.component_source import Component, Parameter, read_component
from reprune.doors.kfp.evidence import PROMOTED
from reprune.doors.kfp.findings import Finding
from reprune.steps import STEPS, get_step

TEXTS = ("lock", "params", "policy")
SETTINGS = {"base_image", "install_kfp_package"}
IMAGES = "reprune.doors.kfp.images"
MOST_STATEMENTS = 5
# What the UI reads, by the name that `run_component` takes it under.
SHOWN = {
    "metrics": "Metrics",
    "confusion": "ClassificationMetrics",
    "html": "HTML",
    "markdown": "Markdown",
}
# By the call that reads the registry: each output of the component, and the step that makes it.
FETCHED = {
    "run_fetch": {"dense": "fetch-dense", "previous": "fetch-previous"},
    "run_fetch_set": {"dense": "join-members", "previous": "fetch-previous"},
}
# Components that run no step: they read texts alone, and hand on parameters.
PLAIN = {
    "choose": "reprune.doors.kfp.machines",
    "choose_member": "reprune.doors.kfp.members",
}


def check_components(folder: Path) -> list[Finding]:
    """What disagrees in `folder`, which holds one folder a component; the steps that have none."""
    found: list[Finding] = []
    called: set[str] = set()
    for path in sorted(folder.glob("*/component.py")):
        name = path.parent.name
        try:
            component = read_component(path)
        except ValueError as error:
            found.append(Finding(name, str(error)))
            continue
        found += [Finding(name, what) for what in _check(component, name)]
        called |= steps_called(component)
    found += [
        Finding(step, "is a step that no component runs") for step in STEPS if step not in called
    ]
    return found


def steps_called(component: Component) -> set[str]:
    """The steps that the component's one call runs."""
    if component.call in FETCHED:
        return set(FETCHED[component.call].values())
    return {component.step} if component.step in STEPS else set()


def kfp_type(kind: type[Manifest]) -> str:
    """The type of Kubeflow's that artefacts of this kind are shown as."""
    if issubclass(kind, ModelBundle):
        return "Model"
    return "Dataset" if issubclass(kind, DataReport) else "Artifact"


def _check(component: Component, name: str) -> Iterator[str]:
    if component.name != name:
        yield f"defines '{component.name}', and lies in the folder '{name}'"
    yield from _check_module(component)
    yield from _check_documented(component)
    if component.call in PLAIN:
        return
    for text in TEXTS:
        given = component.parameters.get(text)
        if given is None or given.type != "str" or given.optional:
            yield f"does not take the text '{text}'"
    if component.texts != TEXTS:
        yield f"passes {', '.join(component.texts) or 'nothing'} where lock, params, policy belong"
    unused = component.parameters.keys() - component.passed
    if unused:
        yield f"takes {', '.join(sorted(unused))}, and passes it on to nothing"
    if component.call == "run_component":
        yield from _check_step(component)
    elif component.call in FETCHED:
        yield from _check_fetch(component, FETCHED[component.call])
    elif component.call == "run_promote":
        yield from _check_promote(component)
    else:
        yield f"calls '{component.call}', which runs no step"


def _check_module(component: Component) -> Iterator[str]:
    for module in component.imports:
        if module.partition(".")[0] not in {*sys.stdlib_module_names, "kfp"} and module != IMAGES:
            yield f"imports '{module}' at its top, where only kfp and Python itself may be"
    if "__future__" in component.imports:
        yield "imports from __future__, which kfp cannot read"
    if component.settings.keys() != SETTINGS:
        yield f"is decorated with {', '.join(sorted(component.settings))}, not {', '.join(sorted(SETTINGS))}"
    if component.settings.get("install_kfp_package") != "False":
        yield "lets kfp be installed when a task starts"
    if component.settings.get("base_image") not in component.images:
        yield f"does not name one of {IMAGES} as its image"
    if component.statements > MOST_STATEMENTS:
        yield f"has a body of {component.statements} statements: logic belongs into the step"


def _check_documented(component: Component) -> Iterator[str]:
    from docstring_parser import parse

    parsed = parse(component.docstring)
    described = {each.arg_name for each in parsed.params if each.description}
    for parameter in component.parameters.keys() ^ described:
        word = "does not describe" if parameter in component.parameters else "describes"
        yield f"its docstring {word} '{parameter}'"


def _check_step(component: Component) -> Iterator[str]:
    if component.step not in STEPS:
        yield f"runs '{component.step}', which is no step"
        return
    step = get_step(component.step)
    wanted = {given.name for given in step.inputs}
    if set(component.inputs) != wanted:
        odd = ", ".join(sorted(set(component.inputs) ^ wanted))
        yield f"does not pass the inputs of '{step.name}': {odd}"
    for given in step.inputs:
        if given.name in component.inputs:
            yield from _check_input(component, given.name, kfp_type(given.kind), many=given.many)
    for name, parameter in component.inputs.items():
        if parameter != name:
            yield f"passes '{parameter}' as '{name}'"
    yield from _check_output(component, component.out, step)
    yield from _check_shown(component)
    yield from _check_place(component)


def _check_input(component: Component, name: str, kind: str, *, many: bool) -> Iterator[str]:
    yield from _check_type(component, name, component.inputs[name], kind, many)


def _check_type(
    component: Component, name: str, parameter: str, kind: str, many: bool
) -> Iterator[str]:
    wanted = f"Input[{f'list[{kind}]' if many else kind}]"
    found = component.parameters.get(parameter, Parameter("nothing", optional=False))
    if found.type != wanted:
        yield f"'{name}' is {found.type}, not {wanted}"


def _check_output(component: Component, name: str, step: Step) -> Iterator[str]:
    wanted = f"Output[{kfp_type(step.output)}]"
    found = component.parameters.get(name, Parameter("nothing", optional=False))
    if found.type != wanted:
        yield f"'{name}' is {found.type}, and '{step.name}' makes {wanted}"


def _check_shown(component: Component) -> Iterator[str]:
    outputs = {
        name: each.type
        for name, each in component.parameters.items()
        if each.type.startswith("Output[") and name != component.out
    }
    for name, kind in outputs.items():
        if component.shown.get(name) != name or kind != f"Output[{SHOWN.get(name)}]":
            yield f"does not fill the output '{name}'"
    for name in component.shown.keys() - outputs.keys():
        yield f"passes '{name}', which is no output"


def _check_place(component: Component) -> Iterator[str]:
    """Machine, workspace and the like go where they are named for."""
    for name, parameter in component.place.items():
        if name != parameter:
            yield f"passes '{parameter}' as the place's '{name}'"
    if "workspace" not in component.place:
        yield "does not pass on the workspace"


def _check_fetch(component: Component, outputs: Mapping[str, str]) -> Iterator[str]:
    """run_fetch(texts, *outputs, *inputs, workspace): what the steps take and make, in this order."""
    for position, (name, step) in enumerate(outputs.items(), start=1):
        if component.positional[position : position + 1] != (name,):
            yield f"does not fill '{name}'"
        yield from _check_output(component, name, get_step(step))
    inputs = [given for step in outputs.values() for given in get_step(step).inputs]
    wanted = (*(given.name for given in inputs), "workspace")
    if component.positional[1 + len(outputs) :] != wanted:
        yield f"does not pass on {', '.join(wanted[:-1]) or 'the workspace'}, and the workspace last"
    for given in inputs:
        yield from _check_type(component, given.name, given.name, kfp_type(given.kind), given.many)


def _check_promote(component: Component) -> Iterator[str]:
    kinds = _kinds()
    wanted = {("plan" if name == "chosen" else name): name for name in PROMOTED}
    if component.inputs != wanted:
        yield f"does not hand over {', '.join(wanted)}, each under its name"
        return
    for field, name in wanted.items():
        many = field in ("engines", "profiles")
        yield from _check_input(component, field, kinds[PROMOTED[name]], many=many)
    if component.parameters.get(component.out, Parameter("", optional=False)).type != (
        "Output[Artifact]"
    ):
        yield "does not hand out the receipt"
    if component.positional[3:] != ("workspace",):
        yield "does not pass on the workspace"


def _kinds() -> Mapping[str, str]:
    from reprune.doors.local import STAGES

    return {stage.out: kfp_type(get_step(stage.step).output) for stage in STAGES}
