"""`everynode fleet`: a fleet's log, made and looked at."""

from __future__ import annotations

import asyncio
import time
from typing import Annotated, Any

import typer

from everynode.cli.exits import ExitCode
from everynode.cli.fleet_workers import LISTEN_MS, documents, ranges, table, unowned
from everynode.cli.options import Output, OutputFormat, Target, check_fleet_name, connected
from everynode.cli.output import print_object
from everynode.cli.quantities import parse_bytes, parse_seconds, show_bytes, show_seconds
from everynode.cli.reading import read_fleet
from everynode.cli.tables import NONE, age
from everynode.core.sharing import Beat
from everynode.runtime.clock import SystemClock, timestamp
from everynode.runtime.jetstream import FleetInfo, connect
from everynode.runtime.roster import listen
from everynode.runtime.settings import StreamSettings
from everynode.runtime.view import FleetView

app = typer.Typer(add_completion=False, no_args_is_help=True)

Name = Annotated[
    str,
    typer.Argument(metavar="NAME", help="Which fleet; else what --fleet says.", show_default=False),
]


@app.callback()
def fleet() -> None:
    """Make a fleet's log, or look at it."""


@app.command("create", epilog="Example: everynode fleet create edge --replicas 3 --max-age 30d")
@connected()
async def create(
    target: Target,
    name: Name = "",
    *,
    shards: Annotated[
        int | None,
        typer.Option(
            "--shards",
            min=1,
            help="In how many parts its sets are divided; never changes.",
            show_default="16",
        ),
    ] = None,
    replicas: Annotated[
        int | None,
        typer.Option(
            "--replicas",
            min=1,
            max=5,
            help="On how many servers of a cluster its log is kept.",
            show_default="1",
        ),
    ] = None,
    max_age: Annotated[
        str,
        typer.Option(
            "--max-age",
            metavar="DURATION",
            help="How long its log keeps a message.",
            show_default="7d",
        ),
    ] = "",
    max_bytes: Annotated[
        str,
        typer.Option(
            "--max-bytes",
            metavar="SIZE",
            help="How much its log keeps.",
            show_default="10GiB",
        ),
    ] = "",
    backend: Annotated[
        list[str] | None,
        typer.Option(
            "--backend",
            metavar="NAME=IDENTITY",
            help="Write down a backend whose adapter may not do so itself; it says its identity.",
        ),
    ] = None,
) -> ExitCode:
    """Make the log of a new fleet; one that is there already is only compared with what is asked for."""
    settings = StreamSettings(
        shards=shards,
        replicas=replicas,
        log_max_age_seconds=parse_seconds(max_age) if max_age else None,
        log_max_bytes=parse_bytes(max_bytes) if max_bytes else None,
        backends=parse_backends(backend or []),
    )
    name = name or target.fleet
    check_fleet_name(name, "NAME")
    async with await connect(target.connection, name, create=settings) as bus:
        shards = bus.subjects.shards
    print(f"fleet/{name} ready, with {shards} shards")
    return ExitCode.DONE


def parse_backends(texts: list[str]) -> dict[str, str]:
    """Read `NAME=IDENTITY` pairs.

    Raises:
        typer.BadParameter: One is none.
    """
    for text in texts:
        name, _, identity = text.partition("=")
        if not (name and identity):
            raise typer.BadParameter(f"{text!r}: write NAME=IDENTITY", param_hint="--backend")
    return dict(text.split("=", 1) for text in texts)


@app.command("show", epilog="Example: everynode fleet show edge -o json")
@connected()
async def show(target: Target, name: Name = "", *, output: Output = OutputFormat.TABLE) -> ExitCode:
    """Show a fleet's log, what is in the fleet, and which workers decide for it."""
    name = name or target.fleet
    check_fleet_name(name, "NAME")
    async with await connect(target.connection, name) as bus:
        about = await bus.describe()
        beats, view = await asyncio.gather(
            listen(bus, SystemClock(), LISTEN_MS), read_fleet(bus, ("node", "pod", "daemonset"))
        )
    if output is OutputFormat.TABLE:
        print("\n".join(f"{label + ':':<16}{text}" for label, text in _lines(about, view)))
        _print_workers(beats, about.shards)
    else:
        workers = {"workers": documents(beats), "unownedShards": unowned(beats, about.shards)}
        print_object(_document(about, view) | workers, output)
    return ExitCode.DONE


def _print_workers(beats: list[Beat], shards: int) -> None:
    if not beats:
        print("\nNo worker was heard: nobody decides for this fleet.", flush=True)
        return
    print(flush=True)
    table(beats, time.time_ns() // 1_000_000).print()
    alone = unowned(beats, shards)
    if alone:
        print(f"\nNobody decides for shards {ranges(alone)}.", flush=True)


def _lines(about: FleetInfo, view: FleetView) -> list[tuple[str, str]]:
    now_ms = time.time_ns() // 1_000_000
    last = f"{about.last_sequence}"
    if about.last_time_ms:
        last += f" ({age(about.last_time_ms, now_ms)} ago)"
    backends = ", ".join(f"{name} ({what})" for name, what in sorted(about.backends.items()))
    kept = f"{show_seconds(about.log_max_age_seconds)} or {show_bytes(about.log_max_bytes)}"
    return [
        ("Fleet", about.fleet),
        ("Server", f"nats-server {about.server_version}"),
        ("Shards", str(about.shards)),
        ("Replicas", str(about.replicas)),
        ("Kept", kept),
        (
            "Messages",
            f"{about.messages} ({show_bytes(about.bytes)}), {about.state_messages} in STATE",
        ),
        ("Last sequence", last),
        ("Backends", backends or NONE),
        ("Nodes", str(len(view.nodes))),
        ("DaemonSets", str(len(view.daemonsets))),
        ("Pods", str(len(view.pods))),
    ]


def _document(about: FleetInfo, view: FleetView) -> dict[str, Any]:
    return {
        "fleet": about.fleet,
        "serverVersion": about.server_version,
        "shards": about.shards,
        "replicas": about.replicas,
        "maxAgeSeconds": about.log_max_age_seconds,
        "maxBytes": about.log_max_bytes,
        "messages": about.messages,
        "bytes": about.bytes,
        "stateMessages": about.state_messages,
        "firstSequence": about.first_sequence,
        "lastSequence": about.last_sequence,
        "lastTime": timestamp(about.last_time_ms) if about.last_time_ms else None,
        "backends": about.backends,
        "nodes": len(view.nodes),
        "daemonsets": len(view.daemonsets),
        "pods": len(view.pods),
    }
