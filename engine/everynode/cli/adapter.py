"""`everynode adapter`: one backend's adapter as a process of its own.

Adapters are found by entry point, so that a package of somebody else's can bring one. The simulated one has a command
of its own, because a fleet has to be made up for it.
"""

from __future__ import annotations

from importlib.metadata import EntryPoint, entry_points
from typing import Annotated

import structlog
import typer

from everynode.cli.exits import ExitCode
from everynode.cli.nodes import NodeCount, NodeFiles, Seed, find_nodes
from everynode.cli.options import LogLevel, Target, connected
from everynode.cli.running import until_stopped
from everynode.cli.simulate import BACKEND_DEFAULT
from everynode.cli.tables import Columns
from everynode.errors import ConfigurationError
from everynode.ports import Adapter
from everynode.runtime.host import AdapterHost
from everynode.runtime.jetstream import connect
from everynode_simulated import Behaviour, SimulatedAdapter, SimulatedFleet

GROUP = "everynode.adapters"
FACTORY = "from_options"

log = structlog.get_logger(__name__)

app = typer.Typer(add_completion=False, no_args_is_help=True)

Backend = Annotated[
    str, typer.Option("--backend", metavar="NAME", help="What the fleet calls this backend.")
]
Options = Annotated[
    list[str] | None,
    typer.Option("--option", metavar="KEY=VALUE", help="An option of the adapter's own."),
]


@app.callback()
def adapter() -> None:
    """Run the adapter of a backend, until asked to stop."""


@app.command("list")
def list_adapters() -> None:
    """List the adapters that are installed."""
    found = sorted(entry_points(group=GROUP), key=lambda entry: entry.name)
    rows = [[entry.name, _package_of(entry), entry.value] for entry in found]
    Columns(["NAME", "PACKAGE", "CLASS"], rows).print()


def _package_of(entry: EntryPoint) -> str:
    return f"{entry.dist.name} {entry.dist.version}" if entry.dist else "?"


@app.command("simulated", epilog="Example: everynode adapter simulated --nodes 500 --seed 7")
@connected(log_level=LogLevel.INFO)
async def simulated(
    target: Target,
    *,
    nodes: NodeCount = None,
    nodes_from: NodeFiles = None,
    seed: Seed = 0,
    backend: Backend = BACKEND_DEFAULT,
    option: Options = None,
) -> ExitCode:
    """Simulate a backend whose nodes are generated or read from files; it lives as long as this process."""
    found = find_nodes(nodes, nodes_from, seed, backend)
    try:
        behaviour = Behaviour.from_options({"seed": str(seed)} | parse_options(option or []))
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--option") from error
    if not found.usable:
        return ExitCode.REFUSED
    fleet = SimulatedFleet(found.nodes, behaviour=behaviour)
    await _host(target, SimulatedAdapter(backend, fleet))
    return ExitCode.REFUSED if found.refused else ExitCode.DONE


@app.command("run", epilog="Example: everynode adapter run nomad --backend west --option region=eu")
@connected(log_level=LogLevel.INFO)
async def run(
    target: Target,
    name: Annotated[
        str, typer.Argument(metavar="NAME", help="As `everynode adapter list` has it.")
    ],
    *,
    backend: Backend = "",
    option: Options = None,
) -> ExitCode:
    """Run an adapter that another package brings."""
    await _host(target, load_adapter(name, backend or name, parse_options(option or [])))
    return ExitCode.DONE


def parse_options(texts: list[str]) -> dict[str, str]:
    """Read `key=value` pairs.

    Raises:
        typer.BadParameter: One is none.
    """
    for text in texts:
        if not text.partition("=")[1]:
            raise typer.BadParameter(f"{text!r}: write KEY=VALUE", param_hint="--option")
    return dict(text.split("=", 1) for text in texts)


def load_adapter(name: str, backend: str, options: dict[str, str]) -> Adapter:
    """Make an adapter of an installed package.

    Raises:
        ConfigurationError: There is none of that name, or it cannot be made from options.
    """
    found = entry_points(group=GROUP, name=name)
    if not found:
        known = ", ".join(sorted(entry_points(group=GROUP).names))
        raise ConfigurationError(f"adapter {name!r} is not installed; there are: {known}")
    factory = getattr(next(iter(found)).load(), FACTORY, None)
    if factory is None:
        raise ConfigurationError(
            f"adapter {name} cannot be made from options: its class has no {FACTORY}(backend, options)"
        )
    made: Adapter = factory(backend, options)
    return made


async def _host(target: Target, adapter: Adapter) -> None:
    async with await connect(target.connection, target.fleet) as bus:
        log.info("adapter starts", backend=adapter.backend, fleet=target.fleet)
        await until_stopped(AdapterHost(bus, adapter).run())
        log.info("adapter stops", backend=adapter.backend, fleet=target.fleet)
