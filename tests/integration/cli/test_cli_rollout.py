"""`everynode rollout`, on a log that the test writes, and on the fleet of a running `up`."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import pytest
import yaml

from everynode.core.events import (
    DaemonSetGone,
    DaemonSetObserved,
    RevisionRecorded,
    StatusReported,
)
from everynode.core.identity import revision_hash
from everynode.core.values import (
    Condition,
    DaemonSet,
    Revision,
    Selector,
    Status,
    UpdateStrategy,
)
from everynode.testing import builders

if TYPE_CHECKING:
    from tests.integration.cli.conftest import Everynode, Running, WrittenFleet

ROLLING = UpdateStrategy(type="RollingUpdate")
WAITING = 'Waiting for daemon set "agent" rollout to finish: '


def version(number: int, generation: int = 1, **strategy: object) -> DaemonSet:
    """The set `agent`, with this version of its template."""
    return builders.daemonset(
        {"containers": [{"name": "main", "image": f"agent:{number}"}]},
        generation=generation,
        update_strategy=UpdateStrategy(**({"type": "RollingUpdate"} | strategy)),  # type: ignore[arg-type] # fields
    )


def status(updated: int, available: int, reason: str, holds: str = "True") -> StatusReported:
    """What a worker reports of ten nodes, of the first generation."""
    condition = Condition(type="Progressing", status=holds, reason=reason, message="it is so")  # type: ignore[arg-type] # tests say what they mean
    return StatusReported(
        status=Status(
            namespace="default",
            daemonset="agent",
            daemonset_uid="uid-agent",
            observed_generation=1,
            desired_number_scheduled=10,
            updated_number_scheduled=updated,
            number_available=available,
            waiting_nodes={"Outdated": 10 - updated} if updated < 10 else {},
            conditions=(condition,),
        )
    )


def recorded(number: int, daemonset: DaemonSet, cause: str = "") -> RevisionRecorded:
    """A revision as a worker records it."""
    return RevisionRecorded(
        revision=Revision(
            namespace="default",
            daemonset="agent",
            daemonset_uid=daemonset.uid,
            hash=revision_hash(daemonset.template),
            number=number,
            template=daemonset.template,
            change_cause=cause,
        )
    )


STATUS = ("rollout", "status", "ds/agent")


class TestStatus:
    """`rollout status`, without a worker: what is reported is what the test says."""

    @pytest.mark.parametrize("words", [("daemonset", "agent"), ("daemonset/agent",), ("ds/agent",)])
    async def test_done(self, written: WrittenFleet, words: tuple[str, ...]) -> None:
        """What is rolled out says so in kubectl's words, with exit code 0."""
        await written.write(
            DaemonSetObserved(daemonset=version(1)), status(10, 10, "RolloutComplete")
        )
        ended = await written("rollout", "status", *words)
        assert ended == (0, 'daemon set "agent" successfully rolled out\n', "")

    async def test_follows_the_log(
        self, written: WrittenFleet, start: Callable[..., Running], on_server: Everynode
    ) -> None:
        """Each change is a line with its reasons, until it is done."""
        await written.write(DaemonSetObserved(daemonset=version(1)))
        watching = start(*written.words(*STATUS), address=on_server.address)
        watching.line("Waiting for daemon set spec update to be observed...")
        await written.write(status(3, 10, "RolloutProgressing"))
        watching.line(r"3 out of 10 new pods have been updated\.\.\. \(7 Outdated\)")
        await written.write(status(3, 9, "RolloutPaused", "Unknown"))
        watching.line("it is paused, 3 out of 10 new pods have been updated")
        await written.write(status(10, 9, "RolloutProgressing"))
        watching.line(r"9 of 10 updated pods are available\.\.\.")
        await written.write(status(10, 10, "RolloutComplete"))
        watching.line('daemon set "agent" successfully rolled out')
        assert watching.process.wait(60) == 0
        assert watching.err == []

    async def test_counters_of_an_earlier_generation(self, written: WrittenFleet) -> None:
        """What was reported before the set was changed does not count."""
        changed = version(2, generation=2)
        await written.write(DaemonSetObserved(daemonset=changed), status(10, 10, "RolloutComplete"))
        for flag in ("--watch=false", "--no-watch"):
            ended = await written(*STATUS, flag)
            assert ended == (0, "Waiting for daemon set spec update to be observed...\n", "")

    async def test_deadline_exceeded(self, written: WrittenFleet) -> None:
        """A rollout that has stalled is an error, with the reason, and exit code 1."""
        await written.write(
            DaemonSetObserved(daemonset=version(1)),
            status(3, 9, "ProgressDeadlineExceeded", "False"),
        )
        ended = await written(*STATUS)
        error = 'error: daemon set "agent" exceeded its progress deadline: it is so\n'
        assert ended == (1, "", error)
        shown = await written(*STATUS, "-o", "json", "--watch=true")
        assert (shown.code, shown.err) == (1, error)
        assert json.loads(shown.out)["stage"] == "Stalled"

    async def test_held(self, written: WrittenFleet) -> None:
        """A partitioned rollout is done when all that it may update is; what holds the rest is named."""
        held = version(1, partition=7, selector=Selector(match_labels={"zone": "a"}))
        await written.write(DaemonSetObserved(daemonset=held), status(3, 10, "RolloutHeld"))
        ended = await written(*STATUS)
        assert (ended.code, ended.err) == (0, "")
        assert ended.out.startswith(
            "partitioned roll out complete: 3 new pods have been updated... (partition 7 "
        )
        assert "selector zone=a" in ended.out

    async def test_timeout(self, written: WrittenFleet) -> None:
        """B1: after --timeout the wait ends with exit code 1, and says how far it was."""
        await written.write(
            DaemonSetObserved(daemonset=version(1)), status(3, 10, "RolloutProgressing")
        )
        ended = await written(*STATUS, "--timeout", "300ms")
        line = f"{WAITING}3 out of 10 new pods have been updated... (7 Outdated)"
        assert ended.code == 1
        assert ended.out == f"{line}\n"
        assert ended.err == f"error: timed out waiting for the condition: {line}\n"
        shown = await written(*STATUS, "--timeout=300ms", "-o", "yaml")
        assert shown.code == 1
        assert yaml.safe_load(shown.out)["status"]["updatedNumberScheduled"] == 3

    async def test_revision(self, written: WrittenFleet) -> None:
        """--revision fails when it is about another one, and waits until it is known which one it is."""
        await written.write(
            DaemonSetObserved(daemonset=version(1)), status(10, 10, "RolloutComplete")
        )
        unknown = await written(*STATUS, "--revision", "2", "--no-watch")
        assert unknown.out == "Waiting for daemon set spec update to be observed...\n"
        await written.write(recorded(2, version(1)))
        assert (await written(*STATUS, "--revision", "2")).code == 0
        other = await written(*STATUS, "--revision", "1")
        assert other.code == 1
        assert "desired revision (1) is different from the running revision (2)" in other.err

    async def test_refused(
        self, written: WrittenFleet, start: Callable[..., Running], on_server: Everynode
    ) -> None:
        """OnDelete, a set that is not there, and one that is deleted meanwhile are errors."""
        absent = await written(*STATUS)
        assert absent == (1, "", 'error: daemonsets "agent" not found in namespace default\n')
        await written.write(DaemonSetObserved(daemonset=version(1, type="OnDelete")))
        refused = await written(*STATUS)
        assert (refused.code, refused.out) == (1, "")
        assert "rollout status is only available for RollingUpdate strategy type" in refused.err
        await written.write(DaemonSetObserved(daemonset=version(1)))
        watching = start(*written.words(*STATUS), address=on_server.address)
        watching.line("to be observed")
        await written.write(DaemonSetGone(namespace="default", name="agent", uid="uid-agent"))
        watching.line('^error: daemonset "agent" has been deleted')
        assert watching.process.wait(60) == 1

    @pytest.mark.parametrize(
        "words", [("ds",), ("ds", "a", "b"), ("pods/a",), ("ds/a", "--timeout", "5")]
    )
    async def test_usage(self, written: WrittenFleet, words: tuple[str, ...]) -> None:
        """Anything but one set, and a timeout without a unit, are wrong usage."""
        assert (await written("rollout", "status", *words)).code == 2


class TestHistory:
    """`rollout history`, without a worker."""

    async def test_table(self, written: WrittenFleet) -> None:
        """Revisions stand in their order, the current one is marked."""
        first, second = version(1), version(2)
        await written.write(
            DaemonSetObserved(daemonset=second), recorded(2, second), recorded(1, first, "begin")
        )
        ended = await written("rollout", "history", "ds/agent")
        rows = [line.split() for line in ended.out.splitlines()]
        assert (ended.code, ended.err) == (0, "")
        assert rows[0] == ["daemonset.apps/agent"]
        assert rows[1] == ["REVISION", "CURRENT", "AGE", "PODS", "HASH", "CHANGE-CAUSE"]
        assert [row[0] for row in rows[2:]] == ["1", "2"]
        assert (rows[2][-1], rows[3][1], rows[3][-1]) == ("begin", "*", "<none>")
        everything = await written("rollout", "history", "ds")
        assert everything.out == ended.out

    async def test_template(self, written: WrittenFleet) -> None:
        """One revision shows its template as YAML; as JSON they are ControllerRevisions."""
        first, second = version(1), version(2)
        await written.write(
            DaemonSetObserved(daemonset=second), recorded(1, first), recorded(2, second)
        )
        history = ("rollout", "history", "ds/agent")
        one = await written(*history, "--revision", "1")
        assert one.out.startswith("# daemonset.apps/agent with revision #1\n")
        assert yaml.safe_load(one.out)["spec"]["containers"][0]["image"] == "agent:1"
        document = json.loads((await written(*history, "--revision=1", "-o", "json")).out)
        assert (document["kind"], document["revision"]) == ("ControllerRevision", 1)
        listed = json.loads((await written(*history, "-o", "json")).out)["items"]
        assert [each["revision"] for each in listed] == [1, 2]
        wrong = await written(*history, "--revision", "3")
        assert (wrong.code, wrong.out) == (1, "")
        assert "unable to find specified revision 3 in history" in wrong.err

    async def test_nothing(self, written: WrittenFleet) -> None:
        """A set without history says so; one that is not there is an error."""
        absent = await written("rollout", "history", "ds/agent")
        assert (absent.code, absent.out) == (1, "")
        await written.write(DaemonSetObserved(daemonset=version(1)))
        ended = await written("rollout", "history", "ds/agent")
        assert (ended.code, ended.out) == (
            0,
            "daemonset.apps/agent\nNo rollout history found.\n",
        )


class TestChanges:
    """`rollout undo`, `pause`, `resume` and `restart`, without a worker."""

    async def test_words(self, written: WrittenFleet) -> None:
        """What was done is said in kubectl's words; what is refused is an error and stops nothing else."""
        first, second = version(1), version(2)
        await written.write(
            DaemonSetObserved(daemonset=second), recorded(1, first), recorded(2, second)
        )

        async def said(*words: str) -> tuple[int, str, str]:
            ended = await written("rollout", *words)
            return ended.code, ended.out.strip(), ended.err.strip()

        named = "daemonset.apps/agent"
        assert await said("pause", "ds", "agent") == (0, f"{named} paused", "")
        error = 'error: daemonsets.apps "agent" is already paused'
        assert await said("pause", "ds/agent") == (1, "", error)
        code, out, err = await said("restart", "ds/agent")
        assert (code, out) == (1, "")
        assert "can't restart paused daemonset (run rollout resume first)" in err
        assert await said("resume", "ds/agent") == (0, f"{named} resumed", "")
        error = 'error: daemonsets.apps "agent" is not paused'
        assert await said("resume", "ds/agent") == (1, "", error)
        dry = await said("undo", "ds/agent", "--dry-run")
        assert dry == (0, f"{named} rolled back (dry run)", "")
        assert await said("undo", "ds/agent", "--dry-run=server") == dry
        assert await said("undo", "ds/agent", "--dry-run=none") == (0, f"{named} rolled back", "")
        skipped = f"{named} skipped rollback (current template already matches revision 1)"
        assert await said("undo", "ds/agent", "--to-revision=1") == (0, skipped, "")
        code, out, err = await said("undo", "ds/agent", "--to-revision", "7")
        assert (code, out) == (1, "")
        assert "unable to find specified revision 7 in history" in err
        error = 'error: daemonsets "nope" not found in namespace default'
        assert await said("restart", "ds", "nope", "agent") == (1, f"{named} restarted", error)
        shown = json.loads((await written("get", "ds/agent", "-o", "json")).out)
        assert shown["metadata"]["generation"] == 5
        template = shown["spec"]["template"]
        assert template["spec"]["containers"][0]["image"] == "agent:1"
        assert "kubectl.kubernetes.io/restartedAt" in template["metadata"]["annotations"]

    async def test_notes(self, written: WrittenFleet) -> None:
        """Who asks for new pods is told if none will be made for now."""
        await written.write(DaemonSetObserved(daemonset=version(2, type="OnDelete")))
        await written.write(recorded(1, version(1)), recorded(2, version(2)))
        restarted = await written("rollout", "restart", "ds/agent")
        assert (restarted.code, restarted.out) == (0, "daemonset.apps/agent restarted\n")
        assert "pods keep their template until they are deleted" in restarted.err
        refused = await written("rollout", "pause", "ds/agent")
        assert refused.code == 1
        assert "its update strategy is OnDelete" in refused.err
        await written.write(DaemonSetObserved(daemonset=version(2, paused=True)))
        undone = await written("rollout", "undo", "ds/agent")
        assert undone.code == 0
        assert "its rollout is paused" in undone.err

    async def test_usage(self, written: WrittenFleet) -> None:
        """Without a name, and with something else than sets, it is wrong usage."""
        for verb in ("undo", "pause", "resume", "restart"):
            assert (await written("rollout", verb, "ds")).code == 2
            assert (await written("rollout", verb, "nodes/a")).code == 2
        assert (await written("rollout", "undo", "ds/a", "--to-revision=-1")).code == 2
        assert (await written("rollout")).code == 2


# --- with a worker ----------------------------------------------------------------------------------------------------


@pytest.fixture
def rolling(fleet_up: Everynode, manifest: Callable[..., str]) -> Iterator[Callable[..., str]]:
    """Write the manifest of a set that replaces its pods by itself; it goes with the test."""

    def write(number: int) -> str:
        text = manifest("web", version=str(number)).replace("OnDelete", "RollingUpdate")
        cause = f"annotations: {{kubernetes.io/change-cause: version {number}}}"
        return text.replace("  namespace: default", f"  namespace: default\n  {cause}")

    yield write
    fleet_up("delete", "ds", "web", "--ignore-not-found")


def test_the_life_of_a_rollout(fleet_up: Everynode, rolling: Callable[[int], str]) -> None:
    """L1: all of it works together, and `apply` takes back nothing of what was done by hand."""

    def apply(number: int) -> None:
        assert fleet_up("apply", "-f", "-", stdin=rolling(number)).code == 0

    def rolled_out() -> None:
        ended = fleet_up("rollout", "status", "ds/web", "--timeout", "60s")
        assert ended.code == 0, ended
        assert ended.out.splitlines()[-1] == 'daemon set "web" successfully rolled out'

    def causes() -> list[str]:
        lines = fleet_up("rollout", "history", "ds/web").out.splitlines()[2:]
        return [line.split("version ")[1] + "*" * ("*" in line) for line in lines]

    apply(1)
    rolled_out()
    apply(2)
    rolled_out()
    assert causes() == ["1", "2*"]
    assert fleet_up("rollout", "pause", "ds/web").code == 0
    apply(3)
    fleet_up.until(
        *("rollout", "status", "ds/web", "--no-watch"), holds=lambda out: "it is paused" in out
    )
    assert fleet_up("rollout", "resume", "ds/web").code == 0
    rolled_out()
    assert fleet_up("rollout", "undo", "ds/web").out == "daemonset.apps/web rolled back\n"
    rolled_out()
    assert causes() == ["1", "3", "2*"]
    names = fleet_up("get", "pods", "-o", "name").out
    assert fleet_up("rollout", "restart", "ds/web").code == 0
    rolled_out()
    renewed = fleet_up("get", "pods", "-o", "name").out
    assert not set(names.split()) & set(renewed.split())
    apply(2)
    rolled_out()
    assert fleet_up("get", "pods", "-o", "name").out == renewed

    described = fleet_up("describe", "ds/web").out
    lines = [" ".join(line.split()) for line in described.splitlines()]
    assert "Update Strategy: RollingUpdate (max unavailable 1, max surge 0)" in lines
    assert "Paused: no" in lines
    assert any(line.startswith("Progressing True RolloutComplete") for line in lines)
    assert any("Normal RolloutComplete" in line for line in lines)
    reasons = {line.split()[2] for line in fleet_up("events").out.splitlines()[1:]}
    assert {"RolloutStarted", "RolloutComplete", "SuccessfulCreate"} <= reasons
    printed = fleet_up("get", "ds/web", "-o", "yaml").out
    assert fleet_up("apply", "-f", "-", stdin=printed).out == "daemonset.apps/web unchanged\n"


def test_explain_an_old_pod(fleet_up: Everynode, rolling: Callable[[int], str]) -> None:
    """`explain --node` names an old pod, and what its rollout waits for."""
    assert fleet_up("apply", "-f", "-", stdin=rolling(1)).code == 0
    assert fleet_up("rollout", "status", "ds/web", "--timeout", "60s").code == 0
    assert fleet_up("rollout", "pause", "ds/web").code == 0
    applied = fleet_up("apply", "-f", "-", stdin=rolling(2))
    assert (applied.code, "its rollout is paused" in applied.err) == (0, True)
    assert "paused" not in fleet_up("apply", "-f", "-", stdin=rolling(2)).err
    pods = json.loads(fleet_up("get", "pods", "-o", "json").out)["items"]
    node = pods[0]["spec"]["nodeName"]
    explain = ("explain", "ds/web", "--node", node)
    shown = fleet_up.until(*explain, holds=lambda out: "RolloutPaused" in out)
    assert f"{node}: pod {pods[0]['metadata']['name']} of an old revision" in shown
    (about,) = json.loads(fleet_up(*explain, "-o", "json").out)["nodes"]
    assert [pod["wantedRevision"] for pod in about["pods"]] == [False]
