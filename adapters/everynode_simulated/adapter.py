"""The adapter of the simulated backend: the fleet seen and changed as ``everynode.ports.Adapter`` asks.

The engine finds it by its entry point. It is thin on purpose: what the fleet does is in ``fleet``, and what
an adapter does not have to do (compare, retry, publish) is in the adapter host.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncGenerator, Mapping
from typing import assert_never

from everynode.core.commands import (
    AdoptPod,
    Command,
    CreatePod,
    DeletePod,
    Outcome,
    ReleasePod,
    outcome_of,
)
from everynode.core.events import NodeObserved, PodObserved
from everynode.core.values import Owner, Pod
from everynode.errors import ConfigurationError, OutcomeUnknownError, UnavailableError
from everynode.ports import ListBegun, ListEnded, Observation, View
from everynode_simulated.behaviour import Behaviour
from everynode_simulated.control import execute, parse
from everynode_simulated.feed import Feed
from everynode_simulated.fleet import SimulatedFleet
from everynode_simulated.generator import generate_nodes

NODES_DEFAULT = 10
NODES_MAX = 1_000_000
STILL_STOPPING_RETRY_MS = 200
CALLS_REMEMBERED_MAX = 100_000
"""Commands whose number of calls is remembered, so that a repeated call draws its fate anew."""


class SimulatedAdapter:
    """A simulated fleet as one backend of an everynode fleet.

    Args:
        backend: Name of the backend in the everynode fleet.
        fleet: The simulated nodes and pods.
        identity: Which simulated fleet this is; made from the name if not given.

    Raises:
        ConfigurationError: The fleet has nodes of another backend.
    """

    def __init__(self, backend: str, fleet: SimulatedFleet, identity: str = "") -> None:
        """Check that the nodes belong here."""
        strangers = [node.name for node in fleet.nodes.values() if node.backend != backend]
        if strangers:
            text = (
                f"backend {backend}: node {strangers[0]} belongs to another backend; make it anew"
            )
            raise ConfigurationError(text)
        self.backend = backend
        self.identity = identity or f"simulated/{backend}"
        self._fleet = fleet
        self._calls: Counter[str] = Counter()

    @classmethod
    def from_options(cls, backend: str, options: Mapping[str, str]) -> SimulatedAdapter:
        """Make one from ``key=value`` options: ``nodes`` (how many), and the fields of ``Behaviour``.

        Raises:
            ConfigurationError: There is no such option, or its value is wrong.
        """
        behaviour = {key: text for key, text in options.items() if key != "nodes"}
        text = options.get("nodes", str(NODES_DEFAULT))
        if not text.isdecimal() or int(text) > NODES_MAX:
            raise ConfigurationError(
                f"backend {backend}: nodes is {text!r}; write a number from 0 to {NODES_MAX}"
            )
        try:
            parsed = Behaviour.from_options(behaviour)
        except ValueError as error:
            raise ConfigurationError(f"backend {backend}: {error}") from error
        nodes = generate_nodes(int(text), parsed.seed, backend)
        return cls(backend, SimulatedFleet(nodes, behaviour=parsed))

    # --- observe ------------------------------------------------------------------------------------------------------

    async def observe(self, known: View) -> AsyncGenerator[Observation]:  # noqa: ARG002 - it lists everything
        """List everything, then say each change; when changes were lost, list again."""
        woken = asyncio.Event()
        while True:
            feed = self._fleet.subscribe(woken.set)
            try:
                self._fleet.advance()
                for observation in self._everything(feed):
                    yield observation
                while not feed.overrun:
                    woken.clear()
                    self._fleet.advance()
                    for change in feed.take():
                        yield change
                    if not woken.is_set():
                        await self._until_something_happens(woken)
            finally:
                feed.close()

    def _everything(self, feed: Feed) -> list[Observation]:
        """Name all nodes and pods as they are at one moment; the feed's changes up to then are part of it."""
        feed.take()
        nodes = [NodeObserved(node=node) for node in self._fleet.nodes.values()]
        pods = [PodObserved(pod=pod) for pod in self._fleet.pods.values()]
        return [
            ListBegun("nodes"),
            *nodes,
            ListEnded("nodes"),
            ListBegun("pods"),
            *pods,
            ListEnded("pods"),
        ]

    async def _until_something_happens(self, woken: asyncio.Event) -> None:
        due_ms = self._fleet.next_due_ms
        if due_ms is None:
            await woken.wait()
            return
        clock = self._fleet.clock
        waiting = asyncio.ensure_future(woken.wait())
        sleeping = asyncio.ensure_future(clock.sleep_ms(max(1, due_ms - clock.now_ms())))
        try:
            await asyncio.wait((waiting, sleeping), return_when=asyncio.FIRST_COMPLETED)
        finally:
            waiting.cancel()
            sleeping.cancel()
            await asyncio.gather(waiting, sleeping, return_exceptions=True)

    # --- apply --------------------------------------------------------------------------------------------------------

    async def apply(self, command: Command) -> Outcome:
        """Create, delete, adopt or release a pod, unless it is so already.

        Raises:
            UnavailableError: The behaviour says so, or a pod of that name is still stopping; nothing happened.
            OutcomeUnknownError: The behaviour says so; it did happen.
        """
        call = self._count_call(command)
        behaviour = self._fleet.behaviour
        delay_ms = behaviour.delay_ms(behaviour.apply_ms, "apply", command.id, call)
        if delay_ms:
            await self._fleet.clock.sleep_ms(delay_ms)
        if behaviour.calls_unavailable and (
            behaviour.chance("unavailable", command.id, call) < behaviour.calls_unavailable
        ):
            raise UnavailableError(f"backend {self.backend}: not now (simulated)")
        self._fleet.advance()
        outcome = self._carry_out(command)
        if behaviour.calls_unanswered and (
            behaviour.chance("unanswered", command.id, call) < behaviour.calls_unanswered
        ):
            raise OutcomeUnknownError(f"backend {self.backend}: the answer was lost (simulated)")
        return outcome

    def _count_call(self, command: Command) -> int:
        if len(self._calls) >= CALLS_REMEMBERED_MAX:
            self._calls.clear()
        self._calls[command.id] += 1
        return self._calls[command.id]

    def _carry_out(self, command: Command) -> Outcome:
        match command:
            case CreatePod():
                return self._create(command)
            case DeletePod():
                return self._delete(command)
            case AdoptPod():
                return self._adopt(command)
            case ReleasePod():
                return self._release(command)
            case _:
                assert_never(command)

    def _create(self, command: CreatePod) -> Outcome:
        key = command.pod_key
        if self._fleet.is_foreign(key):
            return outcome_of(command, "refused", f"pod {key.name} belongs to someone else")
        pod = self._fleet.pod(key)
        if pod is not None:
            return self._meet(command, pod)
        node = self._fleet.node(command.node)
        if node is None or node.uid != command.node_uid:
            return outcome_of(command, "refused", f"node {command.node} is not there any more")
        pod = self._fleet.create_pod(
            key,
            node=command.node,
            owner=Owner(name=command.daemonset, uid=command.daemonset_uid),
            revision=command.revision,
            template=bytes(command.template or b""),
            generation=command.generation,
            failures=command.failures,
        )
        return outcome_of(command, "done", pod_uid=pod.uid)

    def _meet(self, command: CreatePod, pod: Pod) -> Outcome:
        """Answer for a name that is taken."""
        is_ours = pod.owner is not None and pod.owner.uid == command.daemonset_uid
        if not is_ours or pod.node_uid != command.node_uid:
            return outcome_of(command, "refused", f"pod {pod.name} is not this set's on this node")
        if pod.deleting:
            text = f"pod {pod.name} is still stopping"
            raise UnavailableError(text, retry_after_ms=STILL_STOPPING_RETRY_MS)
        return outcome_of(command, "done", "it was there already", pod.uid)

    def _delete(self, command: DeletePod) -> Outcome:
        pod = self._fleet.pod(command.pod_key)
        if pod is None:
            return outcome_of(command, "done", "it was gone already")
        if pod.uid != command.pod_uid:
            return outcome_of(command, "done", "it was gone already; another pod has its name")
        self._fleet.delete_pod(command.pod_key, why=command.reason or "deleted by command")
        return outcome_of(command, "done")

    def _adopt(self, command: AdoptPod) -> Outcome:
        if self._fleet.is_foreign(command.pod_key):
            return outcome_of(command, "superseded", f"someone else controls pod {command.pod}")
        pod = self._fleet.pod(command.pod_key)
        if pod is None or pod.uid != command.pod_uid:
            return outcome_of(command, "superseded", f"pod {command.pod} is gone")
        if pod.deleting:
            return outcome_of(command, "superseded", f"pod {command.pod} is on its way out")
        owner = Owner(name=command.daemonset, uid=command.daemonset_uid)
        if pod.owner is not None and pod.owner.uid != owner.uid:
            text = f"DaemonSet {pod.owner.name} controls pod {command.pod}"
            return outcome_of(command, "superseded", text)
        self._fleet.adopt_pod(command.pod_key, owner)
        return outcome_of(command, "done", pod_uid=pod.uid)

    def _release(self, command: ReleasePod) -> Outcome:
        pod = self._fleet.pod(command.pod_key)
        if pod is None or pod.uid != command.pod_uid:
            return outcome_of(command, "done", "it was gone already")
        if pod.owner is None or pod.owner.uid != command.daemonset_uid:
            return outcome_of(command, "done", "it was not the set's any more")
        self._fleet.release_pod(command.pod_key)
        return outcome_of(command, "done")

    # --- control ------------------------------------------------------------------------------------------------------

    async def control(self, request: Mapping[str, object]) -> dict[str, object]:
        """Do something to the fleet as an outsider would; see ``everynode_simulated.control``.

        Raises:
            RefusedError: The request is wrong, or what it names is not there.
        """
        parsed = parse(request)
        self._fleet.advance()
        return execute(self._fleet, self.backend, parsed)
