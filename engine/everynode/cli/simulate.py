"""`everynode simulate`: what may happen to a simulated fleet, made to happen.

Each command is one request to the adapter of a simulated backend, beside the log; what comes of it is observed and
then stands in the log like everything else. This module writes the requests and refuses what cannot be one;
whether it can be done, the adapter knows.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

import msgspec
import typer

from everynode.cli.exits import ExitCode
from everynode.cli.options import Namespace, Target, connected
from everynode.cli.resources import NODES, PODS, Resource
from everynode.cli.terminal import error_line
from everynode.errors import UnavailableError
from everynode.manifest.names import (
    label_value_problem,
    qualified_name_problem,
    subdomain_problem,
)
from everynode.manifest.podtemplate import EFFECTS
from everynode.runtime.host import control_subject
from everynode.runtime.jetstream import connect

ANSWER_TIMEOUT_MS = 5_000
BACKEND_DEFAULT = "simulated"

app = typer.Typer(add_completion=False, no_args_is_help=True)

Backend = Annotated[
    str, typer.Option("--backend", metavar="NAME", help="Which simulated backend it happens to.")
]
NodeName = Annotated[str, typer.Argument(metavar="NODE", help="Name of the node.")]
PodName = Annotated[str, typer.Argument(metavar="POD", help="Name of the pod.")]


@app.callback()
def simulate() -> None:
    """Let things happen to a simulated fleet: nodes come, change and go, pods fail."""


async def _ask(target: Target, backend: str, request: dict[str, Any], done: str) -> ExitCode:
    """Send a request and print what was done, or why not."""
    async with await connect(target.connection, target.fleet) as bus:
        subject = control_subject(bus.subjects, backend)
        answer = await bus.request(subject, msgspec.json.encode(request), ANSWER_TIMEOUT_MS)
    try:
        fields = msgspec.json.decode(answer, type=dict[str, Any])
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise UnavailableError(f"backend {backend}: its answer cannot be read: {error}") from error
    if "error" in fields:
        error_line(str(fields["error"]))
        return ExitCode.REFUSED
    print(done)
    return ExitCode.DONE


def _checked_node(name: str) -> str:
    _refuse_if(subdomain_problem(name))
    return name


def _refuse_if(problem: str | None) -> None:
    if problem:
        raise typer.BadParameter(problem)


def _said(resource: Resource, name: str, done: str) -> str:
    return f"{resource.qualified}/{name} {done}"


@app.command("label-node", epilog="Example: everynode simulate label-node web-1 disk=ssd old-")
@connected()
async def label_node(
    target: Target,
    node: NodeName,
    changes: Annotated[
        list[str],
        typer.Argument(metavar="KEY=VALUE|KEY-...", help="Labels to set, and to remove (KEY-)."),
    ],
    *,
    backend: Backend = BACKEND_DEFAULT,
) -> ExitCode:
    """Set and remove labels of a node."""
    put, remove = split_labels(changes)
    request = {"verb": "label-node", "node": _checked_node(node), "put": put, "remove": remove}
    return await _ask(
        target, backend, request, _said(NODES, node, "labeled" if put else "unlabeled")
    )


def split_labels(changes: Sequence[str]) -> tuple[dict[str, str], list[str]]:
    """Read `key=value` (to set) and `key-` (to remove).

    Raises:
        typer.BadParameter: One is neither, or no label can be written so.
    """
    put: dict[str, str] = {}
    remove: list[str] = []
    for change in changes:
        key, equals, value = change.partition("=")
        if equals and key:
            put[key] = value
        elif not equals and change.endswith("-") and change != "-":
            remove.append(change.removesuffix("-"))
        else:
            raise typer.BadParameter(
                f"{change!r}: write KEY=VALUE to set a label, KEY- to remove it"
            )
    for key in (*put, *remove):
        _refuse_if(qualified_name_problem(key))
    for value in put.values():
        _refuse_if(label_value_problem(value))
    return put, remove


@app.command(
    "taint-node",
    epilog="Example: everynode simulate taint-node web-1 dedicated=db:NoSchedule spot:NoExecute-",
)
@connected()
async def taint_node(
    target: Target,
    node: NodeName,
    changes: Annotated[
        list[str],
        typer.Argument(
            metavar="KEY[=VALUE]:EFFECT|KEY[:EFFECT]-...", help="Taints to set, and to remove."
        ),
    ],
    *,
    backend: Backend = BACKEND_DEFAULT,
) -> ExitCode:
    """Set and remove taints of a node."""
    put, remove = split_taints(changes)
    request = {"verb": "taint-node", "node": _checked_node(node), "put": put, "remove": remove}
    return await _ask(
        target, backend, request, _said(NODES, node, "tainted" if put else "untainted")
    )


def split_taints(changes: Sequence[str]) -> tuple[list[dict[str, str]], list[dict[str, str]]]:
    """Read `key=value:Effect` and `key:Effect` (to set), `key:Effect-` and `key-` (to remove).

    Raises:
        typer.BadParameter: One is none of them, or no taint can be written so.
    """
    put: list[dict[str, str]] = []
    remove: list[dict[str, str]] = []
    for change in changes:
        text = change.removesuffix("-")
        pair, _, effect = text.partition(":")
        key, _, value = pair.partition("=")
        taint = {"key": key, "effect": effect}
        if key:
            _refuse_if(qualified_name_problem(key) or label_value_problem(value))
        if effect and effect not in EFFECTS:
            _refuse_if(f"{effect!r} is not an effect: write one of {', '.join(EFFECTS)}")
        if key and change.endswith("-"):
            remove.append(taint)
        elif key and effect:
            put.append(taint | {"value": value})
        else:
            raise typer.BadParameter(
                f"{change!r}: write KEY=VALUE:EFFECT or KEY:EFFECT to set a taint, "
                "KEY:EFFECT- or KEY- to remove it"
            )
    return put, remove


@app.command("cordon-node", epilog="Example: everynode simulate cordon-node web-1")
@connected()
async def cordon_node(
    target: Target, node: NodeName, *, backend: Backend = BACKEND_DEFAULT
) -> ExitCode:
    """Mark a node as unschedulable, as `kubectl cordon` does."""
    request = {"verb": "cordon", "node": _checked_node(node)}
    return await _ask(target, backend, request, _said(NODES, node, "cordoned"))


@app.command("uncordon-node", epilog="Example: everynode simulate uncordon-node web-1")
@connected()
async def uncordon_node(
    target: Target, node: NodeName, *, backend: Backend = BACKEND_DEFAULT
) -> ExitCode:
    """Take back what cordon-node did."""
    request = {"verb": "uncordon", "node": _checked_node(node)}
    return await _ask(target, backend, request, _said(NODES, node, "uncordoned"))


@app.command("stop-node", epilog="Example: everynode simulate stop-node web-1")
@connected()
async def stop_node(
    target: Target, node: NodeName, *, backend: Backend = BACKEND_DEFAULT
) -> ExitCode:
    """Let a node become not ready, with its pods, as if its power were cut."""
    request = {"verb": "stop-node", "node": _checked_node(node)}
    return await _ask(target, backend, request, _said(NODES, node, "stopped"))


@app.command("start-node", epilog="Example: everynode simulate start-node web-1")
@connected()
async def start_node(
    target: Target, node: NodeName, *, backend: Backend = BACKEND_DEFAULT
) -> ExitCode:
    """Take back what stop-node did."""
    request = {"verb": "start-node", "node": _checked_node(node)}
    return await _ask(target, backend, request, _said(NODES, node, "started"))


@app.command("add-node", epilog="Example: everynode simulate add-node web-9 -l disk=ssd")
@connected()
async def add_node(
    target: Target,
    node: NodeName,
    *,
    label: Annotated[
        list[str] | None,
        typer.Option("--label", "-l", metavar="KEY=VALUE", help="A label that it has as well."),
    ] = None,
    taint: Annotated[
        list[str] | None,
        typer.Option("--taint", metavar="KEY[=VALUE]:EFFECT", help="A taint that it has."),
    ] = None,
    backend: Backend = BACKEND_DEFAULT,
) -> ExitCode:
    """Let a node join."""
    labels, no_labels = split_labels(label or ())
    taints, no_taints = split_taints(taint or ())
    if no_labels or no_taints:
        raise typer.BadParameter("a node that joins has nothing yet that could be removed")
    request: dict[str, Any] = {
        "verb": "add-node",
        "name": _checked_node(node),
        "labels": labels,
    }
    if taints:
        request["taints"] = taints
    return await _ask(target, backend, request, _said(NODES, node, "added"))


@app.command("delete-node", epilog="Example: everynode simulate delete-node web-1")
@connected()
async def delete_node(
    target: Target, node: NodeName, *, backend: Backend = BACKEND_DEFAULT
) -> ExitCode:
    """Let a node leave for good."""
    request = {"verb": "delete-node", "node": _checked_node(node)}
    return await _ask(target, backend, request, _said(NODES, node, "deleted"))


async def _ask_about_pod(
    target: Target, backend: str, verb: str, namespace: str, pod: str, done: str
) -> ExitCode:
    request = {"verb": verb, "namespace": namespace, "name": pod}
    return await _ask(target, backend, request, _said(PODS, pod, done))


@app.command("delete-pod", epilog="Example: everynode simulate delete-pod fluentd-0a1b -n logging")
@connected()
async def delete_pod(
    target: Target,
    pod: PodName,
    *,
    namespace: Namespace = "default",
    backend: Backend = BACKEND_DEFAULT,
) -> ExitCode:
    """Delete a pod behind the engine's back."""
    return await _ask_about_pod(target, backend, "delete-pod", namespace, pod, "deleted")


@app.command("fail-pod", epilog="Example: everynode simulate fail-pod fluentd-0a1b -n logging")
@connected()
async def fail_pod(
    target: Target,
    pod: PodName,
    *,
    namespace: Namespace = "default",
    backend: Backend = BACKEND_DEFAULT,
) -> ExitCode:
    """Let a pod's containers end with an error."""
    return await _ask_about_pod(target, backend, "fail-pod", namespace, pod, "failed")


@app.command("finish-pod", epilog="Example: everynode simulate finish-pod fluentd-0a1b -n logging")
@connected()
async def finish_pod(
    target: Target,
    pod: PodName,
    *,
    namespace: Namespace = "default",
    backend: Backend = BACKEND_DEFAULT,
) -> ExitCode:
    """Let a pod's containers end well."""
    return await _ask_about_pod(target, backend, "finish-pod", namespace, pod, "finished")


@app.command(
    "label-pod", epilog="Example: everynode simulate label-pod fluentd-0a1b app=debug -n logging"
)
@connected()
async def label_pod(
    target: Target,
    pod: PodName,
    changes: Annotated[
        list[str],
        typer.Argument(metavar="KEY=VALUE|KEY-...", help="Labels to set, and to remove (KEY-)."),
    ],
    *,
    namespace: Namespace = "default",
    backend: Backend = BACKEND_DEFAULT,
) -> ExitCode:
    """Set and remove labels of a pod: one that its set no longer selects is released."""
    put, remove = split_labels(changes)
    request: dict[str, Any] = {
        "verb": "label-pod",
        "namespace": namespace,
        "name": pod,
        "put": put,
        "remove": remove,
    }
    return await _ask(target, backend, request, _said(PODS, pod, "labeled" if put else "unlabeled"))
