"""Many versions at once, as `register` would leave them: through it they would take minutes."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

from reprune.registry.files import FilesRegistry


def fill_mlflow(
    database: Path, name: str, count: int, *, first: int = 1, at_ms: int = 1_000
) -> None:
    """Rows in MLflow's own tables, one version a millisecond from `at_ms` on."""
    rows = [(name, n, at_ms + n, f"file:///versions/{n}") for n in range(first, first + count)]
    with closing(sqlite3.connect(database)) as connection, connection:
        connection.execute(
            "insert or ignore into registered_models (workspace, name, creation_time) "
            "values ('default', ?, 1)",
            (name,),
        )
        connection.executemany(
            "insert into model_versions (workspace, name, version, creation_time, last_updated_time, "
            "current_stage, source, status) values ('default', ?, ?, ?, 1, 'None', ?, 'READY')",
            rows,
        )


def fill_files(registry: FilesRegistry, name: str, count: int, *, first: int = 1) -> None:
    """Folders of a registry that is there, without files in them."""
    for number in range(first, first + count):
        version = registry.folder / name / str(number)
        (version / "files").mkdir(parents=True)
        (version / "version.json").write_text(f'{{"stamp": "s{number}", "tags": {{}}}}')
