"""`everynode replay --speed`: what once happened, made to happen again, to a fleet that is alive.

What happens by itself comes from a stream: nodes come, change and go, people ask for sets, pods end. What follows is
decided now, by a worker, for simulated backends, through a real log: a load test, or something to look at. It is made
of the parts of ``local``.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import Counter
from typing import Any

from msgspec import structs

from everynode.cli.exits import ExitCode
from everynode.cli.local import is_covered, local_log
from everynode.cli.options import OutputFormat, Target
from everynode.cli.output import print_object
from everynode.cli.running import beside
from everynode.cli.terminal import note_line, warning_line
from everynode.core.events import (
    DaemonSetGone,
    DaemonSetObserved,
    NodeGone,
    NodeObserved,
    PodGone,
    PodObserved,
)
from everynode.core.values import Node, Pod, PodKey, SetKey, Status
from everynode.errors import EverynodeError, RefusedError
from everynode.replay.outside import Outside
from everynode.replay.streams import Stream, record_of
from everynode.runtime.applying import apply, delete
from everynode.runtime.host import AdapterHost
from everynode.runtime.jetstream import JetStreamBus
from everynode.runtime.view import follow_view
from everynode.runtime.worker import Worker
from everynode_simulated import SimulatedAdapter, SimulatedFleet

COVERED_SECONDS_MAX = 60
"""How long is waited in the end until every node that can be covered is."""
EVENTS_PER_TURN = 50
"""So many events that are due happen in a row before the worker has its turn."""
WARNINGS_MAX = 10
WORKER_NAME = "replay"


async def replay_onto(
    stream: Stream, target: Target, speed: float, output: OutputFormat
) -> ExitCode:
    """Let everything happen again, wait until the fleet is covered, and say how it went.

    Raises:
        RefusedError: The fleet has a log already.
        EverynodeError: A part could not be started, or failed for good.
    """
    async with local_log(target, None) as (bus, shown, _), contextlib.AsyncExitStack() as stack:
        if (await bus.log_position()).last_sequence > 0:
            raise RefusedError(
                f"fleet {target.fleet}: it has a log already, and what happened elsewhere must not be mixed with it; "
                "name a new fleet with --fleet"
            )
        worker = Worker(bus, WORKER_NAME, follow_all=True)
        await stack.enter_async_context(beside(worker.run()))
        note_line(
            f"replaying {stream.name} onto fleet {target.fleet} at {shown}, {speed:g} times as fast"
        )
        happening = _Happening(stream, bus, stack, speed)
        covered, began = False, time.monotonic()
        try:
            await happening.run()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(COVERED_SECONDS_MAX):
                    await _settle(bus, worker, happening)
                    covered = True
        finally:  # also when it is asked to stop
            summary = happening.summary(worker, time.monotonic() - began, covered=covered)
            if output is OutputFormat.TABLE:
                print("\n".join(_told(summary)))
            else:
                print_object(summary, output)
    return ExitCode.DONE if covered else ExitCode.REFUSED


class _Happening:
    """Lets happen what a stream says, at its pace.

    Attributes:
        fleets: The simulated backends, by name.
        generations: Of each set that was applied.
        late_seconds_max: How much later than it should have something happened.
    """

    def __init__(
        self, stream: Stream, bus: JetStreamBus, stack: contextlib.AsyncExitStack, speed: float
    ) -> None:
        self.fleets: dict[str, SimulatedFleet] = {}
        self.generations: dict[SetKey, int] = {}
        self.happened: Counter[str] = Counter()
        self.late_seconds_max = 0.0
        self._stream = stream
        self._bus = bus
        self._stack = stack
        self._speed = speed
        self._refused = 0
        self._first_ms: int | None = None
        self._last_ms = 0

    async def run(self) -> None:
        """Let everything happen."""
        outside = Outside(is_decided=self._stream.is_decided)
        began = time.monotonic()
        number = 0
        for entry in self._stream.entries:
            record = record_of(self._stream.subjects, entry.received)
            if record is None or not outside.is_outside(record.message):
                continue
            number += 1
            if not entry.is_kept:
                self._first_ms = record.time_ms if self._first_ms is None else self._first_ms
                self._last_ms = max(self._last_ms, record.time_ms)
                due = began + (self._last_ms - self._first_ms) / 1_000 / self._speed
                late_seconds = time.monotonic() - due
                if late_seconds < 0 or number % EVENTS_PER_TURN == 0:
                    await asyncio.sleep(max(-late_seconds, 0))
                self.late_seconds_max = max(self.late_seconds_max, late_seconds)
            try:
                await self._happen(record.message)
            except EverynodeError as error:  # the rest is to happen all the same
                self._warn(error)

    def _warn(self, error: EverynodeError) -> None:
        self._refused += 1
        if self._refused <= WARNINGS_MAX:
            warning_line(f"passed over: {error}")

    async def _happen(self, message: object) -> None:
        match message:
            case NodeObserved(node=node):
                _put_node(await self._fleet(node.backend), node)
                self.happened["nodes"] += 1
            case NodeGone(backend=backend, name=name):
                (await self._fleet(backend)).remove_node(name)
                self.happened["nodes"] += 1
            case DaemonSetObserved(daemonset=daemonset):
                applied = await apply(self._bus, structs.replace(daemonset, origin=""))
                self.generations[daemonset.key] = applied.daemonset.generation
                self.happened["daemonsets"] += 1
            case DaemonSetGone(key=key, cascade=cascade):
                self.generations.pop(key, None)
                await delete(self._bus, key, "orphan" if cascade == "orphan" else "background")
                self.happened["daemonsets"] += 1
            case PodObserved(pod=pod) if pod.finished and pod.set_key is not None:
                await self._end_pod(pod.key, pod.set_key, pod.node, ended=pod.phase)
            case PodGone(set_key=SetKey() as set_key, node=name):
                await self._end_pod(message.key, set_key, name, ended="")
            case _:
                pass

    async def _end_pod(self, then: PodKey, set_key: SetKey, node: str, *, ended: str) -> None:
        """Let a pod end as its predecessor did: that of the same set on the same node; it has another name now."""
        fleet = await self._fleet(then.backend)
        key = next(
            (
                key
                for key, pod in fleet.pods.items()
                if pod.node == node and pod.set_key == set_key and pod.live
            ),
            None,
        )
        if key is None:
            return
        {"Failed": fleet.fail_pod, "Succeeded": fleet.finish_pod}.get(ended, fleet.delete_pod)(key)
        self.happened["pods"] += 1

    async def _fleet(self, backend: str) -> SimulatedFleet:
        """Return a simulated backend, and start it when it is first heard of."""
        fleet = self.fleets.get(backend)
        if fleet is None:
            fleet = self.fleets[backend] = SimulatedFleet([])
            host = AdapterHost(self._bus, SimulatedAdapter(backend, fleet))
            await self._stack.enter_async_context(beside(host.run()))
            await host.listed.wait()
        return fleet

    def nodes(self) -> list[Node]:
        """List the nodes that there are now."""
        return [node for fleet in self.fleets.values() for node in fleet.nodes.values()]

    def pods(self) -> dict[PodKey, Pod]:
        """Return the pods that there are now."""
        return {key: pod for fleet in self.fleets.values() for key, pod in fleet.pods.items()}

    def summary(self, worker: Worker, seconds: float, *, covered: bool) -> dict[str, Any]:
        """Say how it went."""
        counts, then_ms = worker.counts, self._last_ms - (self._first_ms or self._last_ms)
        return {
            "events": {name: self.happened[name] for name in ("nodes", "daemonsets", "pods")},
            "passedOver": self._refused,
            "secondsThen": round(then_ms / 1_000, 3),
            "seconds": round(seconds, 3),
            "lateSecondsMax": round(self.late_seconds_max, 3),
            "decisions": counts.decisions,
            "creates": counts.creates,
            "deletes": counts.deletes,
            "nodes": len(self.nodes()),
            "covered": covered,
        }


def _told(summary: dict[str, Any]) -> list[str]:
    events = summary["events"]
    happened = ", ".join(f"{events[name]} of {name}" for name in events)
    return [
        f"{sum(events.values())} events ({happened}), {summary['passedOver']} passed over",
        f"{summary['secondsThen']:.0f} s then, {summary['seconds']:.1f} s now; {summary['lateSecondsMax']:.2f} s late",
        f"{summary['decisions']} decisions with {summary['creates']} creates and {summary['deletes']} deletes",
        f"{summary['nodes']} nodes, {'all covered' if summary['covered'] else 'not all covered'}",
    ]


def _put_node(fleet: SimulatedFleet, node: Node) -> None:
    """Make a node what it was then; only when it fell silent is as it is now."""
    known = fleet.node(node.name)
    if known is not None and known.uid != node.uid:
        fleet.remove_node(node.name)
        known = None
    if known is None:
        fleet.add_node(structs.replace(node, ready=True, unready_since_ms=0))
        known = structs.replace(node, ready=True)
    if known.ready != node.ready:
        fleet.set_node_ready(node.name, ready=node.ready)
    if known.unschedulable != node.unschedulable:
        fleet.cordon(node.name, unschedulable=node.unschedulable)
    if known.labels != node.labels:
        fleet.update_labels(node.name, node.labels, known.labels.keys() - node.labels.keys())
    now = fleet.node(node.name)
    if now is not None and now.taints != node.taints:
        fleet.update_taints(node.name, node.taints, set(now.taints) - set(node.taints))


async def _settle(bus: JetStreamBus, worker: Worker, happening: _Happening) -> None:
    """Wait until the log has all that happened, and each node that is ready has its pods."""
    nodes = {node.key: node for node in happening.nodes()}
    silent = sum(not node.ready for node in nodes.values())
    async with contextlib.aclosing(follow_view(bus, ["node", "pod", "status"])) as views:
        async for view in views:
            if view.nodes != nodes or view.pods != happening.pods():
                continue
            await worker.wait_settled(view.sequence)
            statuses = worker.statuses()
            if all(
                _is_covered(statuses.get(key), generation, silent)
                for key, generation in happening.generations.items()
            ):
                return


def _is_covered(status: Status | None, generation: int, silent: int) -> bool:
    """Say whether every node has its pod, and it is ready, but for as many as are silent."""
    if status is None or status.observed_generation < generation:
        return False
    return is_covered(status, silent)
