"""What labels of a pod decide: a set lets go of a pod that it no longer selects, and adopts one that it does."""

import json
from collections.abc import Callable

from tests.integration.cli.conftest import Everynode


def test_a_pod_that_is_relabelled_is_released_and_adopted(
    fleet_up: Everynode, manifest: Callable[..., str]
) -> None:
    """L1: its node gets another pod; once that is gone, the set takes back the one that it selects again."""
    namespace = "released"
    place = f"place-{namespace}"
    text = manifest("a", namespace=namespace).replace("kubernetes.io/os: linux", f"{place}: here")
    (name, *_) = (
        node["metadata"]["name"]
        for node in json.loads(fleet_up("get", "nodes", "-o", "json").out)["items"]
        if not node["spec"].get("taints")
    )
    fleet_up("apply", "-f", "-", stdin=text)
    assert fleet_up("simulate", "label-node", name, f"{place}=here").code == 0
    pods = ("get", "pods", "-n", namespace, "-o", "json")

    def owned(out: str) -> dict[str, bool]:
        """The pods by name, and whether each has an owner."""
        found = json.loads(out)["items"]
        return {
            pod["metadata"]["name"]: bool(pod["metadata"].get("ownerReferences")) for pod in found
        }

    fleet_up.until(*pods, holds=lambda out: list(owned(out).values()) == [True])
    (first,) = owned(fleet_up(*pods).out)
    relabelled = fleet_up("simulate", "label-pod", first, "app=debug", "-n", namespace)
    assert (relabelled.code, relabelled.out) == (0, f"pod/{first} labeled\n")
    fleet_up.until(*pods, holds=lambda out: sorted(owned(out).values()) == [False, True])
    (second,) = (pod for pod in owned(fleet_up(*pods).out) if pod != first)

    fleet_up("simulate", "label-pod", first, "app=a", "-n", namespace)
    assert fleet_up("simulate", "delete-pod", second, "-n", namespace).code == 0
    fleet_up.until(*pods, holds=lambda out: owned(out) == {first: True})


def test_labels_of_a_pod_that_cannot_be(fleet_up: Everynode) -> None:
    """A pod that is not there is an error, and half a label is wrong usage."""
    unknown = fleet_up("simulate", "label-pod", "nope", "a=b")
    assert (unknown.code, unknown.err.partition(":")[0]) == (1, "error")
    assert fleet_up("simulate", "label-pod", "nope", "a").code == 2
    assert fleet_up("simulate", "label-pod", "nope", "a=not a value").code == 2
