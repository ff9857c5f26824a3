"""What is fuzzed: each target reads an input as the program would, and knows what may come of it.

Used by ``tests.fuzz.campaign``. An input is accepted, or refused with the error that is meant for it; whatever else a
target raises is a finding. What is accepted must survive being written and read again.
"""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import msgspec
import yaml
from hypothesis import HealthCheck, Phase, given, settings
from tests.fuzz import writers
from tests.property import test_manifest_fuzz as manifests
from tests.property.test_wire import messages
from tests.unit.golden_decisions import DECIDED
from tests.unit.golden_observations import OBSERVED
from tests.unit.test_wire_document import EXAMPLES

from everynode import wire
from everynode.core.events import DaemonSetObserved, NodeObserved, PodObserved, RevisionRecorded
from everynode.core.pacing import Limits
from everynode.core.sharing import Beat, DeadWorker, Peers
from everynode.core.state import FleetState, Record
from everynode.core.values import Owner, PodKey
from everynode.errors import MalformedMessageError, RefusedError
from everynode.runtime.claim import Claim, Holder
from everynode.runtime.host import _answer_request
from everynode.runtime.roster import read_beat
from everynode_kubernetes import objects, translate
from everynode_kubernetes.nesting import decoded
from everynode_simulated import Behaviour, SimulatedAdapter, SimulatedFleet
from everynode_simulated.generator import generate_nodes

ROOT = Path(__file__).parents[2]
SUBJECTS = wire.Subjects("prod", 16)
UNREADABLE = (msgspec.MsgspecError, ValueError, RecursionError)  # what the reflector passes over
DRAWN_MESSAGES = 200
FLEET = generate_nodes(3, 1, "east")
POD = PodKey("east", "default", "agent-1")

Writer = Callable[[random.Random, Any], bytes]


@dataclass(frozen=True)
class Target:
    """Something that reads what others wrote.

    Attributes:
        name: Names the directory of its corpus.
        share: How many of a hundred inputs are for it.
        seeds: Inputs that it accepts.
        read: Reads one input; whether it was accepted.
        writers: How documents are written for it.
    """

    name: str
    share: int
    seeds: Sequence[bytes]
    read: Callable[[bytes], bool]
    writers: Sequence[Writer] = field(default=(writers.compact_json,))


@cache
def targets() -> tuple[Target, ...]:
    """All of them; their seeds are made once."""
    return (
        Target("wire", 62, wire_seeds(), read_message, (writers.message, writers.compact_json)),
        Target(
            "manifest",
            18,
            manifest_seeds(),
            read_manifest,
            (writers.yaml_text, writers.yaml_text, writers.indented_json, writers.compact_json),
        ),
        Target("beside", 12, beside_seeds(), read_beside),
        Target("kubernetes", 8, kubernetes_seeds(), read_kubernetes),
    )


# --- messages of the log --------------------------------------------------------------------------


def wire_seeds() -> list[bytes]:
    """Golden messages, those of the documentation, and some that are drawn."""
    golden = [payload for _, _, payload in (OBSERVED | DECIDED).values()]
    documented = [body.encode() for _, body in EXAMPLES]
    found: list[bytes] = []

    @settings(
        derandomize=True,
        database=None,
        max_examples=DRAWN_MESSAGES,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
        deadline=None,
    )
    @given(messages())
    def collect(message: wire.AnyMessage) -> None:
        payload = wire.encode(message)
        if read_message(payload):  # what is drawn may be beyond a limit
            found.append(payload)

    collect()
    assert len(found) > DRAWN_MESSAGES // 2
    return [*golden, *documented, *found]


def read_message(payload: bytes) -> bool:
    """Read a message as a worker does, and take it into a state."""
    try:
        message = wire.decode(payload)
    except MalformedMessageError as error:
        str(error).encode()
        return False
    check_written(message)
    subject = SUBJECTS.of(message)
    assert wire.decode_from(SUBJECTS, subject, payload) == message
    assert all(
        part and part.isascii() and not set(part) & set(" *>") for part in subject.split(".")
    )
    try:
        FleetState(Limits()).load(Record(1, 1, message))
    except RefusedError as error:
        str(error).encode()
    return True


def check_written(message: wire.AnyMessage) -> None:
    """What was accepted is written, and reads the same."""
    try:
        written = wire.encode(message)
    except MalformedMessageError:
        return  # it grew past what the log takes: numbers are written in full
    assert wire.decode(written) == message
    assert wire.encode(wire.decode(written)) == written


# --- manifests ------------------------------------------------------------------------------------


def manifest_seeds() -> list[bytes]:
    """Manifests as YAML and as JSON: small ones of every kind, and the examples that are shipped."""
    small = (manifests.AGENT, manifests.NODE, manifests.LIST)
    seeds = [json.dumps(document).encode() for document in small]
    seeds += [yaml.safe_dump(document).encode() for document in small]
    for path in sorted((ROOT / "deploy" / "examples").glob("*.yaml")):
        content = path.read_bytes()
        seeds.append(content)
        for document in yaml.safe_load_all(content):
            if document is not None and document.get("kind") == "DaemonSet":
                seeds.append(json.dumps(document, default=str).encode())
    return seeds


def read_manifest(content: bytes) -> bool:
    """Read a file as ``everynode apply`` and the simulated adapter do."""
    found, nodes = manifests.check(content)
    for accepted in found.accepted:
        check_written(DaemonSetObserved(daemonset=accepted.daemonset))
    for accepted_node in nodes.accepted:
        check_written(NodeObserved(node=accepted_node.node))
    return bool(found.accepted or nodes.accepted)


# --- messages beside the log ----------------------------------------------------------------------


@cache
def loop() -> asyncio.AbstractEventLoop:
    """A loop for handlers, which wait for nothing."""
    return asyncio.new_event_loop()


def beside_seeds() -> list[bytes]:
    """Requests to a simulated fleet, and what hosts of one backend tell each other."""
    first, second, _ = (node.name for node in FLEET)
    requests: list[dict[str, Any]] = [
        {"verb": "label-node", "node": first, "put": {"zone": "a"}, "remove": ["arch"]},
        {"verb": "taint-node", "node": first, "put": [{"key": "a", "effect": "NoExecute"}]},
        {"verb": "taint-node", "node": first, "remove": [{"key": "a", "effect": ""}]},
        *(
            {"verb": verb, "node": first}
            for verb in ("cordon", "uncordon", "stop-node", "start-node")
        ),
        {"verb": "add-node", "count": 2, "labels": {"a": "b"}, "taints": []},
        {"verb": "add-node", "name": "new-node"},
        {"verb": "delete-node", "node": second},
        *(
            {"verb": verb, "namespace": "default", "name": POD.name}
            for verb in ("delete-pod", "fail-pod", "finish-pod")
        ),
        {
            "verb": "label-pod",
            "namespace": "default",
            "name": POD.name,
            "put": {"a": "b"},
            "remove": ["c"],
        },
    ]
    holders = [Holder(1, "a"), Holder(2**53, "f" * 16)]
    beat = Beat(
        v=wire.SCHEMA_VERSION,
        worker="worker-1",
        id="0" * 16,
        number=3,
        since_ms=2,
        ready=True,
        shards=(0, 1, 15),
        holds=(1, 2),
        sequence=7,
        behind=0,
        dead=(DeadWorker("worker-2", "1" * 16, 5),),
    )
    return [msgspec.json.encode(seed) for seed in (*requests, *holders, beat)]


def read_beside(payload: bytes) -> bool:
    """Hand a message to everybody who listens beside the log: each answers, and nobody fails."""
    fleet = SimulatedFleet(FLEET, behaviour=Behaviour())
    fleet.create_pod(POD, node=FLEET[0].name, owner=None, revision="")
    answer = loop().run_until_complete(_answer_request(SimulatedAdapter("east", fleet), payload))
    said = msgspec.json.decode(answer, type=dict[str, Any])
    refusal = str(said.get("error", ""))
    assert not refusal.startswith("the adapter failed"), refusal
    claim: Any = Claim(None, "subject", None, "id")  # type: ignore[arg-type] # neither is used to answer
    claim._held = Holder(5, "m")
    assert loop().run_until_complete(claim._answer(payload)) == b"id"
    return hears_beat(payload) or not refusal


def hears_beat(payload: bytes) -> bool:
    """Hear what a worker says of itself as another worker does."""
    try:
        beat = read_beat(payload, SUBJECTS.shards)
    except MalformedMessageError as error:
        str(error).encode()
        return False
    assert read_beat(msgspec.json.encode(beat), SUBJECTS.shards) == beat
    peers = Peers("me", SUBJECTS.shards)
    peers.hear(beat, 1)
    peers.owned(peers.wanted())
    return True


# --- objects of a cluster -------------------------------------------------------------------------


def kubernetes_seeds() -> list[bytes]:
    """Objects as an API server sends them."""
    metadata = {
        "name": "x",
        "namespace": "d",
        "uid": "u",
        "resourceVersion": "7",
        "generation": 2,
        "labels": {"app": "a"},
        "annotations": {"everynode.dev/generation": "3", "everynode.dev/partition": "10%"},
        "ownerReferences": [
            {
                "apiVersion": "apps/v1",
                "kind": "DaemonSet",
                "name": "x",
                "uid": "u",
                "controller": True,
            }
        ],
        "creationTimestamp": "2024-05-06T07:08:09Z",
        "deletionTimestamp": "2024-05-06T07:08:09.5+02:00",
        "deletionGracePeriodSeconds": 30,
    }
    conditions = [{"type": "Ready", "status": "True", "lastTransitionTime": "2024-05-06T07:08:09Z"}]
    affinity = manifests.AGENT["spec"]["template"]["spec"]["affinity"]
    template = {"$patch": "replace", **manifests.AGENT["spec"]["template"]}
    found: list[dict[str, Any]] = [
        {"spec": manifests.NODE["spec"], "status": {"conditions": conditions}},
        {
            "spec": {"nodeName": "", "affinity": affinity},
            "status": {"phase": "Running", "conditions": conditions},
        },
        {
            "spec": manifests.AGENT["spec"],
            "status": {"observedGeneration": 1, "conditions": conditions},
        },
        {"revision": 3, "data": {"spec": {"template": template}}},
    ]
    return [json.dumps({"metadata": metadata, **each}).encode() for each in found]


def read_kubernetes(raw: bytes) -> bool:
    """Read an object as each kind, and translate it."""
    accepted = False
    for read in (_read_node, _read_pod, _read_set, _read_revision):
        try:
            message = read(raw)
        except UNREADABLE:
            continue
        if message is not None:
            accepted = True
            _check_translated(message)
    return accepted


def _check_translated(message: wire.AnyMessage) -> None:
    """It can be published, or is refused as every observation is."""
    try:
        wire.decode_from(SUBJECTS, SUBJECTS.of(message), wire.encode(message))
    except MalformedMessageError:
        return
    check_written(message)


def _read_node(raw: bytes) -> wire.AnyMessage:
    node = decoded(msgspec.json.Decoder(objects.ApiNode), raw)
    assert node == objects.parse_node(raw)
    return NodeObserved(node=translate.node_of(node, "east"))


def _read_pod(raw: bytes) -> wire.AnyMessage:
    pod = objects.parse_pod(raw)
    owner = Owner(name="x", uid="u") if translate.controller_of(pod.metadata) else None
    return PodObserved(
        pod=translate.pod_of(pod, "east", owner=owner, revision="", labels=pod.metadata.labels)
    )


def _read_set(raw: bytes) -> wire.AnyMessage | None:
    api = objects.parse_daemonset(raw)
    translate.strategy_problems(api)
    found = translate.daemonset_of(api, "east")
    return None if isinstance(found, translate.Rejection) else DaemonSetObserved(daemonset=found)


def _read_revision(raw: bytes) -> wire.AnyMessage | None:
    revision = translate.revision_of(objects.parse_controller_revision(raw), "x", "u")
    return None if revision is None else RevisionRecorded(revision=revision)
