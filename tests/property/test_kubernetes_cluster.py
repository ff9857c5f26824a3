"""Whatever happens in a cluster and however it is heard of, the log ends with what is there."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import msgspec
from hypothesis import event, example, given
from hypothesis import strategies as st
from msgspec import structs
from tests.property.support_kubernetes_world import (
    KINDS,
    Log,
    Name,
    Observed,
    World,
    label_of,
    template,
)

from everynode.core.identity import canonical, revision_hash
from everynode.core.values import Pod

NAMESPACES = ("one", "two")
APPS = ("x", "y")
VERSIONS = (1, 2)
OPERATIONS_MAX = 100


class Operation(NamedTuple):
    """One thing that happens; the numbers choose what it happens to, and how."""

    name: str
    first: int
    second: int
    third: int


# --- what can happen ------------------------------------------------------------------------------


def set_name(number: int) -> Name:
    """One of four sets."""
    return NAMESPACES[number % 2], f"set-{number // 2 % 2}"


def pod_name(number: int) -> Name:
    """One of six pods."""
    return NAMESPACES[number % 2], f"pod-{number // 2 % 3}"


def owner_in(world: World, namespace: str, number: int) -> str:
    """Somebody who may control something: nobody, somebody else, or a set of the namespace that is there."""
    sets = [
        f"DaemonSet/{name[1]}/{thing.uid}"
        for name, thing in world.things["sets"].items()
        if name[0] == namespace
    ]
    found = ["", *sets, *sets, "ReplicaSet/other/uid-of-other"]
    return found[number % len(found)]


def node(world: World, op: Operation) -> None:
    """A node appears or changes."""
    world.put("nodes", ("", f"node-{op.first % 2}"), zone=str(op.second % 2))


def daemonset(world: World, op: Operation) -> None:
    """A set appears, or its template changes."""
    name, version = set_name(op.first), VERSIONS[op.second % 2]
    before = world.things["sets"].get(name)
    if before is None:
        says = {"app": APPS[op.third % 2], "generation": 1, "usable": True, "deleting": False}
        world.put("sets", name, version=version, **says)
    elif before.says["version"] != version:
        world.put("sets", name, version=version, generation=before.says["generation"] + 1)
    else:
        world.put("sets", name)  # its status


def mark(world: World, op: Operation) -> None:
    """A set cannot be used any more, or again; or it is being deleted."""
    name = set_name(op.first)
    if name not in world.things["sets"]:
        return
    if op.second % 3:
        world.put("sets", name, usable=op.third % 2 == 0)
    else:
        world.put("sets", name, deleting=True)


def end_set(world: World, op: Operation) -> None:
    """A set is deleted: its pods stay as orphans, or the garbage collector comes at once, or later."""
    name = set_name(op.first)
    thing = world.things["sets"].get(name)
    if thing is None:
        return
    if op.second % 3 == 0:
        for kind in ("pods", "revisions"):
            for each, owned in list(world.things[kind].items()):
                if owned.says["owner"].endswith(f"/{thing.uid}"):
                    world.put(kind, each, owner="")
    world.remove("sets", name)
    if op.second % 3 == 1:
        world.collect_garbage()


def revision(world: World, op: Operation) -> None:
    """A ControllerRevision appears, changes hands, gets another number or its label."""
    namespace, app = NAMESPACES[op.first % 2], APPS[op.first // 2 % 2]
    version = VERSIONS[op.first // 4 % 2]
    # Two of them may hold the same content.
    name = (namespace, f"cr-{op.first // 8 % 2}-{app}-{version}")
    before = world.things["revisions"].get(name)
    owner = owner_in(world, namespace, op.second)
    number = op.third % 5 if before is None else before.says["number"] + op.third % 2
    labelled = op.third % 7 != 0 or (before is not None and before.says["labelled"])
    says = {"owner": owner, "number": number, "labelled": labelled}
    world.put("revisions", name, app=app, version=version, **says)


def pod(world: World, op: Operation) -> None:
    """A pod appears."""
    name = pod_name(op.first)
    if name in world.things["pods"]:
        return
    app = (*APPS, "")[op.second // 4 % 3]
    version = VERSIONS[op.second // 16 % 2]
    label = (label_of(app or "x", version), f"cr-0-x-{version}", "")[op.third // 8 % 3]
    says = {
        "app": app,
        "label": label,
        "node": ("node-0", "node-1", "")[op.third // 32 % 3],
        "owner": owner_in(world, name[0], op.third),
    }
    world.put("pods", name, phase="Pending", **says)


def change_pod(world: World, op: Operation) -> None:
    """A pod changes: its phase, its labels, its owner, or it is given a node."""
    name = pod_name(op.first)
    thing = world.things["pods"].get(name)
    if thing is None:
        return
    version = VERSIONS[op.third % 2]
    says: tuple[dict[str, Any], ...] = (
        {"phase": ("Pending", "Running", "Failed")[op.third % 3]},
        {"app": ("", *APPS)[op.third % 3]},
        {"label": ("", label_of("x", version), label_of("y", version))[op.third // 2 % 3]},
        {"owner": owner_in(world, name[0], op.third)},
        {"node": thing.says["node"] or "node-0"},
    )
    world.put("pods", name, **says[op.second % len(says)])


def remove(kind: str) -> Callable[[World, Operation], None]:
    """Something of a kind vanishes."""

    def happens(world: World, op: Operation) -> None:
        names = sorted(world.things[kind])
        if names:
            world.remove(kind, names[op.first % len(names)])

    return happens


def replace_pod(world: World, op: Operation) -> None:
    """A pod vanishes, and another one has its name."""
    if pod_name(op.first) in world.things["pods"]:
        world.remove("pods", pod_name(op.first))
        pod(world, op)


def spoil(world: World, op: Operation) -> None:
    """Something cannot be read any more, or again."""
    kind = KINDS[op.first % len(KINDS)]
    names = sorted(world.things[kind])
    if not names:
        return
    name = names[op.second % len(names)]
    world.unreadable.symmetric_difference_update({(kind, name)})
    world.is_nameless = op.third % 4 == 0
    world.put(kind, name)


def relist(world: World, op: Operation) -> None:
    """What waits in one queue is lost, and a list follows."""
    world.relist(KINDS[op.first % len(KINDS)])


def collect(world: World, _op: Operation) -> None:
    """The garbage collector comes."""
    world.collect_garbage()


WORLDLY: dict[str, Callable[[World, Operation], None]] = {
    "node": node,
    "daemonset": daemonset,
    "mark": mark,
    "end_set": end_set,
    "revision": revision,
    "pod": pod,
    "change_pod": change_pod,
    "replace_pod": replace_pod,
    "remove_node": remove("nodes"),
    "remove_revision": remove("revisions"),
    "remove_pod": remove("pods"),
    "spoil": spoil,
    "relist": relist,
    "collect": collect,
}

OFTEN = ("daemonset", "revision", "pod", "pod", "pod", "change_pod")
"""What happens more often than the rest of it."""

number = st.integers(0, 95)
operation = st.builds(
    Operation,
    st.sampled_from([*WORLDLY, *OFTEN, "hear", "hear_some", "hear_some", "hear_all", "begin"]),
    number,
    number,
    number,
)
# The length is drawn first: lists of whatever length are short ones, and little happens in them.
operations = st.integers(0, OPERATIONS_MAX).flatmap(
    lambda count: st.lists(operation, min_size=count, max_size=count)
)


LOST_BEHIND_AN_UNUSABLE_SET = [
    Operation("daemonset", 0, 0, 0),
    Operation("daemonset", 1, 0, 0),
    Operation("mark", 0, 1, 1),
    Operation("hear_all", 0, 0, 0),
    Operation("end_set", 1, 0, 0),
    Operation("begin", 0, 0, 0),
]
"""A set is deleted while nobody looks, and the next list cannot say so because of another set."""


# --- the truth ------------------------------------------------------------------------------------


def truth(world: World) -> Log:
    """What a new adapter with an empty log makes of it."""
    log = Log()
    Observed(world, log).hear_all()
    return log


def same_pod(world: World, true: Pod, known: Pod) -> bool:
    """Say whether a pod is known as it is; of what may be said in two ways, either will do.

    Labels need not be told if its own set selects them. A label that no ControllerRevision explains any more may still
    be known for what it meant; so may one that was another when a process that is gone saw it.
    """
    thing = world.things["pods"][true.namespace, true.name]
    app, label = thing.says["app"], thing.says["label"]
    whole = {key: value for key, value in (("app", app), (_LABEL, label)) if value}
    if known.labels is None:
        if known.owner is None or world.selectors[known.owner.uid] != app:
            return False
    elif known.labels != whole:
        return False
    labels = {label, *world.forgotten_labels.get(true.uid, ())}
    contents = {each for one in labels for each in world.meanings.get((true.namespace, one), ())}
    meanings = {revision_hash(canonical(encoded_template(*each))) for each in contents}
    if known.revision != true.revision and (
        true.revision != label or known.revision not in meanings | labels
    ):
        return False
    return structs.replace(known, labels=None, revision="") == structs.replace(
        true, labels=None, revision=""
    )


_LABEL = "controller-revision-hash"


def encoded_template(app: str, version: int) -> bytes:
    """A template as JSON."""
    return msgspec.json.encode(template(app, version))


def run(world: World, observed: Observed, ops: list[Operation]) -> None:
    """Let things happen, and be heard of or not."""
    for op in ops:
        if op.name in WORLDLY:
            WORLDLY[op.name](world, op)
        elif op.name == "hear":
            observed.hear(KINDS[op.first % len(KINDS)])
        elif op.name == "hear_some":
            for _ in range(op.second % 8):
                observed.hear(KINDS[op.first % len(KINDS)])
        elif op.name == "hear_all":
            observed.hear_all()
        else:
            observed.begin(is_new_process=op.second % 2 == 0)


class TestCluster:
    """A log that followed a cluster through everything says what a new one says of it at the end."""

    @given(operations)
    @example(LOST_BEHIND_AN_UNUSABLE_SET)
    def test_ends_with_the_truth(self, ops: list[Operation]) -> None:
        """L1, S8: when faults end and everything is heard, the log has what is there, and nothing else."""
        world, log = World(), Log()
        observed = Observed(world, log)
        run(world, observed, ops)
        observed.hear_all()
        world.recover()
        observed.hear_all()

        true = truth(world)

        assert true.nodes == log.nodes
        assert true.sets == log.sets
        assert true.pods.keys() == log.pods.keys()
        assert [] == [
            (pod, log.pods[key])
            for key, pod in true.pods.items()
            if not same_pod(world, pod, log.pods[key])
        ]
        assert [] == [
            (found, log.revisions.get(place))
            for place, found in true.revisions.items()
            if place not in log.revisions or log.revisions[place].number < found.number
        ]
        event(f"pods: {min(len(true.pods), 3)}, sets: {min(len(true.sets), 2)}")
