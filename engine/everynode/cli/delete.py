"""`everynode delete`: sets that are no longer wanted."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import typer

from everynode.cli.documents import read_documents
from everynode.cli.exits import ExitCode
from everynode.cli.options import Namespace, Target, connected
from everynode.cli.resources import DAEMONSETS, Names, parse_named
from everynode.cli.terminal import error_line
from everynode.core.values import SetKey
from everynode.runtime.applying import delete as delete_from
from everynode.runtime.jetstream import connect

EPILOG = """
Examples:
everynode delete ds fluentd -n logging
everynode delete ds/fluentd --cascade orphan
everynode delete -f manifests/
"""

app = typer.Typer(add_completion=False)


class Cascade(StrEnum):
    """What becomes of a deleted set's pods."""

    BACKGROUND = "background"
    ORPHAN = "orphan"


@app.command("delete", epilog=EPILOG)
@connected()
async def delete(
    target: Target,
    kind: Annotated[
        str | None,
        typer.Argument(
            metavar="daemonset|daemonset/NAME", help="daemonset (ds).", show_default=False
        ),
    ] = None,
    names: Names = None,
    *,
    filename: Annotated[
        list[str] | None,
        typer.Option(
            "--filename",
            "-f",
            metavar="FILE|DIR|-",
            help="Those that are in these manifests.",
            show_default=False,
        ),
    ] = None,
    recursive: Annotated[
        bool, typer.Option("--recursive", "-R", help="Read the directories in a directory too.")
    ] = False,
    namespace: Namespace = "default",
    cascade: Annotated[
        Cascade,
        typer.Option("--cascade", help="Their pods go in the background, or stay as orphans."),
    ] = Cascade.BACKGROUND,
    ignore_not_found: Annotated[
        bool, typer.Option("--ignore-not-found", help="A set that is not there is no error.")
    ] = False,
) -> ExitCode:
    """Delete DaemonSets, and with them their pods."""
    if bool(kind) == bool(filename):
        raise typer.BadParameter("name sets, or give files with -f", param_hint="daemonset")
    code = ExitCode.DONE
    if filename:
        documents = read_documents(filename, default_namespace=namespace, recursive=recursive)
        for refused in documents.refused:
            refused.report()
            code = ExitCode.REFUSED
        keys = [accepted.daemonset.key for accepted in documents.accepted]
    else:
        named = parse_named([kind or "", *(names or [])], (DAEMONSETS,))
        if not named.names:
            raise typer.BadParameter("name the sets to delete", param_hint="daemonset")
        keys = [SetKey(namespace, name) for name in named.names]
    async with await connect(target.connection, target.fleet) as bus:
        for key in dict.fromkeys(keys):
            if await delete_from(bus, key, cascade.value):
                print(f'{DAEMONSETS.qualified} "{key.name}" deleted', flush=True)
            elif not ignore_not_found:
                error_line(
                    f'{DAEMONSETS.plural} "{key.name}" not found in namespace {key.namespace}'
                )
                code = ExitCode.REFUSED
    return code
