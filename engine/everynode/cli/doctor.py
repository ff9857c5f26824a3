"""`everynode doctor`: what is in the way of an adapter, before it is started or when it does not work.

Doctors are found by entry point, as adapters are. This module shows what they find, and knows of backends only what
the fleet has recorded.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated

import typer

from everynode.cli.adapter import Backend, Options, parse_options
from everynode.cli.cluster import (
    BACKEND_DEFAULT,
    Context,
    InCluster,
    Kubeconfig,
    ProbeNamespace,
    cluster_options,
)
from everynode.cli.exits import ExitCode
from everynode.cli.installed import DOCTORS, load
from everynode.cli.options import Output, OutputFormat, Target, connected
from everynode.cli.output import print_object
from everynode.cli.tables import BAD, GOOD, WAITING, Cell, Columns, Row
from everynode.cli.terminal import note_line
from everynode.errors import EverynodeError
from everynode.ports import Doctor, Finding
from everynode.runtime.jetstream import connect

app = typer.Typer(add_completion=False, no_args_is_help=True)

KUBERNETES_EPILOG = """
Examples:

everynode doctor kubernetes --context staging

everynode doctor kubernetes --in-cluster --nats nats://nats:4222 -o json

It takes about ten seconds: so long it waits for another controller to show itself. A fleet need not be there yet.
"""

_STYLES = {"ok": GOOD, "warning": WAITING, "unknown": WAITING, "failed": BAD}


@app.callback()
def doctor() -> None:
    """Find out what is in the way of an adapter. Ends with 1 if something failed."""


@app.command("kubernetes", epilog=KUBERNETES_EPILOG)
@connected()
async def kubernetes(
    target: Target,
    *,
    kubeconfig: Kubeconfig = None,
    context: Context = "",
    in_cluster: InCluster = False,
    namespace: ProbeNamespace = "",
    backend: Backend = BACKEND_DEFAULT,
    output: Output = OutputFormat.TABLE,
) -> ExitCode:
    """Find out whether a cluster can be a backend: connection, permissions, other owners, identity."""
    options = cluster_options(kubeconfig, context, in_cluster, namespace)
    return await _examine(target, "kubernetes", backend, options, output)


@app.command("run", epilog="Example: everynode doctor run nomad --backend west --option region=eu")
@connected()
async def run(
    target: Target,
    name: Annotated[
        str, typer.Argument(metavar="NAME", help="As `everynode adapter list` has it.")
    ],
    *,
    backend: Backend = "",
    option: Options = None,
    output: Output = OutputFormat.TABLE,
) -> ExitCode:
    """Find out whether an adapter that another package brings could work."""
    options = parse_options(option or [])
    return await _examine(target, name, backend or name, options, output)


async def _examine(
    target: Target, name: str, backend: str, options: Mapping[str, str], output: OutputFormat
) -> ExitCode:
    examine: Doctor = load(DOCTORS, name)
    findings = await examine(backend, options, await _recorded(target))
    if output is OutputFormat.TABLE:
        _print(findings)
    else:
        print_object(
            {
                "adapter": name,
                "backend": backend,
                "findings": [finding._asdict() for finding in findings],
            },
            output,
        )
    failed = any(finding.result == "failed" for finding in findings)
    return ExitCode.REFUSED if failed else ExitCode.DONE


async def _recorded(target: Target) -> dict[str, str] | None:
    """Read which backends the fleet knows; it may be that there is no fleet yet."""
    try:
        async with await connect(target.connection, target.fleet) as bus:
            return (await bus.describe()).backends
    except EverynodeError as error:
        note_line(f"fleet {target.fleet} is not asked: {error}")
        return None


def _print(findings: Sequence[Finding]) -> None:
    rows: list[Row] = [
        [finding.check, Cell(finding.result, _STYLES[finding.result]), finding.detail]
        for finding in findings
    ]
    Columns(["CHECK", "RESULT", "DETAIL"], rows).print()
