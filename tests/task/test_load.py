"""The loader: isolated copies of one package name, and errors that say where in the user's code."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from reprune.core.errors import TaskError
from reprune.task.load import load_task, task_digest, task_folder

MEMBERS = """
    data_version = preprocess_digest = "1"
    input_names = ("x",)
    def model(self): ...
    def example_inputs(self, batch_size): ...
    def loss(self, module, batch, generator): ...
    def batches(self, split, *, epoch, seed, rank=0, world=1, start=0): ...
    def records(self, outputs, batch): ...
    def workload(self): ...
"""


def write(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return root


def make_copy(root: Path, word: str) -> Path:
    """A package with relative, absolute, plain and late imports of its own modules."""
    return write(
        root,
        {
            "task/__init__.py": "",
            "task/word.py": f"WORD = {word!r}\n",
            "task/deep/inner.py": "from task.word import WORD\nfrom ..word import WORD as SAME\n",
            "task/it.py": (
                "import task.word\n"
                "import task.word as alias\n"
                "from task import word\n"
                "from task.deep.inner import SAME, WORD\n"
                "from .word import WORD as RELATIVE\n"
                "class It:\n"
                "    words = (task.word.WORD, alias.WORD, word.WORD, WORD, SAME, RELATIVE)\n"
                "    def late(self):\n"
                "        from task.word import WORD\n"
                "        from .word import WORD as RELATIVE\n"
                "        import task.deep.inner\n"
                "        return WORD, RELATIVE, task.deep.inner.WORD\n" + MEMBERS
            ),
        },
    )


def test_two_copies_of_one_package_stay_apart(tmp_path: Path) -> None:
    """Each copy sees its own modules, at import time and later, and sys.modules has no `task`."""
    one = load_task("task.it:It", make_copy(tmp_path / "one", "first"))
    two = load_task("task.it:It", make_copy(tmp_path / "two", "second"))
    assert set(one.words) == {"first"}
    assert set(two.words) == {"second"}
    assert set(one.late()) == {"first"}
    assert set(two.late()) == {"second"}
    assert "task" not in sys.modules
    assert "task.word" not in sys.modules


def test_loading_leaves_an_imported_package_of_that_name_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A `task` that the process imported the usual way is the same object afterwards."""
    monkeypatch.syspath_prepend(str(make_copy(tmp_path / "usual", "usual")))
    import task.word

    before = {name: module for name, module in sys.modules.items() if name.startswith("task")}
    loaded = load_task("task.it:It", make_copy(tmp_path / "copy", "copy"))
    after = {name: module for name, module in sys.modules.items() if name.startswith("task")}
    assert set(loaded.words) == {"copy"}
    assert task.word.WORD == "usual"
    assert before == after
    for name in before:
        del sys.modules[name]


def test_loading_writes_nothing_into_the_folder(tmp_path: Path) -> None:
    """An artefact's payload stays as it is: no bytecode appears."""
    root = make_copy(tmp_path, "x")
    before = sorted(tmp_path.rglob("*"))
    load_task("task.it:It", root)
    assert sorted(tmp_path.rglob("*")) == before


def test_an_edited_copy_is_loaded_anew(tmp_path: Path) -> None:
    """The same path with other content gives the other content; with the same, the same class."""
    root = make_copy(tmp_path, "old")
    old = load_task("task.it:It", root)
    assert type(load_task("task.it:It", root)) is type(old)
    make_copy(tmp_path, "new")
    assert set(load_task("task.it:It", root).words) == {"new"}
    assert set(old.late()) == {"old"}


def test_the_digest_is_over_the_files_and_runs_no_code(tmp_path: Path) -> None:
    """Equal folders have equal digests, an edit changes it, code that cannot be imported has one."""
    one = write(tmp_path / "one", {"task/__init__.py": "", "task/it.py": "raise RuntimeError"})
    two = write(tmp_path / "two", {"task/__init__.py": "", "task/it.py": "raise RuntimeError"})
    digest = task_digest("task.it:It", one)
    assert digest == task_digest("task.it:It", two)
    write(two, {"task/labels.csv": "id,label\n"})
    assert digest != task_digest("task.it:It", two)
    assert task_folder("task.it:It", one) == (one / "task").resolve()


@pytest.mark.parametrize(
    ("entry", "files", "words", "where"),
    [
        ("task.it:It", {}, "folder is missing", "task"),
        ("task:It", {"task.py": ""}, "there is a file task.py instead", "task"),
        ("task.digit:It", {"task/digits.py": ""}, "did you mean 'task.digits'", "task"),
        ("task.it:Itt", {"task/it.py": "class It: ..."}, "did you mean 'It'", "it.py"),
        ("task.it", {"task/it.py": ""}, "does not name a class", "(task)"),
        ("task:It", {"task/it.py": ""}, "is missing", "__init__.py"),
        ("task.it:It", {"task/it.py": "x = 1\ny = 1 / 0\n"}, "ZeroDivisionError", "it.py:2"),
        ("task.it:It", {"task/it.py": "x = 1\ny = = 1\n"}, "SyntaxError", "it.py:2"),
        ("task.it:It", {"task/it.py": "import sys\nsys.exit('no data')\n"}, "no data", "it.py:2"),
        ("task.it:It", {"task/it.py": "import nobody_has_this\n"}, "nobody_has_this", "it.py:1"),
        (
            "task.it:It",
            {"task/it.py": "class It:\n  def __init__(self):\n    open('/no/such/file')\n"},
            "No such file",
            "it.py:3",
        ),
        ("task.it:It", {"task/it.py": "class It:\n  def __init__(self, path): ...\n"}, "path", ""),
    ],
)
def test_what_cannot_be_loaded_says_why_and_where(
    tmp_path: Path, entry: str, files: dict[str, str], words: str, where: str
) -> None:
    """Each way to fail is a TaskError with the cause in words and the user's file, and a cure."""
    with pytest.raises(TaskError) as raised:
        load_task(entry, write(tmp_path, files))
    assert words in str(raised.value)
    assert raised.value.where.endswith(where)
    assert raised.value.fix


def test_the_cause_is_chained(tmp_path: Path) -> None:
    """The user's own exception is the cause, for who wants the whole traceback."""
    with pytest.raises(TaskError) as raised:
        load_task("task.it:It", write(tmp_path, {"task/it.py": "{}['key']\n"}))
    assert isinstance(raised.value.__cause__, KeyError)


def test_missing_members_are_all_named(tmp_path: Path) -> None:
    """A class that is half a task gets the whole list at once."""
    text = "class It:\n    data_version = '1'\n    def model(self): ...\n    batches = 3\n"
    with pytest.raises(TaskError, match="preprocess_digest, input_names, example_inputs") as raised:
        load_task("task.it:It", write(tmp_path, {"task/it.py": text}))
    assert "batches()" in str(raised.value)
    assert "data_version" not in str(raised.value)


def test_a_failed_import_is_tried_again(tmp_path: Path) -> None:
    """Nothing half-imported stays behind: the repaired environment loads."""
    root = make_copy(tmp_path, "x")
    write(
        root, {"task/it.py": "import os\nos.environ['REPRUNE_TEST_SET']\n" + "class It:" + MEMBERS}
    )
    with pytest.raises(TaskError):
        load_task("task.it:It", root)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("REPRUNE_TEST_SET", "1")
        assert load_task("task.it:It", root).data_version == "1"
