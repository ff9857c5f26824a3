"""The connection to a real API server: its certificates, its users, its refusals."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import yaml
from tests.kubernetes.support_control_plane import ControlPlane

from everynode.errors import UnavailableError
from everynode_kubernetes.answers import Refusal
from everynode_kubernetes.client import Access, ApiServer

SERVICE_ACCOUNT_FILES = "kubernetes_asyncio.config.incluster_config.SERVICE_{}_FILENAME"


@pytest.fixture
async def api(control_plane: ControlPlane) -> AsyncIterator[ApiServer]:
    """A connection as the administrator."""
    server = await ApiServer.connect(Access(kubeconfig=control_plane.kubeconfig))
    yield server
    await server.close()


def config_map(name: str, **metadata: Any) -> bytes:
    """A small object."""
    return json.dumps({"metadata": {"name": name, **metadata}, "data": {"a": "b"}}).encode()


def preconditions(uid: str) -> bytes:
    """DeleteOptions: only the one with this uid."""
    return json.dumps({"preconditions": {"uid": uid}}).encode()


def config_maps(namespace: str) -> str:
    """The path of the ConfigMaps of a namespace."""
    return f"/api/v1/namespaces/{namespace}/configmaps"


async def refusal(request: Any) -> Refusal:
    """What a request is refused with."""
    with pytest.raises(Refusal) as caught:
        await request
    return caught.value


async def test_an_object_comes_and_goes(api: ApiServer, namespace: str) -> None:
    """An object is made, read, changed and deleted, with a client certificate over TLS."""
    path = config_maps(namespace)

    made = json.loads(await api.create(path, config_map("one")))
    await api.patch(f"{path}/one", b'{"data": {"a": "c"}}', "application/merge-patch+json")
    read = json.loads(await api.get(f"{path}/one"))
    await api.delete(f"{path}/one", preconditions(made["metadata"]["uid"]))

    assert "c" == read["data"]["a"]
    assert (await refusal(api.get(f"{path}/one"))).is_not_found


async def test_refusals_are_told_apart(api: ApiServer, namespace: str) -> None:
    """What a real API server refuses with is recognised for what it is."""
    path = config_maps(namespace)
    await api.create(path, config_map("one"))

    again = await refusal(api.create(path, config_map("one")))
    another = await refusal(api.delete(f"{path}/one", preconditions("another")))
    invalid = await refusal(api.create(path, config_map("Not a Name")))
    unknown = await refusal(api.get("/apis/example.com/v1/things"))
    no_json = await refusal(api.create(path, b"{"))

    assert again.already_exists
    assert not again.is_conflict
    assert another.is_conflict
    assert invalid.is_invalid
    assert ("FieldValueInvalid", "metadata.name") == invalid.causes[0][:2]
    assert unknown.is_not_found
    assert 400 == no_json.code


async def test_a_terminating_namespace(api: ApiServer, namespace: str) -> None:
    """What cannot be made because its namespace is going is told from what is not allowed."""
    path = config_maps(namespace)
    await api.create(path, config_map("last", finalizers=["everynode.dev/test"]))
    await api.delete(f"/api/v1/namespaces/{namespace}", b"{}")

    refused = await refusal(api.create(path, config_map("late")))

    assert refused.namespace_terminating
    free = b'{"metadata": {"finalizers": null}}'
    await api.patch(f"{path}/last", free, "application/merge-patch+json")


async def test_another_user(control_plane: ControlPlane, namespace: str) -> None:
    """A user without rights is refused for that reason and no other."""
    kubeconfig = control_plane.kubeconfig_for("nobody-in-particular")
    api = await ApiServer.connect(Access(kubeconfig=kubeconfig))

    refused = await refusal(api.create(config_maps(namespace), config_map("one")))

    assert refused.is_forbidden
    assert not refused.namespace_terminating
    assert "nobody-in-particular" in refused.message
    await api.close()


async def test_a_token(control_plane: ControlPlane, namespace: str) -> None:
    """A service account's token says who it is; one that is not valid is a passing trouble, and says what."""
    token = await control_plane.token_for("default", namespace)
    path = "/apis/authentication.k8s.io/v1/selfsubjectreviews"
    names = []
    for presented in (token, token[:-4] + "AAAA"):
        kubeconfig = control_plane.kubeconfig_for("", token=presented)
        api = await ApiServer.connect(Access(kubeconfig=kubeconfig))
        try:
            answer = json.loads(await api.create(path, b"{}"))
            names.append(answer["status"]["userInfo"]["username"])
        except UnavailableError as error:
            names.append(str(error))
        await api.close()

    assert f"system:serviceaccount:{namespace}:default" == names[0]
    assert "401 Unauthorized" in names[1]
    assert "credentials" in names[1]


async def test_in_a_pod(
    control_plane: ControlPlane,
    namespace: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """In a pod the service account's files and environment are all it takes; a refused token is read again."""
    token_file = tmp_path / "token"
    token_file.write_text("expired")
    address = urlsplit(control_plane.server_url)
    monkeypatch.setattr(SERVICE_ACCOUNT_FILES.format("TOKEN"), str(token_file))
    monkeypatch.setattr(
        SERVICE_ACCOUNT_FILES.format("CERT"), str(control_plane.authority.certificate)
    )
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", str(address.hostname))
    monkeypatch.setenv("KUBERNETES_SERVICE_PORT", str(address.port))
    api = await ApiServer.connect(Access(in_cluster=True))
    token_file.write_text(await control_plane.token_for("default", namespace))

    answer = await api.create("/apis/authentication.k8s.io/v1/selfsubjectreviews", b"{}")

    user = json.loads(answer)["status"]["userInfo"]["username"]
    assert f"system:serviceaccount:{namespace}:default" == user
    assert control_plane.server_url == api.address
    await api.close()


async def test_an_unknown_authority(control_plane: ControlPlane, tmp_path: Path) -> None:
    """An API server whose certificate nobody vouches for is told nothing, and the error says why."""
    contents = {
        "current-context": "here",
        "contexts": [{"name": "here", "context": {"cluster": "here", "user": "me"}}],
        "clusters": [{"name": "here", "cluster": {"server": control_plane.server_url}}],
        "users": [{"name": "me", "user": {"token": "s3cr3t"}}],
    }
    path = tmp_path / "kubeconfig.yaml"
    path.write_text(json.dumps(contents))
    api = await ApiServer.connect(Access(kubeconfig=path))

    with pytest.raises(UnavailableError, match=r"cannot connect.*(?i:certificate)"):
        await api.create(config_maps("default"), config_map("one"))

    await api.close()


@pytest.mark.parametrize(("name", "known"), [("localhost", True), ("other.invalid", False)])
async def test_the_name_in_the_certificate(
    name: str, control_plane: ControlPlane, tmp_path: Path, *, known: bool
) -> None:
    """With tls-server-name the API server has to prove that it is the one of that name, whatever its address."""
    contents = yaml.safe_load(control_plane.kubeconfig.read_text())
    contents["clusters"][0]["cluster"]["tls-server-name"] = name
    path = tmp_path / "kubeconfig.yaml"
    path.write_text(yaml.safe_dump(contents))
    api = await ApiServer.connect(Access(kubeconfig=path))

    if known:
        assert "v1" in json.loads(await api.get("/api"))["versions"]
    else:
        with pytest.raises(UnavailableError, match=r"other\.invalid"):
            await api.get("/api")
    await api.close()


async def test_pages_and_their_tokens(api: ApiServer, namespace: str) -> None:
    """A real list in pages of two is complete and in order."""
    path = config_maps(namespace)
    for number in range(5):
        await api.create(path, config_map(f"page-{number}", labels={"page": "yes"}))

    pages = [
        [item["metadata"]["name"] for item in json.loads(body)["items"]]
        async for body in api.list_pages(path, {"labelSelector": "page=yes"}, 2)
    ]

    assert [["page-0", "page-1"], ["page-2", "page-3"], ["page-4"]] == pages


async def test_a_watch_ends_when_it_was_to(api: ApiServer, namespace: str) -> None:
    """A watch with timeoutSeconds says what happened and ends by itself."""
    path = config_maps(namespace)
    listed = json.loads(await api.get(path))["metadata"]["resourceVersion"]
    await api.create(path, config_map("seen"))

    lines = [line async for line in api.watch(path, int(listed), {"timeoutSeconds": "2"})]

    seen = [json.loads(line) for line in lines]
    assert ["seen"] == [one["object"]["metadata"]["name"] for one in seen if "ADDED" == one["type"]]


async def test_many_at_once(api: ApiServer, namespace: str) -> None:
    """Requests share the connections and do not get each other's answers."""
    path = config_maps(namespace)
    names = [f"many-{number}" for number in range(200)]

    made = await asyncio.gather(*(api.create(path, config_map(name)) for name in names))

    assert names == [json.loads(answer)["metadata"]["name"] for answer in made]
