"""A compiled pipeline whose wiring was changed is found out, whatever was changed."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from typing import Any

import pytest

from reprune.core.errors import RepruneError
from reprune.doors.kfp.catalogue import names
from reprune.doors.kfp.check import check_package, refuse
from reprune.doors.kfp.graph import upstream
from reprune.doors.kfp.options import Options
from reprune.doors.kfp.packages import compile_package
from reprune.doors.kfp.referring import check_references
from reprune.doors.kfp.wiring import check_wiring

Spec = dict[str, Any]
Mutation = Callable[[Spec, Spec], None]
# Of every pipeline that judges, and of the one for sets alone.
MUTATIONS: dict[str, tuple[Mutation, str]] = {}
OF_SETS: dict[str, tuple[Mutation, str]] = {}
# The mutations call tasks as continuous_compression does; what they call something else elsewhere.
ALIKE = {
    "continuous_compression": {},
    "perception": {
        "for-loop-1": "for-loop-members",
        "for-loop-3": "for-loop-shards",
        "for-loop-2": "for-loop-1",
        "for-loop-4": "for-loop-2",
        "fetch-set": "fetch-model",
    },
}
CALLED = {"perception": ("fetch_model", "fetch_set")}


@pytest.fixture(scope="module", params=ALIKE)
def pipeline(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def documents(pipeline: str) -> list[Spec]:
    """The compiled pipeline, its tasks called as those that do the same in continuous_compression."""
    text = json.dumps(compile_package(pipeline).documents)
    for old, new in ALIKE[pipeline].items():
        assert old in text
        assert new not in text, "two tasks would get one name"
        text = text.replace(old, new)
    found: list[Spec] = json.loads(text)
    assert check_package(found) == []
    return found


def mutation(expected: str, kind: str = "judging") -> Callable[[Mutation], Mutation]:
    """A change to the compiled pipeline and a piece of what the check must then say."""

    def add(change: Mutation) -> Mutation:
        (OF_SETS if kind == "set" else MUTATIONS)[change.__name__] = (change, expected)
        return change

    return add


def tasks(spec: Spec, dag: str = "") -> Spec:
    component = spec["components"][dag] if dag else spec["root"]
    return component["dag"]["tasks"]


def settings(platform: Spec, label: str) -> Spec:
    return platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"][label]


def artifact(spec: Spec, task: str, name: str, dag: str = "") -> Spec:
    return tasks(spec, dag)[task]["inputs"]["artifacts"][name]


def taken(producer: str, key: str) -> Spec:
    return {"taskOutputArtifact": {"producerTask": producer, "outputArtifactKey": key}}


LOOP = "comp-for-loop-2"


@mutation("does not wait for report")
def promote_before_report(spec: Spec, platform: Spec) -> None:
    promote = tasks(spec)["promote"]
    promote["dependentTasks"].remove("report")
    promote["inputs"]["artifacts"]["report"] = taken("gate", "verdict")


@mutation("promote: does not wait for gate")
def promote_before_gate(spec: Spec, platform: Spec) -> None:
    for name in ("promote", "report"):
        tasks(spec)[name]["dependentTasks"].remove("gate")
        tasks(spec)[name]["inputs"]["artifacts"]["verdict"] = taken("plan", "chosen")
    tasks(spec)["report"]["dependentTasks"].append("plan")


@mutation("without waiting for it")
def promote_waits_for_nothing(spec: Spec, platform: Spec) -> None:
    del tasks(spec)["promote"]["dependentTasks"]


@mutation("is a component that no task refers to")
def no_promote(spec: Spec, platform: Spec) -> None:
    del tasks(spec)["promote"]


@mutation("promote: is missing from a pipeline that judges")
def no_promote_anywhere(spec: Spec, platform: Spec) -> None:
    del tasks(spec)["promote"]
    del spec["components"]["comp-promote"]
    del spec["deploymentSpec"]["executors"]["exec-promote"]
    del platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"]["exec-promote"]


@mutation("runs promote only on a condition")
def promote_under_a_condition(spec: Spec, platform: Spec) -> None:
    tasks(spec)["promote"]["triggerPolicy"] = {"condition": "inputs.parameter_values['lock'] != ''"}


@mutation("whether or not what it waits for succeeded")
def promote_after_a_failure(spec: Spec, platform: Spec) -> None:
    tasks(spec)["promote"]["triggerPolicy"] = {"strategy": "ALL_UPSTREAM_TASKS_COMPLETED"}


@mutation("repeats promote")
def promote_repeated(spec: Spec, platform: Spec) -> None:
    tasks(spec)["promote"]["retryPolicy"] = {"maxRetryCount": 2}


@mutation("repeats benchmark")
def second_look_unasked(spec: Spec, platform: Spec) -> None:
    tasks(spec, LOOP)["benchmark"]["retryPolicy"] = {"maxRetryCount": 1}


@mutation("for-loop-2/benchmark: may be answered from the cache")
def cached_benchmark(spec: Spec, platform: Spec) -> None:
    tasks(spec, LOOP)["benchmark"]["cachingOptions"] = {"enableCache": True}


@mutation("gate: may be answered from the cache")
def cached_gate(spec: Spec, platform: Spec) -> None:
    tasks(spec)["gate"]["cachingOptions"] = {"enableCache": True}


@mutation("gate: is not given 'lock'")
def dropped_lock(spec: Spec, platform: Spec) -> None:
    del tasks(spec)["gate"]["inputs"]["parameters"]["lock"]


@mutation("is not given the text 'lock'")
def dropped_lock_with_a_default(spec: Spec, platform: Spec) -> None:
    del tasks(spec)["gate"]["inputs"]["parameters"]["lock"]
    declared = spec["components"]["comp-gate"]["inputDefinitions"]["parameters"]["lock"]
    declared |= {"isOptional": True, "defaultValue": ""}


@mutation("takes 'policy' from the parameter 'params'")
def swapped_texts(spec: Spec, platform: Spec) -> None:
    given = tasks(spec)["gate"]["inputs"]["parameters"]
    given["policy"], given["params"] = given["params"], given["policy"]


@mutation("takes 'lock' from the parameter 'policy'")
def swapped_text_on_the_way_into_a_loop(spec: Spec, platform: Spec) -> None:
    given = tasks(spec)["for-loop-2"]["inputs"]["parameters"]
    given["pipelinechannel--lock"]["componentInputParameter"] = "policy"


@mutation("takes 'policy' from the constant ''")
def a_text_of_its_own(spec: Spec, platform: Spec) -> None:
    given = tasks(spec)["gate"]["inputs"]["parameters"]
    given["policy"] = {"runtimeValue": {"constant": ""}}


@mutation("takes 'candidate' from 'pruned' of prune, which is no candidate")
def pruned_judged_as_candidate(spec: Spec, platform: Spec) -> None:
    tasks(spec)["gate"]["inputs"]["artifacts"]["candidate"] = taken("prune", "pruned")


@mutation("takes 'student' from 'dense' of fetch_model")
def swapped_teacher_and_student(spec: Spec, platform: Spec) -> None:
    given = tasks(spec)["distill"]["inputs"]["artifacts"]
    given["student"], given["teacher"] = given["teacher"], given["student"]


@mutation("takes another 'candidate' than gate judged")
def promotes_what_was_not_judged(spec: Spec, platform: Spec) -> None:
    _second(spec, platform, "distill")
    tasks(spec)["promote"]["inputs"]["artifacts"]["candidate"] = taken("distill-2", "candidate")
    tasks(spec)["promote"]["dependentTasks"].append("distill-2")


@mutation("stores the report of another verdict")
def report_of_another_verdict(spec: Spec, platform: Spec) -> None:
    _second(spec, platform, "gate")
    tasks(spec)["report"]["inputs"]["artifacts"]["verdict"] = taken("gate-2", "verdict")
    tasks(spec)["report"]["dependentTasks"].append("gate-2")


@mutation("takes 'dense' from 'candidate' of distill")
def swapped_models_on_the_way_into_a_loop(spec: Spec, platform: Spec) -> None:
    given = tasks(spec)["for-loop-2"]["inputs"]["artifacts"]
    names = ("pipelinechannel--fetch-model-dense", "pipelinechannel--distill-candidate")
    given[names[0]], given[names[1]] = given[names[1]], given[names[0]]


@mutation("takes 'engines' from 'measured' of benchmark")
def swapped_lists(spec: Spec, platform: Spec) -> None:
    given = tasks(spec)["gate"]["inputs"]["artifacts"]
    given["engines"], given["benchmarks"] = given["benchmarks"], given["engines"]


@mutation("mounts read_secret, which promote may not have")
def promote_with_the_read_secret(spec: Spec, platform: Spec) -> None:
    _secret(platform, "exec-promote")["componentInputParameter"] = "read_secret"


@mutation("mounts write_secret, which fetch_model may not have")
def fetch_with_the_write_secret(spec: Spec, platform: Spec) -> None:
    _secret(platform, "exec-fetch-model")["componentInputParameter"] = "write_secret"


@mutation("distill: mounts write_secret")
def a_secret_where_user_code_runs(spec: Spec, platform: Spec) -> None:
    mount = copy.deepcopy(settings(platform, "exec-promote")["secretAsEnv"])
    settings(platform, "exec-distill")["secretAsEnv"] = mount


@mutation("by a fixed name")
def a_secret_by_a_fixed_name(spec: Spec, platform: Spec) -> None:
    mount = settings(platform, "exec-fetch-model")["secretAsEnv"][0]
    del mount["secretNameParameter"]
    mount["secretName"] = "mine"


@mutation("does not mount read_secret")
def no_secret(spec: Spec, platform: Spec) -> None:
    del settings(platform, "exec-fetch-model")["secretAsEnv"]


@mutation("runs benchmark on several machines at once")
def two_machines_at_once(spec: Spec, platform: Spec) -> None:
    tasks(spec)["for-loop-2"]["iteratorPolicy"]["parallelismLimit"] = 2


@mutation("runs profile on several machines at once")
def as_many_machines_as_there_are(spec: Spec, platform: Spec) -> None:
    del tasks(spec)["for-loop-1"]["iteratorPolicy"]


@mutation("does not run in the image of the machine")
def another_machines_image(spec: Spec, platform: Spec) -> None:
    _second(spec, platform, "choose-machine-2", LOOP)
    given = tasks(spec, LOOP)["benchmark"]["inputs"]["parameters"]
    given["machine"]["taskOutputParameter"]["producerTask"] = "choose-machine-2-2"
    tasks(spec, LOOP)["benchmark"]["dependentTasks"].append("choose-machine-2-2")


@mutation("times what for-loop-2/build built for another machine")
def built_for_another_machine(spec: Spec, platform: Spec) -> None:
    _second(spec, platform, "choose-machine-2", LOOP)
    build = tasks(spec, LOOP)["build"]
    for name in ("machine", "pipelinechannel--choose-machine-2-image"):
        given = build["inputs"]["parameters"][name]["taskOutputParameter"]
        given["producerTask"] = "choose-machine-2-2"
    build["dependentTasks"].append("choose-machine-2-2")


@mutation("takes the machine's image for its name")
def image_taken_for_the_name(spec: Spec, platform: Spec) -> None:
    given = tasks(spec, LOOP)["build"]["inputs"]["parameters"]
    given["machine"]["taskOutputParameter"]["outputParameterKey"] = "image"


@mutation("not in 'control_image'")
def gate_beside_user_code(spec: Spec, platform: Spec) -> None:
    given = tasks(spec)["gate"]["inputs"]["parameters"]
    given["pipelinechannel--control_image"]["componentInputParameter"] = "compress_image"


@mutation("is neither pinned nor a parameter")
def a_moving_image(spec: Spec, platform: Spec) -> None:
    spec["deploymentSpec"]["executors"]["exec-plan"]["container"]["image"] = "reprune/plan:latest"


@mutation("defaults to an image that is not pinned")
def a_moving_default(spec: Spec, platform: Spec) -> None:
    parameters = spec["root"]["inputDefinitions"]["parameters"]
    parameters["control_image"]["defaultValue"] = "reprune/control"


@mutation("has another workspace")
def another_workspace(spec: Spec, platform: Spec) -> None:
    given = tasks(spec)["gate"]["inputs"]["parameters"]
    given["workspace"] = {"runtimeValue": {"constant": "/elsewhere"}}


@mutation("refers to the component 'comp-nothing'")
def dangling_component(spec: Spec, platform: Spec) -> None:
    tasks(spec)["gate"]["componentRef"]["name"] = "comp-nothing"


@mutation("refers to the executor 'exec-nothing'")
def dangling_executor(spec: Spec, platform: Spec) -> None:
    spec["components"]["comp-gate"]["executorLabel"] = "exec-nothing"


@mutation("which has no output 'judgement'")
def dangling_output(spec: Spec, platform: Spec) -> None:
    artifact(spec, "report", "verdict")["taskOutputArtifact"]["outputArtifactKey"] = "judgement"


@mutation("which comp-for-loop-2 is not given")
def dangling_input_of_a_loop(spec: Spec, platform: Spec) -> None:
    artifact(spec, "build", "dense", LOOP)["componentInputArtifact"] = "pipelinechannel--dense"


@mutation("of 'judge', which is no task beside it")
def dangling_producer(spec: Spec, platform: Spec) -> None:
    artifact(spec, "report", "verdict")["taskOutputArtifact"]["producerTask"] = "judge"


@mutation("waits for 'judge', which is no task beside it")
def dangling_dependency(spec: Spec, platform: Spec) -> None:
    tasks(spec)["promote"]["dependentTasks"].append("judge")


@mutation("waits for itself")
def a_circle(spec: Spec, platform: Spec) -> None:
    tasks(spec)["gate"]["dependentTasks"].append("promote")


@mutation("its output 'pipelinechannel--build-engines' is 'engine' of 'build'")
def dangling_collected(spec: Spec, platform: Spec) -> None:
    made = spec["components"][LOOP]["dag"]["outputs"]["artifacts"]
    made["pipelinechannel--build-engines"]["artifactSelectors"][0]["outputArtifactKey"] = "engine"


@mutation("loops over 'machine', which it is not given")
def dangling_items(spec: Spec, platform: Spec) -> None:
    tasks(spec)["for-loop-2"]["parameterIterator"]["items"]["inputParameter"] = "machine"


@mutation("its container reads 'pipelinechannel--gone'")
def dangling_placeholder(spec: Spec, platform: Spec) -> None:
    executor = spec["deploymentSpec"]["executors"]["exec-plan"]["container"]
    executor["image"] = "{{$.inputs.parameters['pipelinechannel--gone']}}"


@mutation("its Kubernetes setting secretNameParameter reads 'secret'")
def dangling_setting(spec: Spec, platform: Spec) -> None:
    _secret(platform, "exec-promote")["componentInputParameter"] = "secret"


@mutation("its Kubernetes setting nodeSelectorJson reads 'node_selector' of 'benchmark'")
def a_setting_of_a_later_task(spec: Spec, platform: Spec) -> None:
    given = settings(platform, "exec-build")["nodeSelector"]["nodeSelectorJson"]
    given["taskOutputParameter"]["producerTask"] = "benchmark"


@mutation("its Kubernetes setting nodeSelectorJson reads a STRING")
def a_setting_of_another_kind(spec: Spec, platform: Spec) -> None:
    given = settings(platform, "exec-build")["nodeSelector"]["nodeSelectorJson"]
    given["taskOutputParameter"]["outputParameterKey"] = "name"


@mutation("there is no such executor")
def settings_of_nothing(spec: Spec, platform: Spec) -> None:
    executors = platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"]
    executors["exec-gates"] = executors.pop("exec-gate")


@mutation("'machine' is STRING, not STRUCT")
def items_of_no_kind(spec: Spec, platform: Spec) -> None:
    given = spec["components"][LOOP]["inputDefinitions"]["parameters"]
    given["pipelinechannel--machines-loop-item"]["parameterType"] = "STRING"


@mutation("'benchmarks' is given one artifact")
def one_for_a_list(spec: Spec, platform: Spec) -> None:
    tasks(spec)["gate"]["inputs"]["artifacts"]["benchmarks"] = taken("plan", "chosen")


@mutation("is a system.Dataset, not a system.Model")
def another_type(spec: Spec, platform: Spec) -> None:
    tasks(spec)["prune"]["inputs"]["artifacts"]["dense"] = taken("validate-data", "data")


@mutation("is not given 'chosen'")
def missing_input(spec: Spec, platform: Spec) -> None:
    del tasks(spec)["prune"]["inputs"]["artifacts"]["chosen"]


@mutation("is given 'extra', which its component does not take")
def input_of_nothing(spec: Spec, platform: Spec) -> None:
    given = tasks(spec)["prune"]["inputs"]["parameters"]
    given["extra"] = {"runtimeValue": {"constant": "1"}}


@mutation("does not fit its schema")
def misspelt_field(spec: Spec, platform: Spec) -> None:
    spec["components"]["comp-gate"]["executorLable"] = "exec-gate"


@mutation("deploymentSpec: does not fit its schema")
def misspelt_container_field(spec: Spec, platform: Spec) -> None:
    container = spec["deploymentSpec"]["executors"]["exec-gate"]["container"]
    container["imagee"] = container.pop("image")


@mutation("platform executor exec-build: does not fit its schema")
def misspelt_toleration(spec: Spec, platform: Spec) -> None:
    executor = settings(platform, "exec-build")
    executor["tolerationz"] = executor.pop("tolerations")


@mutation("it has no root DAG")
def no_pipeline_at_all(spec: Spec, platform: Spec) -> None:
    spec.clear()


MEMBERS = "comp-for-loop-members"


@mutation("gives members the parameter 'write_secret' where they name no secret", "set")
def members_with_the_write_secret(spec: Spec, platform: Spec) -> None:
    given = tasks(spec)["for-loop-members"]["inputs"]["parameters"]
    given["pipelinechannel--read_secret"]["componentInputParameter"] = "write_secret"


@mutation("gives members the constant 'mine' where they name no secret", "set")
def members_with_a_fixed_secret(spec: Spec, platform: Spec) -> None:
    given = tasks(spec, MEMBERS)["choose-member"]["inputs"]["parameters"]
    given["read_secret"] = {"runtimeValue": {"constant": "mine"}}


@mutation("fetch-member: does not mount the secret of the member", "set")
def a_member_without_a_secret(spec: Spec, platform: Spec) -> None:
    del settings(platform, "exec-fetch-member")["secretAsEnv"]


@mutation("fetch-member: mounts read_secret, which fetch_member may not have", "set")
def a_member_with_the_runs_secret(spec: Spec, platform: Spec) -> None:
    mount = settings(platform, "exec-fetch-member")["secretAsEnv"][0]
    name = "pipelinechannel--read_secret"
    mount["secretNameParameter"] = {"componentInputParameter": name}


@mutation("fetch-member: mounts the secret of another member", "set")
def a_member_with_anothers_secret(spec: Spec, platform: Spec) -> None:
    _second(spec, platform, "choose-member", MEMBERS)
    task = tasks(spec, MEMBERS)["fetch-member"]
    given = task["inputs"]["parameters"]["shard"]["taskOutputParameter"]
    given["producerTask"] = "choose-member-2"
    task["dependentTasks"].append("choose-member-2")


@mutation("mounts the output 'shard' of for-loop-members/choose-member", "set")
def a_member_with_its_number_for_a_secret(spec: Spec, platform: Spec) -> None:
    mount = _secret(platform, "exec-fetch-member")
    mount["taskOutputParameter"]["outputParameterKey"] = "shard"


@mutation("takes its member from the constant '0/3', which chooses none", "set")
def the_same_member_each_time(spec: Spec, platform: Spec) -> None:
    given = tasks(spec, MEMBERS)["fetch-member"]["inputs"]["parameters"]
    given["shard"] = {"runtimeValue": {"constant": "0/3"}}


@mutation("for-loop-members/fetch-member: runs in the parameter 'compress_image'", "set")
def members_fetched_beside_user_code(spec: Spec, platform: Spec) -> None:
    given = tasks(spec)["for-loop-members"]["inputs"]["parameters"]
    given["pipelinechannel--control_image"]["componentInputParameter"] = "compress_image"


@mutation("fetch-model: is not given 'members'", "set")
def a_set_of_nothing(spec: Spec, platform: Spec) -> None:
    del tasks(spec)["fetch-model"]["inputs"]["artifacts"]["members"]


@mutation("takes 'members' from 'measured' of sensitivity_shard, which is no member", "set")
def shards_joined_as_members(spec: Spec, platform: Spec) -> None:
    joined = _second(spec, platform, "fetch-model")
    shards = artifact(spec, "sensitivity-merge", "shards")
    joined["inputs"]["artifacts"]["members"] = copy.deepcopy(shards)
    joined["dependentTasks"].append("for-loop-shards")


@mutation("takes another 'table' than gate judged", "set")
def another_table_than_was_judged(spec: Spec, platform: Spec) -> None:
    _second(spec, platform, "sensitivity-merge")
    tasks(spec)["promote"]["inputs"]["artifacts"]["table"] = taken("sensitivity-merge-2", "table")
    tasks(spec)["promote"]["dependentTasks"].append("sensitivity-merge-2")


def _secret(platform: Spec, label: str) -> Spec:
    return settings(platform, label)["secretAsEnv"][0]["secretNameParameter"]


def _second(spec: Spec, platform: Spec, name: str, dag: str = "") -> Spec:
    """A task beside the one called `name` that does the same, as kfp would compile it."""
    there = tasks(spec, dag)
    there[f"{name}-2"] = copy.deepcopy(there[name])
    there[f"{name}-2"]["taskInfo"]["name"] = f"{name}-2"
    made: Spec = there[f"{name}-2"]
    return made


@pytest.mark.slow
@pytest.mark.parametrize("name", names())
def test_our_pipelines_are_sound(name: str) -> None:
    """With and without a volume, for artefacts and for data, nothing is found."""
    compile_package(name)
    compile_package(name, Options(workspace="5Gi", data_claim="data", retries=0))


def found_out(change: Mutation, expected: str, documents: list[Spec]) -> None:
    """The change is found, and said in the words that name it."""
    changed = copy.deepcopy(documents)
    change(*changed)
    assert changed != documents
    found = [str(each) for each in check_package(changed)]
    assert any(expected in each for each in found), found
    with pytest.raises(RepruneError, match="not sound"):
        refuse("mutant", check_package(changed))


@pytest.mark.slow
@pytest.mark.parametrize("name", MUTATIONS)
def test_a_mutation_is_found(name: str, pipeline: str, documents: list[Spec]) -> None:
    """In every pipeline that judges."""
    change, expected = MUTATIONS[name]
    found_out(change, expected.replace(*CALLED.get(pipeline, ("", ""))), documents)


@pytest.mark.parametrize("name", OF_SETS)
@pytest.mark.parametrize("pipeline", ["perception"], indirect=True, scope="module")
def test_a_mutation_of_the_members_is_found(name: str, documents: list[Spec]) -> None:
    found_out(*OF_SETS[name], documents)


def test_every_mutation_is_another_one(pipeline: str, documents: list[Spec]) -> None:
    """No two of them change the same thing, so that the count means what it says."""
    seen = []
    changes = [*MUTATIONS.values(), *(OF_SETS.values() if pipeline == "perception" else ())]
    for change, _ in changes:
        changed = copy.deepcopy(documents)
        change(*changed)
        assert changed not in seen, change.__name__
        seen.append(changed)


def dags(spec: Spec) -> dict[str, Spec]:
    return {"": spec["root"]} | {
        name: each for name, each in spec["components"].items() if "dag" in each
    }


def others(spec: Spec, dag: Spec, task: str, kind: str) -> list[Spec]:
    """All that an input of the task could refer to instead: outputs beside it, inputs of its DAG."""
    word, key = (
        ("taskOutputArtifact", "outputArtifactKey")
        if kind == "artifacts"
        else ("taskOutputParameter", "outputParameterKey")
    )
    outer = "componentInputArtifact" if kind == "artifacts" else "componentInputParameter"
    found = [{outer: name} for name in dag.get("inputDefinitions", {}).get(kind, {})]
    for producer, each in dag["dag"]["tasks"].items():
        component = spec["components"][each["componentRef"]["name"]]
        if producer != task and task not in upstream(dag["dag"]["tasks"], producer):
            outputs = component.get("outputDefinitions", {}).get(kind, {})
            found += [{word: {"producerTask": producer, key: name}} for name in outputs]
    return found


def rewired(documents: list[Spec], kind: str, only: tuple[str, ...] = ()) -> tuple[int, list[str]]:
    """Gives every input everything else instead, one at a time: how many, and what was not found."""
    spec, platform = copy.deepcopy(documents)
    count, missed = 0, []
    for dag in dags(spec).values():
        for name, task in dag["dag"]["tasks"].items():
            given = task.get("inputs", {}).get(kind, {})
            for each in [key for key in given if not only or key.rpartition("--")[2] in only]:
                before, waits = given[each], list(task.get("dependentTasks", []))
                for other in others(spec, dag, name, kind):
                    if other == before:
                        continue
                    producer = next(iter(other.values()))
                    if isinstance(producer, dict):
                        task["dependentTasks"] = [*waits, producer["producerTask"]]
                    given[each] = other
                    count += 1
                    if not (check_references(spec, platform) or check_wiring(spec, platform)):
                        missed.append(f"{name}.{each} <- {other}")
                    task["dependentTasks"] = waits
                given[each] = before
    return count, missed


LEAST = {"continuous_compression": 300, "perception": 400, "sharded_sensitivity": 10}


@pytest.mark.slow
@pytest.mark.parametrize("name", names())
def test_nothing_takes_the_place_of_another(name: str) -> None:
    """Every artefact and text that a task takes, replaced by every other one that it could be given."""
    documents = compile_package(name).documents
    for kind, only in (("artifacts", ()), ("parameters", ("lock", "params", "policy"))):
        count, missed = rewired(documents, kind, only)
        assert count > LEAST[name]
        assert missed == []


def test_no_wait_is_superfluous(documents: list[Spec]) -> None:
    """Whatever a task waits for, it waits for a reason: without it, the check says so."""
    spec, platform = copy.deepcopy(documents)
    count = 0
    for dag in dags(spec).values():
        for name, task in dag["dag"]["tasks"].items():
            for each in list(task.get("dependentTasks", [])):
                task["dependentTasks"].remove(each)
                if each not in upstream(dag["dag"]["tasks"], name):
                    count += 1
                    assert check_references(spec, platform), f"{name} after {each}"
                task["dependentTasks"].append(each)
    assert count >= 10
