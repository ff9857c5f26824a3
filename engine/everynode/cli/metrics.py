"""`--metrics-address`: what a worker or an adapter shows to whoever watches it.

Used by `everynode worker` and `everynode adapter`. Off unless asked for.
"""

from __future__ import annotations

import contextlib
from typing import Annotated

import typer

from everynode.runtime.host import AdapterHost
from everynode.runtime.jetstream import JetStreamBus
from everynode.runtime.metrics import exposition, of_connection, of_host, of_worker
from everynode.runtime.monitoring import Watched, monitored
from everynode.runtime.worker import Worker

MetricsAddress = Annotated[
    str,
    typer.Option(
        "--metrics-address",
        envvar="EVERYNODE_METRICS_ADDRESS",
        metavar="HOST:PORT",
        help="Answer there with /metrics (Prometheus), /healthz and /readyz, such as 127.0.0.1:9464.",
        show_default="nowhere",
    ),
]


def worker_shown(
    address: str, bus: JetStreamBus, worker: Worker
) -> contextlib.AbstractAsyncContextManager[str | None]:
    """Show a worker's metrics at an address; at none, do nothing."""

    def unready() -> str:
        if not bus.connected:
            return "no connection to NATS"
        return "" if worker.caught_up else "not caught up with the log yet"

    return _shown(
        address, Watched(lambda: exposition(of_worker(worker), of_connection(bus)), unready)
    )


def host_shown(
    address: str, bus: JetStreamBus, host: AdapterHost
) -> contextlib.AbstractAsyncContextManager[str | None]:
    """Show the metrics of an adapter's host at an address; at none, do nothing."""

    def unready() -> str:
        if not bus.connected:
            return "no connection to NATS"
        if host.listed.is_set() or host.stands_by:
            return ""
        return "the backend's nodes and pods are not listed yet"

    return _shown(address, Watched(lambda: exposition(of_host(host), of_connection(bus)), unready))


def _shown(address: str, watched: Watched) -> contextlib.AbstractAsyncContextManager[str | None]:
    return monitored(address, watched) if address else contextlib.nullcontext()
