"""kubectl on two control planes, step by step: one with the built-in DaemonSet controller, one with everynode.

`STEPS` is what a user does. test_kubectl.py runs them on both planes and compares; as a program, this writes what came
out into docs/kubectl.md: `python -m tests.kubernetes.transcript`. Nothing here says what must be equal.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shlex
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import NamedTuple

from tests.kubernetes.support_api import Api, Json
from tests.kubernetes.support_control_plane import ControlPlane
from tests.kubernetes.support_fleet import running_fleet

NODES = 3
DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "kubectl.md"
STEP_SECONDS_MAX = 60
POLL_S = 0.1
QUIET_READS = 4

PODS = "/api/v1/namespaces/default/pods"
DAEMONSETS = "/apis/apps/v1/namespaces/default/daemonsets"
REVISIONS = "/apis/apps/v1/namespaces/default/controllerrevisions"

MANIFESTS = {
    "agent.yaml": """\
apiVersion: apps/v1
kind: DaemonSet
metadata:
  name: agent
  labels: {app: agent}
spec:
  selector: {matchLabels: {app: agent}}
  template:
    metadata: {labels: {app: agent}}
    spec:
      containers:
      - {name: agent, image: "registry.k8s.io/pause:3.8"}
""",
    "agent-3.9.yaml": """\
apiVersion: apps/v1
kind: DaemonSet
metadata:
  name: agent
  labels: {app: agent}
  annotations: {kubernetes.io/change-cause: pause 3.9}
spec:
  selector: {matchLabels: {app: agent}}
  template:
    metadata: {labels: {app: agent}}
    spec:
      containers:
      - {name: agent, image: "registry.k8s.io/pause:3.9"}
""",
    "refused.yaml": """\
apiVersion: apps/v1
kind: DaemonSet
metadata:
  name: refused
spec:
  selector: {matchLabels: {app: refused}}
  updateStrategy: {rollingUpdate: {maxSurge: 1, maxUnavailable: 1}}
  template:
    metadata: {labels: {app: refused}}
    spec:
      containers:
      - {name: refused, image: "registry.k8s.io/pause:3.9"}
""",
}


class Step(NamedTuple):
    """One command of kubectl.

    Attributes:
        command: Its arguments, as one writes them in a shell.
        words: What it shows, if that needs words.
        manifest: Which of `MANIFESTS` it reads from its standard input.
        until: What is waited for afterwards, because the command does not.
        progress: Its output tells of what goes on meanwhile, so that only the last line is sure.
        objects: The objects are looked at after it.
    """

    command: str
    words: str = ""
    manifest: str = ""
    until: Callable[[Api], Awaitable[bool]] | None = None
    progress: bool = False
    objects: bool = False

    @property
    def line(self) -> str:
        """What one would type."""
        return f"kubectl {self.command}{f' < {self.manifest}' if self.manifest else ''}"

    @property
    def args(self) -> list[str]:
        """Its arguments one by one."""
        return shlex.split(self.command)


class Objects(NamedTuple):
    """What is in the namespace, as the API server has it: pods by node, ControllerRevisions by number, the sets."""

    pods: list[Json]
    revisions: list[Json]
    daemonsets: list[Json]


class Result(NamedTuple):
    """What came of a step."""

    step: Step
    output: str
    exit_code: int
    objects: Objects | None


# --- what is waited for -----------------------------------------------------------------------------------------------


async def _pods(api: Api) -> list[Json]:
    items: list[Json] = (await api.get(PODS))["items"]
    return items


async def every_node_has_its_pod(api: Api) -> bool:
    """Each node has one pod that is controlled and ready, and the status says so."""
    (daemonset,) = (await api.get(DAEMONSETS))["items"]
    pods, status = await _pods(api), daemonset.get("status", {})
    return (
        len({pod["spec"].get("nodeName") for pod in pods}) == NODES == len(pods)
        and all(_is_settled(pod) for pod in pods)
        and status.get("observedGeneration") == daemonset["metadata"]["generation"]
        and status.get("numberAvailable") == status.get("updatedNumberScheduled") == NODES
    )


def _is_settled(pod: Json) -> bool:
    conditions = pod.get("status", {}).get("conditions", [])
    return (
        bool(pod["metadata"].get("ownerReferences"))
        and "deletionTimestamp" not in pod["metadata"]
        and any(each["type"] == "Ready" and each["status"] == "True" for each in conditions)
    )


async def one_pod_is_new(api: Api) -> bool:
    """The new template has reached the one node whose pod was deleted, and the status says so."""
    return await _new_pods(api) == 1


async def no_pod_is_new(api: Api) -> bool:
    """A new template has been seen, and has reached no node."""
    return await _new_pods(api) == 0


async def _new_pods(api: Api) -> int | None:
    """On how many nodes the new template is, if all is settled."""
    (daemonset,) = (await api.get(DAEMONSETS))["items"]
    status, pods = daemonset["status"], await _pods(api)
    seen = status["observedGeneration"] == daemonset["metadata"]["generation"]
    if not (
        seen and status["numberAvailable"] == NODES == len(pods) and all(map(_is_settled, pods))
    ):
        return None
    return int(status.get("updatedNumberScheduled", 0))


async def everything_is_gone(api: Api) -> bool:
    """The garbage collector has done its work."""
    return not await _pods(api) and not (await api.get(REVISIONS))["items"]


async def nobody_owns_anything(api: Api) -> bool:
    """Pods and revisions have no owner any more."""
    kept = [*await _pods(api), *(await api.get(REVISIONS))["items"]]
    return not any(each["metadata"].get("ownerReferences") for each in kept)


# --- the steps --------------------------------------------------------------------------------------------------------

ROLLED_OUT = Step("rollout status ds/agent --timeout=60s", progress=True, objects=True)
HISTORY = Step("rollout history ds/agent")
WHICH_PODS = Step(
    "get pods -l app=agent --sort-by=.spec.nodeName -o custom-columns="
    "NODE:.spec.nodeName,PHASE:.status.phase,IMAGE:.spec.containers[0].image,OWNER:.metadata.ownerReferences[0].name"
)
WHICH_REVISIONS = Step("get controllerrevisions --sort-by=.revision")

STEPS = (
    Step("apply -f -", "A set is made, and followed until its pods run.", "agent.yaml"),
    ROLLED_OUT,
    Step("get ds -o wide"),
    HISTORY,
    Step("apply -f -", "Once more the same: nothing happens.", "agent.yaml"),
    Step("apply -f -", "What the API server refuses, it refuses.", "refused.yaml"),
    Step("apply -f -", "A new template is rolled out, and says why.", "agent-3.9.yaml"),
    ROLLED_OUT,
    HISTORY,
    Step("rollout history ds/agent --revision=2"),
    WHICH_PODS,
    WHICH_REVISIONS,
    Step("rollout undo ds/agent", "Back to the one before."),
    ROLLED_OUT,
    HISTORY,
    Step("rollout undo ds/agent --to-revision=2", "Back to a certain one."),
    ROLLED_OUT,
    HISTORY,
    Step("rollout undo ds/agent --to-revision=2", "The number has gone, as it is number 4 now."),
    Step("rollout undo ds/agent --to-revision=4", "The one that is there already."),
    Step("set image ds/agent agent=registry.k8s.io/pause:3.10", "A new image."),
    ROLLED_OUT,
    Step("annotate ds/agent kubernetes.io/change-cause='said too late' --overwrite"),
    HISTORY,
    Step("rollout restart ds/agent", "All pods are made anew."),
    ROLLED_OUT,
    HISTORY,
    Step("rollout pause ds/agent", "kubectl cannot pause a DaemonSet."),
    Step("rollout resume ds/agent"),
    Step(
        "delete pod -l app=agent --field-selector=spec.nodeName=node-1",
        "A pod that is deleted is replaced.",
        until=every_node_has_its_pod,
        objects=True,
    ),
    WHICH_PODS,
    Step("drain node-2 --ignore-daemonsets", "A node is drained: its pod stays."),
    Step("uncordon node-2"),
    Step("get ds agent"),
    Step("describe ds agent"),
    Step(
        "delete ds agent --cascade=orphan",
        "The set goes, its pods and its history stay.",
        until=nobody_owns_anything,
        objects=True,
    ),
    WHICH_PODS,
    WHICH_REVISIONS,
    Step(
        "apply -f -",
        "Made again with another template, it adopts them and rolls on, with the history that it had.",
        "agent-3.9.yaml",
    ),
    ROLLED_OUT,
    HISTORY,
    Step(
        "delete ds agent --cascade=orphan",
        "Once more; made again with the same template, it restarts none of them.",
        until=nobody_owns_anything,
        objects=True,
    ),
    Step("apply -f -", manifest="agent-3.9.yaml", until=every_node_has_its_pod, objects=True),
    HISTORY,
    Step(
        "delete ds agent --cascade=foreground",
        "First what it owns goes, then the set: nothing is left when the command ends.",
    ),
    Step("get ds,pods,controllerrevisions"),
    Step(
        "apply -f -",
        "Pods of a set with OnDelete are replaced when somebody deletes them.",
        "agent.yaml",
    ),
    ROLLED_OUT,
    Step(
        """patch ds agent -p '{"spec": {"updateStrategy": {"type": "OnDelete", "rollingUpdate": null}}}'"""
    ),
    Step("set image ds/agent agent=registry.k8s.io/pause:3.10", until=no_pod_is_new, objects=True),
    Step("rollout status ds/agent"),
    Step("get ds agent"),
    Step(
        "delete pod -l app=agent --field-selector=spec.nodeName=node-1",
        until=one_pod_is_new,
        objects=True,
    ),
    Step("get ds agent"),
    WHICH_PODS,
    Step(
        "delete ds agent --cascade=background",
        "The set goes at once, and what it owns afterwards.",
        until=everything_is_gone,
    ),
    Step("get ds,pods,controllerrevisions"),
)


# --- running ----------------------------------------------------------------------------------------------------------


async def run_steps(plane: ControlPlane) -> list[Result]:
    """Take all steps on one plane, in its namespace `default`."""
    results = []
    async with plane.api() as api:
        for step in STEPS:
            output, exit_code = await _kubectl(plane, step)
            if step.until is not None:
                await _wait(step, api)
            objects = await objects_at_rest(api) if step.objects else None
            results.append(Result(step, output, exit_code, objects))
    return results


async def _wait(step: Step, api: Api) -> None:
    if step.until is None:
        return
    try:
        async with asyncio.timeout(STEP_SECONDS_MAX):
            while not await step.until(api):  # noqa: ASYNC110 - what is waited for is elsewhere
                await asyncio.sleep(POLL_S)
    except TimeoutError:
        raise AssertionError(f"{step.line}: then not {step.until.__name__}") from None


async def objects_at_rest(api: Api) -> Objects:
    """Read everything that concerns sets, once nobody has written to it for a while.

    A status follows what it is about: just after a pod was replaced it may be the one from before.
    """
    async with asyncio.timeout(STEP_SECONDS_MAX):
        before, quiet = await objects_in(api), 0
        while quiet < QUIET_READS:
            await asyncio.sleep(POLL_S)
            now = await objects_in(api)
            quiet = quiet + 1 if now == before else 0
            before = now
    return before


async def objects_in(api: Api) -> Objects:
    """Read everything that concerns sets, in an order that does not depend on names."""
    revisions: list[Json] = (await api.get(REVISIONS))["items"]
    daemonsets: list[Json] = (await api.get(DAEMONSETS))["items"]
    return Objects(
        sorted(await _pods(api), key=lambda pod: str(pod["spec"].get("nodeName"))),
        sorted(revisions, key=lambda revision: int(revision["revision"])),
        daemonsets,
    )


async def _kubectl(plane: ControlPlane, step: Step) -> tuple[str, int]:
    """Run a step as in a terminal: what it writes to both outputs, as it comes; and its exit code."""
    process = await asyncio.create_subprocess_exec(
        plane.programs.kubectl,
        *step.args,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        env={
            "PATH": os.environ["PATH"],
            "HOME": str(plane.directory / "home"),
            "KUBECONFIG": str(plane.kubeconfig),
        },
    )
    try:
        async with asyncio.timeout(STEP_SECONDS_MAX):
            output, _ = await process.communicate(MANIFESTS.get(step.manifest, "").encode())
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert process.returncode is not None
    return output.decode(), process.returncode


class Planes(NamedTuple):
    """Two control planes with nodes of the same names."""

    builtin: ControlPlane
    everynode: ControlPlane


@contextlib.asynccontextmanager
async def both_planes(directory: Path) -> AsyncIterator[Planes]:
    """Start one plane with the built-in controller and one with everynode."""
    async with (
        ControlPlane.start(directory, nodes=NODES, daemonset_controller=True) as builtin,
        ControlPlane.start(directory, nodes=NODES) as other,
        running_fleet(other) as fleet,
    ):
        await fleet.hosts[0].listed.wait()
        yield Planes(builtin, other)


async def run_on_both(planes: Planes) -> tuple[list[Result], list[Result]]:
    """Take all steps on both planes at the same time; first the built-in controller's results."""
    builtin, everynode = await asyncio.gather(
        run_steps(planes.builtin), run_steps(planes.everynode)
    )
    return builtin, everynode


# --- the document -----------------------------------------------------------------------------------------------------

HEAD = """\
# kubectl, side by side

What `kubectl` says and does with the DaemonSet controller that is built into Kubernetes, and with everynode in its
place. Two control planes of {version}, with {nodes} nodes each, are given the same commands one after the other. Where
both say the same, word for word, it stands here once; where they do not, on the left is what the built-in controller
led to and on the right what everynode did.

This page is written by `python -m tests.kubernetes.transcript` from a run. `tests/kubernetes/test_kubectl.py` repeats
that run and fails where the two differ in more than hashes, random names, ages, the events, and what `rollout status`
says until it is done; it also compares the objects behind the words, pods, ControllerRevisions and the status, field by
field. What differs on purpose is in [differences.md](differences.md).
"""


def render(builtin: list[Result], everynode: list[Result], version: str) -> str:
    """Write the document."""
    parts = [HEAD.format(version=version, nodes=NODES), "The manifests:\n"]
    parts += [f"`{name}`\n\n```yaml\n{text}```\n" for name, text in MANIFESTS.items()]
    parts.append("## The commands\n")
    for number, (left, right) in enumerate(zip(builtin, everynode, strict=True), 1):
        words = f": {left.step.words}" if left.step.words else ""
        parts += [
            f"**{number}**{words}\n",
            f"```shell\n{left.step.line}\n```\n",
            _said(left, right),
        ]
    return "\n".join(parts)


def _said(left: Result, right: Result) -> str:
    if _block(left) == _block(right):
        return _block(left)
    return (
        "<table><tr><th>built-in controller</th><th>everynode</th></tr><tr><td>\n\n"
        f"{_block(left)}\n</td><td>\n\n{_block(right)}\n</td></tr></table>\n"
    )


def _block(result: Result) -> str:
    ended = f"(exit code {result.exit_code})\n" if result.exit_code else ""
    lines = "".join(f"{line.rstrip()}\n" for line in result.output.expandtabs().splitlines())
    return f"```text\n{lines}{ended}```\n"


async def main() -> None:
    """Write the document anew."""
    with tempfile.TemporaryDirectory() as directory:
        async with both_planes(Path(directory)) as planes, planes.builtin.api() as api:
            version = str((await api.get("/version"))["gitVersion"])
            builtin, everynode = await run_on_both(planes)
    DOCUMENT.write_text(render(builtin, everynode, f"Kubernetes {version}"), encoding="utf-8")


if __name__ == "__main__":
    asyncio.run(main())
