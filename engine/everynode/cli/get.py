"""`everynode get`: what the log says there is.

It reads STATE, like every reader, and with `--watch` follows the log from there.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from enum import StrEnum
from typing import Annotated, NamedTuple

import typer

from everynode.cli.exits import ExitCode
from everynode.cli.listing import LISTINGS, Item, Listing
from everynode.cli.objects import list_object
from everynode.cli.options import LogLevel, Namespace, Target, connected
from everynode.cli.output import print_object
from everynode.cli.reading import read_fleet
from everynode.cli.resources import Named, Names, parse_named
from everynode.cli.running import beside
from everynode.cli.selectors import parse_selector, selects
from everynode.cli.tables import Columns, Row
from everynode.cli.terminal import error_line, note_line
from everynode.cli.watching import end_when_cut_off
from everynode.core.values import Requirement
from everynode.runtime.jetstream import connect
from everynode.runtime.view import FleetView, follow_view

EPILOG = """
Examples:
everynode get daemonsets -A
everynode get ds fluentd -n logging -o yaml
everynode get pods -A -o wide --watch
everynode get nodes -l 'kubernetes.io/os=linux,!gpu'
"""

app = typer.Typer(add_completion=False)


class GetOutput(StrEnum):
    """How objects are shown."""

    TABLE = "table"
    WIDE = "wide"
    JSON = "json"
    YAML = "yaml"
    NAME = "name"


class Wish(NamedTuple):
    """Which objects are shown, and how.

    Attributes:
        namespace: Empty for all of them.
        names: Empty for all of them.
    """

    listing: Listing
    namespace: str
    names: tuple[str, ...]
    selector: tuple[Requirement, ...]
    output: GetOutput

    def items(self, view: FleetView) -> list[Item]:
        """Find the objects, sorted."""
        found = [item for item in self.listing.items(view) if self._wants(item)]
        return sorted(found, key=lambda item: item.key)

    def _wants(self, item: Item) -> bool:
        if self.namespace and item.namespace != self.namespace:
            return False
        if self.names and item.name not in self.names:
            return False
        return selects(self.selector, item.labels)

    @property
    def all_namespaces(self) -> bool:
        """Objects of several namespaces may stand side by side."""
        return self.listing.resource.namespaced and not self.namespace

    @property
    def wide(self) -> bool:
        """Show the columns that take much room, too."""
        return self.output is GetOutput.WIDE

    def header(self) -> list[str]:
        """Name the columns."""
        header = self.listing.header(wide=self.wide)
        return ["NAMESPACE", *header] if self.all_namespaces else header

    def row(self, item: Item, now_ms: int) -> Row:
        """Write one object."""
        row = self.listing.row(item, now_ms, wide=self.wide)
        return [item.namespace, *row] if self.all_namespaces else row

    def looks_different(self, item: Item, before: Item | None) -> bool:
        """Say whether something of an object that is shown, and is not just its age, is no longer as it was."""
        if before is None or item == before:
            return before is None
        if self.output in {GetOutput.TABLE, GetOutput.WIDE}:
            return self.row(item, 0) != self.row(before, 0)
        return self.listing.document(item) != self.listing.document(before)

    def qualified(self, item: Item) -> str:
        """Name an object for other commands: `daemonset.apps/fluentd`."""
        return f"{self.listing.resource.qualified}/{item.name}"


@app.command("get", epilog=EPILOG)
@connected(log_level=LogLevel.ERROR)  # a watch says itself when it is cut off
async def get(
    target: Target,
    kind: Annotated[
        str,
        typer.Argument(metavar="TYPE|TYPE/NAME", help="daemonsets (ds), nodes (no) or pods (po)."),
    ],
    names: Names = None,
    *,
    namespace: Namespace = "default",
    all_namespaces: Annotated[
        bool, typer.Option("--all-namespaces", "-A", help="In every namespace.")
    ] = False,
    selector: Annotated[
        str,
        typer.Option(
            "--selector",
            "-l",
            metavar="SELECTOR",
            help="Only what has these labels (not for pods).",
        ),
    ] = "",
    output: Annotated[GetOutput, typer.Option("--output", "-o", help="How to show it.")] = (
        GetOutput.TABLE
    ),
    watch: Annotated[
        bool, typer.Option("--watch", "-w", help="Go on and show each change, until Ctrl-C.")
    ] = False,
) -> ExitCode:
    """Show DaemonSets, nodes or pods, as the log has them."""
    named = parse_named([kind, *(names or [])])
    listing = LISTINGS[named.resource]
    if selector and not listing.has_labels:
        raise typer.BadParameter(
            f"the log keeps no labels of {named.resource.plural}", param_hint="-l"
        )
    everywhere = all_namespaces or not named.resource.namespaced
    wish = Wish(
        listing=listing,
        namespace="" if everywhere else namespace,
        names=named.names,
        selector=parse_selector(selector),
        output=output,
    )
    async with await connect(target.connection, target.fleet) as bus:
        if watch:
            async with beside(end_when_cut_off(bus)):
                return await _watch(wish, follow_view(bus, listing.kinds))
        return _show(wish, named, await read_fleet(bus, listing.kinds))


def _show(wish: Wish, named: Named, view: FleetView) -> ExitCode:
    items = wish.items(view)
    _print_items(wish, named, items)
    missing = [name for name in named.names if all(item.name != name for item in items)]
    for name in missing:
        where = f" in namespace {wish.namespace}" if wish.namespace else ""
        error_line(f'{named.resource.plural} "{name}" not found{where}')
    if not items and not named.names:
        where = f" in namespace {wish.namespace}" if wish.namespace else ""
        note_line(f"no {named.resource.plural} found{where}")
    return ExitCode.REFUSED if missing else ExitCode.DONE


def _print_items(wish: Wish, named: Named, items: list[Item]) -> None:
    match wish.output:
        case GetOutput.NAME:
            for item in items:
                print(wish.qualified(item))
        case GetOutput.JSON | GetOutput.YAML:
            documents = [wish.listing.document(item) for item in items]
            if len(named.names) == 1 and len(documents) == 1:
                print_object(documents[0], wish.output)
            elif documents or not named.names:
                print_object(list_object(documents), wish.output)
        case _:
            if items:
                now_ms = _now_ms()
                Columns(wish.header(), [wish.row(item, now_ms) for item in items]).print()


async def _watch(wish: Wish, views: AsyncIterator[FleetView]) -> ExitCode:
    """Print what there is, then each object again whenever something that is shown of it changes."""
    shown: dict[tuple[str, ...], Item] = {}
    columns: Columns | None = None
    async for view in views:
        items = wish.items(view)
        changed = [item for item in items if wish.looks_different(item, shown.get(item.key))]
        now_ms = _now_ms()
        rows = [wish.row(item, now_ms) for item in changed]
        if wish.output not in {GetOutput.TABLE, GetOutput.WIDE}:
            for item in changed:
                _print_watched(wish, item)
        elif columns is None and rows:
            columns = Columns(wish.header(), rows)
            columns.print()
        elif columns is not None:
            for row in rows:
                columns.print_row(row)
        shown = {item.key: item for item in items}
    return ExitCode.DONE


def _print_watched(wish: Wish, item: Item) -> None:
    if wish.output is GetOutput.NAME:
        print(wish.qualified(item), flush=True)
        return
    if wish.output is GetOutput.YAML:
        print("---")
    print_object(wish.listing.document(item), wish.output)


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
