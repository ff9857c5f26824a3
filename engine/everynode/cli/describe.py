"""`everynode describe`: everything that the log knows of one set, the last decision about it, and its last events."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from typing import Any, NamedTuple

import msgspec
import typer

from everynode.cli.describe_rollout import (
    condition_lines,
    event_lines,
    reason_fields,
    revision_field,
    strategy_fields,
)
from everynode.cli.event_folding import EventFolder, Told
from everynode.cli.exits import ExitCode
from everynode.cli.listing import selector_text
from everynode.cli.objects import daemonset_object, event_object, list_object
from everynode.cli.options import Namespace, Output, OutputFormat, Target, connected
from everynode.cli.output import print_object
from everynode.cli.reading import NoticeWish, read_fleet, read_notices
from everynode.cli.resources import DAEMONSETS, Names, SetKind, parse_named
from everynode.cli.tables import NONE, age, pairs
from everynode.cli.templates import Container, describe_toleration, read_template
from everynode.cli.terminal import error_line
from everynode.core.commands import Counts, Decision
from everynode.core.eligibility import Toleration
from everynode.core.values import DaemonSet, Pod, Revision, SetKey, Status
from everynode.errors import MalformedMessageError
from everynode.runtime.clock import timestamp
from everynode.runtime.jetstream import JetStreamBus, connect
from everynode.runtime.revisions import history_of
from everynode.runtime.view import FleetView
from everynode.wire import decode_from

LABEL_WIDTH = 24

EVENTS_MS = 3_600_000
"""How far back the events go: as long as a Kubernetes API server keeps them."""

app = typer.Typer(add_completion=False)


@app.command("describe", epilog="Example: everynode describe ds fluentd -n logging")
@connected()
async def describe(
    target: Target,
    kind: SetKind,
    names: Names = None,
    *,
    namespace: Namespace = "default",
    output: Output = OutputFormat.TABLE,
) -> ExitCode:
    """Show everything about DaemonSets: what they ask for, how far they are, what was decided last."""
    named = parse_named([kind, *(names or [])], (DAEMONSETS,))
    code = ExitCode.DONE
    async with await connect(target.connection, target.fleet) as bus:
        kinds = ("daemonset", "status", "revision", "pod")
        only = SetKey(namespace, named.names[0]) if len(named.names) == 1 else None
        view = await read_fleet(bus, kinds, only)
        wanted = named.names or sorted(k.name for k in view.daemonsets if k.namespace == namespace)
        found: list[dict[str, Any]] = []
        for position, name in enumerate(wanted):
            daemonset = view.daemonsets.get(SetKey(namespace, name))
            if daemonset is None:
                error_line(f'{DAEMONSETS.plural} "{name}" not found in namespace {namespace}')
                code = ExitCode.REFUSED
                continue
            known = await _read_known(bus, view, daemonset)
            if output is not OutputFormat.TABLE:
                found.append(describe_document(known))
                continue
            print("\n" * (2 * (position > 0)) + "\n".join(describe_set(known)))
    if output is not OutputFormat.TABLE and (found or not named.names):
        one = len(named.names) == len(found) == 1
        print_object(found[0] if one else list_object(found), output)
    return code


class Known(NamedTuple):
    """What the log knows of one set.

    Attributes:
        status: `None` if no worker has reported one of this set (a set of this name before it does not count).
        decision: Likewise.
        pods: Those that it owns.
        events: What people were told lately, the last at the end.
    """

    daemonset: DaemonSet
    status: Status | None = None
    decision: Decision | None = None
    pods: Sequence[Pod] = ()
    revisions: Sequence[Revision] = ()
    events: Sequence[Told] = ()


async def _read_known(bus: JetStreamBus, view: FleetView, daemonset: DaemonSet) -> Known:
    key = daemonset.key
    status = view.statuses.get(key)
    folder = EventFolder()
    await read_notices(bus, NoticeWish(*key), _now_ms() - EVENTS_MS, folder)
    return Known(
        daemonset,
        status if status is not None and status.daemonset_uid == daemonset.uid else None,
        await _last_decision(bus, daemonset),
        [pod for pod in view.pods.values() if _owns(daemonset, pod)],
        history_of(key, view.revisions.values()),
        [told for told in folder.lines() if told.notice.daemonset_uid == daemonset.uid],
    )


def _owns(daemonset: DaemonSet, pod: Pod) -> bool:
    return pod.owner is not None and pod.owner.uid == daemonset.uid


def _now_ms() -> int:
    return time.time_ns() // 1_000_000


async def _last_decision(bus: JetStreamBus, daemonset: DaemonSet) -> Decision | None:
    received = await bus.last(bus.subjects.of_set("decision", daemonset.key))
    if received is None:
        return None
    try:
        message = decode_from(bus.subjects, received.subject, received.payload)
    except MalformedMessageError:
        return None  # the workers report it; here it is as good as none
    if isinstance(message, Decision) and message.daemonset_uid == daemonset.uid:
        return message
    return None  # it was about an earlier set of this name


def describe_document(known: Known) -> dict[str, Any]:
    """Write a set as `get` does, and with it what was decided last and what people were told."""
    decision = known.decision
    last = None
    if decision is not None:
        last = {
            "time": timestamp(decision.at_ms),
            "worker": decision.worker,
            "basis": decision.basis,
            "generation": decision.generation,
            "revision": decision.revision,
            "counts": msgspec.structs.asdict(decision.counts),
            "reasons": msgspec.to_builtins(decision.reasons),
        }
    return daemonset_object(known.daemonset, known.status) | {
        "lastDecision": last,
        "events": [event_object(told) for told in known.events],
    }


def _line(label: str, text: str) -> str:
    return f"{label + ':':<{LABEL_WIDTH}}{text}"


def describe_set(known: Known) -> list[str]:
    """Write what a set asks for, how far it is and what happened to it, in kubectl's words."""
    now_ms = _now_ms()
    daemonset = known.daemonset
    template = read_template(daemonset.template)
    spec = template.spec
    created = f"{timestamp(daemonset.created_ms)} ({age(daemonset.created_ms, now_ms)} ago)"
    return [
        _line("Name", daemonset.name),
        _line("Namespace", daemonset.namespace),
        _line("UID", daemonset.uid),
        _line("Generation", str(daemonset.generation)),
        _line("Created", created),
        _line("Backend", daemonset.backend or "(all)"),
        _line("Selector", selector_text(daemonset.selector)),
        _line("Node-Selector", pairs(spec.node_selector or {})),
        _line("Labels", pairs(daemonset.labels)),
        _line("Annotations", pairs(daemonset.annotations)),
        *(_line(*field) for field in strategy_fields(daemonset)),
        *_status_lines(known.status, known.revisions),
        _line("Pods Status", _pods_status(known.pods)),
        "Pod Template:",
        _line("  Labels", pairs(template.metadata.labels or {})),
        *_container_lines("Init Containers", spec.init_containers),
        *_container_lines("Containers", spec.containers),
        *_toleration_lines(spec.tolerations),
        *(condition_lines(known.status, now_ms) if known.status else ()),
        *describe_decision(known.decision),
        *event_lines(known.events, now_ms),
    ]


def _status_lines(status: Status | None, revisions: Sequence[Revision]) -> list[str]:
    if status is None:
        return [_line("Status", "no worker has reported one yet")]
    return [
        _line("Desired Number", str(status.desired_number_scheduled)),
        _line("Current Number", str(status.current_number_scheduled)),
        _line("Up-to-date Number", str(status.updated_number_scheduled)),
        _line("Ready Number", str(status.number_ready)),
        _line("Available Number", str(status.number_available)),
        _line("Misscheduled Number", str(status.number_misscheduled)),
        _line("Observed Generation", str(status.observed_generation)),
        _line(*revision_field(status, revisions)),
        *(_line(*field) for field in reason_fields(status)),
    ]


def _pods_status(pods: Sequence[Pod]) -> str:
    counts = Counter(pod.phase for pod in pods)
    waiting = counts["Pending"] + counts["Unknown"]
    return (
        f"{counts['Running']} Running / {waiting} Waiting / "
        f"{counts['Succeeded']} Succeeded / {counts['Failed']} Failed"
    )


def _container_lines(title: str, containers: list[Container] | None) -> list[str]:
    if not containers:
        return []
    lines = [f"  {title}:"]
    return lines + [_line(f"    {each.name}", each.image or NONE) for each in containers]


def _toleration_lines(tolerations: list[Toleration] | None) -> list[str]:
    texts = [describe_toleration(each) for each in tolerations or []] or [NONE]
    first = _line("  Tolerations", texts[0])
    return [first, *(" " * LABEL_WIDTH + text for text in texts[1:])]


def describe_decision(decision: Decision | None) -> list[str]:
    """Write what a worker decided last, and why."""
    if decision is None:
        return [_line("Last Decision", "none that the log still has")]
    now_ms = _now_ms()
    counts = decision.counts
    lines = [
        "Last Decision:",
        _line("  When", f"{timestamp(decision.at_ms)} ({age(decision.at_ms, now_ms)} ago)"),
        _line("  By", f"worker {decision.worker}, having read up to sequence {decision.basis}"),
        _line(
            "  Saw",
            f"{counts.eligible} eligible, {counts.occupied} occupied, {counts.missing} missing, "
            f"{counts.surplus} surplus, {counts.pending} pending",
        ),
        _line("  Commands", _commands(counts)),
    ]
    return lines + [_line("  Reason", f"{each.reason}: {each.count}") for each in decision.reasons]


def _commands(counts: Counts) -> str:
    text = f"{counts.creates} creates, {counts.deletes} deletes"
    if counts.adopts or counts.releases:
        text += f", {counts.adopts} adoptions, {counts.releases} releases"
    return text
