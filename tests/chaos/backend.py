"""A simulated backend as a process of its own: the truth that several adapters share, and that writes its own history.

Run as ``python -m tests.chaos.backend``; ``remote_adapter`` speaks to it, and so does the run. It is never faulted
itself: what it says happened. It knows nothing of the log, of workers or of how many adapters there are.

Each connection over loopback begins with a line that says what it is for: ``apply NAME`` (requests and answers, any
number at a time), ``observe NAME`` (a list, then changes) or ``control`` (one request, one answer, by the run itself).
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import dataclasses
import signal
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
from tests.chaos.churn import Churn, is_open
from tests.chaos.lines import (
    BackendLine,
    Call,
    NodeLine,
    Outsider,
    PodLine,
)

from everynode import wire
from everynode.core.commands import COMMANDS, Command, CreatePod, DeletePod, Outcome
from everynode.core.events import NodeGone, NodeObserved, PodGone, PodObserved
from everynode.core.values import Node, NodeKey, Pod, PodKey
from everynode.errors import MalformedMessageError, OutcomeUnknownError, UnavailableError
from everynode.ports import ListBegun, ListEnded, Observation
from everynode_simulated import Behaviour, SimulatedAdapter, SimulatedFleet

BACKEND = "sim"
LINE_BYTES_MAX = 4 * 1024**2
EDGE_EVERY = 4
"""Every so many nodes are of the tier ``edge``; the others are ``core``."""


class Chronicle:
    """The history of the backend: one JSON line per fact, in the order in which it happened."""

    def __init__(self, fleet: SimulatedFleet, path: Path) -> None:
        """Write from now on."""
        self._file = path.open("ab", buffering=0)
        self._encode = msgspec.json.Encoder().encode
        self._feed = fleet.subscribe(self._wake)
        self._loop = asyncio.get_running_loop()

    def _wake(self) -> None:
        self._loop.call_soon(self.catch_up)

    def write(self, line: BackendLine) -> None:
        """Add a line."""
        self._file.write(self._encode(line) + b"\n")

    def catch_up(self) -> None:
        """Write down what has happened to nodes and pods."""
        now_ms = time.time_ns() // 1_000_000
        for change in self._feed.take():
            match change:
                case PodObserved(pod=pod):
                    self.write(_line_of(pod, now_ms))
                case PodGone() if change.owner is not None:
                    gone = PodLine(
                        time_ms=now_ms,
                        uid=change.uid,
                        name=change.name,
                        set_uid=change.owner.uid,
                        node_uid=change.node_uid,
                        live=False,
                        available=False,
                        exists=False,
                    )
                    self.write(gone)
                case NodeObserved(node=node):
                    self.write(NodeLine(time_ms=now_ms, uid=node.uid, open=is_open(node)))
                case NodeGone():
                    self.write(NodeLine(time_ms=now_ms, uid=change.uid, open=False, exists=False))
                case _:
                    pass

    def outsider(self, pod_uid: str) -> None:
        """Write down that somebody else is about to end a pod."""
        self.catch_up()
        self.write(Outsider(time_ms=time.time_ns() // 1_000_000, pod_uid=pod_uid))


def _line_of(pod: Pod, now_ms: int) -> PodLine:
    return PodLine(
        time_ms=now_ms,
        uid=pod.uid,
        name=pod.name,
        set_uid=pod.owner.uid if pod.owner else "",
        node_uid=pod.node_uid,
        live=pod.live,
        available=pod.live and pod.ready,
    )


class Truth(SimulatedAdapter):
    """The simulated backend; whatever a command makes or ends is written down at that moment."""

    def __init__(self, fleet: SimulatedFleet, chronicle: Chronicle) -> None:
        """Take care of a fleet."""
        super().__init__(BACKEND, fleet)
        self.fleet = fleet
        self._chronicle = chronicle

    def note(
        self, phase: str, process: str, command: Command | CreatePod, pod_uid: str = ""
    ) -> None:
        """Write down where a command is."""
        line = Call(
            time_ms=time.time_ns() // 1_000_000,
            phase=phase,  # type: ignore[arg-type] # one of four words, all of them in this file
            process=process,
            command=command.id,
            verb=command.verb,
            pod_uid=pod_uid,
        )
        self._chronicle.write(line)

    def _carry_out(self, command: Command) -> Outcome:
        self._chronicle.catch_up()
        before = self.fleet.pod(command.pod_key)
        outcome = super()._carry_out(command)
        after = self.fleet.pod(command.pod_key)
        if isinstance(command, CreatePod) and after and (not before or before.uid != after.uid):
            self.note("effect", "", command, after.uid)
        ended = before is not None and before.live and not (after and after.live)
        if isinstance(command, DeletePod) and before and ended:
            self.note("effect", "", command, before.uid)
        self._chronicle.catch_up()
        return outcome


class _Nothing:
    """A view of a fleet of which nothing is known: the simulated adapter lists everything anyway."""

    nodes: Mapping[NodeKey, Node] = {}
    pods: Mapping[PodKey, Pod] = {}


class Service:
    """Answers adapters and the run.

    Args:
        truth: The backend.
        churn: What happens to its nodes and pods without us.
    """

    def __init__(self, truth: Truth, churn: Churn) -> None:
        """Wait for connections."""
        self._truth = truth
        self._churn = churn

    async def accepted(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve one connection until either side ends it."""
        with contextlib.suppress(OSError, ValueError, asyncio.CancelledError):
            role, _, name = (await reader.readline()).decode().strip().partition(" ")
            match role:
                case "apply":
                    await self._apply(reader, writer, name)
                case "observe":
                    await self._observe(reader, writer)
                case "control":
                    request = msgspec.json.decode(await reader.readline())
                    answer = await self._control(request)
                    writer.write(msgspec.json.encode(answer) + b"\n")
                    await writer.drain()
                case _:
                    pass
        writer.close()

    async def _apply(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, name: str
    ) -> None:
        """Carry out commands side by side; those whose connection ends are carried out all the same."""
        calls: set[asyncio.Task[None]] = set()
        while line := await reader.readline():
            number, text, template = msgspec.json.decode(line)
            command = _read_command(text, template)
            self._truth.note("invoke", name, command)
            call = asyncio.create_task(self._call(number, command, writer, name))
            calls.add(call)
            call.add_done_callback(calls.discard)
        await asyncio.gather(*calls, return_exceptions=True)

    async def _call(
        self, number: int, command: Command, writer: asyncio.StreamWriter, name: str
    ) -> None:
        phase = "ok"
        answer: tuple[int, str, object]
        try:
            outcome = await self._truth.apply(command)
            answer = (number, "outcome", wire.encode(outcome).decode())
        except UnavailableError as error:
            answer = (number, "unavailable", [str(error), error.retry_after_ms])
        except OutcomeUnknownError as error:
            phase = "info"
            answer = (number, "unknown", str(error))
        if writer.is_closing():
            phase = "info"
        self._truth.note(phase, name, command)
        writer.write(msgspec.json.encode(answer) + b"\n")

    async def _observe(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        telling = asyncio.create_task(self._tell(writer))
        ended = asyncio.create_task(reader.read())
        try:
            await asyncio.wait((telling, ended), return_when=asyncio.FIRST_COMPLETED)
        finally:
            telling.cancel()
            ended.cancel()
            await asyncio.gather(telling, ended, return_exceptions=True)

    async def _tell(self, writer: asyncio.StreamWriter) -> None:
        async with contextlib.aclosing(self._truth.observe(_Nothing())) as observations:
            async for observation in observations:
                writer.write(_line_about(observation) + b"\n")
                await writer.drain()

    async def _control(self, request: dict[str, Any]) -> dict[str, Any]:
        fleet = self._truth.fleet
        match request["verb"]:
            case "begin":
                self._churn.begin()
            case "heal":
                self._churn.heal()
                fleet.behaviour = dataclasses.replace(
                    fleet.behaviour, calls_unavailable=0.0, calls_unanswered=0.0
                )
        fleet.advance()
        nodes = [
            {"uid": node.uid, "open": is_open(node), "tier": node.labels["tier"]}
            for node in fleet.nodes.values()
        ]
        pods = [
            {
                "set": pod.owner.uid if pod.owner else "",
                "node": pod.node_uid,
                "revision": pod.revision,
                "ready": pod.live and pod.ready,
            }
            for pod in fleet.pods.values()
        ]
        return {"nodes": nodes, "pods": pods, "churn": dict(self._churn.counts)}


def _read_command(text: str, template: str) -> Command:
    message = wire.decode(text.encode())
    if not isinstance(message, COMMANDS):
        raise MalformedMessageError(f"{type(message).__name__} is no command")
    if isinstance(message, CreatePod):
        return msgspec.structs.replace(message, template=msgspec.Raw(template.encode()))
    return message


def _line_about(observation: Observation) -> bytes:
    match observation:
        case ListBegun():
            return b"+" + observation.kind.encode()
        case ListEnded():
            return b"-" + observation.kind.encode()
        case _:
            return wire.encode(observation)


def make_node(number: int, incarnation: int = 0) -> Node:
    """Make a node of the fleet; each incarnation is another machine under the same name."""
    return Node(
        backend=BACKEND,
        name=f"n{number:05}",
        uid=f"uid-{number:05}-{incarnation}",
        labels={"tier": "core" if number % EDGE_EVERY else "edge"},
    )


async def _serve(arguments: argparse.Namespace) -> None:
    shortest_ms, longest_ms = (int(text) for text in arguments.apply_ms.split("-"))
    behaviour = Behaviour(
        seed=arguments.seed,
        start_ms=(5, 100),
        stop_ms=(0, 200),
        apply_ms=(shortest_ms, longest_ms),
        calls_unavailable=arguments.bad_calls,
        calls_unanswered=arguments.bad_calls,
    )
    fleet = SimulatedFleet(behaviour=behaviour)
    chronicle = Chronicle(fleet, arguments.history)
    for number in range(arguments.nodes):
        fleet.add_node(make_node(number))
    churn = Churn(fleet, arguments.seed, make_node, chronicle.outsider)
    service = Service(Truth(fleet, chronicle), churn)
    stopped = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopped.set)
    async with await asyncio.start_server(
        service.accepted, "127.0.0.1", arguments.port, limit=LINE_BYTES_MAX
    ):
        await stopped.wait()
    chronicle.catch_up()


def main() -> None:
    """Serve until SIGTERM."""
    parser = argparse.ArgumentParser(description="A simulated backend for chaos runs.")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--nodes", type=int, required=True)
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--history", type=Path, required=True)
    parser.add_argument("--apply-ms", default="1-20")
    parser.add_argument("--bad-calls", type=float, default=0.0)
    asyncio.run(_serve(parser.parse_args()))


if __name__ == "__main__":
    main()
