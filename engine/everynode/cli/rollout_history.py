"""What `everynode rollout history` shows: which templates a set has had, and how many pods have each."""

from __future__ import annotations

import time
from collections import Counter
from typing import Any

import msgspec

from everynode.cli.exits import ExitCode
from everynode.cli.objects import list_object, revision_object
from everynode.cli.options import OutputFormat
from everynode.cli.output import as_yaml, print_object
from everynode.cli.reading import read_fleet
from everynode.cli.resources import DAEMONSETS
from everynode.cli.tables import GOOD, NONE, Cell, Columns, Row, age
from everynode.cli.terminal import error_line, note_line
from everynode.core.values import DaemonSet, Revision, SetKey
from everynode.errors import RefusedError
from everynode.runtime.jetstream import JetStreamBus
from everynode.runtime.revisions import current_hash, find_revision, history_of
from everynode.runtime.view import FleetView

CURRENT = "*"


async def show_history(
    bus: JetStreamBus, namespace: str, keys: list[SetKey], revision: int, output: OutputFormat
) -> ExitCode:
    """Show revisions of sets.

    Args:
        bus: The fleet's log.
        namespace: Where to look if no set is named.
        keys: Which sets; none for all of the namespace.
        revision: Only the one with this number, with its template; 0 for all.
        output: How to show them.
    """
    kinds = ("daemonset", "revision", "pod")
    view = await read_fleet(bus, kinds, keys[0] if len(keys) == 1 else None)
    wanted = keys or sorted(key for key in view.daemonsets if key.namespace == namespace)
    code = ExitCode.DONE
    documents: list[dict[str, Any]] = []
    for position, key in enumerate(wanted):
        try:
            daemonset, found = _find(view, key, revision)
        except RefusedError as error:
            error_line(str(error))
            code = ExitCode.REFUSED
            continue
        if output is not OutputFormat.TABLE:
            documents += map(revision_object, found)
            continue
        text = _template_text(found[0]) if revision else _table_text(view, daemonset, found)
        print("\n" * (position > 0) + text, flush=True)
    if output is not OutputFormat.TABLE and (documents or code is ExitCode.DONE):
        one = len(keys) == len(documents) == 1 and revision
        print_object(documents[0] if one else list_object(documents), output)
    if not wanted:
        note_line(f"no {DAEMONSETS.plural} found in namespace {namespace}")
    return code


def _find(view: FleetView, key: SetKey, revision: int) -> tuple[DaemonSet, list[Revision]]:
    daemonset = view.daemonsets.get(key)
    if daemonset is None:
        message = f'{DAEMONSETS.plural} "{key.name}" not found in namespace {key.namespace}'
        raise RefusedError(message)
    found = history_of(key, view.revisions.values())
    return daemonset, [find_revision(found, daemonset, revision)] if revision else found


def _table_text(view: FleetView, daemonset: DaemonSet, history: list[Revision]) -> str:
    title = f"{DAEMONSETS.qualified}/{daemonset.name}"
    current = current_hash(daemonset)
    if all(each.hash != current for each in history):
        note_line(f"{title}: no worker has put its template on record yet")
    if not history:
        return f"{title}\nNo rollout history found."
    columns = history_columns(history, current, _pods_by_revision(view, daemonset))
    return "\n".join([title, *columns.lines()])


def history_columns(history: list[Revision], current: str, pods: Counter[str]) -> Columns:
    """Make the table of a set's revisions, the oldest first.

    Args:
        history: The revisions.
        current: Hash of the one that the set is to have.
        pods: How many pods have each, by hash.
    """
    now_ms = time.time_ns() // 1_000_000
    rows: list[Row] = []
    for each in history:
        mark = Cell(CURRENT if each.hash == current else "", GOOD)
        created = age(each.created_ms, now_ms)
        cause = each.change_cause or NONE
        rows.append([str(each.number), mark, created, str(pods[each.hash]), each.hash, cause])
    return Columns(["REVISION", "CURRENT", "AGE", "PODS", "HASH", "CHANGE-CAUSE"], rows)


def _pods_by_revision(view: FleetView, daemonset: DaemonSet) -> Counter[str]:
    return Counter(
        pod.revision
        for pod in view.pods.values()
        if pod.owner is not None and pod.owner.uid == daemonset.uid and not pod.finished
    )


def _template_text(revision: Revision) -> str:
    """Write a template as YAML; the line before it is a comment there."""
    title = f"# {DAEMONSETS.qualified}/{revision.daemonset} with revision #{revision.number}"
    return f"{title}\n{as_yaml(msgspec.json.decode(revision.template))}"
