"""The user's task from its folder: `load_task("task.digits:DigitsTask", root)`.

One process may need several copies of one package (the repository's, and the one that each bundle
archived). Every copy is therefore imported under a private name, and the import statements inside it
(`from task.net import Net` as well as `from .net import Net`, at import time or later inside a
function) find their own copy. Bytecode is neither read nor written: a folder that is a DVC output or
an artefact's payload stays exactly as it is. `importlib.import_module("task.net")` by its public
name is not redirected.
"""

from __future__ import annotations

import builtins
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, SourceFileLoader
from importlib.util import spec_from_file_location
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any, TypeVar

from reprune.core.documents import digest_of
from reprune.core.errors import RepruneError, TaskError, nearest
from reprune.core.store import files, folder_digest
from reprune.task.protocol import Task

R = TypeVar("R")

PREFIX = "_reprune_task_"
FACTS = ("data_version", "preprocess_digest", "input_names")
METHODS = ("model", "example_inputs", "loss", "batches", "records", "workload")


def load_task(entry: str, root: Path) -> Task:
    """The task that `entry` ("package.module:Class") names below `root`, constructed without arguments.

    The same folder with the same content is imported once a process. Raises TaskError, with file and
    line of the user's code, for a folder, module or class that is not there, for an exception while
    importing or constructing, and for members of the Task protocol that are missing.
    """
    folder = task_folder(entry, root)
    module_name, class_name = _parts(entry)
    _module_file(module_name, folder)
    module = _import(module_name, folder, entry)
    made = getattr(module, class_name, None)
    if not isinstance(made, type):
        classes = [name for name, value in vars(module).items() if _is_own_class(value, module)]
        raise TaskError(
            f"has no class '{class_name}'; {nearest(class_name, classes)}",
            where=str(module.__file__),
            fix=f"define it, or correct `task: {entry}` in params.yaml",
        )
    task = guarded(made, folder=folder, doing=f"{class_name}()")
    missing = guarded(
        lambda: _missing(task), folder=folder, doing=f"reading {class_name}'s members"
    )
    if missing:
        raise TaskError(
            f"{class_name} lacks what every task offers: {', '.join(missing)}",
            where=str(module.__file__),
            fix="add them (reprune.task.protocol.Task says what each one is), or start from a base "
            "in reprune.task.bases",
        )
    return task  # type: ignore[no-any-return]  # a class of the user's; its members were looked at


def task_folder(entry: str, root: Path) -> Path:
    """The folder of the package that `entry` names. Raises TaskError if it is not there."""
    package = _parts(entry)[0].partition(".")[0]
    folder = (root / package).resolve()
    if not folder.is_dir():
        file = root / f"{package}.py"
        found = f"there is a file {file.name} instead" if file.is_file() else "nothing is there"
        raise TaskError(
            f"the task's folder is missing; {found}",
            where=str(folder),
            fix=f"a task is a folder: make {package}/, or correct `task: {entry}` in params.yaml",
        )
    return folder


def task_digest(entry: str, root: Path) -> str:
    """One digest over the files of the task's folder; no user code runs. Raises TaskError."""
    folder = task_folder(entry, root)
    _module_file(_parts(entry)[0], folder)
    return folder_digest(folder)


def guarded(call: Callable[[], R], *, folder: Path, doing: str) -> R:
    """What `call`, which runs the user's code, returns; its exceptions become a TaskError that says where."""
    try:
        return call()
    except RepruneError:
        raise
    except (Exception, SystemExit) as error:
        raise TaskError(
            f"{doing} failed: {type(error).__name__}: {error}",
            where=blame(error, folder),
            fix=_advice(error),
        ) from error


def blame(error: BaseException, folder: Path) -> str:
    """The innermost "file:line" below `folder`; the folder itself if no frame of `error` is below it."""
    if isinstance(error, SyntaxError) and error.filename and error.lineno:
        return f"{error.filename}:{error.lineno}"
    frames = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if Path(frame.filename).is_relative_to(folder)
    ]
    return f"{frames[-1].filename}:{frames[-1].lineno}" if frames else str(folder)


def _parts(entry: str) -> tuple[str, str]:
    module, colon, name = entry.partition(":")
    if not colon or not name.isidentifier() or not all(map(str.isidentifier, module.split("."))):
        raise TaskError(
            f"'{entry}' does not name a class",
            where="params.yaml (task)",
            fix='write it as "package.module:Class", for example task.digits:DigitsTask',
        )
    return module, name


def _module_file(module: str, folder: Path) -> Path:
    """The file that `module` is, below the package's folder. Raises TaskError with what is there."""
    inner = module.split(".")[1:]
    found = _find(folder, inner)
    if found is not None:
        return found
    if not inner:
        raise TaskError("is missing", where=str(folder / "__init__.py"), fix="create it")
    there = [
        ".".join((folder.name, *path.relative_to(folder).with_suffix("").parts))
        for path in files(folder)
        if path.suffix == ".py" and path.stem != "__init__"
    ]
    raise TaskError(
        f"there is no module '{module}'; {nearest(module, there)}",
        where=str(folder),
        fix=f"create {'/'.join((folder.name, *inner))}.py, or correct `task:` in params.yaml",
    )


def _find(folder: Path, inner: Sequence[str]) -> Path | None:
    base = folder.joinpath(*inner)
    candidates = [base / "__init__.py", *([base.with_name(f"{base.name}.py")] if inner else [])]
    return next((path for path in candidates if path.is_file()), None)


def _import(module_name: str, folder: Path, entry: str) -> ModuleType:
    package, _, inner = module_name.partition(".")
    key = digest_of([str(folder), folder_digest(folder)]).removeprefix("sha256:")[:16]
    private = f"{PREFIX}{key}"
    FINDER.folders[private] = (folder, package)
    if FINDER not in sys.meta_path:
        sys.meta_path.insert(0, FINDER)
    before = set(sys.modules)
    name = f"{private}.{inner}" if inner else private
    try:
        return guarded(lambda: import_module(name), folder=folder, doing=f"importing {entry}")
    except TaskError:
        for leftover in set(sys.modules) - before:
            if leftover.partition(".")[0] == private:
                del sys.modules[leftover]
        raise


class _CopyFinder(MetaPathFinder):
    """Finds the modules of copies: `folders` maps a private package name to (folder, public name)."""

    def __init__(self) -> None:
        self.folders: dict[str, tuple[Path, str]] = {}

    def find_spec(
        self,
        fullname: str,
        path: Sequence[str] | None,  # noqa: ARG002  the import system passes it
        target: ModuleType | None = None,  # noqa: ARG002  the import system passes it
    ) -> ModuleSpec | None:
        private, *inner = fullname.split(".")
        if private not in self.folders:
            return None
        folder, public = self.folders[private]
        base = folder.joinpath(*inner)
        file = _find(folder, inner)
        if file is None:
            if not base.is_dir():
                return None
            spec = ModuleSpec(fullname, None, is_package=True)
            spec.submodule_search_locations = [str(base)]
            return spec
        return spec_from_file_location(
            fullname,
            file,
            loader=_CopyLoader(fullname, str(file), private, public),
            submodule_search_locations=[str(base)] if file.name == "__init__.py" else None,
        )


class _CopyLoader(SourceFileLoader):
    """Compiles from source each time, and gives the module an `__import__` that knows its copy."""

    def __init__(self, fullname: str, path: str, private: str, public: str) -> None:
        super().__init__(fullname, path)
        self.private = private
        self.public = public

    def get_code(self, fullname: str) -> CodeType:
        path = self.get_filename(fullname)
        code: CodeType = self.source_to_code(self.get_data(path), path)
        return code

    def exec_module(self, module: ModuleType) -> None:
        # An import statement asks the builtins of the module that it stands in.
        own = vars(builtins) | {"__import__": self._import}
        module.__dict__["__builtins__"] = own
        super().exec_module(module)

    def _import(
        self,
        name: str,
        globals: Mapping[str, object] | None = None,
        locals: Mapping[str, object] | None = None,
        fromlist: Sequence[str] | None = (),
        level: int = 0,
    ) -> ModuleType:
        top, dot, rest = name.partition(".")
        if level == 0 and top == self.public:
            name = f"{self.private}{dot}{rest}"
        return builtins.__import__(name, globals, locals, fromlist or (), level)


FINDER = _CopyFinder()


def _is_own_class(value: object, module: ModuleType) -> bool:
    return isinstance(value, type) and value.__module__ == module.__name__


def _missing(task: Any) -> list[str]:
    facts = [name for name in FACTS if not hasattr(task, name)]
    methods = [f"{name}()" for name in METHODS if not callable(getattr(task, name, None))]
    return facts + methods


def _advice(error: BaseException) -> str:
    if isinstance(error, ModuleNotFoundError):
        return (
            "install the package, or put the module into the task's folder: only that folder is "
            "archived with the model"
        )
    return "correct the task; the line is the innermost one of your own code"
