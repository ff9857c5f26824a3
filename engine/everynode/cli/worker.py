"""`everynode worker`: one worker as a process of its own."""

from __future__ import annotations

import os
import platform
from typing import Annotated

import structlog
import typer

from everynode.cli.exits import ExitCode
from everynode.cli.metrics import MetricsAddress, worker_shown
from everynode.cli.options import LogLevel, Target, connected
from everynode.cli.running import until_stopped
from everynode.runtime.jetstream import connect
from everynode.runtime.worker import Worker

EPILOG = """
Example: everynode worker --nats nats://10.0.0.7:4222 --log-format json

Start as many as you like: they share the work, and take over from one that dies. SIGTERM ends it.
"""

log = structlog.get_logger(__name__)

app = typer.Typer(add_completion=False)


def default_name() -> str:
    """Name a worker after its host and process, so that its decisions can be told from others'."""
    return f"{platform.node().partition('.')[0] or 'worker'}-{os.getpid()}"


@app.command("worker", epilog=EPILOG)
@connected(log_level=LogLevel.INFO)
async def worker(
    target: Target,
    *,
    name: Annotated[
        str,
        typer.Option(
            "--name",
            metavar="NAME",
            help="What it calls itself in its decisions.",
            show_default="host and process",
        ),
    ] = "",
    metrics_address: MetricsAddress = "",
) -> ExitCode:
    """Decide for a fleet, until asked to stop."""
    name = name or default_name()
    async with await connect(target.connection, target.fleet) as bus:
        deciding = Worker(bus, name)
        async with worker_shown(metrics_address, bus, deciding):
            log.info("worker starts", worker=name, fleet=target.fleet)
            await until_stopped(deciding.run())
        log.info("worker stops", worker=name, fleet=target.fleet)
    return ExitCode.DONE
