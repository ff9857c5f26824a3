"""`everynode up`: a fleet to look at, from nothing, in one process."""

from __future__ import annotations

import asyncio
import contextlib
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from everynode.cli.apply import apply_documents, describe_applied
from everynode.cli.documents import Documents, read_documents
from everynode.cli.exits import ExitCode
from everynode.cli.local import LocalFleet, Wanted, local_fleet
from everynode.cli.nodes import FoundNodes, NodeCount, NodeFiles, Seed, find_nodes
from everynode.cli.options import Output, OutputFormat, Target, connected
from everynode.cli.output import print_object
from everynode.cli.simulate import BACKEND_DEFAULT
from everynode.cli.terminal import stderr_is_terminal, stdout_is_terminal
from everynode.cli.up_report import Report
from everynode.core.values import SetKey
from everynode.runtime.embedded import PORT_DEFAULT

TIMEOUT_SECONDS_DEFAULT = 60.0

EPILOG = """
Examples:
everynode up --nodes 60 deploy/examples
everynode up --once -o json fluentd.yaml
everynode up --nodes-from nodes.yaml --data ./fleet

Without --once it goes on until Ctrl-C, and every other command can be used on its fleet from another terminal.
"""

app = typer.Typer(add_completion=False)


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What one call of `up` is about."""

    target: Target
    documents: Documents
    nodes: FoundNodes
    wanted: Wanted
    timeout_seconds: float
    started: float

    def report(self, local: LocalFleet, *, converged: bool) -> Report:
        """Say how far the fleet is now."""
        return Report(
            fleet=self.target.fleet,
            nodes=len(local.simulated.nodes),
            seconds=time.monotonic() - self.started,
            converged=converged,
            statuses=local.worker.statuses(),
            counts=local.worker.counts,
            documents=self.documents,
            refused_nodes=self.nodes.refused,
        )


@app.command("up", epilog=EPILOG)
@connected(own_server=True)
async def up(
    target: Target,
    paths: Annotated[
        list[str] | None,
        typer.Argument(metavar="FILE|DIR|-", help="Manifests to apply.", show_default=False),
    ] = None,
    *,
    nodes: NodeCount = None,
    nodes_from: NodeFiles = None,
    seed: Seed = 0,
    once: Annotated[
        bool, typer.Option("--once", help="End when every node that should have a pod has one.")
    ] = False,
    timeout_seconds: Annotated[
        float,
        typer.Option(
            "--timeout", metavar="SECONDS", min=0.0, help="With --once: give up after this long."
        ),
    ] = TIMEOUT_SECONDS_DEFAULT,
    data: Annotated[
        Path | None,
        typer.Option(
            "--data",
            metavar="DIR",
            file_okay=False,
            help="Keep the log here, and go on from what is in it.",
            show_default="forgotten at the end",
        ),
    ] = None,
    output: Output = OutputFormat.TABLE,
) -> ExitCode:
    """Start a NATS server, a worker and a simulated fleet, and apply manifests to it."""
    started = time.monotonic()
    if output is not OutputFormat.TABLE and not once:
        raise typer.BadParameter("it is the result of --once", param_hint="--output")
    if data is not None and target.nats_given:
        raise typer.BadParameter("with --nats the log is not kept here", param_hint="--data")
    found = find_nodes(nodes, nodes_from, seed, BACKEND_DEFAULT)
    if not found.usable:
        return ExitCode.REFUSED
    documents = read_documents(paths or [])
    documents.report()
    documents.keep_last()
    plan = Plan(
        target=target,
        documents=documents,
        nodes=found,
        wanted=Wanted(found.nodes, BACKEND_DEFAULT, seed, data),
        timeout_seconds=timeout_seconds,
        started=started,
    )
    if not once:
        return await _stay(plan)
    report = await _cover_once(plan)
    if output is OutputFormat.TABLE:
        report.print(timed=True)
    else:
        print_object(report.as_document(), output)
    return ExitCode.DONE if report.succeeded else ExitCode.REFUSED


async def _cover_once(plan: Plan) -> Report:
    """Cover everything, or what can be covered in time."""
    converged = False
    async with local_fleet(plan.target, plan.wanted) as local, _progress(local):
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(plan.timeout_seconds):
                generations, sequence = await _apply(plan, local, say=False)
                await local.wait_covered(generations, sequence)
                converged = True
        return plan.report(local, converged=converged)


async def _apply(plan: Plan, local: LocalFleet, *, say: bool) -> tuple[dict[SetKey, int], int]:
    """Wait for the nodes, then apply the documents.

    Returns:
        The generation of each set that was applied, and the place in the log up to which all this stands.
    """
    await local.host.listed.wait()
    generations: dict[SetKey, int] = {}
    sequence = local.host.published_sequence
    async for applied in apply_documents(local.bus, plan.documents):
        generations[applied.daemonset.key] = applied.daemonset.generation
        sequence = max(sequence, applied.sequence)
        if say:
            print(describe_applied(applied), flush=True)
    return generations, sequence


def _progress(local: LocalFleet) -> contextlib.AbstractAsyncContextManager[None]:
    if not stderr_is_terminal():
        return contextlib.nullcontext()
    from everynode.cli.up_screen import progress_bar  # noqa: PLC0415 - only terminals need it

    return progress_bar(local)


async def _stay(plan: Plan) -> ExitCode:
    """Cover everything and show how far it is, until asked to stop."""
    with contextlib.suppress(asyncio.CancelledError):
        async with local_fleet(plan.target, plan.wanted) as local:
            _say_where(plan, local)
            generations, sequence = await _apply(plan, local, say=True)
            if stdout_is_terminal():
                from everynode.cli.up_screen import live_table  # noqa: PLC0415 - only terminals need it

                await live_table(local, lambda: _report_now(plan, local, generations))
            while True:
                await local.wait_covered(generations, sequence)
                report = plan.report(local, converged=True)
                report.print(timed=False)
                while local.worker.statuses() == report.statuses:
                    await local.worker.wait_changed()
    refused = plan.documents.refused or plan.nodes.refused
    return ExitCode.REFUSED if refused else ExitCode.DONE


def _report_now(plan: Plan, local: LocalFleet, generations: dict[SetKey, int]) -> Report:
    return plan.report(local, converged=local.covered(generations))


def _say_where(plan: Plan, local: LocalFleet) -> None:
    """Say how other commands find this fleet."""
    nodes = len(plan.nodes.nodes)
    print(f"fleet {plan.target.fleet} with {nodes} nodes at {local.shown}; Ctrl-C ends it")
    if local.embedded_port not in {None, PORT_DEFAULT}:
        print(f"for other commands: export EVERYNODE_NATS={local.shown}")
    sys.stdout.flush()
