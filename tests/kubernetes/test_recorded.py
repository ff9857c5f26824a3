"""What a real kubectl watched of a real cluster, read as a stream, is what the API server has in the end."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import os
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import pytest_asyncio
from tests.kubernetes.support_control_plane import ControlPlane, is_ready
from tests.kubernetes.support_fleet import daemonset_manifest, until_covered
from tests.kubernetes.support_programs import Programs
from tests.unit.support_sources import Reading, file_of, reading_of

from everynode.core.events import NodeGone, PodGone
from everynode.core.identity import revision_of
from everynode.core.values import SetKey
from everynode_kubernetes.recorded import read

KINDS = ("nodes", "daemonsets", "controllerrevisions", "pods")
WITHOUT_REVISIONS = ("pods", "daemonsets", "nodes")
AGENT = SetKey("default", "agent")
OLD, NEW = "registry.k8s.io/pause:3.8", "registry.k8s.io/pause:3.9"
LAST = "last"
DEADLINE_S = 60.0
POLL_S = 0.1

pytestmark = [pytest.mark.slow, pytest.mark.asyncio(loop_scope="module")]


class Recorded(NamedTuple):
    """What kubectl wrote, by kind, and what there is."""

    watched: dict[str, bytes]
    listed: bytes
    nodes: list[dict[str, Any]]
    pods: list[dict[str, Any]]
    daemonset: dict[str, Any]


@contextlib.asynccontextmanager
async def watching(plane: ControlPlane, directory: Path) -> AsyncIterator[dict[str, Path]]:
    """Have kubectl write down what changes, a file for each kind."""
    files = {kind: directory / f"{kind}.json" for kind in KINDS}
    words = ("-A", "-o", "json", "--watch", "--output-watch-events", "--show-managed-fields")
    environment = {"PATH": os.environ["PATH"], "KUBECONFIG": str(plane.kubeconfig)}
    async with contextlib.AsyncExitStack() as stack:
        for kind, path in files.items():
            process = await asyncio.create_subprocess_exec(
                plane.programs.kubectl,
                *("get", kind, *words),
                stdout=stack.enter_context(path.open("wb")),
                env={**environment, "HOME": str(directory)},
            )
            stack.push_async_callback(process.wait)
            stack.callback(process.terminate)
        yield files


async def until_written(path: Path, text: bytes) -> None:
    """Wait until kubectl has written something."""
    async with asyncio.timeout(DEADLINE_S):
        while text not in path.read_bytes():  # noqa: ASYNC110, ASYNC240 - another process writes it
            await asyncio.sleep(POLL_S)


async def mark_the_end(plane: ControlPlane, files: dict[str, Path]) -> None:
    """Change an object of each kind that changes, and wait until that is written: all before it is, too."""
    (pod, *_) = (await plane.kubectl("get", "pods", "-o", "name")).split()
    marked = {"nodes": "node/old-1", "pods": pod, "daemonsets": "daemonset/agent"}
    for kind, name in marked.items():
        await plane.kubectl("annotate", name, f"{LAST}={LAST}")
        await until_written(files[kind], f'"{LAST}":"{LAST}"'.encode())


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def recorded(
    programs: Programs,  # noqa: ARG001 - skips
    tmp_path_factory: pytest.TempPathFactory,
) -> AsyncIterator[Recorded]:
    """A cluster in which nodes join and leave and a set rolls out, watched from before until after."""
    directory = tmp_path_factory.mktemp("recorded")
    async with ControlPlane.start(directory, nodes=0, daemonset_controller=True) as plane:
        await plane.add_nodes(3, "old")
        async with watching(plane, directory) as files:
            await until_written(files["nodes"], b'"old-2"')
            rolling = {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": "50%"}}
            for image, extra in ((OLD, ()), (NEW, ("new-0", "new-1"))):
                manifest = daemonset_manifest("agent", image=image, update_strategy=rolling)
                await plane.kubectl("apply", "-f", "-", stdin=manifest)
                await plane.add_named_nodes(extra)
                nodes = ["old-0", "old-1", "old-2", *extra]
                pods = await until_covered(plane, "default", "agent", nodes, image=image)
            await plane.kubectl("label", "node/new-0", "disk=ssd")
            await plane.remove_node("old-0")
            (left,) = (pod.name for pod in pods if pod.node == "old-0")
            await plane.kubectl("delete", f"pod/{left}", "--grace-period=0", "--force")
            await until_covered(plane, "default", "agent", nodes[1:], image=NEW)
            await plane.kubectl("rollout", "status", "ds/agent")
            await mark_the_end(plane, files)
        listed = await plane.kubectl("get", "nodes,pods,daemonsets", "-A", "-o", "json")
        async with plane.api() as api:
            yield Recorded(
                {kind: path.read_bytes() for kind, path in files.items()},
                listed.encode(),
                (await api.get("/api/v1/nodes"))["items"],
                (await api.get("/api/v1/namespaces/default/pods"))["items"],
                await api.get("/apis/apps/v1/namespaces/default/daemonsets/agent"),
            )


def reading_of_watches(recorded: Recorded, kinds: Sequence[str]) -> Reading:
    """Read the files of some kinds."""
    files = [file_of(recorded.watched[kind], kind) for kind in kinds]
    return reading_of(functools.partial(read, backend="cluster"), *files)


def check(reading: Reading, recorded: Recorded) -> None:
    """What the stream ends with is what the API server has, field by field."""
    view = reading.view
    assert (reading.faults, reading.error) == ([], "")
    assert sorted(
        (each["metadata"]["name"], each["metadata"]["uid"], each["metadata"]["labels"])
        for each in recorded.nodes
    ) == sorted((each.name, each.uid, each.labels) for each in view.nodes.values())
    assert all(map(is_ready, recorded.nodes))
    assert all(each.ready and not each.taints for each in view.nodes.values())
    assert sorted(
        (each["metadata"]["uid"], each["spec"]["nodeName"]) for each in recorded.pods
    ) == sorted((each.uid, each.node) for each in view.pods.values())
    daemonset = view.daemonsets[AGENT]
    assert recorded.daemonset["metadata"]["generation"] == daemonset.generation
    assert {revision_of(daemonset)} == {each.revision for each in view.pods.values()}
    assert all(each.ready and each.live for each in view.pods.values())
    status, told = recorded.daemonset["status"], view.statuses[AGENT]
    assert (4, 4) == (status["numberReady"], status["updatedNumberScheduled"])
    assert (4, 4) == (told.number_ready, told.updated_number_scheduled)


@pytest.mark.parametrize("kinds", [KINDS, WITHOUT_REVISIONS])
async def test_watches(recorded: Recorded, kinds: Sequence[str]) -> None:
    """The past is there, in its order, and the end is the truth; with ControllerRevisions and without."""
    reading = reading_of_watches(recorded, kinds)

    check(reading, recorded)
    gone = [type(message) for message in reading.messages]
    assert 1 == gone.count(NodeGone)
    assert 4 <= gone.count(PodGone)  # three of the old template, and that of the node that went
    assert reading.times_ms == sorted(reading.times_ms)
    assert 2 == len(reading.view.revisions)


async def test_both_tell_the_same(recorded: Recorded) -> None:
    """Without ControllerRevisions, every pod has the same revision at every moment."""
    tables = [reading_of_watches(recorded, kinds) for kinds in (KINDS, WITHOUT_REVISIONS)]

    assert tables[0].view.pods == tables[1].view.pods
    assert {each.hash for each in tables[0].view.revisions.values()} == {
        each.hash for each in tables[1].view.revisions.values()
    }


async def test_a_list(recorded: Recorded) -> None:
    """One list, without a watch, says what there is."""
    reading = reading_of(functools.partial(read, backend="cluster"), file_of(recorded.listed))

    check(reading, recorded)
