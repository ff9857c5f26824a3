"""A Kubernetes control plane of our own, for tests: etcd, API server, scheduler, controllers, and kwok as kubelets.

All of it is real but the kubelets. Everything listens on 127.0.0.1, with certificates that are made for the run.
The built-in DaemonSet controller is off unless a test starts it, as a process of its own. What is on disk:
<directory>/etcd, tls, logs (one file per program), kubeconfigs.

How to provoke 410 Gone (test_control_plane_faults.py shows each way):

* With an API server as it is by default: stop and start it. Its watch cache begins at the present, so a watch from any
  older resourceVersion is answered with an event of type ERROR and code 410, whether etcd was compacted or not. While
  it runs, `compact_etcd` alone does not do it: the cache answers such a watch all the same.
* Without a restart: `apiserver_args=("--watch-cache=false",)`, or for one resource `--watch-cache-sizes=pods#0`. Then a
  watch from before `compact_etcd` is 410 at once (as an event of type ERROR, too).
* A continue token: write something after the first page, then `compact_etcd`. Without a watch cache it is 410 at once
  (as an HTTP status; the answer offers an inconsistent token), with one only after a restart of the API server.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from typing import Any

from tests.kubernetes.support_api import Api, ApiError, Identity, Json
from tests.kubernetes.support_plane_processes import PlaneProcesses
from tests.kubernetes.support_programs import find_programs

KUBECTL_SECONDS_MAX = 60
NODES_SECONDS_MAX = 90
GROUP_LABEL = "test.everynode.dev/group"

_numbers = itertools.count(1)


class KubectlError(Exception):
    """kubectl ended with an error; the message is what it wrote."""


@dataclass(frozen=True)
class OwnNodes:
    """Nodes that belong to one test: their names, and the node selector that finds them and no others."""

    names: tuple[str, ...]
    selector: Mapping[str, str]


class ControlPlane(PlaneProcesses):
    """One control plane; `async with ControlPlane.start(directory) as plane`."""

    @classmethod
    @contextlib.asynccontextmanager
    async def start(
        cls,
        directory: Path,
        *,
        nodes: int = 0,
        daemonset_controller: bool = False,
        kwok: bool = True,
        apiserver_args: Sequence[str] = (),
    ) -> AsyncIterator[ControlPlane]:
        """Start one, with so many nodes that are ready, and stop it at the end.

        Args:
            directory: An existing directory; the plane makes one of its own in it.
            nodes: How many nodes it has from the start.
            daemonset_controller: Whether the built-in one runs too; otherwise nobody looks after DaemonSets.
            kwok: Whether there are kubelets; without, pods stay Pending.
            apiserver_args: More arguments for the API server.
        """
        own = directory / f"control-plane-{next(_numbers)}"
        plane = cls(find_programs(), own, apiserver_args=apiserver_args)
        try:
            await plane.start_etcd()
            await plane.start_api_server()
            plane.start_controllers()
            plane.start_scheduler()
            if kwok:
                plane.start_kwok()
            if daemonset_controller:
                plane.start_controller("daemonset")
            await plane.until_usable()
            if nodes:
                await plane.add_nodes(nodes)
            yield plane
        finally:
            await plane.stop()

    async def until_usable(self) -> None:
        """Wait until the controllers work, so that pods can be created."""
        async with self.api() as api:

            async def has_account() -> bool:
                path = "/api/v1/namespaces/default/serviceaccounts"
                return bool((await api.get(path))["items"])

            await self._until("the controllers work", has_account, needs="kube-controller-manager")

    # --- clients ---------------------------------------------------------------------------------

    def identity(
        self,
        user: str,
        groups: Sequence[str] = (),
        *,
        server: str | None = None,
        token: str | None = None,
    ) -> Identity:
        """Somebody with a client certificate, or with a token (`token_for`), which then says who it is.

        Args:
            user: The user's name, for instance `system:serviceaccount:everynode:everynode`.
            groups: The user's groups.
            server: The address of a proxy in between; the API server's certificate is good for any port of
                127.0.0.1 and localhost.
            token: A bearer token instead of a certificate.
        """
        address = server or self.server_url
        if token is not None:
            return Identity(address, self.authority.certificate, token=token)
        return self.authority.client(address, user, groups)

    def kubeconfig_for(
        self,
        user: str,
        groups: Sequence[str] = (),
        *,
        server: str | None = None,
        token: str | None = None,
    ) -> Path:
        """A kubeconfig for somebody; the arguments are those of `identity`."""
        path = self.directory / "kubeconfigs" / f"{next(_numbers)}"
        return self.identity(user, groups, server=server, token=token).write_kubeconfig(path)

    async def token_for(self, service_account: str, namespace: str) -> str:
        """A bearer token of a service account, as a pod gets it."""
        path = f"/api/v1/namespaces/{namespace}/serviceaccounts/{service_account}/token"
        async with self.api() as api:
            answer = await api.create(path, {"spec": {"expirationSeconds": 3600}})
        token: str = answer["status"]["token"]
        return token

    async def kubectl(
        self,
        *args: str,
        stdin: str | None = None,
        check: bool = True,
        kubeconfig: Path | None = None,
        seconds_max: float = KUBECTL_SECONDS_MAX,
    ) -> str:
        """Run kubectl and return what it writes; what it writes to stderr comes after that.

        Args:
            args: Its arguments.
            stdin: Its input, for `-f -`.
            check: Whether its failure is an error.
            kubeconfig: Whom it acts as; the administrator unless given.
            seconds_max: How long it may run.

        Raises:
            KubectlError: It failed, or took too long.
        """
        process = await asyncio.create_subprocess_exec(
            self.programs.kubectl,
            *args,
            stdin=asyncio.subprocess.DEVNULL if stdin is None else asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env={
                "PATH": os.environ["PATH"],
                "HOME": str(self.directory / "home"),
                "KUBECONFIG": str(kubeconfig or self.kubeconfig),
            },
        )
        try:
            async with asyncio.timeout(seconds_max):
                out, err = await process.communicate(None if stdin is None else stdin.encode())
        except TimeoutError as error:
            process.kill()
            await process.wait()
            raise KubectlError(f"kubectl {' '.join(args)}: longer than {seconds_max} s") from error
        written = out.decode() + err.decode()
        if check and process.returncode:
            raise KubectlError(f"kubectl {' '.join(args)}: {process.returncode}\n{written}")
        return written

    # --- nodes and namespaces --------------------------------------------------------------------

    async def add_nodes(
        self,
        count: int,
        prefix: str = "node",
        labels: Mapping[str, str] | None = None,
        taints: Iterable[Mapping[str, str]] = (),
        *,
        start: int = 0,
    ) -> list[str]:
        """Add nodes and wait until pods can be scheduled there.

        Args:
            count: How many.
            prefix: Their names are `<prefix>-<number>`.
            labels: What they are labelled with, beside the usual ones.
            taints: Their taints, as in a node's spec.
            start: The first number.

        Returns:
            Their names.
        """
        names = [f"{prefix}-{number}" for number in range(start, start + count)]
        await self.add_named_nodes(names, labels, taints)
        return names

    async def add_named_nodes(
        self,
        names: Sequence[str],
        labels: Mapping[str, str] | None = None,
        taints: Iterable[Mapping[str, str]] = (),
    ) -> None:
        """Add nodes with these names; see `add_nodes`."""
        async with self.api() as api:
            bodies = [_node(name, labels or {}, list(taints)) for name in names]
            await asyncio.gather(*(api.create("/api/v1/nodes", body) for body in bodies))
            await _until_ready(api, set(names))

    async def remove_node(self, *names: str) -> None:
        """Remove Node objects, as happens when machines are gone for good; one that is gone already is skipped."""

        async def remove(name: str) -> None:
            try:
                await api.delete(f"/api/v1/nodes/{name}")
            except ApiError as error:
                if error.status != HTTPStatus.NOT_FOUND:
                    raise

        async with self.api() as api:
            await asyncio.gather(*(remove(name) for name in names))

    @contextlib.asynccontextmanager
    async def own_nodes(
        self,
        count: int,
        *,
        labels: Mapping[str, str] | None = None,
        taints: Iterable[Mapping[str, str]] = (),
    ) -> AsyncIterator[OwnNodes]:
        """Nodes of one's own on a plane that tests share, by a label of their own; removed at the end."""
        prefix = f"own-{next(_numbers)}"
        group = {GROUP_LABEL: prefix}
        names = await self.add_nodes(count, prefix, {**group, **(labels or {})}, taints)
        try:
            yield OwnNodes(tuple(names), group)
        finally:
            await self.remove_node(*names)

    @contextlib.asynccontextmanager
    async def namespace(self, prefix: str = "test") -> AsyncIterator[str]:
        """A namespace of one's own, ready for pods; it goes at the end, with all that is in it."""
        name = f"{prefix}-{next(_numbers)}"
        async with self.api() as api:
            await api.create("/api/v1/namespaces", {"metadata": {"name": name}})

            async def has_account() -> bool:
                path = f"/api/v1/namespaces/{name}/serviceaccounts"
                return bool((await api.get(path))["items"])

            await self._until(f"{name} has a service account", has_account)
        try:
            yield name
        finally:
            await self._remove_namespace(name)

    async def _remove_namespace(self, name: str) -> None:
        """Remove it, its sets and pods first: the namespace controller alone would take its time."""
        now = {"gracePeriodSeconds": 0, "propagationPolicy": "Background"}
        async with self.api() as api:
            await api.delete(f"/apis/apps/v1/namespaces/{name}/daemonsets", now)
            await api.delete(f"/api/v1/namespaces/{name}", now)  # no more pods are made
            await api.delete(f"/api/v1/namespaces/{name}/pods", now)


_NODE_INFO = {
    "kubeletVersion": "v1.36.3",
    "kubeProxyVersion": "",
    "operatingSystem": "linux",
    "architecture": "amd64",
    "osImage": "kwok",
    "kernelVersion": "kwok",
    "containerRuntimeVersion": "kwok://0",
    "machineID": "",
    "systemUUID": "",
    "bootID": "",
}


async def _until_ready(api: Api, waiting: set[str]) -> None:
    """Wait until nodes are ready; a watch, because a list of thousands is slow.

    The API server ends a watch that does not keep up with what thousands of nodes have to say; then another one begins.

    Raises:
        TimeoutError: Some are not ready after `NODES_SECONDS_MAX`; the message says how many, and names one.
    """
    try:
        async with asyncio.timeout(NODES_SECONDS_MAX):
            while waiting:
                async with aclosing(api.watch("/api/v1/nodes", resourceVersion=0)) as events:
                    async for event in events:
                        if is_ready(event["object"]):
                            waiting.discard(event["object"]["metadata"]["name"])
                        if not waiting:
                            break
    except TimeoutError as error:
        left = f"{len(waiting)} nodes, such as {min(waiting)},"
        raise TimeoutError(f"{left} are not ready after {NODES_SECONDS_MAX} s") from error


def is_ready(node: Mapping[str, Any]) -> bool:
    """Whether a node is ready and Kubernetes has taken away the taint that every new node has."""
    taints = node["spec"].get("taints", [])
    conditions = node.get("status", {}).get("conditions", [])
    return any(
        condition["type"] == "Ready" and condition["status"] == "True" for condition in conditions
    ) and not any(taint["key"] == "node.kubernetes.io/not-ready" for taint in taints)


def _node(name: str, labels: Mapping[str, str], taints: list[Mapping[str, str]]) -> Json:
    """A Node as its kubelet would register it."""
    size = {"cpu": "1000", "memory": "1Ti", "pods": "10000"}
    return {
        "metadata": {
            "name": name,
            "annotations": {"kwok.x-k8s.io/node": "fake"},
            "labels": {
                "kubernetes.io/hostname": name,
                "kubernetes.io/os": "linux",
                "kubernetes.io/arch": "amd64",
                **labels,
            },
        },
        "spec": {"taints": taints},
        "status": {"capacity": size, "allocatable": size, "nodeInfo": _NODE_INFO},
    }
