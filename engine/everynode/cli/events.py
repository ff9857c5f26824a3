"""`everynode events`: what people were told about sets, as far as the log still has it."""

from __future__ import annotations

import time
from contextlib import aclosing
from enum import StrEnum
from typing import Annotated

import typer

from everynode.cli.event_folding import EventFolder, Told
from everynode.cli.exits import ExitCode
from everynode.cli.objects import event_object, list_object
from everynode.cli.options import LogLevel, Namespace, Target, connected
from everynode.cli.output import print_object
from everynode.cli.quantities import parse_duration_ms
from everynode.cli.reading import NoticeWish, read_notices
from everynode.cli.resources import DAEMONSETS, parse_named
from everynode.cli.running import beside
from everynode.cli.tables import GOOD, WAITING, Cell, Columns, Row, age
from everynode.cli.terminal import note_line
from everynode.cli.watching import end_when_cut_off
from everynode.runtime.jetstream import JetStreamBus, connect

EPILOG = """
Examples:
everynode events -A --types Warning
everynode events --for ds/fluentd -n logging --since 1d
everynode events -A --watch -o json
"""

SINCE_DEFAULT = "1h"
"""How far back one looks if nobody says so: as long as a Kubernetes API server keeps Events."""

TYPES = ("Normal", "Warning")

app = typer.Typer(add_completion=False)


class EventsOutput(StrEnum):
    """How events are shown."""

    TABLE = "table"
    WIDE = "wide"
    JSON = "json"
    YAML = "yaml"


@app.command("events", epilog=EPILOG)
@connected(log_level=LogLevel.ERROR)  # a watch says itself when it is cut off
async def events(
    target: Target,
    *,
    namespace: Namespace = "default",
    all_namespaces: Annotated[
        bool, typer.Option("--all-namespaces", "-A", help="In every namespace.")
    ] = False,
    about: Annotated[
        str, typer.Option("--for", metavar="daemonset/NAME", help="Only about this set.")
    ] = "",
    types: Annotated[
        str, typer.Option("--types", metavar="TYPE,...", help="Only of these: Normal, Warning.")
    ] = "",
    since: Annotated[
        str,
        typer.Option(
            "--since", metavar="DURATION", help="How far back; 0: all that the log still has."
        ),
    ] = SINCE_DEFAULT,
    watch: Annotated[
        bool, typer.Option("--watch", "-w", help="Go on and show each new one, until Ctrl-C.")
    ] = False,
    output: Annotated[EventsOutput, typer.Option("--output", "-o", help="How to show it.")] = (
        EventsOutput.TABLE
    ),
) -> ExitCode:
    """Show what happened to DaemonSets and what they wait for; what is alike is one line with a count."""
    where = "" if all_namespaces else namespace
    wish = NoticeWish(where, _parse_about(about), _parse_types(types))
    duration_ms = parse_duration_ms(since, "--since")
    since_ms = _now_ms() - duration_ms if duration_ms else 0
    screen = EventScreen(output, with_namespace=all_namespaces)
    async with await connect(target.connection, target.fleet) as bus:
        folder = EventFolder()
        end = await read_notices(bus, wish, since_ms, folder)
        screen.show(folder.lines(), listed=not watch)
        if watch:
            async with beside(end_when_cut_off(bus)):
                await _follow(bus, wish, folder, screen, end + 1)
        elif not folder.lines() and output in {EventsOutput.TABLE, EventsOutput.WIDE}:
            note_line(f"no events found{f' in namespace {where}' if where else ''}")
    return ExitCode.DONE


def _parse_about(text: str) -> str:
    if not text:
        return ""
    named = parse_named([text], (DAEMONSETS,))
    if len(named.names) != 1:
        raise typer.BadParameter("name one set, as daemonset/NAME", param_hint="--for")
    return named.names[0]


def _parse_types(text: str) -> frozenset[str]:
    known = {kind.lower(): kind for kind in TYPES}
    words = [word.strip().lower() for word in text.split(",") if word.strip()]
    unknown = [word for word in words if word not in known]
    if unknown:
        raise typer.BadParameter(
            f"{unknown[0]!r}: there are {' and '.join(TYPES)}", param_hint="--types"
        )
    return frozenset(known[word] for word in words)


async def _follow(
    bus: JetStreamBus, wish: NoticeWish, folder: EventFolder, screen: EventScreen, start: int
) -> None:
    async with aclosing(bus.follow([wish.subject(bus)], start)) as chunks:
        async for chunk in chunks:
            for notice, at_ms in wish.found_in(bus, chunk):
                screen.show([folder.fold(notice, at_ms)], listed=False)


class EventScreen:
    """Where events are shown, at once or one after the other."""

    def __init__(self, output: EventsOutput, *, with_namespace: bool) -> None:
        """Have shown nothing yet."""
        self._output = output
        self._with_namespace = with_namespace
        self._columns: Columns | None = None

    def show(self, lines: list[Told], *, listed: bool) -> None:
        """Show some more.

        Args:
            lines: What to show.
            listed: As one object, for `-o json` and `-o yaml`; otherwise each is one.
        """
        match self._output:
            case EventsOutput.TABLE | EventsOutput.WIDE:
                self._show_rows(lines)
            case _ if listed:
                print_object(list_object([event_object(told) for told in lines]), self._output)
            case _:
                for told in lines:
                    if self._output is EventsOutput.YAML:
                        print("---")
                    print_object(event_object(told), self._output)

    def _show_rows(self, lines: list[Told]) -> None:
        now_ms = _now_ms()
        rows = [self._row(told, now_ms) for told in lines]
        if self._columns is None and rows:
            self._columns = Columns(self._header(), rows)
            self._columns.print()
        elif self._columns is not None:
            for row in rows:
                self._columns.print_row(row)

    @property
    def _wide(self) -> bool:
        return self._output is EventsOutput.WIDE

    def _header(self) -> list[str]:
        header = ["NAMESPACE"] if self._with_namespace else []
        header += ["LAST SEEN", "TYPE", "REASON", "OBJECT", "COUNT"]
        return [*header, *(["FIRST SEEN", "NODE", "POD"] if self._wide else []), "MESSAGE"]

    def _row(self, told: Told, now_ms: int) -> Row:
        notice = told.notice
        row: list[str | Cell] = [notice.namespace] if self._with_namespace else []
        kind = Cell(notice.type, WAITING if notice.type == "Warning" else GOOD)
        named = f"{DAEMONSETS.singular}/{notice.daemonset}"
        row += [age(told.last_ms, now_ms), kind, notice.reason, named, str(told.count)]
        if self._wide:
            row += [age(told.first_ms, now_ms), notice.node, notice.pod]
        return [*row, " ".join(told.message.split())]


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
