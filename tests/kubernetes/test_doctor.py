"""The doctor of clusters, and the probe that it shares with the adapter, on a real control plane."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio
from tests.kubernetes.support_api import Api
from tests.kubernetes.support_control_plane import ControlPlane
from tests.kubernetes.support_fleet import BACKEND, DEADLINE_S, POLL_S, daemonset_manifest
from tests.kubernetes.support_processes import free_port

from everynode.errors import ConfigurationError
from everynode.ports import Finding
from everynode_kubernetes import KubernetesAdapter, doctor, probe
from everynode_kubernetes import adapter as adapter_module
from everynode_kubernetes.access import Access
from everynode_kubernetes.adapter import namespace_from
from everynode_kubernetes.client import ApiServer
from everynode_kubernetes.doctor import examine
from everynode_kubernetes.objects import PROBE_LABEL, PROBE_PREFIX
from everynode_kubernetes.permissions import PERMISSIONS

READER = "reader"

pytestmark = pytest.mark.slow


def by_check(findings: list[Finding]) -> dict[str, tuple[str, str]]:
    """Result and detail of each check."""
    return {finding.check: (finding.result, finding.detail) for finding in findings}


async def probes(api: Api, namespace: str) -> list[str]:
    """Names of the probes that are in a namespace."""
    path = f"/apis/apps/v1/namespaces/{namespace}/daemonsets"
    listed = await api.get(path, labelSelector=PROBE_LABEL)
    return [item["metadata"]["name"] for item in listed["items"]]


@pytest_asyncio.fixture
async def api(control_plane: ControlPlane) -> AsyncIterator[Api]:
    """The administrator's requests."""
    async with control_plane.api() as requests:
        yield requests


@pytest_asyncio.fixture
async def reader(control_plane: ControlPlane, api: Api) -> AsyncIterator[Path]:
    """The kubeconfig of somebody who may do all that the adapter does, but make no probe."""
    path = "/apis/rbac.authorization.k8s.io/v1"
    name = "everynode-test-reader"
    rules = [
        {
            "apiGroups": [each.group],
            "resources": [each.resource],
            "verbs": list(each.verbs),
            "resourceNames": [each.name] if each.name else [],
        }
        for each in PERMISSIONS
        if not each.own_namespace
    ]
    await api.create(f"{path}/clusterroles", {"metadata": {"name": name}, "rules": rules})
    binding = {
        "metadata": {"name": name},
        "roleRef": {
            "apiGroup": "rbac.authorization.k8s.io",
            "kind": "ClusterRole",
            "name": name,
        },
        "subjects": [{"kind": "User", "name": READER}],
    }
    await api.create(f"{path}/clusterrolebindings", binding)
    try:
        yield control_plane.kubeconfig_for(READER)
    finally:
        await api.delete(f"{path}/clusterrolebindings/{name}")
        await api.delete(f"{path}/clusterroles/{name}")


async def test_a_cluster_without_faults(
    control_plane: ControlPlane, api: Api, namespace: str
) -> None:
    """A cluster whose DaemonSets nobody looks after is fine, and the probe is gone afterwards."""
    options = {"kubeconfig": str(control_plane.kubeconfig), "namespace": namespace}
    async with control_plane.own_nodes(1):
        findings = await examine(BACKEND, options, {})

    assert {"ok"} == {finding.result for finding in findings}, findings
    checks = [finding.check for finding in findings]
    assert ["connection", "cluster"] == checks[:2]
    assert len(set(checks)) == len(checks)
    assert [] == await probes(api, namespace)


async def test_another_owner(control_plane: ControlPlane, api: Api, namespace: str) -> None:
    """Where the built-in controller runs, the doctor says so, and the adapter starts only if it is forced to."""
    options = {"kubeconfig": str(control_plane.kubeconfig), "namespace": namespace}
    control_plane.start_controller("daemonset")
    try:
        found = by_check(await examine(BACKEND, options, None))
        with pytest.raises(ConfigurationError, match=r"-daemonset-controller.*--force"):
            await KubernetesAdapter.from_options(BACKEND, options)
        adapter = await KubernetesAdapter.from_options(BACKEND, {**options, "force": "true"})
        await adapter.close()
    finally:
        await control_plane.stop_controller("daemonset")

    assert found["other owner"][0] == "failed"
    assert "--controllers=*,-daemonset-controller" in found["other owner"][1]
    assert found["cluster"][0] == "unknown"
    assert [] == await probes(api, namespace)


async def test_nothing_is_allowed(control_plane: ControlPlane) -> None:
    """Whoever may do nothing is told what is missing, verb by verb, and what to do about it."""
    nobody = control_plane.kubeconfig_for("nobody")
    found = by_check(await examine(BACKEND, {"kubeconfig": str(nobody)}, None))

    wanted = "not allowed: get, list, watch, create, patch, delete; see deploy/kubernetes/rbac.yaml"
    assert ("failed", wanted) == found["may use pods"]
    probe_missing = "not allowed in namespace default: create, delete"
    assert found["may use daemonsets.apps for the probe"][0] == "warning"
    assert found["may use daemonsets.apps for the probe"][1].startswith(probe_missing)
    assert {"failed"} == {
        result
        for check, (result, _) in found.items()
        if check == "cluster" or (check.startswith("may use") and "probe" not in check)
    }
    assert found["other owner"][0] == "unknown"
    assert "cannot create" in found["other owner"][1]
    with pytest.raises(ConfigurationError, match="its identity cannot be read"):
        await KubernetesAdapter.from_options(BACKEND, {"kubeconfig": str(nobody)})


async def test_without_the_probe(reader: Path) -> None:
    """Where no probe can be made the adapter starts all the same: nobody can tell whether there is another owner."""
    adapter = await KubernetesAdapter.from_options(BACKEND, {"kubeconfig": str(reader)})
    await adapter.close()

    assert adapter.identity.startswith("kubernetes/")


async def test_which_cluster_it_is(control_plane: ControlPlane, api: Api, reader: Path) -> None:
    """A cluster is the one that the fleet has recorded by this name, or a new one; else it is refused."""
    uid = (await api.get("/api/v1/namespaces/kube-system"))["metadata"]["uid"]
    identity = f"kubernetes/{uid}"
    options = {"kubeconfig": str(reader)}
    cases = (
        ({BACKEND: identity}, "ok", f"the fleet's backend {BACKEND}"),
        ({"other": "kubernetes/x"}, "ok", f"has no backend {BACKEND} yet"),
        ({BACKEND: "kubernetes/x"}, "failed", "which is kubernetes/x"),
        ({"other": identity}, "failed", "give --backend other"),
        (None, "unknown", "the fleet does not answer"),
    )
    for recorded, result, text in cases:
        found = by_check(await examine(BACKEND, options, recorded))["cluster"]
        assert (result, True) == (found[0], text in found[1]), found
    assert (
        control_plane.server_url in by_check(await examine(BACKEND, options, None))["connection"][1]
    )


async def test_what_is_only_a_warning(reader: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An old version, clocks that differ and a watch that says nothing are worth a warning."""
    monkeypatch.setattr(doctor, "MINOR_VERSION_MIN", 99)
    monkeypatch.setattr(doctor, "WATCH_WAIT_MS", 0)
    ahead_ms = doctor._now_ms() + 3_600_000
    monkeypatch.setattr(doctor, "_now_ms", lambda: ahead_ms)
    found = by_check(await examine(BACKEND, {"kubeconfig": str(reader)}, None))

    warned = {check for check, (result, _) in found.items() if result == "warning"}
    assert {"connection", "watch", "clock", "may use daemonsets.apps for the probe"} == warned
    assert "differ by 3600 s" in found["clock"][1] or "differ by 3599 s" in found["clock"][1]


async def test_an_api_that_is_not_served(reader: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A group, or a resource of one, that the server does not have is named."""
    monkeypatch.setattr(doctor, "APIS", {"/apis/no/v1": ("a",), "/apis/apps/v1": ("b", "c")})
    found = by_check(await examine(BACKEND, {"kubeconfig": str(reader)}, None))

    assert ("failed", "it is not served") == found["API no/v1"]
    assert ("failed", "not served: b, c") == found["API apps/v1"]


async def test_no_connection(control_plane: ControlPlane, tmp_path: Path) -> None:
    """A file that is not there, options that are not known, and a server that does not answer are one finding."""
    nowhere = control_plane.kubeconfig_for("a", server=f"https://127.0.0.1:{free_port()}")
    cases = (
        ({"kubeconfig": str(tmp_path / "none")}, "there is no such file"),
        ({"kubeconfig": str(nowhere)}, "cannot connect"),
        ({"context": "none", "kubeconfig": str(control_plane.kubeconfig)}, "none"),
        ({"in-cluster": "perhaps"}, "write true or false"),
        ({"qps": "many"}, "write a number"),
        ({"speed": "1"}, "is not known"),
    )
    for options, text in cases:
        (finding,) = await examine(BACKEND, options, None)
        assert ("connection", "failed") == finding[:2]
        assert text in finding.detail


def test_where_the_probe_is_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the namespace that is named; else, in a pod, in its own; else in `default`."""
    monkeypatch.setattr(adapter_module, "NAMESPACE_FILE", tmp_path / "namespace")
    assert "default" == namespace_from({"in-cluster": "true"})
    (tmp_path / "namespace").write_text("mine\n", encoding="utf-8")
    assert "mine" == namespace_from({"in-cluster": "true"})
    assert "default" == namespace_from({})
    assert "other" == namespace_from({"in-cluster": "true", "namespace": "other"})


# --- the probe --------------------------------------------------------------------------------------------------------


@pytest_asyncio.fixture
async def server(control_plane: ControlPlane) -> AsyncIterator[ApiServer]:
    """The adapter's client, as the administrator."""
    connected = await ApiServer.connect(Access(kubeconfig=control_plane.kubeconfig))
    yield connected
    await connected.close()


async def test_a_probe_that_is_cancelled(server: ApiServer, api: Api, namespace: str) -> None:
    """Whoever stops waiting leaves no probe behind."""
    task = asyncio.create_task(probe.probe(server, namespace))
    async with asyncio.timeout(DEADLINE_S):
        while not await probes(api, namespace):  # noqa: ASYNC110 - the API server sets no event
            await asyncio.sleep(POLL_S)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)

    assert task.cancelled()
    assert [] == await probes(api, namespace)


async def test_probes_that_were_left_behind(
    server: ApiServer, api: Api, namespace: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An old probe is removed by the next one; one that may still be waited for, and other sets, are not."""
    path = f"/apis/apps/v1/namespaces/{namespace}/daemonsets"
    left, labelled = f"{PROBE_PREFIX}left", "only-labelled"
    for name in (left, labelled, "other"):
        manifest = json.loads(daemonset_manifest(name, namespace))
        if name != "other":
            manifest["metadata"]["labels"][PROBE_LABEL] = "true"
        await api.create(path, manifest)

    found = await probe.probe(server, namespace, wait_ms=0)
    assert (False, "") == (found.owned, found.reason)
    assert [left, labelled] == await probes(api, namespace)

    monkeypatch.setattr(probe, "STALE_MS", 0)
    async with asyncio.timeout(DEADLINE_S):  # ages are known to the second
        while await probes(api, namespace) != [labelled]:
            await probe.probe(server, namespace, wait_ms=0)
            await asyncio.sleep(POLL_S)
    listed = await api.get(path)
    assert [labelled, "other"] == [item["metadata"]["name"] for item in listed["items"]]
