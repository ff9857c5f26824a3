"""Golden messages about what was observed: what they say, on which subject they stand, and their bytes.

They are on logs out there: if one of these changes, the schema version must (docs/wire.md, Versions).
"""

from __future__ import annotations

import msgspec

from everynode.core.events import (
    DaemonSetGone,
    DaemonSetObserved,
    NodeGone,
    NodeObserved,
    PodGone,
    PodObserved,
    RevisionGone,
    RevisionRecorded,
)
from everynode.core.values import (
    DaemonSet,
    Node,
    Owner,
    Pod,
    Requirement,
    Revision,
    Selector,
    Taint,
    UpdateStrategy,
)
from everynode.wire import AnyMessage

OWNER = Owner(name="web", uid="ds-1")

OBSERVED: dict[str, tuple[AnyMessage, str, bytes]] = {
    "NodeObserved": (
        NodeObserved(
            node=Node(
                backend="east",
                name="n1.example",
                uid="u1",
                labels={"zone": "a"},
                taints=(
                    Taint(key="k", effect="NoSchedule", value="v"),
                    Taint(key="x", effect="NoExecute"),
                ),
                unschedulable=True,
                ready=False,
            )
        ),
        "everynode.prod.node.east.n1%2Eexample",
        (
            b'{"v":1,"kind":"NodeObserved","node":{"backend":"east","name":"n1.example","uid":"u1",'
            b'"labels":{"zone":"a"},"taints":[{"key":"k","effect":"NoSchedule","value":"v"},'
            b'{"key":"x","effect":"NoExecute"}],"unschedulable":true,"ready":false}}'
        ),
    ),
    "NodeObserved, not ready": (
        NodeObserved(
            node=Node(backend="east", name="n1", uid="u1", ready=False, unready_since_ms=5)
        ),
        "everynode.prod.node.east.n1",
        (
            b'{"v":1,"kind":"NodeObserved","node":{"backend":"east","name":"n1","uid":"u1","ready":false,'
            b'"unreadySinceMs":5}}'
        ),
    ),
    "NodeObserved, least": (
        NodeObserved(node=Node(backend="east", name="n1", uid="u1")),
        "everynode.prod.node.east.n1",
        b'{"v":1,"kind":"NodeObserved","node":{"backend":"east","name":"n1","uid":"u1"}}',
    ),
    "NodeGone": (
        NodeGone(backend="east", name="n1", uid="u1", why="drained"),
        "everynode.prod.node.east.n1",
        b'{"v":1,"kind":"NodeGone","backend":"east","name":"n1","uid":"u1","why":"drained"}',
    ),
    "PodObserved": (
        PodObserved(
            pod=Pod(
                backend="east",
                namespace="default",
                name="web-1",
                uid="p1",
                node="n1",
                owner=OWNER,
                revision="r1",
                node_uid="u1",
                phase="Running",
                ready=True,
                ready_since_ms=5,
                created_ms=4,
                deleting=True,
            )
        ),
        "everynode.prod.pod.1.east.default.web-1",
        (
            b'{"v":1,"kind":"PodObserved","pod":{"backend":"east","namespace":"default","name":"web-1","uid":"p1",'
            b'"node":"n1","owner":{"name":"web","uid":"ds-1"},"revision":"r1","nodeUid":"u1","phase":"Running",'
            b'"ready":true,"readySinceMs":5,"createdMs":4,"deleting":true}}'
        ),
    ),
    "PodObserved, full": (
        PodObserved(
            pod=Pod(
                backend="east",
                namespace="default",
                name="web-1",
                uid="p1",
                node="n1",
                owner=OWNER,
                revision="r1",
                labels={"app": "web"},
                generation=2,
                failures=3,
                phase="Failed",
                deleting=True,
                deleting_since_ms=9,
            )
        ),
        "everynode.prod.pod.1.east.default.web-1",
        (
            b'{"v":1,"kind":"PodObserved","pod":{"backend":"east","namespace":"default","name":"web-1","uid":"p1",'
            b'"node":"n1","owner":{"name":"web","uid":"ds-1"},"revision":"r1","labels":{"app":"web"},"generation":2,'
            b'"failures":3,"phase":"Failed","deleting":true,"deletingSinceMs":9}}'
        ),
    ),
    "PodObserved, orphan": (
        PodObserved(
            pod=Pod(
                backend="east",
                namespace="default",
                name="web-1",
                uid="p1",
                node="n1",
                labels={"app": "web"},
            )
        ),
        "everynode.prod.pod.orphan.east.default.web-1",
        (
            b'{"v":1,"kind":"PodObserved","pod":{"backend":"east","namespace":"default","name":"web-1","uid":"p1",'
            b'"node":"n1","labels":{"app":"web"}}}'
        ),
    ),
    "PodGone, full": (
        PodGone(
            backend="east",
            namespace="default",
            name="web-1",
            uid="p1",
            node="n1",
            owner=OWNER,
            node_uid="u1",
            revision="r1",
            generation=2,
            created_ms=4,
            failures=3,
            why="it failed",
        ),
        "everynode.prod.pod.1.east.default.web-1",
        (
            b'{"v":1,"kind":"PodGone","backend":"east","namespace":"default","name":"web-1","uid":"p1",'
            b'"node":"n1","owner":{"name":"web","uid":"ds-1"},"nodeUid":"u1","revision":"r1","generation":2,'
            b'"createdMs":4,"failures":3,"why":"it failed"}'
        ),
    ),
    "PodGone, orphan": (
        PodGone(backend="east", namespace="default", name="web-1", uid="p1", node="n1"),
        "everynode.prod.pod.orphan.east.default.web-1",
        (
            b'{"v":1,"kind":"PodGone","backend":"east","namespace":"default","name":"web-1","uid":"p1",'
            b'"node":"n1"}'
        ),
    ),
    "PodGone": (
        PodGone(
            backend="east", namespace="default", name="web-1", uid="p1", node="n1", owner=OWNER
        ),
        "everynode.prod.pod.1.east.default.web-1",
        (
            b'{"v":1,"kind":"PodGone","backend":"east","namespace":"default","name":"web-1","uid":"p1",'
            b'"node":"n1","owner":{"name":"web","uid":"ds-1"}}'
        ),
    ),
    "DaemonSetObserved": (
        DaemonSetObserved(
            daemonset=DaemonSet(
                namespace="default",
                name="web",
                uid="ds-1",
                generation=2,
                selector=Selector(
                    match_labels={"app": "web"},
                    match_expressions=(Requirement(key="k", operator="In", values=("a",)),),
                ),
                template=msgspec.Raw(b'{"spec":{}}'),
                backend="east",
                labels={"l": "1"},
                annotations={"a": "2"},
                update_strategy=UpdateStrategy(
                    type="RollingUpdate", max_unavailable="10%", max_surge=1
                ),
                min_ready_seconds=3,
                revision_history_limit=4,
                created_ms=5,
            )
        ),
        "everynode.prod.daemonset.1.default.web",
        (
            b'{"v":1,"kind":"DaemonSetObserved","daemonset":{"namespace":"default","name":"web","uid":"ds-1",'
            b'"generation":2,"selector":{"matchLabels":{"app":"web"},"matchExpressions":[{"key":"k",'
            b'"operator":"In","values":["a"]}]},"template":{"spec":{}},"backend":"east","labels":{"l":"1"},'
            b'"annotations":{"a":"2"},"updateStrategy":{"type":"RollingUpdate","maxUnavailable":"10%",'
            b'"maxSurge":1},"minReadySeconds":3,"revisionHistoryLimit":4,"createdMs":5}}'
        ),
    ),
    "DaemonSetObserved, rollout": (
        DaemonSetObserved(
            daemonset=DaemonSet(
                namespace="default",
                name="web",
                uid="ds-2",
                generation=1,
                selector=Selector(match_labels={"app": "web"}),
                template=msgspec.Raw(b'{"spec":{}}'),
                update_strategy=UpdateStrategy(
                    type="RollingUpdate",
                    paused=True,
                    partition="20%",
                    selector=Selector(match_labels={"zone": "a"}),
                    progress_deadline_seconds=60,
                    unreachable_nodes="Skip",
                ),
                deleting=True,
                predecessor_uids=("ds-1",),
            )
        ),
        "everynode.prod.daemonset.1.default.web",
        (
            b'{"v":1,"kind":"DaemonSetObserved","daemonset":{"namespace":"default","name":"web","uid":"ds-2",'
            b'"generation":1,"selector":{"matchLabels":{"app":"web"}},"template":{"spec":{}},"updateStrategy":'
            b'{"type":"RollingUpdate","paused":true,"partition":"20%","selector":{"matchLabels":{"zone":"a"}},'
            b'"progressDeadlineSeconds":60,"unreachableNodes":"Skip"},"deleting":true,"predecessorUids":["ds-1"]}}'
        ),
    ),
    "DaemonSetGone": (
        DaemonSetGone(namespace="default", name="web", uid="ds-1", cascade="orphan"),
        "everynode.prod.daemonset.1.default.web",
        b'{"v":1,"kind":"DaemonSetGone","namespace":"default","name":"web","uid":"ds-1","cascade":"orphan"}',
    ),
    "RevisionRecorded": (
        RevisionRecorded(
            revision=Revision(
                namespace="default",
                daemonset="web",
                daemonset_uid="ds-1",
                hash="r1",
                number=1,
                template=msgspec.Raw(b'{"spec":{}}'),
            )
        ),
        "everynode.prod.revision.1.default.web.r1",
        (
            b'{"v":1,"kind":"RevisionRecorded","revision":{"namespace":"default","daemonset":"web",'
            b'"daemonsetUid":"ds-1","hash":"r1","number":1,"template":{"spec":{}}}}'
        ),
    ),
    "RevisionRecorded, full": (
        RevisionRecorded(
            revision=Revision(
                namespace="default",
                daemonset="web",
                daemonset_uid="ds-1",
                hash="r1",
                number=2,
                template=msgspec.Raw(b'{"spec":{}}'),
                created_ms=5,
                change_cause="image 2",
            )
        ),
        "everynode.prod.revision.1.default.web.r1",
        (
            b'{"v":1,"kind":"RevisionRecorded","revision":{"namespace":"default","daemonset":"web",'
            b'"daemonsetUid":"ds-1","hash":"r1","number":2,"template":{"spec":{}},"createdMs":5,'
            b'"changeCause":"image 2"}}'
        ),
    ),
    "RevisionGone": (
        RevisionGone(namespace="default", daemonset="web", hash="r1"),
        "everynode.prod.revision.1.default.web.r1",
        b'{"v":1,"kind":"RevisionGone","namespace":"default","daemonset":"web","hash":"r1"}',
    ),
}
