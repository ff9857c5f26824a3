"""What a plan says: actions, nodes, waves and warnings, on fleets that are made for it."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from msgspec import structs

from everynode import wire
from everynode.cli.plan_report import print_plan
from everynode.core.commands import CreatePod, DeletePod
from everynode.core.events import (
    DaemonSetGone,
    DaemonSetObserved,
    NodeObserved,
    PodObserved,
    RevisionRecorded,
)
from everynode.core.identity import canonical
from everynode.core.values import DaemonSet, Node, Pod, Revision, Selector, UpdateStrategy
from everynode.errors import InvalidObjectError, MalformedMessageError, RefusedError
from everynode.ports import Received
from everynode.replay.planning import PlannedSet, Planner
from everynode.replay.planning_fleet import PlannedFleet
from everynode.replay.planning_nodes import Happening
from everynode.testing.builders import daemonset, node, pod, taint

SUBJECTS = wire.Subjects("test", 4)
NOW_MS = 1_000_000
COMMAND: dict[str, Any] = {
    "id": "c",
    "backend": "east",
    "namespace": "default",
    "daemonset": "agent",
    "daemonset_uid": "uid-agent",
    "generation": 1,
    "expires_ms": NOW_MS + 1,
}
ROLLING = UpdateStrategy(type="RollingUpdate", max_unavailable=2)


def agent(image: str = "agent:1", strategy: UpdateStrategy = ROLLING, **spec: Any) -> DaemonSet:
    """A set, as it is wanted or as the log has it."""
    containers = [{"name": "main", "image": image, "env": [{"name": "KEY", "value": image}]}]
    return daemonset({"containers": containers, **spec}, update_strategy=strategy)


def fleet(*messages: wire.AnyMessage, keys: tuple[DaemonSet, ...] = ()) -> PlannedFleet:
    """A fleet of which STATE says this; it wants all of it."""
    found = PlannedFleet(SUBJECTS, [each.key for each in keys or (agent(),)])
    for sequence, message in enumerate(messages, 1):
        received = Received(sequence, NOW_MS, SUBJECTS.of(message), wire.encode(message))
        assert found.wants(received.subject)
        found.take(received)
    return found


def running(owner: DaemonSet, nodes: list[Node], **changes: Any) -> list[PodObserved]:
    """One pod of a set on each node."""
    return [PodObserved(pod=pod(owner, each, f"pod-{each.name}", **changes)) for each in nodes]


def covered(owner: DaemonSet, nodes: list[Node]) -> PlannedFleet:
    """A fleet with one pod of a set on each node."""
    return fleet(
        *(NodeObserved(node=each) for each in nodes),
        DaemonSetObserved(daemonset=owner),
        *running(owner, nodes),
    )


def hear(known: PlannedFleet, *messages: wire.AnyMessage) -> None:
    """Let the log have this as well."""
    for sequence, message in enumerate(messages, 100):
        received = Received(sequence, NOW_MS, SUBJECTS.of(message), wire.encode(message))
        known.take(received)


def planned(known: PlannedFleet, wanted: DaemonSet) -> PlannedSet:
    """Plan one set."""
    planner = Planner(known, NOW_MS)
    planner.apply(wanted)
    (found,) = planner.plans()
    return found


def waves(found: PlannedSet) -> list[list[str]]:
    """The names of the nodes of each wave."""
    return [[key.name for key in wave] for wave in found.waves.waves]


def stays(found: PlannedSet) -> dict[str, int]:
    """How many nodes keep their pod, by reason."""
    return found.group(Happening.STAY).reasons


def codes(found: PlannedSet) -> list[str]:
    """The codes of the warnings."""
    return [warning.code for warning in found.warnings]


NODES = [node(name) for name in "abcde"]


class TestActions:
    """Action, generation and identity are those that apply gives."""

    def test_created(self) -> None:
        """A set that is not there: each eligible node gains a pod."""
        found = planned(fleet(*(NodeObserved(node=each) for each in NODES)), agent())

        assert ("created", 1, []) == (found.action, found.daemonset.generation, found.changes)
        assert {"NodeHasNoPod": 5} == found.group(Happening.GAIN).reasons
        assert [] == waves(found)

    def test_unchanged(self) -> None:
        """What is so already changes nothing."""
        found = planned(covered(agent(), NODES), structs.replace(agent(), uid="-", generation=0))

        assert ("unchanged", 1) == (found.action, found.daemonset.generation)
        assert {"UpToDate": 5} == stays(found)

    def test_configured(self) -> None:
        """The fields that change are named; values of environment variables are not shown."""
        found = planned(
            covered(agent(), NODES), structs.replace(agent("agent:2"), min_ready_seconds=5)
        )

        assert ("configured", 2, "uid-agent") == (
            found.action,
            found.daemonset.generation,
            found.daemonset.uid,
        )
        assert [
            "spec.template.spec.containers[0].env[0].value",
            "spec.template.spec.containers[0].image",
            "spec.minReadySeconds",
        ] == [change.field for change in found.changes]
        assert ('"agent:1"', '"agent:2"') == found.changes[1][1:]
        assert all("redacted-" in value for value in found.changes[0][1:])

    def test_made_anew(self) -> None:
        """A set that was deleted begins anew; its pods that were to stay join the next one."""
        gone = DaemonSetGone(namespace="default", name="agent", uid="uid-agent", cascade="orphan")
        old = agent()
        known = fleet(
            *(NodeObserved(node=each) for each in NODES),
            gone,
            *running(old, NODES[:1], labels={"app": "agent"}),
            *running(old, NODES[1:2], labels={"app": "other"}),
        )

        found = planned(known, structs.replace(old, uid="-"))

        assert ("created", ("uid-agent",)) == (found.action, found.daemonset.predecessor_uids)
        assert {"PredecessorDeletedPodsStay": 1} == found.group(Happening.ADOPT).reasons
        assert ["b"] == [key.name for key in found.group(Happening.RELEASE).nodes]
        assert [] == waves(found)

    def test_made_anew_by_the_labels_of_a_template(self) -> None:
        """Where nobody says what labels a pod has, it has those of its template."""
        gone = DaemonSetGone(namespace="default", name="agent", uid="uid-agent", cascade="orphan")
        (observed,) = running(agent(), NODES[:1])
        recorded = RevisionRecorded(
            revision=Revision(
                namespace="default",
                daemonset="agent",
                daemonset_uid="uid-agent",
                hash=observed.pod.revision,
                number=1,
                template=msgspec.Raw(b'{"metadata":{"labels":{"app":"agent"}}}'),
            )
        )

        found = planned(fleet(NodeObserved(node=NODES[0]), gone, recorded, observed), agent())

        assert {"PredecessorDeletedPodsStay": 1} == found.group(Happening.ADOPT).reasons

    def test_made_anew_with_another_template(self) -> None:
        """Pods that join and are outdated are replaced then."""
        gone = DaemonSetGone(namespace="default", name="agent", uid="uid-agent", cascade="orphan")
        pods = running(agent(), NODES[:1], labels={"app": "agent"})

        found = planned(fleet(NodeObserved(node=NODES[0]), gone, *pods), agent("agent:2"))

        assert [["a"]] == waves(found)

    def test_several(self) -> None:
        """Documents of one set are applied one after the other."""
        planner = Planner(covered(agent(), NODES), NOW_MS)
        applied = [planner.apply(agent(f"agent:{version}")) for version in (2, 3, 3)]

        (found,) = planner.plans()
        assert ["configured", "configured", "configured"] == [each.action for each in applied]
        assert ("configured", 3) == (found.action, found.daemonset.generation)
        assert '"agent:3"' == found.changes[1].is_now

    def test_refused(self) -> None:
        """What apply refuses is refused, and nothing of it is planned."""
        planner = Planner(covered(agent(), NODES), NOW_MS)
        other = structs.replace(agent(), selector=Selector(match_labels={"app": "other"}))
        large = structs.replace(agent(), annotations={"a": "x" * wire.PAYLOAD_BYTES_MAX})

        with pytest.raises(InvalidObjectError, match="cannot be changed"):
            planner.apply(other)
        with pytest.raises(MalformedMessageError, match="the log takes at most"):
            planner.apply(large)
        assert [] == planner.plans()

    def test_of_a_backend(self) -> None:
        """So is a set that a backend keeps."""
        planner = Planner(covered(structs.replace(agent(), origin="east"), NODES), NOW_MS)

        with pytest.raises(RefusedError, match="is an object of backend east"):
            planner.apply(agent())


class TestNodes:
    """What happens to nodes."""

    def test_lost_and_gained(self) -> None:
        """Another selector: some lose their pod, others gain one; the excluded are counted as explain does."""
        nodes = [node("a", zone="1"), node("b", zone="1"), node("c", zone="2")]
        before = agent(nodeSelector={"zone": "1"})
        known = fleet(
            *(NodeObserved(node=each) for each in nodes),
            DaemonSetObserved(daemonset=before),
            *running(before, nodes[:2]),
        )

        found = planned(known, agent(nodeSelector={"zone": "2"}))

        assert (3, 1) == (found.nodes, found.eligible)
        assert {"NodeSelectorMismatch": 2} == found.group(Happening.LOSE).reasons
        assert ["c"] == [key.name for key in found.group(Happening.GAIN).nodes]
        assert [("NodeSelectorMismatch", 2)] == [
            (reason.code, count) for reason, count in found.excluded
        ]

    def test_on_their_way(self) -> None:
        """A command that is on its way counts as done."""
        command = CreatePod(**COMMAND, node="b", node_uid=NODES[1].uid, pod="pod-b", revision="x")
        known = covered(agent(), NODES[:1])
        hear(known, NodeObserved(node=NODES[1]), command)
        planner = Planner(known, NOW_MS)
        planner.apply(agent("agent:2"))
        (found,) = planner.plans()

        assert 1 == planner.on_their_way
        assert {"OutdatedRevision": 2} == found.group(Happening.REPLACE).reasons

    @pytest.mark.parametrize(("later_ms", "on_their_way"), [(0, 1), (3_600_000, 0)])
    def test_a_delete_on_its_way(self, later_ms: int, on_their_way: int) -> None:
        """Its pod is taken to be gone; a command that has expired is not on its way any more."""
        known = covered(agent(), NODES)
        hear(known, DeletePod(**COMMAND, node="a", pod="pod-a", pod_uid="uid-pod-a"))
        planner = Planner(known, NOW_MS + later_ms)
        planner.apply(agent())
        (found,) = planner.plans()

        assert on_their_way == planner.on_their_way == len(found.group(Happening.GAIN).nodes)

    def test_others_are_left_out(self) -> None:
        """Messages about other sets are not wanted, or change nothing."""
        other = daemonset(name="other")
        namesake = structs.replace(agent(), namespace="elsewhere")
        known = fleet(NodeObserved(node=NODES[0]))
        others: tuple[wire.AnyMessage, ...] = (
            DaemonSetObserved(daemonset=other),
            *running(namesake, NODES),
        )
        for message in others:
            assert not known.wants(SUBJECTS.of(message))
        for shard_mate in (daemonset(name=f"other-{number}") for number in range(20)):
            (mate,) = running(shard_mate, NODES[:1])
            known.take(Received(9, 1, SUBJECTS.of(mate), wire.encode(mate)))

        known.settle(NOW_MS)
        assert set() == set(known.state.sets)

    def test_unusable(self) -> None:
        """What cannot be read is counted and changes nothing."""
        known = fleet(NodeObserved(node=NODES[0]))

        known.take(Received(9, 1, SUBJECTS.of_node(NODES[0].key), b"?"))
        known.settle(NOW_MS)
        assert (1, 1) == (known.refused, len(known.state.index))


class TestWaves:
    """In which order the rollout comes to the nodes."""

    def test_within_the_budget(self) -> None:
        """Two at a time, by name."""
        found = planned(covered(agent(), NODES), agent("agent:2"))

        assert [["a", "b"], ["c", "d"], ["e"]] == waves(found)
        assert {"OutdatedRevision": 5} == found.group(Happening.REPLACE).reasons

    def test_surge(self) -> None:
        """With surge two at a time get a new pod beside the old one."""
        surge = UpdateStrategy(type="RollingUpdate", max_unavailable=0, max_surge=2)
        found = planned(covered(agent(), NODES), agent("agent:2", surge))

        assert [["a", "b"], ["c", "d"], ["e"]] == waves(found)

    def test_not_ready_first(self) -> None:
        """Pods that are not ready go first; they use up the budget until they are back."""
        known = fleet(
            *(NodeObserved(node=each) for each in NODES),
            DaemonSetObserved(daemonset=agent()),
            *running(agent(), NODES[:3]),
            *running(agent(), NODES[3:4], ready=False),
            *running(agent(), NODES[4:]),
        )

        found = planned(known, agent("agent:2"))

        assert [["d", "a"], ["b", "c"], ["e"]] == waves(found)
        assert 1 == found.waves.broken

    def test_stalls(self) -> None:
        """Nodes whose pods do not get ready use up the budget: the rollout stops there, and a warning says so."""
        lost = [structs.replace(each, ready=False) for each in NODES[:2]]
        nodes = [*lost, *NODES[2:]]

        found = planned(covered(agent(), nodes), agent("agent:2"))

        assert [["a", "b"]] == waves(found)
        assert {"Stalled": 3} == stays(found)
        assert 2 == found.waves.stuck
        (said,) = [each.message for each in found.warnings if each.code == "RolloutStalls"]
        assert said.startswith("the rollout stops before 3 nodes: 2 nodes have no available pod")

    def test_stalls_on_its_way(self) -> None:
        """So it does when it comes to a node where no pod gets ready."""
        nodes = [*NODES[:2], structs.replace(NODES[2], ready=False), *NODES[3:]]
        one = structs.replace(ROLLING, max_unavailable=1)

        found = planned(covered(agent(), nodes), agent("agent:2", one))

        assert [["a"], ["b"], ["c"]] == waves(found)
        assert {"Stalled": 2} == stays(found)

    def test_beside_another_replacement(self) -> None:
        """A node whose pod has ended uses up the budget until it has another one."""
        known = fleet(
            *(NodeObserved(node=each) for each in NODES),
            DaemonSetObserved(daemonset=agent()),
            *running(agent(), NODES[:1], phase="Failed", ready=False),
            *running(agent(), NODES[1:]),
        )

        found = planned(known, agent("agent:2"))

        assert [["b"], ["c", "d"], ["e"]] == waves(found)
        assert {"OutdatedRevision": 4, "PodFailed": 1} == found.group(Happening.REPLACE).reasons

    @pytest.mark.parametrize(
        ("changes", "taken", "reasons"),
        [
            ({"type": "OnDelete"}, [], {"OnDelete": 5}),
            ({"paused": True}, [], {"Paused": 5}),
            ({"partition": 4}, [["a"]], {"Partition": 4}),
            ({"selector": Selector(match_labels={"zone": "1"})}, [["e"]], {"NotSelected": 4}),
        ],
    )
    def test_held(
        self, changes: dict[str, Any], taken: list[list[str]], reasons: dict[str, int]
    ) -> None:
        """What the strategy holds back stays, for this reason."""
        nodes = [*NODES[:4], node("e", zone="1")]
        strategy = structs.replace(ROLLING, **changes)

        found = planned(covered(agent(), nodes), agent("agent:2", strategy))

        assert (taken, reasons) == (waves(found), stays(found))

    def test_lost_nodes_that_are_skipped(self) -> None:
        """With unreachableNodes: Skip nothing waits for a node that was lost before; its pod stays."""
        nodes = [*NODES[:4], structs.replace(NODES[4], ready=False, unready_since_ms=1)]
        skip = structs.replace(ROLLING, unreachable_nodes="Skip")

        found = planned(covered(agent(), nodes), agent("agent:2", skip))

        assert ([["a", "b"], ["c", "d"]], {"NodeNotReady": 1}) == (waves(found), stays(found))


class TestWarnings:
    """What is probably not meant is said."""

    @pytest.mark.parametrize(
        ("wanted", "code"),
        [
            (agent(nodeSelector={"zone": "9"}), "SelectsNothing"),
            (structs.replace(agent(), backend="west"), "NoNodesOfBackend"),
            (agent(), "ControlPlaneLeftOut"),
            (agent("agent"), "ImageNotFixed"),
            (agent(initContainers=[{"name": "first", "image": "first"}]), "ImageNotFixed"),
            (agent("registry:5000/agent"), "ImageNotFixed"),
            (agent("agent:latest"), "ImageNotFixed"),
            (agent("agent:2", structs.replace(ROLLING, max_unavailable="100%")), "AllAtOnce"),
            (agent("agent:2", UpdateStrategy()), "ReplacesNothing"),
            (agent("agent:2", structs.replace(ROLLING, paused=True)), "RolloutPaused"),
        ],
    )
    def test_warned(self, wanted: DaemonSet, code: str) -> None:
        """One that is there."""
        nodes = [*NODES, node("m", "node-role.kubernetes.io/control-plane:NoSchedule")]

        assert code in codes(planned(covered(agent(), nodes), wanted))

    @pytest.mark.parametrize("image", ["agent:1", "registry:5000/agent:1", "agent@sha256:0"])
    def test_nothing_to_warn_of(self, image: str) -> None:
        """A set about which there is nothing to say."""
        nodes = [*NODES, node("m", "node-role.kubernetes.io/control-plane:NoSchedule")]
        wanted = agent(image, tolerations=[{"operator": "Exists"}])

        assert [] == codes(planned(covered(agent(), nodes), wanted))

    def test_control_plane_that_is_not_meant(self) -> None:
        """Nodes that the set does not select, or that are another backend's, are not left out by their taint."""
        taint = "node-role.kubernetes.io/control-plane:NoSchedule"
        chosen = structs.replace(node("chosen"), labels={"zone": "1"})
        nodes = [chosen, node("m", taint), structs.replace(node("w", taint), backend="west")]
        wanted = agent("agent:1", nodeSelector={"zone": "1"})
        of_backend = structs.replace(agent("agent:1"), backend=chosen.backend)

        assert [] == codes(planned(covered(agent(), nodes), wanted))
        (warned,) = planned(covered(agent(), nodes), of_backend).warnings
        assert warned.message.startswith("1 nodes of the control plane are left out")

    @pytest.mark.parametrize(
        ("on_host", "port", "warned"),
        [
            (False, {"hostPort": 80}, ["HostPortsWithSurge"]),
            (True, {"containerPort": 80}, ["HostPortsWithSurge"]),
            (False, {"containerPort": 80}, []),
        ],
    )
    def test_host_ports(self, on_host: bool, port: dict[str, int], warned: list[str]) -> None:
        """Two pods cannot have one port of the node."""
        spec = {"hostNetwork": on_host, "containers": [{"image": "agent:1", "ports": [port]}]}
        surge = UpdateStrategy(type="RollingUpdate", max_unavailable=0, max_surge=1)
        wanted = structs.replace(
            agent(strategy=surge),
            template=msgspec.Raw(canonical(json.dumps({"spec": spec}).encode())),
        )

        assert warned == codes(planned(covered(agent(), NODES), wanted))

    def test_harmless(self, capsys: pytest.CaptureFixture[str]) -> None:
        """What somebody wrote into a manifest cannot steer a terminal."""
        print_plan([planned(covered(agent(), NODES), agent("a\x9b31m"))], 0, 0, everything=False)

        assert "\x9b" not in capsys.readouterr().out

    def test_budget_used_up(self) -> None:
        """A pod that does not get ready slows the rollout down."""
        known = fleet(
            *(NodeObserved(node=each) for each in NODES),
            DaemonSetObserved(daemonset=agent()),
            *running(agent(), NODES[1:]),
            NodeObserved(node=structs.replace(NODES[0], ready=False)),
        )

        found = planned(known, agent("agent:2"))

        assert [["b"], ["c"], ["d"], ["e"]] == waves(found)
        assert ["BudgetUsedUp"] == codes(found)


def test_taints_and_pods_stay() -> None:
    """A node that is not eligible any more, but tolerated, keeps its old pod."""
    tainted = structs.replace(NODES[0], taints=(taint("gpu:NoSchedule"),))
    found = planned(covered(agent(), [tainted, *NODES[1:]]), agent("agent:2"))

    assert {"NotEligible": 1} == stays(found)
    assert "a" not in [name for wave in waves(found) for name in wave]


def test_orphan_joins() -> None:
    """A pod that nobody controls joins, and is replaced later on if it is outdated."""
    orphan: Pod = structs.replace(
        pod(agent(), NODES[0], "stray", labels={"app": "agent"}), owner=None
    )
    known = fleet(NodeObserved(node=NODES[0]), PodObserved(pod=orphan))

    found = planned(known, agent("agent:2"))

    assert {"SelectorMatches": 1} == found.group(Happening.ADOPT).reasons
    assert [["a"]] == waves(found)
