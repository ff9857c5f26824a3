"""The simulated adapter passes the conformance kit, as it is by default and where it is slow or unreliable."""

from msgspec.structs import replace

from everynode.core.identity import derived_uid
from everynode.core.values import Owner, Pod, PodKey
from everynode.testing.conformance import AdapterConformance, Harness, SeenPod
from everynode_simulated import (
    Behaviour,
    SimulatedAdapter,
    SimulatedFleet,
    generate_node,
    generate_nodes,
)

BACKEND = "simulated"


class SimulatedHarness(Harness):
    """A simulated fleet, acted on directly."""

    def __init__(self, behaviour: Behaviour) -> None:
        nodes = generate_nodes(3, seed=1, backend=BACKEND)
        self.fleet = SimulatedFleet(nodes, behaviour=behaviour)

    async def make_adapter(self) -> SimulatedAdapter:
        """Make a further adapter for the same fleet."""
        return SimulatedAdapter(BACKEND, self.fleet)

    async def node_names(self) -> list[str]:
        """Ask the fleet."""
        return list(self.fleet.nodes)

    async def pods(self) -> list[SeenPod]:
        """Ask the fleet, foreign pods included."""
        pods = [*self.fleet.pods.values(), *self.fleet.foreign_pods.values()]
        return [
            SeenPod(pod.namespace, pod.name, pod.uid, pod.node) for pod in pods if not pod.deleting
        ]

    async def add_node(self, name: str) -> None:
        """Let a node join, with a uid that none had before."""
        index = self.fleet.next_node_index()
        node = generate_node(index, 1, BACKEND, name)
        self.fleet.add_node(replace(node, uid=derived_uid("test", str(index))))

    async def remove_node(self, name: str) -> None:
        """Let it leave."""
        self.fleet.remove_node(name)

    async def remove_pod(self, namespace: str, name: str) -> None:
        """Delete it."""
        self.fleet.delete_pod(PodKey(BACKEND, namespace, name))

    async def add_foreign_pod(self, namespace: str, name: str, node: str) -> None:
        """Make one that the adapter does not tell of."""
        pod = Pod(
            backend=BACKEND,
            namespace=namespace,
            name=name,
            uid="foreign",
            node=node,
            owner=Owner(name="someone", uid="else"),
            revision="",
        )
        self.fleet.add_foreign_pod(pod)

    async def add_orphan(
        self, namespace: str, name: str, node: str, labels: dict[str, str]
    ) -> None:
        """Make one that nobody controls."""
        key = PodKey(BACKEND, namespace, name)
        self.fleet.create_pod(key, node=node, owner=None, revision="")
        self.fleet.label_pod(key, labels)


class TestSimulated(AdapterConformance):
    """As it is by default."""

    async def make_harness(self) -> Harness:
        """Make a small fleet."""
        return SimulatedHarness(Behaviour())


class TestSlowAndUnreliable(AdapterConformance):
    """Pods take time to stop, calls take time, are refused for now, or end without an answer."""

    async def make_harness(self) -> Harness:
        """Make a small fleet."""
        behaviour = Behaviour(
            seed=7,
            stop_ms=(20, 60),
            apply_ms=(0, 5),
            calls_unavailable=0.2,
            calls_unanswered=0.2,
        )
        return SimulatedHarness(behaviour)


class TestPodsEndWithTheirNodes(AdapterConformance):
    """Pods of a node that leaves are gone at once."""

    async def make_harness(self) -> Harness:
        """Make a small fleet."""
        return SimulatedHarness(Behaviour(pods_outlive_nodes=False))
