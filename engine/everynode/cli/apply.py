"""`everynode apply`: what is in files becomes what the fleet is to have.

`apply_documents` does the same for `up`.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Annotated

import typer

from everynode.cli.documents import Documents, read_documents, refused_by_fleet
from everynode.cli.exits import ExitCode
from everynode.cli.options import Manifests, Namespace, RecursiveManifests, Target, connected
from everynode.cli.resources import DAEMONSETS
from everynode.cli.rollout import note_if_paused
from everynode.cli.terminal import error_line
from everynode.errors import RefusedError, StaleError
from everynode.runtime.applying import Applied
from everynode.runtime.applying import apply as apply_to
from everynode.runtime.jetstream import JetStreamBus, connect

EPILOG = """
Examples:
everynode apply -f fluentd.yaml
everynode apply -f manifests/ -R -n logging
kubectl get ds -A -o yaml | everynode apply -f - --dry-run
"""

app = typer.Typer(add_completion=False)


@app.command("apply", epilog=EPILOG)
@connected()
async def apply(
    target: Target,
    *,
    filename: Manifests,
    recursive: RecursiveManifests = False,
    namespace: Namespace = "default",
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what would be done, and do nothing.")
    ] = False,
) -> ExitCode:
    """Make or change the DaemonSets in manifests; what is refused does not keep the others from being applied."""
    documents = read_documents(filename, default_namespace=namespace, recursive=recursive)
    documents.report()
    if documents.empty:
        error_line("no objects passed to apply")
        return ExitCode.REFUSED
    if not documents.accepted:
        return ExitCode.REFUSED if documents.refused else ExitCode.DONE
    async with await connect(target.connection, target.fleet) as bus:
        async for applied in apply_documents(bus, documents, dry_run=dry_run):
            print(f"{describe_applied(applied)}{' (dry run)' if dry_run else ''}", flush=True)
            if applied.action == "configured":
                note_if_paused(applied.daemonset)
    return ExitCode.REFUSED if documents.refused else ExitCode.DONE


async def apply_documents(
    bus: JetStreamBus, documents: Documents, *, dry_run: bool = False
) -> AsyncIterator[Applied]:
    """Apply the accepted documents in their order; one that the fleet refuses joins the refused ones.

    Raises:
        UnavailableError: The log cannot be reached; the documents not yet named were not applied.
    """
    for accepted in documents.accepted:
        try:
            yield await apply_to(bus, accepted.daemonset, dry_run=dry_run)
        except (RefusedError, StaleError) as error:
            refused = refused_by_fleet(accepted, error)
            refused.report()
            documents.refused.append(refused)


def describe_applied(applied: Applied) -> str:
    """Read as kubectl does: `daemonset.apps/fluentd created`."""
    return f"{DAEMONSETS.qualified}/{applied.daemonset.name} {applied.action}"
