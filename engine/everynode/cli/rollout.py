"""`everynode rollout`: what people do to a rollout, and how they look at one. Words and flags are kubectl's."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Annotated, Any

import typer
from typer.core import TyperCommand

from everynode.cli.exits import ExitCode
from everynode.cli.options import LogLevel, Namespace, Output, OutputFormat, Target, connected
from everynode.cli.quantities import parse_duration_ms
from everynode.cli.resources import DAEMONSETS, Names, SetKind, parse_named
from everynode.cli.rollout_history import show_history
from everynode.cli.rollout_status import RolloutWatch, StatusWish
from everynode.cli.terminal import error_line, note_line
from everynode.core.values import ROLLING_UPDATE, DaemonSet, SetKey
from everynode.errors import RefusedError, StaleError
from everynode.runtime import rollouts
from everynode.runtime.jetstream import JetStreamBus, connect
from everynode.runtime.revisions import PREVIOUS

STATUS_EPILOG = """
Exit codes:
0 rolled out, or all that partition and selector allow for now
1 the progress deadline was exceeded, or --timeout passed

Examples:
everynode rollout status daemonset/fluentd -n logging
everynode rollout status ds/fluentd --timeout 10m
"""
UNDO_EPILOG = """
Examples:
everynode rollout undo ds/fluentd -n logging
everynode rollout undo ds/fluentd --to-revision 3
"""

app = typer.Typer(add_completion=False, no_args_is_help=True)

_Act = Callable[[JetStreamBus, SetKey], Awaitable[str]]

_SPELLINGS = {
    "--watch=false": "--no-watch",
    "-w=false": "--no-watch",
    "--watch=true": "--watch",
    "-w=true": "--watch",
    "--dry-run=client": "--dry-run",
    "--dry-run=server": "--dry-run",
}


class _KubectlFlags(TyperCommand):
    """Takes the values that kubectl's users give to flags, too."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Read `--watch=false` as `--no-watch`, and `--dry-run=client` as `--dry-run`."""
        spelled = [_SPELLINGS.get(word.lower(), word) for word in args]
        return super().parse_args(ctx, [word for word in spelled if word != "--dry-run=none"])


@app.callback()
def rollout() -> None:
    """Follow, pause, resume, restart or undo the rollout of a DaemonSet, and look at its history."""


@app.command("status", cls=_KubectlFlags, epilog=STATUS_EPILOG)
@connected(log_level=LogLevel.ERROR)  # it says itself when it is cut off
async def status(
    target: Target,
    kind: SetKind,
    names: Names = None,
    *,
    namespace: Namespace = "default",
    watch: Annotated[
        bool,
        typer.Option("--watch/--no-watch", "-w", help="Wait until the rollout is over."),
    ] = True,
    at_most: Annotated[
        str,
        typer.Option("--timeout", metavar="DURATION", help="Wait at most so long; 0: for ever."),
    ] = "0",
    revision: Annotated[
        int,
        typer.Option(
            "--revision", min=0, help="Fail if it is not about this one.", show_default="latest"
        ),
    ] = 0,
    output: Output = OutputFormat.TABLE,
) -> ExitCode:
    """Show how far the rollout of a DaemonSet is, until it is over."""
    keys = _keys(kind, names, namespace)
    if len(keys) != 1:
        raise typer.BadParameter("name one set", param_hint="NAME")
    timeout_ms = parse_duration_ms(at_most, "--timeout")
    wish = StatusWish(keys[0], watch, timeout_ms, revision, output)
    async with await connect(target.connection, target.fleet) as bus:
        return await RolloutWatch(bus, wish).run()


@app.command("history", epilog="Example: everynode rollout history ds/fluentd --revision 2")
@connected()
async def history(
    target: Target,
    kind: SetKind,
    names: Names = None,
    *,
    namespace: Namespace = "default",
    revision: Annotated[
        int,
        typer.Option(
            "--revision", min=0, help="Show the pod template of this one.", show_default="all"
        ),
    ] = 0,
    output: Output = OutputFormat.TABLE,
) -> ExitCode:
    """Show the revisions of DaemonSets: what their pods were and are made from."""
    named = parse_named([kind, *(names or [])], (DAEMONSETS,))
    keys = [SetKey(namespace, name) for name in dict.fromkeys(named.names)]
    async with await connect(target.connection, target.fleet) as bus:
        return await show_history(bus, namespace, keys, revision, output)


@app.command("undo", cls=_KubectlFlags, epilog=UNDO_EPILOG)
@connected()
async def undo(
    target: Target,
    kind: SetKind,
    names: Names = None,
    *,
    namespace: Namespace = "default",
    to_revision: Annotated[
        int,
        typer.Option(
            "--to-revision", min=0, help="Which revision to return to; 0: the previous one."
        ),
    ] = PREVIOUS,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what would be done, and do nothing.")
    ] = False,
) -> ExitCode:
    """Give DaemonSets back the pod template of an earlier revision."""

    async def act(bus: JetStreamBus, key: SetKey) -> str:
        undone = await rollouts.undo(bus, key, to_revision, dry_run=dry_run)
        applied, number = undone.applied, undone.revision.number
        if applied.action == "unchanged":
            return f"skipped rollback (current template already matches revision {number})"
        if not dry_run:
            _say_what_waits(applied.daemonset)
        return f"rolled back{' (dry run)' if dry_run else ''}"

    return await _each(target, _keys(kind, names, namespace), act)


@app.command("pause", epilog="Example: everynode rollout pause ds/fluentd -n logging")
@connected()
async def pause(
    target: Target, kind: SetKind, names: Names = None, *, namespace: Namespace = "default"
) -> ExitCode:
    """Keep rollouts from replacing pods until they are resumed; applying a manifest does not resume them."""

    async def act(bus: JetStreamBus, key: SetKey) -> str:
        await rollouts.pause(bus, key)
        return "paused"

    return await _each(target, _keys(kind, names, namespace), act)


@app.command("resume", epilog="Example: everynode rollout resume ds/fluentd -n logging")
@connected()
async def resume(
    target: Target, kind: SetKind, names: Names = None, *, namespace: Namespace = "default"
) -> ExitCode:
    """Let paused rollouts go on."""

    async def act(bus: JetStreamBus, key: SetKey) -> str:
        await rollouts.resume(bus, key)
        return "resumed"

    return await _each(target, _keys(kind, names, namespace), act)


@app.command("restart", epilog="Example: everynode rollout restart ds/fluentd -n logging")
@connected()
async def restart(
    target: Target, kind: SetKind, names: Names = None, *, namespace: Namespace = "default"
) -> ExitCode:
    """Have all pods of DaemonSets made anew, by a rollout like any other."""

    async def act(bus: JetStreamBus, key: SetKey) -> str:
        applied = await rollouts.restart(bus, key)
        _say_what_waits(applied.daemonset)
        return "restarted"

    return await _each(target, _keys(kind, names, namespace), act)


def _keys(kind: str, names: list[str] | None, namespace: str) -> list[SetKey]:
    named = parse_named([kind, *(names or [])], (DAEMONSETS,))
    if not named.names:
        raise typer.BadParameter("name the set", param_hint="NAME")
    return [SetKey(namespace, name) for name in dict.fromkeys(named.names)]


async def _each(target: Target, keys: list[SetKey], act: _Act) -> ExitCode:
    """Do something to each set; one that refuses it keeps none of the others from it."""
    code = ExitCode.DONE
    async with await connect(target.connection, target.fleet) as bus:
        for key in keys:
            try:
                done = await act(bus, key)
            except (RefusedError, StaleError) as error:
                error_line(str(error))
                code = ExitCode.REFUSED
            else:
                print(f"{DAEMONSETS.qualified}/{key.name} {done}", flush=True)
    return code


def _say_what_waits(daemonset: DaemonSet) -> None:
    """Say why no pod will be replaced for now, if none will."""
    kind = daemonset.update_strategy.type
    if kind != ROLLING_UPDATE:
        note_line(f"update strategy {kind}: pods keep their template until they are deleted")
    else:
        note_if_paused(daemonset)


def note_if_paused(daemonset: DaemonSet) -> None:
    """Say that a set's rollout is paused, so that a change of its template changes no pod for now."""
    if rollouts.is_paused(daemonset):
        note_line("its rollout is paused: pods keep their template until `rollout resume`")
