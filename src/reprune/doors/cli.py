"""`reprune`: translates words on a command line into one call, and its end into an exit code.

Nothing is imported for a command that was not asked for: `reprune --help` loads no heavy library.
"""

from __future__ import annotations

import argparse
import sys
import traceback
from collections.abc import Sequence
from importlib import import_module
from typing import NoReturn

import msgspec

from reprune import __version__
from reprune.core.errors import (
    EXIT_BROKEN,
    EXIT_INPUT,
    InputError,
    Interrupted,
    RepruneError,
    nearest,
)
from reprune.doors.output import ErrorOutput
from reprune.doors.screen import write_what_it_has
from reprune.steps import BESIDE, STEPS

COMMANDS: dict[str, tuple[str, str]] = {
    "init": ("write task/, params.yaml, policy.yaml and dvc.yaml into a repository", "init"),
    "update": ("pin the newest dense version and the champion in reprune.lock.yaml", "commands"),
    "check": ("read a verdict or a receipt; its outcome is the exit code", "commands"),
    "explain": ("say why, where, and what to try", "commands"),
    "propose": ("put a new lock into one pull request, opened or refreshed", "propose"),
    "comment": ("tell a verdict in its pull request, once, and set the check", "comment"),
    "override": ("let one blocked candidate through, by name, with a reason", "commands"),
    "promote": ("register what was judged, and move the champion if it passed", "commands"),
    "diff": ("compare two verdicts, plans or generations", "diff"),
    "history": ("list the generations, or what of them waits for a person", "history"),
    "rollback": ("return the champion to a version that served before", "rollback"),
    "adopt": ("make a model that already serves the champion, unjudged, by name", "adopt"),
    "submit": ("run the pipeline in a cluster, and say what came of it", "submit"),
    "project": ("describe this repository for the image that `serve` starts runs of", "project"),
    "serve": ("watch registries, and start a run for each newest version", "serve"),
    "anchor": ("make a promoted version the reference that does not move by itself", "commands"),
    "kit": ("write a folder that measures on a device which nobody can call", "device"),
    "import": ("take back what a kit measured", "device"),
    "compile": ("write the pipelines for Kubeflow as YAML, checked", "compile"),
    "sources": ("write a microcontroller's engine as C files", "sources"),
    "doctor": ("say what this machine can build and measure, and what is missing", "doctor"),
    "device-run": ("run a device job here: what `run` of a target starts on its device", "device"),
}

HELP = f"""usage: reprune [--version] [-h] COMMAND ...

Re-compresses every retrained model, and refuses to promote one that got worse or slower.

commands:
{{commands}}

steps (`dvc repro` runs them in this order; each takes artefact folders and writes one):
  {{steps}}

steps of pipelines in a cluster alone:
  {{beside}}

`reprune COMMAND -h` says what it takes. Every command has --json.
exit codes: 0 done or pass, 1 we broke, 2 your input is wrong, 3 blocked, 4 inconclusive.
Reprune {__version__}"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command. Returns the exit code; never raises for what a user can cause."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    as_json = "--json" in words
    write_what_it_has(as_json=as_json)
    try:
        return _dispatch(words)
    except RepruneError as error:
        return _fail(error, as_json)
    except KeyboardInterrupt:
        return _fail(Interrupted("was interrupted; nothing is half-written"), as_json)
    except BrokenPipeError:
        return EXIT_BROKEN
    except Exception as error:  # noqa: BLE001 - the last door: whatever else happens, we broke
        traceback.print_exc()
        return _fail(
            RepruneError(
                f"Reprune itself failed: {type(error).__name__}: {error}",
                fix="report this with the lines above; your files are as they were",
            ),
            as_json,
        )


def _dispatch(words: list[str]) -> int:
    if not words or words[0] in ("-h", "--help", "help"):
        print(_help())
        return 0 if words else EXIT_INPUT
    if words[0] in ("--version", "-V"):
        print(f"reprune {__version__}")
        return 0
    name = words[0]
    if name in COMMANDS:
        module, define = COMMANDS[name][1], f"define_{name.replace('-', '_')}"
    elif name in STEPS:
        module, define = "steps", "define_step"
    else:
        raise InputError(
            f"there is no command '{name}'; {nearest(name, [*COMMANDS, *STEPS])}",
            fix="`reprune --help` lists the commands",
        )
    parser = _Parser(prog=f"reprune {name}", allow_abbrev=False)
    parser.add_argument("-C", dest="root", default=".", metavar="DIR", help="start in DIR")
    parser.add_argument("--json", action="store_true", help="print one JSON object on stdout")
    execute = getattr(import_module(f"reprune.doors.{module}"), define)(parser)
    parsed, unknown = parser.parse_known_args(words[1:])
    if unknown:
        known = [text for action in parser._actions for text in action.option_strings]
        flag = unknown[0].partition("=")[0]
        raise InputError(f"reprune {name} does not know '{flag}'; {nearest(flag, known)}")
    code: int = execute(parsed)
    return code


class _Parser(argparse.ArgumentParser):
    """Raises InputError instead of printing the usage and leaving."""

    def error(self, message: str) -> NoReturn:
        raise InputError(f"{self.prog}: {message}", fix=f"`{self.prog} -h` says what it takes")


def _help() -> str:
    width = max(map(len, COMMANDS))
    commands = "\n".join(f"  {name:{width}}  {text}" for name, (text, _) in COMMANDS.items())
    steps, beside = (
        "  ".join(name for name in STEPS if (name in BESIDE) is alone) for alone in (False, True)
    )
    return HELP.format(commands=commands, steps=steps, beside=beside)


def _fail(error: RepruneError, as_json: bool) -> int:
    if as_json:
        output = ErrorOutput(
            code=error.code,
            what=error.what,
            where=error.where,
            fix=error.fix,
            exit_code=error.exit_code,
            reason=getattr(error, "reason", ""),
        )
        print(msgspec.json.encode(output).decode())
    else:
        print(f"error: {error}", file=sys.stderr)
    return error.exit_code


if __name__ == "__main__":
    sys.exit(main())
