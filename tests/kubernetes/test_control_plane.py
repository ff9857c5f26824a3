"""The control plane to test with does what the tests of the adapter rely on."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from tests.kubernetes.conftest import StartControlPlane
from tests.kubernetes.support_api import Api, ApiError, Json
from tests.kubernetes.support_control_plane import ControlPlane, KubectlError, is_ready

UNTIL_SECONDS = 30


async def until(condition: Callable[[], Awaitable[bool]]) -> None:
    """Ask again and again until it is true; what never becomes true fails."""
    async with asyncio.timeout(UNTIL_SECONDS):
        while not await condition():  # noqa: ASYNC110 - a server cannot set an event here
            await asyncio.sleep(0.05)


def workload(
    kind: str,
    *,
    selector: Mapping[str, str] | None = None,
    annotations: Mapping[str, str] | None = None,
) -> str:
    """A DaemonSet or Deployment named `agent`, as kubectl takes it."""
    container = {"name": "agent", "image": "example.invalid/agent:1"}
    template = {
        "metadata": {"labels": {"app": "agent"}, "annotations": dict(annotations or {})},
        "spec": {"containers": [container], "nodeSelector": dict(selector or {})},
    }
    spec = {"selector": {"matchLabels": {"app": "agent"}}, "template": template}
    return json.dumps(
        {"apiVersion": "apps/v1", "kind": kind, "metadata": {"name": "agent"}, "spec": spec}
    )


async def pods(api: Api, namespace: str) -> list[Json]:
    """The pods of a namespace."""
    items: list[Json] = (await api.get(f"/api/v1/namespaces/{namespace}/pods"))["items"]
    return items


@pytest.mark.slow
async def test_the_builtin_controller_covers_fifty_nodes(
    start_control_plane: StartControlPlane,
) -> None:
    """Fifty nodes become ready through kwok, and a DaemonSet applied with kubectl gets fifty running pods."""
    async with (
        start_control_plane(nodes=50, daemonset_controller=True) as plane,
        plane.namespace() as namespace,
        plane.api() as api,
    ):
        nodes = (await api.get("/api/v1/nodes"))["items"]
        assert [True] * 50 == [is_ready(node) for node in nodes]
        await plane.kubectl("apply", "-n", namespace, "-f", "-", stdin=workload("DaemonSet"))
        await plane.kubectl("rollout", "status", "-n", namespace, "ds/agent")
        running = await pods(api, namespace)
        assert {node["metadata"]["name"] for node in nodes} == {
            pod["spec"]["nodeName"] for pod in running if pod["status"]["phase"] == "Running"
        }
        assert 50 == len(running)


async def test_without_the_builtin_controller_a_daemonset_gets_no_pods(
    control_plane: ControlPlane, namespace: str
) -> None:
    """Nobody looks at a DaemonSet, while a Deployment that is created after it gets its pod."""
    async with control_plane.own_nodes(1) as nodes, control_plane.api() as api:
        for kind in ("DaemonSet", "Deployment"):
            body = workload(kind, selector=nodes.selector)
            await control_plane.kubectl("apply", "-n", namespace, "-f", "-", stdin=body)
        await control_plane.kubectl("rollout", "status", "-n", namespace, "deployment/agent")
        owners = [
            pod["metadata"]["ownerReferences"][0]["kind"] for pod in await pods(api, namespace)
        ]
        assert ["ReplicaSet"] == owners
        daemonset = await api.get(f"/apis/apps/v1/namespaces/{namespace}/daemonsets/agent")
        assert "observedGeneration" not in daemonset["status"]


@pytest.mark.slow
async def test_the_builtin_controller_can_be_started_and_stopped(
    start_control_plane: StartControlPlane,
) -> None:
    """A DaemonSet is covered as soon as the built-in controller starts, and no more when it has stopped."""
    async with (
        start_control_plane(nodes=2) as plane,
        plane.namespace() as namespace,
        plane.api() as api,
    ):
        await plane.kubectl("apply", "-n", namespace, "-f", "-", stdin=workload("DaemonSet"))
        plane.start_controller("daemonset", limits_lifted=False)
        await plane.kubectl("rollout", "status", "-n", namespace, "ds/agent")
        await plane.stop_controller("daemonset")
        assert "daemonset-controller" not in plane.pids
        await plane.add_nodes(1, start=2)
        assert 2 == len(await pods(api, namespace))


@pytest.mark.parametrize(
    ("behaviour", "expected"),
    [
        ("", ("Running", "True")),
        ("slow", ("Running", "True")),
        ("unready", ("Running", "False")),
        ("failed", ("Failed", None)),
        ("succeeded", ("Succeeded", None)),
    ],
)
async def test_a_pod_behaves_as_its_annotation_says(
    control_plane: ControlPlane, namespace: str, behaviour: str, expected: tuple[str, str | None]
) -> None:
    """What a test asks of a pod in its template is what kwok does."""
    async with control_plane.own_nodes(1) as nodes, control_plane.api() as api:
        await api.create(f"/api/v1/namespaces/{namespace}/pods", pod(nodes.names[0], behaviour))
        seen: list[tuple[str, str | None]] = []

        async def as_expected() -> bool:
            seen.append(state(await api.get(f"/api/v1/namespaces/{namespace}/pods/agent")))
            return seen[-1] == expected

        await until(as_expected)


async def test_a_pod_changes_when_its_annotation_does(
    control_plane: ControlPlane, namespace: str
) -> None:
    """A running pod stops being ready, is ready again, does not go when it is deleted, and then does."""
    path = f"/api/v1/namespaces/{namespace}/pods/agent"
    async with control_plane.own_nodes(1) as nodes, control_plane.api() as api:
        await api.create(f"/api/v1/namespaces/{namespace}/pods", pod(nodes.names[0], ""))
        for behaviour, expected in [
            ("", ("Running", "True")),
            ("unready", ("Running", "False")),
            ("undying", ("Running", "True")),
        ]:
            await api.patch(path, annotated(behaviour))
            await until_state(api, path, expected)
        await api.delete(path, {"gracePeriodSeconds": 1})
        deleted = await api.patch(path, annotated("undying"))
        assert "deletionTimestamp" in deleted["metadata"]
        await api.patch(path, annotated(""))
        await until_gone(api, path)


async def test_a_node_can_be_made_unready_and_is_then_tainted(control_plane: ControlPlane) -> None:
    """A node that is not managed keeps the status that a test gives it, and the controllers taint it.

    It has ready neighbours: where no node is ready, the controllers suspect themselves, and taint less.
    """
    async with control_plane.own_nodes(3) as nodes, control_plane.api() as api:
        path = f"/api/v1/nodes/{nodes.names[0]}"
        unmanaged = {"metadata": {"annotations": {"test.everynode.dev/node": "unmanaged"}}}
        await api.patch(path, unmanaged)
        condition = {"type": "Ready", "status": "False", "reason": "TestAskedForIt"}
        await api.patch(f"{path}/status", {"status": {"conditions": [condition]}}, kind="strategic")

        async def tainted() -> bool:
            taints = (await api.get(path))["spec"].get("taints", [])
            return {"NoSchedule", "NoExecute"} == {taint["effect"] for taint in taints}

        await until(tainted)


async def test_another_user_may_do_what_rbac_allows_and_no_more(
    control_plane: ControlPlane, namespace: str
) -> None:
    """A user of our own, by certificate or by token, is forbidden everything until a role is bound."""
    user = "system:serviceaccount:" + namespace + ":default"
    token = await control_plane.token_for("default", namespace)
    by_token = control_plane.kubeconfig_for("", token=token)
    for kubeconfig in (control_plane.kubeconfig_for(user), by_token):
        with pytest.raises(KubectlError, match="forbidden"):
            await control_plane.kubectl("get", "pods", "-n", namespace, kubeconfig=kubeconfig)
    binding = ("create", "rolebinding", "viewer", "-n", namespace)
    await control_plane.kubectl(
        *binding, "--clusterrole=view", f"--serviceaccount={namespace}:default"
    )
    for kubeconfig in (control_plane.kubeconfig_for(user), by_token):
        get = ("get", "pods", "-n", namespace)
        assert "No resources found" in await control_plane.kubectl(*get, kubeconfig=kubeconfig)
        with pytest.raises(KubectlError, match="forbidden"):
            await control_plane.kubectl("get", "nodes", kubeconfig=kubeconfig)


async def test_the_shared_plane_is_left_clean(control_plane: ControlPlane) -> None:
    """What a namespace and nodes of one's own brought along is gone when they are left."""
    async with (
        control_plane.own_nodes(2) as nodes,
        control_plane.namespace() as name,
        control_plane.api() as api,
    ):
        for node in nodes.names:
            body = pod(node, "undying")
            body["metadata"]["name"] = node
            await api.create(f"/api/v1/namespaces/{name}/pods", body)
    async with control_plane.api() as api:
        assert [] == await pods(api, name)
        selector = f"test.everynode.dev/group={nodes.selector['test.everynode.dev/group']}"
        assert [] == (await api.get("/api/v1/nodes", labelSelector=selector))["items"]


def test_processes_go_with_the_tests_that_started_them(tmp_path: Path) -> None:
    """When the tests are killed, nothing that they started is left behind."""
    script = (
        "import sys, time\nfrom pathlib import Path\n"
        "from tests.kubernetes.support_processes import Running\n"
        "directory = Path(sys.argv[1])\n"
        "command = ['/bin/sh', '-c', 'echo started; exec sleep 300']\n"
        "running = Running('sleep', command, log=directory / 'log', cwd=directory)\n"
        "while not running.tail(): time.sleep(0.01)\n"
        "print(running.pid, flush=True)\n"
        "time.sleep(300)\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script, str(tmp_path)],
        stdout=subprocess.PIPE,
        cwd=Path(__file__).parents[2],
        text=True,
    ) as tests:
        assert tests.stdout is not None
        pid = int(tests.stdout.readline())
        tests.send_signal(signal.SIGKILL)
    deadline = time.monotonic() + UNTIL_SECONDS
    while is_alive(pid):
        assert time.monotonic() < deadline, f"process {pid} is still there"
        time.sleep(0.01)


def is_alive(pid: int) -> bool:
    """Whether a process is there, and no zombie that nobody has waited for."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    shown = subprocess.run(
        ["ps", "-o", "stat=", "-p", str(pid)], capture_output=True, text=True, check=False
    )
    return shown.stdout.strip() not in {"", "Z", "Zs"}


def pod(node: str, behaviour: str) -> dict[str, Any]:
    """A pod named `agent` that is bound to a node."""
    container = {"name": "agent", "image": "example.invalid/agent:1"}
    spec = {"nodeName": node, "containers": [container]}
    metadata = {"name": "agent", **annotated(behaviour)["metadata"]}
    return {"metadata": metadata, "spec": spec}


def annotated(behaviour: str) -> dict[str, Any]:
    """The part of a pod that says how it behaves."""
    return {"metadata": {"annotations": {"test.everynode.dev/pod": behaviour}}}


def state(seen: Json) -> tuple[str, str | None]:
    """A pod's phase, and whether it is ready; nothing about the latter when it has ended."""
    phase = seen["status"]["phase"]
    conditions = seen["status"].get("conditions", [])
    ready = [each["status"] for each in conditions if each["type"] == "Ready"]
    return phase, ready[0] if ready and phase == "Running" else None


async def until_state(api: Api, path: str, expected: tuple[str, str | None]) -> None:
    """Wait until a pod is as expected."""

    async def as_expected() -> bool:
        return state(await api.get(path)) == expected

    await until(as_expected)


async def until_gone(api: Api, path: str) -> None:
    """Wait until an object is gone."""

    async def gone() -> bool:
        try:
            await api.get(path)
        except ApiError as error:
            return error.status == 404
        return False

    await until(gone)
