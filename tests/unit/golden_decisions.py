"""Golden messages about what is decided, done and told: what they say, on which subject they stand, and their bytes.

They are on logs out there: if one of these changes, the schema version must (docs/wire.md, Versions).
"""

from __future__ import annotations

from everynode.core.commands import (
    AdoptPod,
    Counts,
    CreatePod,
    Decision,
    DeletePod,
    Outcome,
    ReasonCount,
    ReleasePod,
)
from everynode.core.events import (
    NoticeReported,
    StatusGone,
    StatusReported,
    Tick,
)
from everynode.core.values import (
    Condition,
    Notice,
    Status,
)
from everynode.wire import AnyMessage

DECIDED: dict[str, tuple[AnyMessage, str, bytes]] = {
    "Decision": (
        Decision(
            namespace="default",
            daemonset="web",
            daemonset_uid="ds-1",
            generation=1,
            revision="r1",
            basis=9,
            at_ms=8,
            worker="w",
            size=1,
            windows={"east": 2},
            counts=Counts(eligible=3, missing=1, creates=1),
            reasons=(ReasonCount(reason="missing", count=1),),
        ),
        "everynode.prod.decision.1.default.web",
        (
            b'{"v":1,"kind":"Decision","namespace":"default","daemonset":"web","daemonsetUid":"ds-1",'
            b'"generation":1,"revision":"r1","basis":9,"atMs":8,"worker":"w","size":1,"windows":{"east":2},'
            b'"counts":{"eligible":3,"missing":1,"creates":1},"reasons":[{"reason":"missing","count":1}]}'
        ),
    ),
    "Decision, counts": (
        Decision(
            namespace="default",
            daemonset="web",
            daemonset_uid="ds-1",
            generation=1,
            revision="r1",
            basis=9,
            at_ms=8,
            worker="w",
            size=0,
            windows={},
            counts=Counts(unavailable=1, updated=2, deletes=3, adopts=4, releases=5),
        ),
        "everynode.prod.decision.1.default.web",
        (
            b'{"v":1,"kind":"Decision","namespace":"default","daemonset":"web","daemonsetUid":"ds-1",'
            b'"generation":1,"revision":"r1","basis":9,"atMs":8,"worker":"w","size":0,"windows":{},'
            b'"counts":{"unavailable":1,"updated":2,"deletes":3,"adopts":4,"releases":5}}'
        ),
    ),
    "CreatePod, after failures": (
        CreatePod(
            id="c1",
            backend="east",
            node="n1",
            node_uid="u1",
            namespace="default",
            daemonset="web",
            daemonset_uid="ds-1",
            generation=1,
            pod="web-1",
            revision="r1",
            expires_ms=7,
            failures=3,
        ),
        "everynode.prod.command.east.n1.1.c1",
        (
            b'{"v":1,"kind":"CreatePod","id":"c1","backend":"east","node":"n1","nodeUid":"u1",'
            b'"namespace":"default","daemonset":"web","daemonsetUid":"ds-1","generation":1,"pod":"web-1",'
            b'"revision":"r1","expiresMs":7,"failures":3}'
        ),
    ),
    "CreatePod": (
        CreatePod(
            id="c1",
            backend="east",
            node="n1",
            node_uid="u1",
            namespace="default",
            daemonset="web",
            daemonset_uid="ds-1",
            generation=1,
            pod="web-1",
            revision="r1",
            expires_ms=7,
            slot=1,
            attempt=2,
            reason="missing",
        ),
        "everynode.prod.command.east.n1.1.c1",
        (
            b'{"v":1,"kind":"CreatePod","id":"c1","backend":"east","node":"n1","nodeUid":"u1",'
            b'"namespace":"default","daemonset":"web","daemonsetUid":"ds-1","generation":1,"pod":"web-1",'
            b'"revision":"r1","expiresMs":7,"slot":1,"attempt":2,"reason":"missing"}'
        ),
    ),
    "DeletePod": (
        DeletePod(
            id="c2",
            backend="east",
            node="n1",
            namespace="default",
            daemonset="web",
            daemonset_uid="ds-1",
            generation=1,
            pod="web-1",
            pod_uid="p1",
            expires_ms=7,
        ),
        "everynode.prod.command.east.n1.1.c2",
        (
            b'{"v":1,"kind":"DeletePod","id":"c2","backend":"east","node":"n1","namespace":"default",'
            b'"daemonset":"web","daemonsetUid":"ds-1","generation":1,"pod":"web-1","podUid":"p1","expiresMs":7}'
        ),
    ),
    "AdoptPod": (
        AdoptPod(
            id="c3",
            backend="east",
            node="n1",
            namespace="default",
            daemonset="web",
            daemonset_uid="ds-1",
            generation=1,
            pod="web-1",
            pod_uid="p1",
            expires_ms=7,
            node_uid="u1",
            attempt=1,
            reason="because",
        ),
        "everynode.prod.command.east.n1.1.c3",
        (
            b'{"v":1,"kind":"AdoptPod","id":"c3","backend":"east","node":"n1","namespace":"default",'
            b'"daemonset":"web","daemonsetUid":"ds-1","generation":1,"pod":"web-1","podUid":"p1","expiresMs":7,'
            b'"nodeUid":"u1","attempt":1,"reason":"because"}'
        ),
    ),
    "ReleasePod": (
        ReleasePod(
            id="c4",
            backend="east",
            node="n1",
            namespace="default",
            daemonset="web",
            daemonset_uid="ds-1",
            generation=1,
            pod="web-1",
            pod_uid="p1",
            expires_ms=7,
            node_uid="u1",
            attempt=1,
            reason="because",
        ),
        "everynode.prod.command.east.n1.1.c4",
        (
            b'{"v":1,"kind":"ReleasePod","id":"c4","backend":"east","node":"n1","namespace":"default",'
            b'"daemonset":"web","daemonsetUid":"ds-1","generation":1,"pod":"web-1","podUid":"p1","expiresMs":7,'
            b'"nodeUid":"u1","attempt":1,"reason":"because"}'
        ),
    ),
    "Outcome": (
        Outcome(
            id="c1",
            backend="east",
            namespace="default",
            daemonset="web",
            verb="create",
            result="done",
            pod_uid="p1",
        ),
        "everynode.prod.outcome.1.c1",
        (
            b'{"v":1,"kind":"Outcome","id":"c1","backend":"east","namespace":"default","daemonset":"web","verb":"create",'
            b'"result":"done","podUid":"p1"}'
        ),
    ),
    "StatusReported": (
        StatusReported(
            status=Status(
                namespace="default",
                daemonset="web",
                daemonset_uid="ds-1",
                observed_generation=1,
                desired_number_scheduled=3,
            )
        ),
        "everynode.prod.status.1.default.web",
        (
            b'{"v":1,"kind":"StatusReported","status":{"namespace":"default","daemonset":"web",'
            b'"daemonsetUid":"ds-1","observedGeneration":1,"desiredNumberScheduled":3}}'
        ),
    ),
    "StatusReported, full": (
        StatusReported(
            status=Status(
                namespace="default",
                daemonset="web",
                daemonset_uid="ds-1",
                observed_generation=1,
                excluded_nodes={"NodeSelectorMismatch": 2},
                waiting_nodes={"NotReady": 1},
                conditions=(
                    Condition(
                        type="Available",
                        status="False",
                        reason="PodsUnavailable",
                        message="1 of 3",
                        last_update_ms=6,
                        last_transition_ms=5,
                    ),
                ),
            )
        ),
        "everynode.prod.status.1.default.web",
        (
            b'{"v":1,"kind":"StatusReported","status":{"namespace":"default","daemonset":"web",'
            b'"daemonsetUid":"ds-1","observedGeneration":1,"excludedNodes":{"NodeSelectorMismatch":2},'
            b'"waitingNodes":{"NotReady":1},"conditions":[{"type":"Available","status":"False",'
            b'"reason":"PodsUnavailable","message":"1 of 3","lastUpdateMs":6,"lastTransitionMs":5}]}}'
        ),
    ),
    "NoticeReported": (
        NoticeReported(
            notice=Notice(
                namespace="default",
                daemonset="web",
                daemonset_uid="ds-1",
                type="Warning",
                reason="FailedDaemonPod",
                message="web-1 failed",
                node="n1",
                pod="web-1",
                count=2,
                first_ms=5,
                last_ms=6,
            )
        ),
        "everynode.prod.notice.1.default.web",
        (
            b'{"v":1,"kind":"NoticeReported","notice":{"namespace":"default","daemonset":"web",'
            b'"daemonsetUid":"ds-1","type":"Warning","reason":"FailedDaemonPod","message":"web-1 failed",'
            b'"node":"n1","pod":"web-1","count":2,"firstMs":5,"lastMs":6}}'
        ),
    ),
    "StatusGone": (
        StatusGone(namespace="default", daemonset="web", daemonset_uid="ds-1"),
        "everynode.prod.status.1.default.web",
        b'{"v":1,"kind":"StatusGone","namespace":"default","daemonset":"web","daemonsetUid":"ds-1"}',
    ),
    "Tick": (
        Tick(shard=3, due_ms=9),
        "everynode.prod.tick.3",
        b'{"v":1,"kind":"Tick","shard":3,"dueMs":9}',
    ),
}
