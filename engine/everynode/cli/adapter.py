"""`everynode adapter`: one backend's adapter as a process of its own.

Adapters are found by entry point, so that a package of somebody else's can bring one. The simulated one has a command
of its own, because a fleet has to be made up for it; that of Kubernetes has one for the sake of kubectl's words.
"""

from __future__ import annotations

import inspect
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.metadata import EntryPoint
from typing import Annotated, Any

import structlog
import typer

from everynode.cli import cluster
from everynode.cli.exits import ExitCode
from everynode.cli.installed import ADAPTERS, installed, load
from everynode.cli.metrics import MetricsAddress, host_shown
from everynode.cli.nodes import NodeCount, NodeFiles, Seed, find_nodes
from everynode.cli.options import LogLevel, Target, connected
from everynode.cli.running import until_stopped
from everynode.cli.simulate import BACKEND_DEFAULT
from everynode.cli.tables import Columns
from everynode.errors import ConfigurationError
from everynode.ports import Adapter
from everynode.runtime.execution import ExecutionLimits
from everynode.runtime.host import AdapterHost, HostSettings
from everynode.runtime.jetstream import JetStreamBus, connect
from everynode_simulated import Behaviour, SimulatedAdapter, SimulatedFleet

FACTORY = "from_options"

IN_FLIGHT_DEFAULT = ExecutionLimits.concurrency_max
IN_FLIGHT_MAX = ExecutionLimits.in_flight_max

CONNECTIONS_SPARE = 36
"""Connections to a cluster beside those that make and delete pods: watches, statuses, events."""

KUBERNETES_EPILOG = """
Examples:

everynode adapter kubernetes --context staging --backend staging

everynode adapter kubernetes --in-cluster --nats nats://nats:4222 --log-format json

Before it starts it looks for ten seconds whether DaemonSets have another owner, and then refuses to be a second one.
`everynode doctor kubernetes` tells what else is in the way. Several may run for one backend: one of them observes.
"""

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
    rows = [[entry.name, _package_of(entry), entry.value] for entry in installed(ADAPTERS)]
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
    metrics_address: MetricsAddress = "",
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
    async with await connect(target.connection, target.fleet) as bus:
        await _run(bus, SimulatedAdapter(backend, fleet), target, metrics_address)
    return ExitCode.REFUSED if found.refused else ExitCode.DONE


@app.command("kubernetes", epilog=KUBERNETES_EPILOG)
@connected(log_level=LogLevel.INFO)
async def kubernetes(
    target: Target,
    *,
    kubeconfig: cluster.Kubeconfig = None,
    context: cluster.Context = "",
    in_cluster: cluster.InCluster = False,
    namespace: cluster.ProbeNamespace = "",
    max_in_flight: Annotated[
        int,
        typer.Option(
            "--max-in-flight",
            metavar="N",
            min=1,
            max=IN_FLIGHT_MAX,
            help="How many pods are made or deleted at once; half as many for a set that is alone.",
        ),
    ] = IN_FLIGHT_DEFAULT,
    qps: Annotated[
        float,
        typer.Option(
            "--qps",
            metavar="N",
            min=0,
            help="How many requests a second the cluster gets at most; 0: as many as it takes.",
        ),
    ] = 0,
    force: Annotated[
        bool,
        typer.Option(
            "--force", help="Start even if somebody else looks after the cluster's DaemonSets."
        ),
    ] = False,
    backend: Backend = cluster.BACKEND_DEFAULT,
    metrics_address: MetricsAddress = "",
) -> ExitCode:
    """Take care of a Kubernetes cluster's DaemonSets, in the place of the controller that is built in."""
    options = cluster.cluster_options(kubeconfig, context, in_cluster, namespace) | {
        "qps": str(qps),
        "force": "true" if force else "false",
        "connections": str(max_in_flight + CONNECTIONS_SPARE),
    }
    settings = HostSettings(execution=ExecutionLimits(concurrency_max=max_in_flight))
    await _load_and_host(target, "kubernetes", backend, options, metrics_address, settings)
    return ExitCode.DONE


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
    metrics_address: MetricsAddress = "",
) -> ExitCode:
    """Run an adapter that another package brings."""
    options = parse_options(option or [])
    await _load_and_host(target, name, backend or name, options, metrics_address)
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


@asynccontextmanager
async def loaded_adapter(
    name: str, backend: str, options: dict[str, str]
) -> AsyncIterator[Adapter]:
    """Make an adapter of an installed package; at the end it is closed, if it can be.

    Raises:
        ConfigurationError: There is none of that name, or it cannot be made from options.
    """
    factory = getattr(load(ADAPTERS, name), FACTORY, None)
    if factory is None:
        raise ConfigurationError(
            f"adapter {name} cannot be made from options: its class has no {FACTORY}(backend, options)"
        )
    adapter: Adapter = await _settled(factory(backend, options))
    try:
        yield adapter
    finally:
        close = getattr(adapter, "close", None)
        if close is not None:
            await _settled(close())


async def _settled(value: Any) -> Any:
    """Wait for a value that may be still to come."""
    return await value if inspect.isawaitable(value) else value


async def _load_and_host(
    target: Target,
    name: str,
    backend: str,
    options: dict[str, str],
    metrics_address: str,
    settings: HostSettings | None = None,
) -> None:
    """Run an adapter of an installed package; the log is reached first, as most often that is what is missing."""
    async with (
        await connect(target.connection, target.fleet) as bus,
        loaded_adapter(name, backend, options) as adapter,
    ):
        await _run(bus, adapter, target, metrics_address, settings)


async def _run(
    bus: JetStreamBus,
    adapter: Adapter,
    target: Target,
    metrics_address: str,
    settings: HostSettings | None = None,
) -> None:
    host = AdapterHost(bus, adapter, settings)
    async with host_shown(metrics_address, bus, host):
        log.info("adapter starts", backend=adapter.backend, fleet=target.fleet)
        await until_stopped(host.run())
    log.info("adapter stops", backend=adapter.backend, fleet=target.fleet)
