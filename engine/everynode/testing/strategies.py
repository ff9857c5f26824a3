"""Hypothesis strategies for fleets and sets, for properties of the core and of adapters.

They draw from few names and values, so that what is drawn meets: most selectors match some nodes, most taints
are tolerated by some sets.
"""

from __future__ import annotations

import json

import msgspec
from hypothesis import strategies as st

from everynode.core.identity import canonical
from everynode.core.values import DaemonSet, Node, Selector, Taint

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


expressions = st.fixed_dictionaries(
    {
        "key": st.sampled_from(KEYS),
        "operator": st.sampled_from(
            ("In", "NotIn", "Exists", "DoesNotExist", "Gt", "Lt", "Unknown")
        ),
    },
    optional={"values": st.lists(st.sampled_from(VALUES), max_size=2)},
)

fields = st.fixed_dictionaries(
    {
        "key": st.sampled_from(("metadata.name", "metadata.name", "metadata.namespace")),
        "operator": st.sampled_from(("In", "NotIn", "Exists")),
        "values": st.lists(st.sampled_from(NAMES), max_size=2),
    }
)

terms = st.fixed_dictionaries(
    {},
    optional={
        "matchExpressions": st.one_of(st.none(), st.lists(expressions, max_size=3)),
        "matchFields": st.one_of(st.none(), st.lists(fields, max_size=2)),
    },
)

tolerations = st.fixed_dictionaries(
    {},
    optional={
        "key": st.one_of(st.none(), st.just(""), st.sampled_from(KEYS)),
        "operator": st.sampled_from((None, "", "Equal", "Exists", "Lt", "Gt", "Unknown")),
        "value": st.one_of(st.none(), st.sampled_from(VALUES)),
        "effect": st.sampled_from((None, "", *EFFECTS)),
    },
)

pod_specs = st.fixed_dictionaries(
    {},
    optional={
        "nodeName": st.one_of(st.none(), st.sampled_from(NAMES)),
        "nodeSelector": st.one_of(
            st.none(),
            st.dictionaries(st.sampled_from(KEYS), st.sampled_from(VALUES), max_size=1),
        ),
        "affinity": st.one_of(
            st.none(),
            st.builds(
                lambda selector: {
                    "nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": selector}
                },
                st.one_of(
                    st.none(),
                    st.builds(
                        lambda drawn: {"nodeSelectorTerms": drawn}, st.lists(terms, max_size=3)
                    ),
                ),
            ),
        ),
        "tolerations": st.one_of(st.none(), st.lists(tolerations, max_size=3)),
        "hostNetwork": st.booleans(),
        "image": st.sampled_from(("v1", "v2")),
    },
)


@st.composite
def daemonsets(draw: st.DrawFn, names: tuple[str, ...] = ("agent", "logs")) -> DaemonSet:
    """Draw a set with constraints of every kind, valid ones and ones that never match."""
    name = draw(st.sampled_from(names))
    template = json.dumps({"spec": draw(pod_specs)}).encode()
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
