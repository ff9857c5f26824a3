"""kubectl cannot tell who looks after DaemonSets: the built-in controller on one control plane, everynode on another.

The steps of transcript.py are taken on both planes, once; then each is compared, in what kubectl says and in what
there is afterwards. What must differ is made equal first: hashes, random names, ages, uids and the text of events.
"""

from __future__ import annotations

import asyncio
import copy
import json
import re
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import pytest_asyncio
from tests.kubernetes.support_api import Json
from tests.kubernetes.support_control_plane import ControlPlane
from tests.kubernetes.support_programs import Programs
from tests.kubernetes.transcript import (
    DOCUMENT,
    NODES,
    STEP_SECONDS_MAX,
    STEPS,
    Objects,
    Planes,
    Result,
    Step,
    both_planes,
    every_node_has_its_pod,
    objects_at_rest,
    run_on_both,
)

ADOPTS = "kubectl apply -f - < agent-3.9.yaml"
OURS = "everynode.dev/"
REVISION_LABEL = "controller-revision-hash"
TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.timeout(300),  # whichever test comes first waits for all steps on both planes
]


class Taken(NamedTuple):
    """All steps, taken on both planes."""

    builtin: list[Result]
    everynode: list[Result]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def planes(
    programs: Programs,  # noqa: ARG001 - skips
    tmp_path_factory: pytest.TempPathFactory,
) -> AsyncIterator[Planes]:
    """Both planes, clean but for what these tests do."""
    async with both_planes(tmp_path_factory.mktemp("kubectl")) as both:
        yield both


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def taken(planes: Planes) -> Taken:
    """What came of the steps."""
    return Taken(*await run_on_both(planes))


# --- what must differ -------------------------------------------------------------------------------------------------


def said(result: Result) -> list[str]:
    """What kubectl said, without what differs from run to run; of what it says on the way only the end."""
    output = result.output.partition("\nEvents:\n")[0]
    output = re.sub(r"\bagent-[0-9a-z]{5,}(-[0-9a-z]{5})?\b", "agent-NAME", output)
    output = TIME.sub("TIME", output)
    output = re.sub(r"(?<= )(\d+m)?\d+s\b", "AGE", output)
    lines = [re.sub(r"\s+", " ", line).strip() for line in output.splitlines()]
    return lines[-1:] if result.step.progress else lines


def without_identity(api: Json, *also: str) -> Json:
    """An object without what no two objects have alike: uids, times and random names, and fields of its metadata."""
    kept = copy.deepcopy(api)
    for field in ("uid", "resourceVersion", "creationTimestamp", "managedFields", *also):
        kept["metadata"].pop(field, None)
    for owner in kept["metadata"].get("ownerReferences", []):
        owner["uid"] = "UID"
    text = TIME.sub("TIME", json.dumps(kept))
    plain: Json = json.loads(re.sub(r"kube-api-access-\w{5}", "kube-api-access", text))
    return plain


def pod_of(api: Json) -> Json:
    """A pod, as it must be whoever made it: all but its name, its hash and our annotations."""
    pod = without_identity(api, "name")
    metadata = pod["metadata"]
    metadata["labels"][REVISION_LABEL] = "HASH"
    annotations = metadata.pop("annotations", {})
    metadata["annotations"] = {
        key: value for key, value in annotations.items() if not key.startswith(OURS)
    }
    return pod


def revision_of(api: Json) -> Json:
    """A ControllerRevision, as it must be whoever made it: all but its name and its hash."""
    revision = without_identity(api, "name")
    assert api["metadata"]["labels"][REVISION_LABEL] in api["metadata"]["name"]
    revision["metadata"]["labels"][REVISION_LABEL] = "HASH"
    return revision


def daemonset_of(api: Json) -> Json:
    """A set, as it must be whoever looks after it: all but its conditions, of which only we write any (D20)."""
    daemonset = without_identity(api)
    daemonset["status"].pop("conditions", None)
    return daemonset


def revision_numbers_of_pods(objects: Objects) -> list[int]:
    """Of which revision, by number, the pods are, in the order of their nodes."""
    numbers = {
        each["metadata"]["labels"][REVISION_LABEL]: int(each["revision"])
        for each in objects.revisions
    }
    return [numbers[pod["metadata"]["labels"][REVISION_LABEL]] for pod in objects.pods]


# --- comparing --------------------------------------------------------------------------------------------------------


def named(index: int, step: Step) -> str:
    """How a step is called in the list of tests."""
    return f"{index + 1} {step.line.removeprefix('kubectl ')[:40]}"


ALL = [pytest.param(index, id=named(index, step)) for index, step in enumerate(STEPS)]
WITH_OBJECTS = [
    pytest.param(index, id=named(index, step)) for index, step in enumerate(STEPS) if step.objects
]


@pytest.mark.parametrize("index", ALL)
async def test_kubectl_says_the_same(taken: Taken, index: int) -> None:
    """Each command says the same and ends with the same exit code as with the built-in controller."""
    builtin, everynode = taken.builtin[index], taken.everynode[index]

    assert said(builtin) == said(everynode)
    assert builtin.exit_code == everynode.exit_code


def both_objects(taken: Taken, index: int) -> tuple[Objects, Objects]:
    """What was there after a step, on both planes."""
    builtin, everynode = taken.builtin[index].objects, taken.everynode[index].objects
    assert builtin is not None
    assert everynode is not None
    return builtin, everynode


@pytest.mark.parametrize("index", WITH_OBJECTS)
async def test_the_pods_are_the_same(taken: Taken, index: int) -> None:
    """Field by field, pods are as the built-in controller makes them, and of the same revision."""
    builtin, everynode = both_objects(taken, index)

    assert [pod_of(pod) for pod in builtin.pods] == [pod_of(pod) for pod in everynode.pods]
    assert NODES == len(everynode.pods)
    assert revision_numbers_of_pods(builtin) == revision_numbers_of_pods(everynode)


@pytest.mark.parametrize("index", WITH_OBJECTS)
async def test_the_history_is_the_same(taken: Taken, index: int) -> None:
    """Field by field, ControllerRevisions are as the built-in controller makes them."""
    builtin, everynode = both_objects(taken, index)

    assert [revision_of(each) for each in builtin.revisions] == [
        revision_of(each) for each in everynode.revisions
    ]


@pytest.mark.parametrize("index", WITH_OBJECTS)
async def test_the_sets_are_the_same(taken: Taken, index: int) -> None:
    """Nothing but the status is written on a set, and its counters are those of the built-in controller."""
    builtin, everynode = both_objects(taken, index)

    assert [daemonset_of(each) for each in builtin.daemonsets] == [
        daemonset_of(each) for each in everynode.daemonsets
    ]


async def test_orphans_are_adopted_as_they_are(taken: Taken) -> None:
    """A set that is made again with the same template restarts none of the pods that its predecessor left (L2)."""
    index = next(at for at, step in enumerate(STEPS) if step.line == ADOPTS and step.objects)
    for results in taken:
        left, adopted = results[index - 1].objects, results[index].objects
        assert left is not None
        assert adopted is not None
        assert [] == [each for each in everything_in(left) if "ownerReferences" in each["metadata"]]
        assert [each["metadata"]["uid"] for each in everything_in(left)] == [
            each["metadata"]["uid"] for each in everything_in(adopted)
        ]
        (daemonset,) = adopted.daemonsets
        assert {daemonset["metadata"]["uid"]} == {
            owner["uid"]
            for each in everything_in(adopted)
            for owner in each["metadata"]["ownerReferences"]
        }
        assert NODES == len(adopted.pods)


def everything_in(objects: Objects) -> list[Json]:
    """Pods and revisions."""
    return [*objects.pods, *objects.revisions]


# --- a set with everything --------------------------------------------------------------------------------------------

RICH: dict[str, Any] = {
    "apiVersion": "apps/v1",
    "kind": "DaemonSet",
    "metadata": {
        "name": "rich",
        "labels": {"app": "rich", "of": "the-set"},
        "annotations": {"example.com/of": "the set"},
    },
    "spec": {
        "selector": {"matchExpressions": [{"key": "app", "operator": "In", "values": ["rich"]}]},
        "minReadySeconds": 1,
        "revisionHistoryLimit": 2,
        "updateStrategy": {"type": "OnDelete"},
        "template": {
            "metadata": {
                "labels": {"app": "rich", "tier": "node"},
                "annotations": {"example.com/note": "a <b> & c", "number": "1"},
            },
            "spec": {
                "hostNetwork": True,
                "hostPID": True,
                "dnsPolicy": "ClusterFirstWithHostNet",
                "terminationGracePeriodSeconds": 7,
                "priorityClassName": "system-node-critical",
                "shareProcessNamespace": False,
                "securityContext": {"runAsUser": 1000},
                "nodeSelector": {"kubernetes.io/os": "linux"},
                "affinity": {
                    "nodeAffinity": {
                        "requiredDuringSchedulingIgnoredDuringExecution": {
                            "nodeSelectorTerms": [
                                {"matchExpressions": [{"key": "absent", "operator": "Exists"}]},
                                {
                                    "matchExpressions": [
                                        {
                                            "key": "kubernetes.io/arch",
                                            "operator": "NotIn",
                                            "values": ["x"],
                                        }
                                    ]
                                },
                            ]
                        },
                        "preferredDuringSchedulingIgnoredDuringExecution": [
                            {
                                "weight": 3,
                                "preference": {
                                    "matchExpressions": [{"key": "disk", "operator": "Exists"}]
                                },
                            }
                        ],
                    },
                    "podAntiAffinity": {
                        "preferredDuringSchedulingIgnoredDuringExecution": [
                            {
                                "weight": 1,
                                "podAffinityTerm": {
                                    "topologyKey": "kubernetes.io/hostname",
                                    "labelSelector": {"matchLabels": {"app": "other"}},
                                },
                            }
                        ]
                    },
                },
                "tolerations": [
                    {"key": "mine", "operator": "Equal", "value": "v", "effect": "NoSchedule"},
                    {
                        "key": "node.kubernetes.io/unreachable",
                        "operator": "Exists",
                        "effect": "NoExecute",
                        "tolerationSeconds": 30,
                    },
                    {"key": "node.kubernetes.io/disk-pressure", "operator": "Exists"},
                ],
                "initContainers": [{"name": "first", "image": "registry.k8s.io/pause:3.9"}],
                "containers": [
                    {
                        "name": "main",
                        "image": "registry.k8s.io/pause:3.9",
                        "args": ["--x=<&>", "ü"],
                        "env": [
                            {
                                "name": "NODE",
                                "valueFrom": {"fieldRef": {"fieldPath": "spec.nodeName"}},
                            }
                        ],
                        "ports": [{"containerPort": 9100, "hostPort": 9100}],
                        "resources": {"requests": {"cpu": "0.5", "memory": "1e6"}},
                        "livenessProbe": {"httpGet": {"path": "/", "port": 9100}},
                        "volumeMounts": [{"name": "host", "mountPath": "/host"}],
                    }
                ],
                "volumes": [{"name": "host", "hostPath": {"path": "/"}}],
            },
        },
    },
}


async def test_a_set_with_everything(planes: Planes, taken: Taken) -> None:  # noqa: ARG001 - it comes after the steps
    """Affinities, tolerations, host network and the like come out as with the built-in controller, field by field."""
    builtin, everynode = await asyncio.gather(*(rich_on(plane) for plane in planes))

    assert [pod_of(pod) for pod in builtin.pods] == [pod_of(pod) for pod in everynode.pods]
    assert NODES == len(everynode.pods)
    assert [revision_of(each) for each in builtin.revisions] == [
        revision_of(each) for each in everynode.revisions
    ]
    assert [daemonset_of(each) for each in builtin.daemonsets] == [
        daemonset_of(each) for each in everynode.daemonsets
    ]
    assert builtin.revisions[0]["data"] == everynode.revisions[0]["data"]


async def rich_on(plane: ControlPlane) -> Objects:
    """Have the set with everything on a plane, and remove it again."""
    await plane.kubectl("apply", "-f", "-", stdin=json.dumps(RICH))
    async with plane.api() as api, asyncio.timeout(STEP_SECONDS_MAX):
        while not await every_node_has_its_pod(api):  # noqa: ASYNC110 - it is elsewhere
            await asyncio.sleep(0.1)
        objects = await objects_at_rest(api)
    await plane.kubectl("delete", "ds/rich", "--cascade=foreground")
    return objects


# --- the document -----------------------------------------------------------------------------------------------------


def commands_in(document: Path) -> Iterator[str]:
    """The commands that a transcript shows, in order."""
    yield from re.findall(r"^```shell\n(.*)\n```$", document.read_text("utf-8"), re.MULTILINE)


async def test_the_document_shows_these_steps() -> None:
    """docs/kubectl.md was written from the steps that are compared here, none missing and none changed."""
    assert [step.line for step in STEPS] == list(commands_in(DOCUMENT))
