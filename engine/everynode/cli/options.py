"""The options that commands have in common, and how a command gets what they stand for.

A command that speaks to a fleet is a coroutine function whose first parameter is a `Target`; `connected` gives it the
options that make the target. So each of these options is declared and explained in one place.
"""

from __future__ import annotations

import functools
import inspect
import sys
from collections.abc import Callable, Coroutine
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, Concatenate, NamedTuple, ParamSpec, get_type_hints

import typer

from everynode.cli.exits import ExitCode
from everynode.cli.running import run
from everynode.cli.starting import spare_garbage_collection
from everynode.cli.terminal import discard_stdout, forbid_color
from everynode.errors import ConfigurationError
from everynode.runtime.settings import SERVER_DEFAULT, Connection

_CONNECTION = "Connection"
_MESSAGES = "Messages"


class LogLevel(StrEnum):
    """From which level on what the program does is logged."""

    DEBUG = "debug"
    INFO = "info"
    WARNING = "warning"
    ERROR = "error"


class LogFormat(StrEnum):
    """How log lines are written."""

    CONSOLE = "console"
    JSON = "json"


NoColor = Annotated[
    bool,
    typer.Option(
        "--no-color", help="Print without colour; so does NO_COLOR=1.", rich_help_panel=_MESSAGES
    ),
]
LogLevelOption = Annotated[
    LogLevel | None,
    typer.Option(
        "--log-level",
        help="Log from this level on, to stderr.",
        rich_help_panel=_MESSAGES,
        case_sensitive=False,
        show_default=False,
    ),
]
LogFormatOption = Annotated[
    LogFormat | None,
    typer.Option(
        "--log-format",
        help="Log lines for people or for machines.",
        rich_help_panel=_MESSAGES,
        case_sensitive=False,
        show_default=False,
    ),
]
Nats = Annotated[
    list[str] | None,
    typer.Option(
        "--nats",
        metavar="URL",
        help="Where the log is; once for each server of a cluster. (env: EVERYNODE_NATS)",
        show_default=SERVER_DEFAULT,
        rich_help_panel=_CONNECTION,
    ),
]
NatsOfUp = Annotated[
    list[str] | None,
    typer.Option(
        "--nats",
        metavar="URL",
        help="Use this server, and start none; once for each of a cluster. EVERYNODE_NATS is not looked at.",
        show_default="a server of its own",
        rich_help_panel=_CONNECTION,
    ),
]
Fleet = Annotated[
    str,
    typer.Option(
        "--fleet", envvar="EVERYNODE_FLEET", help="Which fleet.", rich_help_panel=_CONNECTION
    ),
]


def _file_option(flag: str, text: str) -> Any:
    return typer.Option(
        flag,
        metavar="FILE",
        help=text,
        show_default=False,
        rich_help_panel=_CONNECTION,
        exists=True,
        dir_okay=False,
    )


Creds = Annotated[
    Path | None, _file_option("--creds", "Credentials file of a user. (env: EVERYNODE_NATS_CREDS)")
]
Nkey = Annotated[
    Path | None, _file_option("--nkey", "File with an nkey seed. (env: EVERYNODE_NATS_NKEY)")
]
NatsContext = Annotated[
    str,
    typer.Option(
        "--nats-context",
        metavar="NAME",
        help="NATS context to take server and user from; what is said besides counts more. "
        "(env: EVERYNODE_NATS_CONTEXT)",
        show_default="the selected one, if nothing else names a server",
        rich_help_panel=_CONNECTION,
    ),
]
TlsCa = Annotated[
    Path | None,
    _file_option("--tls-ca", "Certificate that signs the server's. (env: EVERYNODE_NATS_CA)"),
]
TlsCert = Annotated[
    Path | None, _file_option("--tls-cert", "Our own certificate. (env: EVERYNODE_NATS_CERT)")
]
TlsKey = Annotated[
    Path | None, _file_option("--tls-key", "The key to --tls-cert. (env: EVERYNODE_NATS_KEY)")
]


class OutputFormat(StrEnum):
    """How a result is written."""

    TABLE = "table"
    JSON = "json"
    YAML = "yaml"


Output = Annotated[
    OutputFormat,
    typer.Option("--output", "-o", help="How to write the result.", case_sensitive=False),
]
Namespace = Annotated[
    str, typer.Option("--namespace", "-n", metavar="NAME", help="Which namespace.")
]
Manifests = Annotated[
    list[str],
    typer.Option(
        "--filename",
        "-f",
        metavar="FILE|DIR|-",
        help="Manifests: a file, a directory's *.yaml, *.yml and *.json, or - for stdin; may be repeated.",
        show_default=False,
    ),
]
RecursiveManifests = Annotated[
    bool, typer.Option("--recursive", "-R", help="Read the directories in a directory too.")
]


class Target(NamedTuple):
    """Which fleet a command is about, and how its log is reached.

    Attributes:
        nats_given: `--nats` or `--nats-context` was given: the log is not ours to start.
    """

    connection: Connection
    fleet: str
    nats_given: bool


def _target(  # the signature is the declaration of the options
    own_server: bool,
    *,
    nats: Nats = None,
    nats_context: NatsContext = "",
    fleet: Fleet = "default",
    creds: Creds = None,
    nkey: Nkey = None,
    tls_ca: TlsCa = None,
    tls_cert: TlsCert = None,
    tls_key: TlsKey = None,
) -> Target:
    from everynode.runtime.credentials import warn_of_open_files  # noqa: PLC0415 - the root's help needs no log

    given = {
        "servers": tuple(nats or ()),
        "context": nats_context,
        "creds": creds,
        "nkey_seed": nkey,
        "tls_ca": tls_ca,
        "tls_cert": tls_cert,
        "tls_key": tls_key,
    }
    overrides = {name: value for name, value in given.items() if value}
    check_fleet_name(fleet, "--fleet")
    is_ours = own_server and not (
        nats or nats_context
    )  # then it is nobody's business where others are
    connection = Connection() if is_ours else Connection.from_environment(overrides)
    warn_of_open_files(connection)
    return Target(connection, fleet, bool(nats or nats_context))


def target_of(nats: list[str] | None, fleet: str) -> Target:
    """Say which fleet is meant by a command that starts a server of its own unless one is named.

    Raises:
        typer.BadParameter: The fleet cannot be called so.
    """
    return _target(True, nats=nats, fleet=fleet)


def check_fleet_name(name: str, param_hint: str) -> None:
    """Make sure that a fleet can be called so.

    Raises:
        typer.BadParameter: It cannot.
    """
    from everynode.wire import Subjects  # noqa: PLC0415 - the root's help needs no messages

    try:
        Subjects(name, shards=1)
    except ConfigurationError as error:
        raise typer.BadParameter(str(error), param_hint=param_hint) from error


def prepare_messages(
    ctx: typer.Context,
    default_level: LogLevel = LogLevel.WARNING,
    *,
    no_color: NoColor = False,
    log_level: LogLevelOption = None,
    log_format: LogFormatOption = None,
) -> None:
    """Set up colour and log lines; what stands after the command counts more than what stands before it.

    Whatever works for long calls it first, so the start ends here: from now on garbage is collected.
    """
    from everynode.cli import logs  # noqa: PLC0415 - the root's help needs no log

    if no_color:
        forbid_color()
    before = ctx.obj or {}
    logs.configure(
        level=log_level or before.get("log_level") or default_level,
        log_format=log_format or before.get("log_format") or LogFormat.CONSOLE,
    )
    spare_garbage_collection()


_P = ParamSpec("_P")
_Command = Callable[Concatenate[Target, _P], Coroutine[Any, Any, ExitCode]]


def connected(
    log_level: LogLevel = LogLevel.WARNING, *, own_server: bool = False
) -> Callable[[_Command[_P]], Callable[..., None]]:
    """Make a command of a coroutine function that takes a target: add the options, run it, exit with its code.

    Args:
        log_level: From which level on it logs if nobody says so.
        own_server: Without --nats it starts a server, wherever other commands would look for one.
    """

    def decorate(command: _Command[_P]) -> Callable[..., None]:
        target_options = _options_of(_target)
        if own_server:
            target_options = [
                each.replace(annotation=NatsOfUp) if each.name == "nats" else each
                for each in target_options
            ]
        message_options = _options_of(prepare_messages)
        context = inspect.Parameter("ctx", inspect.Parameter.KEYWORD_ONLY, annotation=typer.Context)

        @functools.wraps(command)
        def wrapper(**values: Any) -> None:
            messages = {option.name: values.pop(option.name) for option in message_options}
            prepare_messages(values.pop("ctx"), log_level, **messages)
            options = {option.name: values.pop(option.name) for option in target_options}
            target = _target(own_server, **options)
            try:
                code = run(command(target, **values))  # type: ignore[call-arg] # typer passes what the signature names
                sys.stdout.flush()
            except BrokenPipeError:  # whoever read the output has had enough (`| head`)
                discard_stdout()
                code = ExitCode.DONE
            raise typer.Exit(code)

        own = [
            parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY)
            for parameter in _parameters_of(command)[1:]
        ]
        parameters = [*own, *target_options, *message_options, context]
        wrapper.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined] # read by inspect
        wrapper.__annotations__ = {each.name: each.annotation for each in parameters}
        del wrapper.__wrapped__  # or its annotations would be read instead
        return wrapper

    return decorate


def _options_of(function: Callable[..., Any]) -> list[inspect.Parameter]:
    """List those of a function's parameters that are options of a command: they are passed by name only."""
    return [
        parameter
        for parameter in _parameters_of(function)
        if parameter.kind is inspect.Parameter.KEYWORD_ONLY
    ]


def _parameters_of(function: Callable[..., Any]) -> list[inspect.Parameter]:
    """List a function's parameters with their annotations as objects, which typer needs."""
    hints = get_type_hints(function, include_extras=True)
    parameters = inspect.signature(function).parameters.values()
    return [parameter.replace(annotation=hints[parameter.name]) for parameter in parameters]
