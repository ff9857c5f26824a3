"""The root of the command line: which commands there are, and how an error becomes an exit code.

`everynode.cli.main()` calls `run`. Commands are named in a table and imported when they are called: the table is
all that this module knows of them.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, NamedTuple

import typer
from typer.core import TyperGroup

from everynode import __version__
from everynode.cli.exits import ExitCode, exit_code_of
from everynode.cli.options import LogFormatOption, LogLevelOption, NoColor
from everynode.cli.terminal import (
    discard_stdout,
    error_line,
    escape_what_stdout_cannot_write,
    forbid_color,
)
from everynode.errors import EverynodeError

EPILOG = """
Exit codes:
0 done
1 something was refused, was not found, or did not happen in time; the rest was done
2 wrong usage
3 the log (NATS), or who was asked, gave no answer
130 interrupted

Example: everynode up --nodes 60 deploy/examples
"""


class Entry(NamedTuple):
    """Where a command lives, and under which heading the help lists it."""

    module: str
    panel: str


_RUN = "Run"
_SETS = "DaemonSets"
_FLEET = "Fleet"
_TIME = "Time travel"

COMMANDS = {
    "up": Entry("up", _RUN),
    "worker": Entry("worker", _RUN),
    "adapter": Entry("adapter", _RUN),
    "plan": Entry("plan", _SETS),
    "apply": Entry("apply", _SETS),
    "delete": Entry("delete", _SETS),
    "get": Entry("get", _SETS),
    "describe": Entry("describe", _SETS),
    "explain": Entry("explain", _SETS),
    "rollout": Entry("rollout", _SETS),
    "events": Entry("events", _SETS),
    "record": Entry("record", _TIME),
    "replay": Entry("replay", _TIME),
    "timeline": Entry("timeline", _TIME),
    "fleet": Entry("fleet", _FLEET),
    "doctor": Entry("doctor", _FLEET),
    "simulate": Entry("simulate", _FLEET),
    "version": Entry("version", _FLEET),
}


class _CommandsOnDemand(Mapping[str, Any]):
    """The commands by name; each one's module is imported when somebody asks for it."""

    def __getitem__(self, name: str) -> Any:
        entry = COMMANDS[name]
        module = importlib.import_module(f"everynode.cli.{entry.module}")
        command: Any = typer.main.get_command(module.app)
        command.name = name
        command.rich_help_panel = entry.panel
        return command

    def __iter__(self) -> Iterator[str]:
        return iter(COMMANDS)

    def __len__(self) -> int:
        return len(COMMANDS)


class _Root(TyperGroup):
    """The group of all commands."""

    def __init__(self, **attributes: Any) -> None:
        """Put the commands on demand in the place of those that typer knows (none)."""
        super().__init__(**attributes)
        self.commands = _CommandsOnDemand()  # type: ignore[assignment] # nobody adds any later


app = typer.Typer(
    name="everynode",
    cls=_Root,
    epilog=EPILOG,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _show_version(asked: bool) -> None:
    if asked:
        print(f"everynode {__version__}")
        raise typer.Exit


@app.callback()
def everynode(
    ctx: typer.Context,
    *,
    version: Annotated[  # noqa: ARG001 - its callback has done all there is to do
        bool,
        typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version."),
    ] = False,
    no_color: NoColor = False,
    log_level: LogLevelOption = None,
    log_format: LogFormatOption = None,
) -> None:
    """Exactly one pod of each DaemonSet on every node that should have one, on any backend."""
    ctx.obj = {"log_level": log_level, "log_format": log_format}
    if no_color:
        forbid_color()


def run() -> None:
    """Run the command line of this process; an error of ours is one line on stderr, not a traceback."""
    escape_what_stdout_cannot_write()
    try:
        try:
            app(prog_name="everynode")
        finally:
            sys.stdout.flush()
    except BrokenPipeError:  # whoever read the output has had enough (`| head`)
        discard_stdout()
        sys.exit(ExitCode.DONE)
    except OSError as error:  # a full disk, a terminal that is gone
        discard_stdout()
        error_line(f"{error.filename or 'the result cannot be written'}: {error.strerror or error}")
        sys.exit(ExitCode.REFUSED)
    except EverynodeError as error:
        error_line(str(error))
        sys.exit(exit_code_of(error))
