"""`everynode explain` of pods, and of nodes as they were: from a fleet that lives, and from a recording of it."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest
import yaml
from msgspec import structs

from everynode.cli.explain_past import OUTCOMES_ASKED_MAX
from everynode.core.commands import CreatePod, outcome_of
from everynode.core.events import DaemonSetObserved, NodeObserved, PodGone, PodObserved
from everynode.replay.recording import MAGIC, SCHEMA_VERSION, Header, Writer
from everynode.testing.builders import daemonset, node, pod

if TYPE_CHECKING:
    from tests.integration.cli.conftest import Everynode, WrittenFleet

NAMESPACE = "explained"


class Lived(NamedTuple):
    """A pod that was made because its node got a label, and went because it got a taint.

    Attributes:
        told: How the live fleet explains it, as JSON.
        between: A time at which the pod was there.
    """

    everynode: Everynode
    node: str
    pod: str
    told: str
    between: str
    recording: str


@pytest.fixture(scope="module")
def lived(fleet_up: Everynode, tmp_path_factory: pytest.TempPathFactory) -> Lived:
    """Let it live, and record it."""
    on = fleet_up("get", "nodes", "-l", "kubernetes.io/os=linux", "-o", "name").out.splitlines()[-1]
    name = on.split("/")[1]
    fleet_up("apply", "-f", "-", stdin=MANIFEST)
    fleet_up("simulate", "label-node", name, "explained=yes")
    pods = ("get", "pods", "-n", NAMESPACE)
    fleet_up.until(*pods, holds=lambda out: name in out and "Running" in out)
    between = datetime.now(UTC).isoformat()
    made = fleet_up(*pods, "-o", "name").out.strip()
    fleet_up("simulate", "taint-node", name, "broken=yes:NoExecute", "slow:NoSchedule")
    told = fleet_up.until(
        *("explain", made, "-n", NAMESPACE, "-o", "json"),
        holds=lambda out: (
            (found := json.loads(out))["gone"] is not None
            and (found["removed"] or {}).get("outcome", {}).get("result") == "done"
        ),
    )
    path = tmp_path_factory.mktemp("explained") / "recording"
    assert 0 == fleet_up("record", "-o", path, "--redact", "env").code
    return Lived(fleet_up, name, made.split("/")[1], told, between, str(path))


MANIFEST = f"""\
apiVersion: apps/v1
kind: DaemonSet
metadata: {{name: a, namespace: {NAMESPACE}}}
spec:
  selector: {{matchLabels: {{app: a}}}}
  template:
    metadata: {{labels: {{app: a}}}}
    spec:
      nodeSelector: {{explained: "yes"}}
      tolerations: [{{key: slow, operator: Exists}}]
      containers: [{{name: main, image: example.com/a, env: [{{name: PASSWORD, value: open-sesame}}]}}]
"""


def document(lived: Lived, *words: str) -> dict[str, Any]:
    """Explain as JSON; the live fleet and the recording must say the same."""
    told = lived.everynode("explain", *words, "-n", NAMESPACE, "-o", "json")
    recorded = lived.everynode(
        *("explain", *words, "-n", NAMESPACE, "-o", "json", "--recording", lived.recording)
    )
    assert (0, "") == (told.code, told.err)
    assert told.out == recorded.out
    found: dict[str, Any] = json.loads(told.out)
    return found


class TestPod:
    """`explain pod/NAME`."""

    def test_document(self, lived: Lived) -> None:
        """The decision that made it, the one that removed it, each with its cause and the opposite."""
        found = document(lived, f"pod/{lived.pod}")

        assert json.loads(lived.told) == found
        made, removed = found["made"], found["removed"]
        assert ("simulated", lived.node, "a") == (
            found["backend"],
            found["node"],
            found["daemonset"]["name"],
        )
        assert (None, []) == (found["state"], found["notes"])
        assert "NodeHasNoPod" == made["reason"]["code"]
        (cause,) = made["causes"]
        assert f"node {lived.node}: label explained=yes added" == cause["what"]
        assert "adapter of backend simulated" == cause["publisher"]
        assert ("up", True) == (
            made["decision"]["worker"],
            cause["sequence"] <= made["decision"]["basis"] < made["decision"]["sequence"],
        )
        assert "done" == made["outcome"]["result"] == removed["outcome"]["result"]
        assert (
            f"node {lived.node} did not have label explained=yes" in made["opposite"]["conditions"]
        )
        assert "UntoleratedTaint" == removed["reason"]["code"]
        assert "taint broken=yes:NoExecute added" in removed["causes"][0]["what"]
        assert [
            f"the set tolerated taint broken=yes:NoExecute, or node {lived.node} did not have it"
        ] == removed["opposite"]["conditions"]
        assert removed["opposite"]["together"]

    def test_text(self, lived: Lived) -> None:
        """The same for people; from a recording the same text; YAML is the same object."""
        words = ("explain", "po", lived.pod, "-n", NAMESPACE)
        told = lived.everynode(*words)
        recorded = lived.everynode(*words, "--recording", lived.recording)
        in_yaml = lived.everynode(*words, "-o", "yaml")

        assert (0, told.out) == (recorded.code, recorded.out)
        lines = told.out.splitlines()
        assert f"Pod:        {NAMESPACE}/{lived.pod}" == lines[0]
        for text in (
            "Made:",
            "Removed:",
            "UntoleratedTaint: the node has a taint that the set does not tolerate",
            "label explained=yes added",
            "The pod would have stayed if the set tolerated taint broken=yes:NoExecute",
            "The pod would not have been made if one of these were so:",
        ):
            assert any(text in line for line in lines), text
        assert json.loads(lived.told) == yaml.safe_load(in_yaml.out)

    def test_as_it_was(self, lived: Lived) -> None:
        """--at before the taint: the pod is there, and nothing has removed it."""
        found = document(lived, f"pod/simulated/{lived.pod}", "--at", lived.between)

        assert found["made"] is not None
        assert ("Running, ready", None, None) == (found["state"], found["gone"], found["removed"])

    async def test_in_two_backends(self, written: WrittenFleet) -> None:
        """A name that two backends have is asked back for; each can be named."""
        wanted, east, west = daemonset(), node("a"), node("a", backend="west")
        await written.write(
            DaemonSetObserved(daemonset=wanted),
            *(NodeObserved(node=each) for each in (east, west)),
            *(PodObserved(pod=pod(wanted, each, "p")) for each in (east, west)),
        )

        both = await written("explain", "pod/p")
        one = await written("explain", "pod/west/p", "-o", "json")

        assert 1 == both.code
        assert "name one of pod/east/p, pod/west/p" in both.err
        found = json.loads(one.out)
        assert ("west", None) == (found["backend"], found["made"])
        assert "no decision made it that the log has" in found["notes"][0]

    async def test_an_orphan(self, written: WrittenFleet) -> None:
        """A pod of nobody: who told of it, and nothing else."""
        lone = structs.replace(pod(daemonset(), node("a"), "lone"), owner=None, labels={})
        await written.write(PodObserved(pod=lone))

        told = await written("explain", "pod", "lone")

        assert 0 == told.code
        assert "no set controls it" in told.out
        assert "DaemonSet:  <none>" in told.out
        assert "Made:" not in told.out

    async def test_many_commands(self, written: WrittenFleet) -> None:
        """What became of the first of more commands than are asked about one by one is known, too."""
        wanted, on = daemonset(), node("a")
        creates = [
            CreatePod(
                id=f"c{number}",
                backend=on.backend,
                node=on.name,
                node_uid=on.uid,
                namespace=wanted.namespace,
                daemonset=wanted.name,
                daemonset_uid=wanted.uid,
                generation=1,
                pod=f"p{number}",
                revision="r",
                expires_ms=1,
                slot=0,
            )
            for number in range(OUTCOMES_ASKED_MAX + 1)
        ]
        await written.write(*creates, *(outcome_of(each, "done") for each in creates))
        await written.write(PodObserved(pod=pod(wanted, on, "p0")))

        told = await written("explain", "pod/p0", "-o", "json")

        assert "done" == json.loads(told.out)["made"]["outcome"]["result"]

    async def test_what_others_wrote(
        self, written: WrittenFleet, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """What an adapter says can neither steer a terminal nor add a line; where there is only ASCII, it is shown."""
        gone = PodGone(
            backend="east",
            namespace="default",
            name="p",
            uid="u",
            node="a",
            why="caf\u00e9 \x1b[2J\nNote: all is well",
        )
        await written.write(gone)

        told = await written("explain", "pod/p")
        monkeypatch.setenv("PYTHONIOENCODING", "ascii")
        in_ascii = await written("explain", "pod/p")

        assert "pod p gone: caf\u00e9 \\x1b[2J\\nNote: all is well" in told.out
        assert (0, told.out.replace("\u00e9", "\\xe9")) == (in_ascii.code, in_ascii.out)


class TestNode:
    """`explain daemonset/NAME --node N --at TIME`."""

    def test_as_it_was(self, lived: Lived) -> None:
        """While the pod was there, and after the taint: verdict, what it rests on, and the last decision."""
        words = ("ds/a", "--node", lived.node)

        (then,) = document(lived, *words, "--at", lived.between)["nodes"]
        told = lived.everynode(
            *("explain", *words, "-n", NAMESPACE, "--recording", lived.recording)
        )

        assert (True, []) == (then["eligible"], then["reasons"])
        assert [(lived.pod, True)] == [(each["name"], each["ready"]) for each in then["pods"]]
        assert "label explained=yes added" in then["told"]["node"]["what"]
        assert "applied to the fleet" == then["told"]["daemonset"]["publisher"]
        assert ["create"] == [step["command"]["verb"] for step in then["lastDecision"]]
        assert 0 == told.code
        for text in (
            "taint broken=yes:NoExecute is not tolerated",
            "taint broken=yes:NoExecute added, taint slow:NoSchedule added",
            f"Last decision about {lived.node}:",
            "UntoleratedTaint: the node has a taint that the set does not tolerate",
        ):
            assert text in told.out, text

    def test_summary(self, lived: Lived) -> None:
        """Without a node: how many there were, then and in a recording."""
        found = document(lived, "ds/a", "--at", lived.between)
        now = lived.everynode("explain", "ds/a", "-n", NAMESPACE, "--recording", lived.recording)

        assert (1, 20) == (found["eligible"], found["nodes"])
        assert "eligible on 0 of 20 nodes" in now.out
        assert "nodeSelector wants label explained=yes" in now.out


class TestRefused:
    """What cannot be explained is said."""

    @pytest.mark.parametrize(
        ("words", "said"),
        [
            (("pod/nope",), 'pods "nope" not found in namespace explained at '),
            (("ds/nope", "--at", "0s"), 'daemonsets "nope" not found in namespace explained at '),
            (("ds/a", "--at", "2001-02-03T04:05:06Z"), "2001-02-03T04:05:06Z; the log begins at "),
            (("ds/a", "--node", "nope", "--at", "0s"), 'nodes "nope" not found at '),
            (("ds/a", "--at", "2999-02-03T04:05:06Z"), "that is to come"),
            (("ds/a", "--recording", "nowhere"), "nowhere: there is no such file"),
        ],
    )
    def test_not_there(self, lived: Lived, words: tuple[str, ...], said: str) -> None:
        """What the log does not have: an error that says how far back it goes."""
        ended = lived.everynode("explain", *words, "-n", NAMESPACE)

        assert (1, "") == (ended.code, ended.out)
        assert said in ended.err

    @pytest.mark.parametrize(
        "words",
        [
            ("pod",),
            ("pod/a", "pod/b"),
            ("pod/a", "--node", "n"),
            ("pod/a", "--at", "yesterday"),
            ("pod/a", "--recording", "-"),
            ("nodes/a",),
        ],
    )
    def test_usage(self, everynode: Everynode, words: tuple[str, ...]) -> None:
        """What was not meant so; no server is asked."""
        assert 2 == everynode("explain", *words).code

    def test_damaged(self, lived: Lived, tmp_path: Path) -> None:
        """A recording that was cut off is explained as far as it goes, and the exit code says that it was."""
        cut = tmp_path / "cut"
        cut.write_bytes(Path(lived.recording).read_bytes()[:-20])
        (tmp_path / "text").write_text("hello")

        ended = lived.everynode("explain", "ds/fluentd", "-n", "logging", "--recording", cut)
        not_there = lived.everynode("explain", "pod/nope", "--recording", cut)
        text = lived.everynode("explain", "pod/a", "--recording", tmp_path / "text")

        assert (1, 1, 1) == (ended.code, not_there.code, text.code)
        assert "could be read" in ended.err
        assert "not found" in not_there.err
        assert "could be read" in not_there.err
        assert "no recording" in text.err

    async def test_times_that_a_recording_has_not(
        self, written: WrittenFleet, tmp_path: Path
    ) -> None:
        """What was kept from before it begins is not taken for what was so long ago; after its end, that is said."""
        path = tmp_path / "r"
        await written.write(DaemonSetObserved(daemonset=daemonset()))
        await written.write(NodeObserved(node=node("a")))
        await written("record", "-o", str(path), "--from-seq", "2")
        words = ("explain", "ds/agent", "--recording", str(path))

        early = await written(*words, "--at", "2001-02-03T04:05:06Z")
        late = await written(*words, "--at", "0s")
        at_its_end = await written(*words)

        assert (1, "") == (early.code, early.out)
        assert "nothing is known of 2001-02-03T04:05:06Z; the log begins at" in early.err
        assert (0, 0) == (late.code, at_its_end.code)
        assert "its last message is of" in late.err
        assert "" == at_its_end.err

    async def test_an_empty_recording(self, tmp_path: Path, everynode: Everynode) -> None:
        """It has no messages, and that is said; no year 1970."""
        path = tmp_path / "empty"
        header = Header(
            what=MAGIC,
            schema=SCHEMA_VERSION,
            fleet="f",
            shards=16,
            begins=1,
            from_sequence=1,
            from_ms=1_715_000_000_000,
            recorded_ms=1_715_000_000_000,
        )
        with path.open("wb") as file:
            Writer(file, header).finish()

        explained = everynode("explain", "pod/p", "--recording", path)
        timeline = everynode("timeline", "ds/a", "--recording", path)

        assert (1, 1) == (explained.code, timeline.code)
        assert "the log has no messages" in explained.err
        assert 'daemonsets "a" not found' in timeline.err
        assert not any("1970" in each.err for each in (explained, timeline))
