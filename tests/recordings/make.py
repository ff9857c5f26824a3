"""Make the golden recordings anew: ``python -m tests.recordings.make``, after a rule was changed on purpose.

Each is a short life of a small world (``everynode.testing.world``: the real worker machine, a backend and a log in one
thread), so what is decided in it follows from the rules alone. docs/recordings.md says when to renew them.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

from msgspec import structs

from everynode import __version__, wire
from everynode.core.events import NodeObserved
from everynode.core.identity import revision_hash
from everynode.core.values import DaemonSet, Selector, SetKey, UpdateStrategy
from everynode.ports import Received
from everynode.replay.recording import MAGIC, SCHEMA_VERSION, Entry, Header, Writer
from everynode.replay.redaction import EnvRedaction
from everynode.testing.builders import daemonset, node, pod
from everynode.testing.world import SHARDS, World

DIRECTORY = Path(__file__).parent
SUFFIX = ".everynode"
AGENT = SetKey("default", "agent")
SECOND_MS = 1_000


def versioned(version: int, *, env: str = "", **settings: object) -> DaemonSet:
    """Make a version of a set: the image differs."""
    container: dict[str, object] = {"name": "main", "image": f"example.com/agent:{version}"}
    if env:
        container["env"] = [{"name": "PASSWORD", "value": env}]
    return structs.replace(daemonset({"containers": [container]}), **settings)


def rolling(**settings: object) -> UpdateStrategy:
    """Make a strategy that replaces pods."""
    return structs.replace(UpdateStrategy(type="RollingUpdate"), **settings)


def covered(world: World, count: int, wanted: DaemonSet) -> World:
    """Let nodes join, apply a set, and wait until it is everywhere."""
    for number in range(count):
        world.put_node(node(f"node-{number}", zone="ab"[number % 2]))
    world.apply_changed(wanted)
    world.run()
    return world


def covering() -> World:
    """Slow start on 150 nodes, of which some have a taint or another label, and one create that fails."""
    world = World(start_ready=False)
    for number in range(150):
        taints = ("key=value:NoSchedule",) if number % 10 == 0 else ()
        world.put_node(node(f"node-{number}", *taints, disk="ssd" if number % 3 else "hdd"))
    world.apply_changed(daemonset({"nodeSelector": {"disk": "ssd"}}))
    world.apply_changed(daemonset(name="everywhere"))
    for works in (True, True, False, True):
        world.decide()
        while world.carry_out(works=works):
            pass
    world.run()
    return world


def updating() -> World:
    """Rolling updates: at most a fifth down, then one beside the old one, and a return to the first version."""
    world = World(start_ready=False, stop_at_once=False)
    careful = rolling(max_unavailable="20%")
    covered(world, 20, versioned(1, update_strategy=careful, min_ready_seconds=5))
    world.apply_changed(versioned(2, update_strategy=careful, min_ready_seconds=5))
    world.run()
    surging = rolling(max_unavailable=0, max_surge=3)
    world.apply_changed(versioned(3, update_strategy=surging))
    world.run()
    world.apply_changed(versioned(1, update_strategy=surging))
    world.run()
    return world


def losing_nodes() -> World:
    """Nodes that leave, return under the same name, fall silent, and get and lose taints and labels."""
    world = covered(World(), 12, daemonset({"nodeSelector": {"zone": "a"}}))
    for number in (0, 2, 4):
        world.remove_node(node(f"node-{number}").key)
    world.decide()
    world.put_node(node("node-0", uid="another", zone="a"))
    world.run()
    world.set_node_ready(node("node-6").key, ready=False)
    world.put_node(node("node-8", "drained:NoExecute", zone="a"))
    world.put_node(node("node-10", zone="b"))
    world.put_node(node("node-1", zone="a"))
    world.run()
    world.set_node_ready(node("node-6").key, ready=True)
    world.put_node(node("node-8", zone="a"))
    world.run()
    return world


def changing_owners() -> World:
    """Pods that lose their owner or their labels, a set that is deleted and leaves them, and the next one's."""
    world = covered(World(), 8, versioned(1))
    keys = sorted(world.pods)
    world.orphan(keys[0])
    world.label_pod(keys[1], {"app": "other"})
    on = world.nodes[world.pods[keys[2]].node_key]
    world.put_pod(pod(world.sets[AGENT], on, "a-second-one"))
    world.run()
    before = world.sets[AGENT]
    world.delete(AGENT, cascade="orphan")
    world.run()
    world.apply(versioned(1, uid="next", predecessor_uids=(before.uid,)))
    for key in sorted(world.pods):
        world.label_pod(key, {"app": "agent"})
    world.run()
    return world


def failing() -> World:
    """Pods that end again and again, a version that is never ready, and commands that expire."""
    world = covered(World(), 8, versioned(1, update_strategy=rolling(max_unavailable=2)))
    for _ in range(5):
        key = min(key for key, found in world.pods.items() if found.node == "node-1")
        world.change_pod(key, phase="Failed", ready=False)
        world.run()
    world.hanging.add(revision_hash(versioned(2).template))
    world.apply_changed(versioned(2, update_strategy=rolling(max_unavailable=2)))
    world.run()
    world.apply_changed(versioned(1, update_strategy=rolling(max_unavailable=2)))
    world.run()
    world.put_node(node("node-9"))
    world.decide()
    world.now_ms += world.limits.pending_ms + SECOND_MS
    world.run()
    return world


def deleting() -> World:
    """More versions than are kept, and a set that is deleted with its pods and made anew."""
    world = covered(World(stop_at_once=False), 6, versioned(1, revision_history_limit=2))
    for version in range(2, 7):
        world.apply_changed(
            versioned(
                version,
                revision_history_limit=2,
                update_strategy=rolling(max_unavailable="100%"),
            )
        )
        world.run()
    world.delete(AGENT)
    world.run()
    world.apply_changed(versioned(9))
    world.run()
    return world


def holding_back() -> World:
    """A rollout that is paused, one that stops at a partition, and one for selected nodes first."""
    world = covered(World(), 12, versioned(1, update_strategy=rolling()))
    for strategy in (
        rolling(paused=True),
        rolling(partition=8),
        rolling(max_unavailable="50%", selector=Selector(match_labels={"zone": "a"})),
        rolling(max_unavailable="50%"),
    ):
        world.apply_changed(versioned(2, update_strategy=strategy))
        world.run()
    return world


def contending() -> World:
    """Two workers that decide about the same sets, late and with what the other has not heard of."""
    world = World()
    other = world.new_worker("second")
    for name in ("agent", "another", "third"):
        world.apply_changed(daemonset(name=name))
    for number in range(30):
        world.put_node(node(f"node-{number}"))
        world.now_ms += 10
        world.read(other)
        late = [] if number % 3 else other.proposals(10)
        world.decide()
        for proposal in late:
            world.offer(other, proposal)
        world.read(other)
        if number % 5 == 4:
            world.carry_out()
            world.carry_out(works=number % 2 == 0)
            world.decide(other)
        if number == 20:
            other = world.new_worker("third")
    world.run()
    return world


def redacted() -> World:
    """Versions that differ in what their environment says; the values are left out of the file."""
    careful = rolling(max_unavailable=2)
    world = covered(World(), 6, versioned(1, env="open-sesame", update_strategy=careful))
    world.apply_changed(versioned(1, env="another", update_strategy=careful))
    world.run()
    return world


WORLDS: dict[str, Callable[[], World]] = {
    each.__name__.replace("_", "-"): each
    for each in (
        covering,
        updating,
        losing_nodes,
        changing_owners,
        failing,
        deleting,
        holding_back,
        contending,
        redacted,
    )
}


def write(world: World, path: Path, *, redact: bool) -> None:
    """Write a world's log as `everynode record` does."""
    redaction = EnvRedaction() if redact else None
    header = Header(
        what=MAGIC,
        schema=SCHEMA_VERSION,
        fleet=world.subjects.fleet,
        shards=SHARDS,
        begins=1,
        from_sequence=1,
        from_ms=world.log[0].time_ms,
        recorded_ms=world.now_ms,
        redacted=("env",) if redact else (),
        program=__version__,
    )
    with path.open("wb") as file:
        writer = Writer(file, header)
        for record in world.log:
            message = record.message
            subject = world.subjects.of(message)  # type: ignore[arg-type] # a world writes such messages only
            payload = wire.encode(message)  # type: ignore[arg-type] # as above
            received = Received(record.sequence, record.time_ms, subject, payload)
            if redaction is not None:
                received, renamed = redaction.redacted(world.subjects, received)
                if renamed is not None:
                    writer.renamed(renamed)
            writer.write(Entry(received, is_kept=False))
        writer.finish()


def main() -> None:
    """Make all of them, and say what is in them."""
    for name, make in WORLDS.items():
        world = make()
        path = DIRECTORY / f"{name}{SUFFIX}"
        write(world, path, redact=name == "redacted")
        nodes = sum(isinstance(record.message, NodeObserved) for record in world.log)
        sys.stdout.write(
            f"{path.name}: {len(world.log)} messages, {nodes} of nodes; {world.refused} proposals refused; "
            f"{path.stat().st_size} bytes\n"
        )


if __name__ == "__main__":
    main()
