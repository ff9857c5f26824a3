"""Hypothesis strategies for fleets and sets, for properties of the core and of adapters.

They draw from few names and values, so that what is drawn meets: most selectors match some nodes, most taints
are tolerated by some sets.
"""

from __future__ import annotations

import json

import msgspec
from hypothesis import strategies as st

from everynode.core.identity import canonical
from everynode.core.values import DaemonSet, Node, Requirement, Selector, Taint, UpdateStrategy

KEYS = ("zone", "arch", "size", "node.kubernetes.io/not-ready")
VALUES = ("a", "b", "1", "2", "10", "-3", "")
EFFECTS = ("NoSchedule", "NoExecute", "PreferNoSchedule", "Unheard")
BACKENDS = ("east", "west")
NAMES = tuple(f"node-{number}" for number in range(8))

labels = st.dictionaries(st.sampled_from(KEYS), st.sampled_from(VALUES), max_size=3)

taints = st.builds(
    Taint,
    key=st.sampled_from(KEYS),
    effect=st.sampled_from(EFFECTS),
    value=st.sampled_from(VALUES),
)


@st.composite
def nodes(draw: st.DrawFn) -> Node:
    """Draw a node; the same name may come with another uid."""
    name = draw(st.sampled_from(NAMES))
    backend = draw(st.sampled_from(BACKENDS))
    incarnation = draw(st.sampled_from(("1", "1", "1", "2")))
    return Node(
        backend=backend,
        name=name,
        uid=f"{backend}-{name}-{incarnation}",
        labels=draw(labels),
        taints=tuple(draw(st.lists(taints, max_size=3))),
        unschedulable=draw(st.booleans()),
    )


def _requirements(
    keys: tuple[str, ...], operators: tuple[str, ...], values: tuple[str, ...]
) -> st.SearchStrategy[dict[str, object]]:
    """Draw requirements of which most can be used."""
    counts = {"Exists": (0, 0, 0, 1), "DoesNotExist": (0, 0, 0, 1)}

    @st.composite
    def requirement(draw: st.DrawFn) -> dict[str, object]:
        operator = draw(st.sampled_from(operators))
        count = draw(st.sampled_from(counts.get(operator, (1, 1, 1, 2, 0))))
        drawn = [draw(st.sampled_from(values)) for _ in range(count)]
        found: dict[str, object] = {"key": draw(st.sampled_from(keys)), "operator": operator}
        empty = draw(st.sampled_from(("absent", "null", "empty")))
        if drawn or empty == "empty":
            found["values"] = drawn
        elif empty == "null":
            found["values"] = None
        return found

    return requirement()


expressions = _requirements(
    KEYS, ("In", "In", "NotIn", "Exists", "DoesNotExist", "Gt", "Lt", "Unknown"), VALUES
)
fields = _requirements(
    ("metadata.name", "metadata.name", "metadata.namespace"), ("In", "NotIn", "Exists"), NAMES
)

terms = st.one_of(
    st.builds(
        lambda drawn: {"matchExpressions": drawn}, st.lists(expressions, min_size=1, max_size=3)
    ),
    st.builds(lambda drawn: {"matchFields": drawn}, st.lists(fields, min_size=1, max_size=2)),
    st.builds(
        lambda labelled, named: {"matchExpressions": [labelled], "matchFields": [named]},
        expressions,
        fields,
    ),
    st.sampled_from(({}, {"matchExpressions": None}, {"matchExpressions": [], "matchFields": []})),
)

affinities = st.one_of(
    st.builds(
        lambda drawn: {
            "nodeAffinity": {
                "requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": drawn}
            }
        },
        st.lists(terms, min_size=1, max_size=3),
    ),
    st.sampled_from(
        (
            None,
            {"nodeAffinity": None},
            {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": None}},
            {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {}}},
        )
    ),
)

tolerations = st.fixed_dictionaries(
    {
        "operator": st.sampled_from((None, "", "Equal", "Exists", "Exists", "Lt", "Gt", "Unknown")),
        "value": st.sampled_from((None, *VALUES)),
    },
    optional={
        "key": st.sampled_from((None, "", *KEYS)),
        "effect": st.sampled_from((None, "", *EFFECTS)),
    },
)

ASPECTS: dict[str, st.SearchStrategy[object]] = {
    "nodeName": st.sampled_from((None, *NAMES)),
    "nodeSelector": st.one_of(
        st.none(),
        st.dictionaries(st.sampled_from(KEYS), st.sampled_from(VALUES), min_size=1, max_size=1),
    ),
    "affinity": affinities,
    "tolerations": st.one_of(st.none(), st.lists(tolerations, min_size=1, max_size=3)),
    "hostNetwork": st.booleans(),
    "image": st.sampled_from(("v1", "v2")),
}


@st.composite
def pod_specs(draw: st.DrawFn) -> dict[str, object]:
    """Draw a pod's spec with one to three of the aspects that placement looks at; at times with none."""
    aspects = draw(st.lists(st.sampled_from(sorted(ASPECTS)), max_size=3, unique=True))
    return {aspect: draw(ASPECTS[aspect]) for aspect in aspects}


@st.composite
def daemonsets(draw: st.DrawFn, names: tuple[str, ...] = ("agent", "logs")) -> DaemonSet:
    """Draw a set with constraints of every kind, valid ones and ones that never match."""
    name = draw(st.sampled_from(names))
    template = json.dumps({"spec": draw(pod_specs())}).encode()
    return DaemonSet(
        namespace="default",
        name=name,
        uid=f"uid-{name}",
        generation=1,
        selector=Selector(match_labels={"app": name}),
        template=msgspec.Raw(canonical(template)),
        backend=draw(st.sampled_from(("", "", *BACKENDS))),
        min_ready_seconds=draw(st.sampled_from((0, 0, 30))),
    )


def plain_daemonset(name: str = "agent") -> DaemonSet:
    """Make a set that is for every node."""
    return DaemonSet(
        namespace="default",
        name=name,
        uid=f"uid-{name}",
        generation=1,
        selector=Selector(match_labels={"app": name}),
        template=msgspec.Raw(canonical(b'{"spec":{}}')),
    )


# Rollouts: a fleet of few nodes, and sets of which most cover most of them

VERSIONS = ("v1", "v2", "v3", "v4")

numbers_of_nodes: st.SearchStrategy[int | str] = st.sampled_from(
    (0, 1, 1, 2, 3, 5, "0%", "1%", "20%", "34%", "50%", "100%")
)
partitions: st.SearchStrategy[int | str] = st.sampled_from((0, 0, 0, 1, 2, "50%"))

rollout_selectors = st.sampled_from(
    (
        None,
        None,
        Selector(match_labels={"zone": "a"}),
        Selector(match_expressions=(Requirement(key="zone", operator="NotIn", values=("a",)),)),
        Selector(match_expressions=(Requirement(key="zone", operator="DoesNotExist"),)),
    )
)


@st.composite
def update_strategies(
    draw: st.DrawFn, *, surge: bool = False, busy: bool = False
) -> UpdateStrategy:
    """Draw how a rollout goes.

    Args:
        draw: Hypothesis'.
        surge: Whether there is surge at times.
        busy: Draw no strategy that replaces nothing.
    """
    limit = draw(numbers_of_nodes)
    surging = surge and (busy or draw(st.sampled_from((True, True, True, False))))
    return UpdateStrategy(
        type="RollingUpdate"
        if busy
        else draw(st.sampled_from(("RollingUpdate",) * 5 + ("OnDelete",))),
        max_unavailable=0 if surging else limit,
        max_surge=limit if surging else 0,
        paused=not busy and draw(st.sampled_from((False, False, False, True))),
        partition=draw(partitions),
        selector=draw(rollout_selectors),
        progress_deadline_seconds=draw(st.sampled_from((0, 60, 600))),
        unreachable_nodes=draw(st.sampled_from(("Count", "Skip"))),
    )


def versioned_template(name: str, version: str, zones: tuple[str, ...] = ()) -> msgspec.Raw:
    """Make the template of a set's pods: its labels, its image, and the zones that it is for (none: all nodes)."""
    terms = [{"matchExpressions": [{"key": "zone", "operator": "In", "values": list(zones)}]}]
    required = {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": terms}}
    spec: dict[str, object] = {"image": version}
    if zones:
        spec["affinity"] = {"nodeAffinity": required}
    template = {"metadata": {"labels": {"app": name}}, "spec": spec}
    return msgspec.Raw(canonical(json.dumps(template).encode()))


@st.composite
def rolling_daemonsets(draw: st.DrawFn, *, surge: bool = False) -> DaemonSet:
    """Draw a set of one name in one of a few versions, so that many histories come back to an earlier one."""
    return DaemonSet(
        namespace="default",
        name="agent",
        uid="uid-agent",
        generation=1,
        selector=Selector(match_labels={"app": "agent"}),
        template=versioned_template(
            "agent",
            draw(st.sampled_from(VERSIONS)),
            draw(st.sampled_from(((), (), (), ("a",), ("a", "b")))),
        ),
        update_strategy=draw(update_strategies(surge=surge)),
        min_ready_seconds=draw(st.sampled_from((0, 0, 30))),
        revision_history_limit=draw(st.sampled_from((0, 1, 10))),
    )


@st.composite
def rolling_nodes(draw: st.DrawFn) -> Node:
    """Draw a node of a small fleet: most are fit for most sets; the same name may come with another uid."""
    name = draw(st.sampled_from(NAMES))
    backend = draw(st.sampled_from(("east", "east", "east", "west")))
    incarnation = draw(st.sampled_from(("1", "1", "1", "1", "2")))
    zone = draw(st.sampled_from(("a", "a", "b", "b", "c", "")))
    effect = draw(st.sampled_from(("", "", "", "", "NoSchedule", "NoExecute")))
    return Node(
        backend=backend,
        name=name,
        uid=f"{backend}-{name}-{incarnation}",
        labels={"zone": zone} if zone else {},
        taints=(Taint(key="broken", effect=effect),) if effect else (),
    )
