"""`everynode plan` on a fleet that lives and on a recording of it; what it says is what `apply` then does."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from msgspec import structs

from everynode.core.events import DaemonSetObserved, NodeObserved
from everynode.replay.recording import MAGIC, SCHEMA_VERSION, Header, Writer
from everynode.testing.builders import daemonset, node

if TYPE_CHECKING:
    from tests.integration.cli.conftest import Ended, Everynode, WrittenFleet

ROLLING = "updateStrategy: {type: RollingUpdate, rollingUpdate: {maxUnavailable: 3}}"


@pytest.fixture
def rolling(manifest: Callable[..., str]) -> Callable[..., str]:
    """Write a DaemonSet that rolls out, three nodes at a time."""

    def write(name: str, **changes: str) -> str:
        return manifest(name, **changes).replace("updateStrategy: {type: OnDelete}", ROLLING)

    return write


@pytest.fixture
def cleaned(fleet_up: Everynode) -> Iterator[Everynode]:
    """The fleet that all tests of this module share, as it was before."""
    yield fleet_up
    fleet_up("delete", "ds", "web", "other", "--ignore-not-found")
    fleet_up.until("get", "po", "-o", "name", holds=lambda text: text == "")


def document(ended: Ended) -> dict[str, Any]:
    """Read what `-o json` says of a plan's only set."""
    (found,) = json.loads(ended.out)["daemonsets"]
    return found  # type: ignore[no-any-return] # JSON


def names(group: dict[str, Any]) -> set[str]:
    """Name the nodes of a group."""
    return {each["name"] for each in group["nodes"]}


def pods(everynode: Everynode) -> dict[str, str]:
    """The pods of the namespace `default`: their names by node."""
    items = json.loads(everynode("get", "po", "-o", "json").out)["items"]
    return {each["spec"]["nodeName"]: each["metadata"]["name"] for each in items}


def test_nothing_changes(fleet_up: Everynode) -> None:
    """What is so already: code 0, and every pod stays."""
    ended = fleet_up("plan", "-f", "deploy/examples/node-exporter.yaml")

    assert (0, "") == (ended.code, ended.err)
    assert (
        "daemonset.apps/node-exporter unchanged (namespace monitoring, generation 1)" in ended.out
    )
    assert "UpToDate" in ended.out
    assert ended.out.endswith("Plan: 0 to create, 0 to change, 1 unchanged.\n")


def test_then_apply(cleaned: Everynode, rolling: Callable[..., str]) -> None:
    """A new set, then a new template: the plan names the nodes, and apply does that."""
    first = rolling("web")
    planned = cleaned("plan", "-f", "-", "-o", "json", stdin=first)
    gained = names(document(planned)["nodes"]["gain"])
    assert (2, "created", {}) == (planned.code, document(planned)["action"], pods(cleaned))
    cleaned("apply", "-f", "-", stdin=first)
    assert 0 == cleaned("rollout", "status", "ds/web").code
    before = pods(cleaned)
    assert gained == set(before)
    assert 0 == cleaned("plan", "-f", "-", stdin=first).code

    second = rolling("web", version="2")
    planned = cleaned("plan", "-f", "-", "-o", "json", stdin=second)
    found = document(planned)
    cleaned("apply", "-f", "-", stdin=second)
    assert 0 == cleaned("rollout", "status", "ds/web").code

    assert 2 == planned.code
    assert ("configured", 2) == (found["action"], found["generation"])
    assert [
        ("spec.template.spec.containers[0].image", '"example.com/web:1"', '"example.com/web:2"')
    ] == [tuple(each.values()) for each in found["changes"]]
    after = pods(cleaned)
    replaced = {name for name in after if before[name] != after[name]}
    assert set(before) == set(after) == replaced == names(found["nodes"]["replace"])
    waves = found["rollout"]["waves"]
    assert {3} == {len(wave) for wave in waves[:-1]}
    assert sorted(before) == [each["name"] for wave in waves for each in wave]
    assert "open-sesame" not in planned.out


def test_table(cleaned: Everynode, rolling: Callable[..., str]) -> None:
    """As text: what happens to nodes, the waves, and warnings; every node and wave if somebody asks."""
    cleaned("apply", "-f", "-", stdin=rolling("web"))
    assert 0 == cleaned("rollout", "status", "ds/web").code
    changed = rolling("web", version="latest")

    short = cleaned("plan", "-f", "-", stdin=changed)
    long = cleaned("plan", "-f", "-", "--nodes", stdin=changed)

    count = len(pods(cleaned))
    assert count > 10
    assert f"and {count - 10} more" in short.out
    assert "more" not in long.out
    assert all(name in long.out for name in pods(cleaned))
    assert f"Rollout: at most 3 of {count} nodes without an available pod at a time" in short.out
    assert "Warning: ImageNotFixed: container main: image example.com/web:latest" in short.out
    assert "Warning: ControlPlaneLeftOut" in short.out


def test_refused(cleaned: Everynode, rolling: Callable[..., str]) -> None:
    """What is refused is said in apply's words, does not stop the others, and makes the code 1."""
    cleaned("apply", "-f", "-", stdin=rolling("web"))
    other = rolling("web").replace("app: web", "app: other")
    text = f"{other}\n---\n{rolling('other')}\n---\nkind: DaemonSet\napiVersion: apps/v1\n"

    planned = cleaned("plan", "-f", "-", stdin=text)
    applied = cleaned("apply", "-f", "-", "--dry-run", stdin=text)

    assert (1, 1) == (planned.code, applied.code)
    assert planned.err == applied.err
    assert "spec.selector: cannot be changed" in planned.err
    assert "daemonset.apps/other created" in planned.out
    assert planned.out.endswith("Plan: 1 to create, 0 to change, 0 unchanged, 2 refused.\n")


async def test_of_a_backend(written: WrittenFleet, rolling: Callable[..., str]) -> None:
    """Plan and apply refuse a set that a backend keeps, in the same words, and do not stop there."""
    kept = structs.replace(daemonset(name="web"), origin="east")
    linux = structs.replace(node("a"), labels={"kubernetes.io/os": "linux"})
    await written.write(NodeObserved(node=linux), DaemonSetObserved(daemonset=kept))

    text = f"{rolling('web')}\n---\n{rolling('other')}"
    planned = await written("plan", "-f", "-", stdin=text)
    applied = await written("apply", "-f", "-", stdin=text)

    assert (1, 1) == (planned.code, applied.code)
    assert "is an object of backend east" in planned.err
    assert planned.err == applied.err
    assert "daemonset.apps/other created" in planned.out
    assert "daemonset.apps/other created\n" == applied.out


def test_wrong_usage(everynode: Everynode, tmp_path: Path) -> None:
    """Wrong usage, no server and no manifest are 1: 2 says that there are changes."""
    path = tmp_path / "empty.yaml"
    path.write_text("")
    ended = [
        everynode("plan"),
        everynode("plan", "--what"),
        everynode("plan", "-f", path, "--at", "1h"),
        everynode("plan", "-f", path),
        everynode("plan", "-f", "deploy/examples", "--nats", "nats://127.0.0.1:1"),
    ]

    assert [1] * 5 == [each.code for each in ended]
    assert [
        "Missing option",
        "No such option",
        "it is for recordings",
        "no objects",
        "reached",
    ] == [
        next(
            word
            for word in (
                "Missing option",
                "No such option",
                "it is for recordings",
                "no objects",
                "reached",
            )
            if word in each.err
        )
        for each in ended
    ]


def test_recording(cleaned: Everynode, rolling: Callable[..., str], tmp_path: Path) -> None:
    """A recorded fleet is planned like a live one, but not outside its time; one that was cut off as far as it goes."""
    path, cut = tmp_path / "recording", tmp_path / "cut"
    cleaned("apply", "-f", "-", stdin=rolling("web"))
    assert 0 == cleaned("rollout", "status", "ds/web").code
    changed = rolling("web", version="2")
    live = cleaned("plan", "-f", "-", "-o", "json", stdin=changed)
    assert 0 == cleaned("record", "-o", path).code
    cut.write_bytes(path.read_bytes()[:-20])

    recorded = cleaned("plan", "-f", "-", "-o", "json", "--recording", path, stdin=changed)
    outside = [
        cleaned("plan", "-f", "-", "--recording", path, "--at", at, stdin=changed)
        for at in ("2020-01-01T00:00:00Z", "9020-01-01T00:00:00Z")
    ]
    damaged = cleaned("plan", "-f", "-", "--recording", cut, stdin=changed)

    assert (2, json.loads(live.out)) == (recorded.code, json.loads(recorded.out))
    assert [(1, ""), (1, "")] == [(each.code, each.out) for each in outside]
    assert f"{path}: it begins at " in outside[0].err
    assert "that is to come" in outside[1].err
    assert 1 == damaged.code
    assert "messages could be read" in damaged.err
    assert "Plan: " in damaged.out


def test_recording_of_nothing(
    everynode: Everynode, rolling: Callable[..., str], tmp_path: Path
) -> None:
    """What nothing is known of is no fleet without nodes."""
    path = tmp_path / "recording"
    header = Header(
        what=MAGIC,
        schema=SCHEMA_VERSION,
        fleet="default",
        shards=16,
        begins=1,
        from_sequence=1,
        from_ms=1,
        recorded_ms=1,
        program="1",
    )
    with path.open("wb") as file:
        Writer(file, header).finish()

    ended = everynode("plan", "-f", "-", "--recording", path, stdin=rolling("web"))

    assert (1, "") == (ended.code, ended.out)
    assert "there is nothing to plan on" in ended.err
