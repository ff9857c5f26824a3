"""deploy/kubernetes/rbac.yaml gives the adapter what it uses, and nothing else.

Three things are held to one table, ``everynode_kubernetes.permissions``: what the manifest says, what an API server
then allows, and what the adapter has really asked it for, by the server's own audit log.
"""

from __future__ import annotations

import asyncio
import itertools
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
import yaml
from tests.kubernetes.conftest import StartControlPlane
from tests.kubernetes.support_api import Api, ApiError, Json
from tests.kubernetes.support_control_plane import ControlPlane
from tests.kubernetes.support_fleet import (
    BACKEND,
    DEADLINE_S,
    POLL_S,
    daemonset_manifest,
    running_fleet,
    until_covered,
)

from everynode_kubernetes import KubernetesAdapter
from everynode_kubernetes.permissions import IDENTITY_NAMESPACE, PERMISSIONS

RBAC = Path(__file__).resolve().parents[2] / "deploy" / "kubernetes" / "rbac.yaml"
NAMESPACE = "everynode"
ACCOUNT = "everynode-adapter"
USER = f"system:serviceaccount:{NAMESPACE}:{ACCOUNT}"
NOBODY = f"system:serviceaccount:{NAMESPACE}:nobody"
GROUPS = [
    "system:serviceaccounts",
    f"system:serviceaccounts:{NAMESPACE}",
    "system:authenticated",
]
VERBS = ("get", "list", "watch", "create", "update", "patch", "delete", "deletecollection")
UNLISTED = (  # what is allowed by verbs and resources that no API server lists
    ("", "users", "impersonate"),
    ("", "serviceaccounts", "impersonate"),
    ("rbac.authorization.k8s.io", "clusterroles", "bind"),
    ("rbac.authorization.k8s.io", "clusterroles", "escalate"),
    ("certificates.k8s.io", "signers", "approve"),
    ("apps", "daemonsets/finalizers", "update"),
)
AUDIT_POLICY = f"""\
apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [RequestReceived]
rules:
- {{level: Metadata, users: ["{USER}"]}}
- {{level: None}}
"""
IMAGES = [f"registry.k8s.io/pause:3.{minor}" for minor in (8, 9, 10)]


class Use(NamedTuple):
    """One thing that is done, or may be."""

    group: str
    resource: str
    verb: str


def uses(*, own_namespace: bool, named: bool) -> set[Use]:
    """What the table says of objects in any namespace, or of those in the adapter's own."""
    return {
        Use(each.group, each.resource, verb)
        for each in PERMISSIONS
        for verb in each.verbs
        if each.own_namespace == own_namespace and (named or not each.name)
    }


def rules(kind: str) -> Iterator[tuple[str, str, tuple[str, ...], str]]:
    """What the manifest's roles of a kind say, in the form of the table."""
    for document in yaml.safe_load_all(RBAC.read_text(encoding="utf-8")):
        for rule in document.get("rules", ()) if document["kind"] == kind else ():
            names = rule.get("resourceNames", [""])
            for group, resource, name in itertools.product(
                rule["apiGroups"], rule["resources"], names
            ):
                yield group, resource, tuple(rule["verbs"]), name


def test_the_manifest_says_what_the_table_says() -> None:
    """The roles of the manifest are the table of what the adapter does, verb by verb."""
    table = [(each[:4], each.own_namespace) for each in PERMISSIONS]

    assert [row for row, own in table if not own] == list(rules("ClusterRole"))
    assert [row for row, own in table if own] == list(rules("Role"))


# --- what is allowed --------------------------------------------------------------------------------------------------


async def served(api: Api) -> set[tuple[str, str]]:
    """Group and name of everything that an API server serves."""
    groups = (await api.get("/apis"))["groups"]
    paths = [
        "/api/v1",
        *(f"/apis/{version['groupVersion']}" for group in groups for version in group["versions"]),
    ]
    found = set()
    for path in paths:
        group = path.split("/")[2] if path.startswith("/apis/") else ""
        found |= {(group, resource["name"]) for resource in (await api.get(path))["resources"]}
    return found


async def allowed(api: Api, user: str, asked: Iterable[Use], namespace: str, name: str) -> set[Use]:
    """Those of many things that somebody may do."""
    semaphore = asyncio.Semaphore(32)

    async def is_allowed(use: Use) -> bool:
        resource, _, subresource = use.resource.partition("/")
        attributes = {
            "group": use.group,
            "resource": resource,
            "subresource": subresource,
            "verb": use.verb,
            "namespace": namespace,
            "name": name,
        }
        spec = {"user": user, "groups": GROUPS, "resourceAttributes": attributes}
        async with semaphore:
            path = "/apis/authorization.k8s.io/v1/subjectaccessreviews"
            return bool((await api.create(path, {"spec": spec}))["status"]["allowed"])

    every = sorted(asked)
    answers = await asyncio.gather(*(is_allowed(use) for use in every))
    return {use for use, is_so in zip(every, answers, strict=True) if is_so}


@pytest.mark.slow
async def test_nothing_else_is_allowed(start_control_plane: StartControlPlane) -> None:
    """Of every verb on every resource that the server has, the account may do what the table says."""
    async with start_control_plane(kwok=False) as plane, plane.api() as api:
        await plane.kubectl("apply", "-f", str(RBAC))
        everything = {Use(*resource, verb) for resource in await served(api) for verb in VERBS}
        everything |= {Use(*unlisted) for unlisted in UNLISTED}
        everywhere = uses(own_namespace=False, named=False)
        cases = (
            ("", "", everywhere),
            (NAMESPACE, "", everywhere | uses(own_namespace=True, named=False)),
            ("", IDENTITY_NAMESPACE, uses(own_namespace=False, named=True)),
        )
        for namespace, name, wanted in cases:
            of_all = await allowed(api, NOBODY, everything, namespace, name)
            of_this = await allowed(api, USER, everything, namespace, name)
            assert wanted == of_this - of_all, f"in namespace {namespace!r}, name {name!r}"
        assert len(everything) > 500
        await refusals(plane)


async def refusals(plane: ControlPlane) -> None:
    """What would do the most harm is really refused."""
    token = await plane.token_for(ACCOUNT, NAMESPACE)
    requests: tuple[tuple[str, str, Json | None], ...] = (
        ("GET", "/api/v1/secrets", None),
        ("GET", f"/api/v1/namespaces/{NAMESPACE}/configmaps", None),
        ("GET", "/api/v1/namespaces/default", None),
        ("PATCH", "/api/v1/nodes/node-0", {}),
        ("POST", "/api/v1/namespaces/default/pods/a/exec?command=sh", None),
        ("PUT", "/apis/apps/v1/namespaces/default/daemonsets/a", {}),
        ("PATCH", "/apis/apps/v1/namespaces/default/daemonsets/a", {}),
        ("POST", "/apis/apps/v1/namespaces/default/daemonsets", {}),
        ("DELETE", "/api/v1/namespaces/default/pods", None),
    )
    async with plane.api(plane.identity(USER, token=token)) as api:
        for method, path, body in requests:
            kind = "application/merge-patch+json" if method == "PATCH" else "application/json"
            with pytest.raises(ApiError) as refused:
                await api.raw(method, path, body=body, content_type=kind)
            assert refused.value.status == 403, path


# --- what is used -----------------------------------------------------------------------------------------------------


class Audited(NamedTuple):
    """One request of the account that the server has answered."""

    use: Use
    namespace: str
    name: str
    code: int


def audited(log: Path) -> list[Audited]:
    """What the account has asked for so far; requests that are about no object are left out."""
    lines = log.read_text(encoding="utf-8").splitlines(keepends=True) if log.exists() else []
    events = [json.loads(line) for line in lines if line.endswith("\n")]
    return [audited_request(event) for event in events if "objectRef" in event]


def audited_request(event: Json) -> Audited:
    """Read one event of an audit log."""
    about = event["objectRef"]
    parts = [about["resource"], about.get("subresource", "")]
    use = Use(about.get("apiGroup", ""), "/".join(filter(None, parts)), event["verb"])
    code = event.get("responseStatus", {}).get("code", 0)
    return Audited(use, about.get("namespace", ""), about.get("name", ""), code)


def agent(namespace: str, image: str) -> str:
    """The set that everything happens to."""
    rolling = {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": "100%"}}
    return daemonset_manifest(
        "agent",
        namespace,
        image=image,
        update_strategy=rolling,
        spec={"revisionHistoryLimit": 1},
    )


async def live_through(plane: ControlPlane, nodes: list[str]) -> None:
    """Have the adapter do everything that it can do."""
    for image in IMAGES:  # the oldest of three versions is one too many
        await plane.kubectl("apply", "-f", "-", stdin=agent("default", image))
        await until_covered(plane, "default", "agent", nodes, image=image)
    await plane.kubectl("rollout", "undo", "ds/agent")  # a version gets a new number
    await until_covered(plane, "default", "agent", nodes, image=IMAGES[1])
    await plane.kubectl("rollout", "status", "ds/agent", "--timeout=30s")
    await plane.kubectl("delete", "ds/agent", "--cascade=orphan")
    await plane.kubectl("apply", "-f", "-", stdin=agent("default", IMAGES[1]))  # adopts
    await until_covered(plane, "default", "agent", nodes, image=IMAGES[1])
    await plane.kubectl("rollout", "status", "ds/agent", "--timeout=30s")
    await take_names(plane)
    await plane.kubectl("apply", "-f", "-", stdin=agent("second", IMAGES[1]))
    await until_covered(plane, "second", "agent", nodes)
    await plane.remove_node(nodes[0])
    await until_covered(plane, "default", "agent", nodes[1:])


async def take_names(plane: ControlPlane) -> None:
    """Give the names of the set's versions to somebody else's, in another namespace."""
    async with plane.api() as api:
        await api.create("/api/v1/namespaces", {"metadata": {"name": "second"}})
        path = "/apis/apps/v1/namespaces/{}/controllerrevisions"
        for item in (await api.get(path.format("default")))["items"]:
            foreign = {"metadata": {"name": item["metadata"]["name"]}, "revision": 1, "data": {}}
            await api.create(path.format("second"), foreign)


@pytest.mark.slow
async def test_all_that_is_allowed_is_used(
    start_control_plane: StartControlPlane, tmp_path: Path
) -> None:
    """L1: with this account the adapter does all its work; nothing is refused, and every verb is needed."""
    policy, log = tmp_path / "policy.yaml", tmp_path / "audit.log"
    policy.write_text(AUDIT_POLICY, encoding="utf-8")
    args = (f"--audit-policy-file={policy}", f"--audit-log-path={log}")
    async with start_control_plane(nodes=3, apiserver_args=args) as plane:
        await plane.kubectl("apply", "-f", str(RBAC))
        kubeconfig = plane.kubeconfig_for(USER, token=await plane.token_for(ACCOUNT, NAMESPACE))
        options = {"kubeconfig": str(kubeconfig), "namespace": NAMESPACE}
        await (await KubernetesAdapter.from_options(BACKEND, options)).close()
        async with running_fleet(plane, adapters=0) as fleet:
            await fleet.add_adapter(kubeconfig)
            await live_through(plane, [f"node-{number}" for number in range(3)])
            wanted = uses(own_namespace=False, named=True) | uses(own_namespace=True, named=True)
            await until_used(log, wanted)
        found = audited(log)

    assert [one for one in found if one.code in {401, 403}] == []
    assert wanted == {one.use for one in found}
    places = {(*one.use, one.namespace, one.name) for one in found}
    assert {IDENTITY_NAMESPACE} == {name for _, kind, _, _, name in places if kind == "namespaces"}
    probes = [
        place
        for place in places
        if place[1:3] in {("daemonsets", "create"), ("daemonsets", "delete")}
    ]
    assert {NAMESPACE} == {namespace for *_, namespace, _ in probes}


async def until_used(log: Path, wanted: set[Use]) -> None:
    """Wait until the log has everything that is to be in it."""
    missing = wanted
    try:
        async with asyncio.timeout(DEADLINE_S):
            while missing := wanted - {one.use for one in audited(log)}:  # noqa: ASYNC110 - a file sets no event
                await asyncio.sleep(POLL_S)
    except TimeoutError:
        raise AssertionError(f"never used: {sorted(missing)}") from None
