"""`everynode explain`: why a node has a pod of a set, or has none, or has an old one; why a pod is there, or gone.

It asks the core's own predicate, node by node, about the nodes and the set that the log has, or had. What it says of
a single pod is in `explain_pod`, and of a node as it was in `explain_node`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import typer

from everynode.cli.exits import ExitCode
from everynode.cli.explain_node import (
    node_document,
    node_lines,
    node_pod_document,
    read_nodes,
    verdict_document,
)
from everynode.cli.explain_past import Past, not_found, opened_past
from everynode.cli.explain_pod import explain_named_pod
from everynode.cli.options import Namespace, Output, OutputFormat, Target, connected
from everynode.cli.output import print_object
from everynode.cli.reading import read_fleet
from everynode.cli.resources import DAEMONSETS, PODS, Names, parse_named
from everynode.cli.tables import BAD, GOOD, WAITING, Cell, Columns, Row
from everynode.cli.terminal import error_line, harmless
from everynode.core.eligibility import Reason, Verdict, compile_constraints, verdict
from everynode.core.setstate import PROGRESSING
from everynode.core.values import DaemonSet, Node, NodeKey, Pod, SetKey, Status
from everynode.replay.recording import Entry
from everynode.runtime.clock import timestamp
from everynode.runtime.revisions import current_hash
from everynode.runtime.view import FleetView

EPILOG = """
Examples:
everynode explain ds/fluentd -n logging
everynode explain ds/fluentd --node web-7 -o json
everynode explain ds/fluentd --node web-7 --at 2024-05-06T07:08:09Z
everynode explain pod/fluentd-91f3626ef2c62 -n logging
everynode explain pod/fluentd-91f3626ef2c62 -n logging --recording yesterday.everynode

Times are durations before now (90s, 24h, 7d) or RFC 3339. A pod in one of several backends is pod/BACKEND/NAME.
"""

app = typer.Typer(add_completion=False)


@app.command("explain", epilog=EPILOG)
@connected()
async def explain(
    target: Target,
    kind: Annotated[
        str,
        typer.Argument(metavar="TYPE|TYPE/NAME", help="daemonset (ds) or pod (po)."),
    ],
    names: Names = None,
    *,
    namespace: Namespace = "default",
    node: Annotated[
        str,
        typer.Option("--node", metavar="NODE", help="Only this node, with all its reasons."),
    ] = "",
    at: Annotated[
        str,
        typer.Option(
            "--at", metavar="TIME", help="As the log was then.", show_default="as it is now"
        ),
    ] = "",
    recording: Annotated[
        Path | None,
        typer.Option(
            "--recording",
            metavar="FILE",
            help="Look at a recording, and at no server.",
            show_default=False,
        ),
    ] = None,
    output: Output = OutputFormat.TABLE,
) -> ExitCode:
    """Say on which nodes a DaemonSet should run and what speaks against the others, or why a pod is there or gone."""
    named = parse_named([kind, *(names or [])], (DAEMONSETS, PODS))
    if len(named.names) != 1:
        raise typer.BadParameter("name one set or one pod", param_hint="NAME")
    if named.resource is PODS:
        if node:
            raise typer.BadParameter("a pod is on one node; leave it out", param_hint="--node")
        async with opened_past(target, recording, at) as past:
            await explain_named_pod(past, namespace, named.names[0], output)
        return ExitCode.DONE
    key = SetKey(namespace, named.names[0])
    if at or recording is not None:
        async with opened_past(target, recording, at) as past:
            return await _explain_past(past, key, node, output)
    return await _explain_now(target, key, node, output)


async def _explain_now(target: Target, key: SetKey, node: str, output: OutputFormat) -> ExitCode:
    from everynode.runtime.jetstream import connect  # noqa: PLC0415 - takes long; a recording needs no server

    async with await connect(target.connection, target.fleet) as bus:
        kinds = ("node", "daemonset", *(("status", "pod") if node else ()))
        view = await read_fleet(bus, kinds, key, node)
    daemonset = view.daemonsets.get(key)
    if daemonset is None:
        error_line(f'{DAEMONSETS.plural} "{key.name}" not found in namespace {key.namespace}')
        return ExitCode.REFUSED
    nodes = [each for _, each in sorted(view.nodes.items())]
    if node and not nodes:
        error_line(f'nodes "{node}" not found')
        return ExitCode.REFUSED
    verdicts = judge(daemonset, nodes)
    pods = find_pods(view, daemonset)
    if output is not OutputFormat.TABLE:
        document = (
            _nodes_document(key, verdicts, pods) if node else _summary_document(key, verdicts)
        )
        print_object(document, output)
    elif node:
        _print_nodes(key, verdicts)
        for sentence in pod_sentences(verdicts, pods, view.statuses.get(key)):
            print(harmless(sentence))
    else:
        _print_summary(key, verdicts)
    return ExitCode.DONE


async def _explain_past(past: Past, key: SetKey, node: str, output: OutputFormat) -> ExitCode:
    """Answer from what the log said up to some time."""
    if node:
        await _explain_past_nodes(past, key, node, output)
        return ExitCode.DONE
    view = FleetView(past.subjects)

    def take(entry: Entry) -> None:
        view.fold(entry.received)

    await past.read((past.subjects.of_kind("node"), past.subjects.of_set("daemonset", key)), take)
    daemonset, then = view.daemonsets.get(key), timestamp(past.now_ms)
    if daemonset is None:
        raise not_found(past, f'{DAEMONSETS.plural} "{key.name}"', f" in namespace {key.namespace}")
    verdicts = judge(daemonset, [each for _, each in sorted(view.nodes.items())])
    if output is OutputFormat.TABLE:
        _print_summary(key, verdicts, f" at {then}")
    else:
        print_object({"at": then} | _summary_document(key, verdicts), output)
    return ExitCode.DONE


async def _explain_past_nodes(past: Past, key: SetKey, node: str, output: OutputFormat) -> None:
    found = await read_nodes(past, key, node)
    then = timestamp(past.now_ms)
    if output is OutputFormat.TABLE:
        _print_nodes(key, [(each.node, each.found) for each in found], f" at {then}")
        for each in found:
            print("\n".join(map(harmless, node_lines(each))))
        return
    documents = [node_document(each) for each in found]
    print_object(
        {"at": then, "namespace": key.namespace, "name": key.name, "nodes": documents}, output
    )


class NodePod(NamedTuple):
    """A set's pod on a node.

    Attributes:
        wanted: It is of the revision that the set is to have.
    """

    pod: Pod
    wanted: bool


def find_pods(view: FleetView, daemonset: DaemonSet) -> dict[NodeKey, list[NodePod]]:
    """Find the pods of a set, by node."""
    current = current_hash(daemonset)
    found: dict[NodeKey, list[NodePod]] = {}
    for _, pod in sorted(view.pods.items()):
        if pod.owner is not None and pod.owner.uid == daemonset.uid:
            found.setdefault(pod.node_key, []).append(NodePod(pod, pod.revision == current))
    return found


def pod_sentences(
    verdicts: Iterable[tuple[Node, Verdict]],
    pods: Mapping[NodeKey, Sequence[NodePod]],
    status: Status | None,
) -> Iterator[str]:
    """Say what is not as it should be with the pods of nodes, and what the rollout waits for."""
    waits = False
    for node, found in verdicts:
        here = pods.get(node.key, ())
        if found.should_run and not here:
            yield f"{node.name}: it has no pod yet"
        for pod, wanted in here:
            state = (
                "is on its way out" if pod.deleting else "is ready" if pod.ready else "is not ready"
            )
            age = "the wanted" if wanted else "an old"
            waits |= not wanted
            yield f"{node.name}: pod {pod.name} of {age} revision ({pod.revision or 'unknown'}) {state}"
    progressing = None if status is None else status.condition(PROGRESSING)
    if waits and progressing is not None:
        yield f"rollout: {progressing.reason}: {progressing.message}"


def judge(daemonset: DaemonSet, nodes: Iterable[Node]) -> list[tuple[Node, Verdict]]:
    """Ask for each node whether the set should run there.

    Raises:
        InvalidObjectError: The set's template cannot be read.
    """
    constraints = compile_constraints(daemonset)
    return [(node, verdict(constraints, node)) for node in nodes]


def count_reasons(verdicts: Iterable[tuple[Node, Verdict]]) -> list[tuple[Reason, int]]:
    """Count for each reason the nodes that it keeps the set from, most frequent first."""
    counts = Counter(reason for _, found in verdicts for reason in found.reasons)
    return sorted(counts.items(), key=lambda pair: (-pair[1], pair[0]))


def _summary_document(key: SetKey, verdicts: list[tuple[Node, Verdict]]) -> dict[str, Any]:
    return {
        "namespace": key.namespace,
        "name": key.name,
        "nodes": len(verdicts),
        "eligible": sum(found.should_run for _, found in verdicts),
        "reasons": [
            {"code": reason.code, "message": reason.message, "nodes": count}
            for reason, count in count_reasons(verdicts)
        ],
    }


def _nodes_document(
    key: SetKey,
    verdicts: list[tuple[Node, Verdict]],
    pods: Mapping[NodeKey, Sequence[NodePod]],
) -> dict[str, Any]:
    return {
        "namespace": key.namespace,
        "name": key.name,
        "nodes": [
            verdict_document(node, found)
            | {
                "pods": [
                    node_pod_document(pod, wanted=wanted) for pod, wanted in pods.get(node.key, ())
                ]
            }
            for node, found in verdicts
        ],
    }


def _print_summary(key: SetKey, verdicts: list[tuple[Node, Verdict]], then: str = "") -> None:
    eligible = sum(found.should_run for _, found in verdicts)
    print(f"DaemonSet {key}{then}: eligible on {eligible} of {len(verdicts)} nodes")
    counts = count_reasons(verdicts)
    if not counts:
        return
    print("What speaks against the others (a node counts for each of its reasons):")
    rows: list[Row] = [[str(count), reason.code, reason.message] for reason, count in counts]
    Columns(["NODES", "REASON", "MESSAGE"], rows).print()


def _print_nodes(key: SetKey, verdicts: list[tuple[Node, Verdict]], then: str = "") -> None:
    print(f"DaemonSet {key}{then}")
    rows: list[Row] = []
    for node, found in verdicts:
        answer: list[str | Cell] = [node.name, node.backend, _answer(found)]
        if not found.reasons:
            rows.append([*answer, "", ""])
        for position, reason in enumerate(found.reasons):
            before: list[str | Cell] = [*answer] if position == 0 else ["", "", ""]
            rows.append([*before, reason.code, reason.message])
    Columns(["NODE", "BACKEND", "ELIGIBLE", "REASON", "MESSAGE"], rows).print()


def _answer(found: Verdict) -> Cell:
    if found.should_run:
        return Cell("yes", GOOD)
    return Cell("no, may stay", WAITING) if found.may_stay else Cell("no", BAD)
