"""The two streams of a fleet on a real server: made once, checked always, never changed behind anybody's back."""

import ast
import asyncio
from typing import Any

import pytest

from everynode.errors import ConfigurationError
from everynode.ports import Outgoing
from everynode.runtime.jetstream import JetStreamBus, connect
from everynode.runtime.settings import Connection, StreamSettings
from everynode.runtime.streams import (
    compare,
    log_config,
    log_name,
    state_config,
    state_name,
)
from everynode.wire import Subjects

SMALL = StreamSettings(log_max_bytes=16 * 1024**2)


async def config(bus: JetStreamBus, name: str) -> dict[str, Any]:
    """How a stream is set up."""
    found: dict[str, Any] = (await bus._link.call(f"STREAM.INFO.{name}"))["config"]
    return found


async def test_absent(connection: Connection, fleet: str) -> None:
    """A fleet that does not exist is not made by the way; the error says how to make it."""
    with pytest.raises(ConfigurationError, match=f"fleet {fleet}.*everynode fleet create {fleet}"):
        await connect(connection, fleet)
    with pytest.raises(ConfigurationError, match="does not exist"):
        await connect(connection, fleet)


async def test_state_absent(bus: JetStreamBus, connection: Connection, fleet: str) -> None:
    """A fleet whose STATE is missing says so, and creating it again fills it from LOG."""
    await bus._link.call(f"STREAM.DELETE.{state_name(fleet)}")
    with pytest.raises(ConfigurationError, match=f"{state_name(fleet)} is missing"):
        await connect(connection, fleet)
    async with await connect(connection, fleet, create=StreamSettings()) as again:
        assert (await again.describe()).state_messages == 0


class TestOrigin:
    """Whether STATE came out of the LOG that is there."""

    async def filled(self, bus: JetStreamBus, count: int) -> None:
        """Put so many messages into LOG, and wait until STATE has the last one."""
        subject = f"{bus.subjects.prefix}.node.b.n"
        await bus.publish([Outgoing(subject, b"%d" % number) for number in range(count)])

        async def full() -> bool:
            kept = await bus._message(state_name(bus.subjects.fleet), {"last_by_subj": ">"})
            return kept is not None and kept.payload == b"%d" % (count - 1)

        async with asyncio.timeout(10):
            while not await full():  # noqa: ASYNC110 - a server cannot set an event here
                await asyncio.sleep(0.01)

    async def test_log_missing(self, bus: JetStreamBus, connection: Connection, fleet: str) -> None:
        """No LOG is made beside a STATE that is there; with STATE gone too, the fleet begins anew."""
        await self.filled(bus, 3)
        await bus._link.call(f"STREAM.DELETE.{log_name(fleet)}")
        with pytest.raises(ConfigurationError, match=f"{state_name(fleet)} .*does not exist.*rm "):
            await connect(connection, fleet, create=SMALL)
        with pytest.raises(ConfigurationError, match=f"fleet {fleet} does not exist"):
            await connect(connection, fleet)
        await bus._link.call(f"STREAM.DELETE.{state_name(fleet)}")
        async with await connect(connection, fleet, create=SMALL) as again:
            await self.filled(again, 1)

    async def test_log_made_by_hand(
        self, bus: JetStreamBus, connection: Connection, fleet: str
    ) -> None:
        """A LOG that is behind what STATE was filled from is not taken for STATE's own."""
        await self.filled(bus, 3)
        await bus._link.call(f"STREAM.DELETE.{log_name(fleet)}")
        await bus._link.call(f"STREAM.CREATE.{log_name(fleet)}", log_config(bus.subjects, SMALL))
        with pytest.raises(ConfigurationError, match="filled up to 3, and LOG ends at 0"):
            await connect(connection, fleet, create=SMALL)

    async def test_log_emptied(self, bus: JetStreamBus, connection: Connection, fleet: str) -> None:
        """A LOG that has let go of everything goes on counting: it is STATE's own."""
        await self.filled(bus, 3)
        await bus._link.call(f"STREAM.PURGE.{log_name(fleet)}", {})
        async with await connect(connection, fleet, create=StreamSettings()) as again:
            assert 0 == (await again.describe()).messages
            await self.filled(again, 5)

    async def test_state_made_anew(
        self, bus: JetStreamBus, connection: Connection, fleet: str
    ) -> None:
        """A STATE that is absent is made anew and filled from LOG."""
        await self.filled(bus, 3)
        await bus._link.call(f"STREAM.DELETE.{state_name(fleet)}")
        async with await connect(connection, fleet, create=StreamSettings()) as again:
            await self.filled(again, 4)
            assert 1 == (await again.describe()).state_messages


async def test_described(connection: Connection, fleet: str) -> None:
    """What was chosen at creation is what the fleet has."""
    chosen = StreamSettings(log_max_age_seconds=3_600, log_max_bytes=2**20, shards=5)
    async with await connect(connection, fleet, create=chosen) as bus:
        about = await bus.describe()
        assert (about.fleet, about.shards, about.replicas) == (fleet, 5, 1)
        assert (about.log_max_age_seconds, about.log_max_bytes) == (3_600, 2**20)
        assert (about.messages, about.first_sequence, about.last_sequence) == (0, 1, 0)
        assert about.backends == {}
        assert bus.subjects.shards == 5
        assert bus.tombstone_ttl_seconds == 3_600
        for name in (state_name(fleet), log_name(fleet)):
            await bus._link.call(f"STREAM.DELETE.{name}")


async def test_everyone_at_once(connection: Connection, fleet: str) -> None:
    """Many who create the same fleet at the same time all find one fleet."""
    buses = await asyncio.gather(*(connect(connection, fleet, create=SMALL) for _ in range(8)))
    try:
        assert {bus.subjects.shards for bus in buses} == {16}
        for name in (state_name(fleet), log_name(fleet)):
            await buses[0]._link.call(f"STREAM.DELETE.{name}")
    finally:
        for bus in buses:
            await bus.close()


@pytest.mark.parametrize(
    ("chosen", "named"),
    [
        (StreamSettings(shards=4), "shards is 16, wanted 4"),
        (StreamSettings(log_max_age_seconds=60), "max_age is 604800000000000, wanted 60000000000"),
        (StreamSettings(log_max_bytes=5), "max_bytes is 67108864, wanted 5"),
        (StreamSettings(replicas=3), "num_replicas is 1, wanted 3"),
    ],
)
async def test_chosen_otherwise(
    bus: JetStreamBus, connection: Connection, fleet: str, chosen: StreamSettings, named: str
) -> None:
    """What is chosen for a fleet that exists must be what it has; it is not changed."""
    before = await config(bus, log_name(fleet))
    with pytest.raises(ConfigurationError, match=f"{log_name(fleet)}: {named}"):
        await connect(connection, fleet, create=chosen)
    assert await config(bus, log_name(fleet)) == before


@pytest.mark.parametrize(
    ("stream", "change"),
    [
        (log_name, {"allow_direct": False}),
        (log_name, {"max_msgs_per_subject": 1}),
        (log_name, {"max_msgs": 1_000}),
        (log_name, {"discard": "new"}),
        (log_name, {"subjects": ["everynode.{fleet}.>"]}),
        (state_name, {"max_msgs_per_subject": 2}),
        (state_name, {"max_age": 10**12}),
        (state_name, {"max_bytes": 10**6}),
        (state_name, {"sources": [{"name": "{log}"}]}),
    ],
)
async def test_changed_by_hand(
    bus: JetStreamBus, connection: Connection, fleet: str, stream: Any, change: dict[str, Any]
) -> None:
    """A stream that somebody changed so that the promises no longer hold is refused, and left alone."""
    text = str(change).replace("{fleet}", fleet).replace("{log}", log_name(fleet))
    wanted: dict[str, Any] = ast.literal_eval(text)
    name = stream(fleet)
    await bus._link.call(f"STREAM.UPDATE.{name}", await config(bus, name) | wanted)
    before = await config(bus, name)
    with pytest.raises(ConfigurationError, match=f"{name}: {next(iter(change))} is .*, wanted"):
        await connect(connection, fleet, create=StreamSettings())
    assert await config(bus, name) == before


async def test_foreign_schema(bus: JetStreamBus, connection: Connection, fleet: str) -> None:
    """A log that was written in another schema version is refused, and so is one without a number of shards."""
    before = await config(bus, log_name(fleet))
    for key, value in {"everynode.dev/schema": "99", "everynode.dev/shards": "many"}.items():
        changed = before | {"metadata": before["metadata"] | {key: value}}
        await bus._link.call(f"STREAM.UPDATE.{log_name(fleet)}", changed)
        with pytest.raises(ConfigurationError, match=f"{key} is '{value}'"):
            await connect(connection, fleet)


async def test_too_large(connection: Connection, fleet: str) -> None:
    """A log larger than what the server may store says so, and what to do."""
    with pytest.raises(
        ConfigurationError, match=r"not enough storage.*log_max_bytes.*max_file_store"
    ):
        await connect(connection, fleet, create=StreamSettings(log_max_bytes=2**50))


async def test_replicas_without_cluster(connection: Connection, fleet: str) -> None:
    """Replicas on a server that stands alone are refused in the server's words."""
    with pytest.raises(ConfigurationError, match=f"{log_name(fleet)}: replicas > 1"):
        await connect(connection, fleet, create=StreamSettings(replicas=3, log_max_bytes=2**20))


class TestBackends:
    """Which backend a name stands for."""

    async def test_recorded(self, bus: JetStreamBus, connection: Connection) -> None:
        """A name is recorded once; the same backend is welcome again, another one is refused."""
        await bus.record_backend("b", "cluster-1")
        await bus.record_backend("b", "cluster-1")
        await bus.record_backend("c.d", "cluster-2")
        with pytest.raises(
            ConfigurationError, match=r"backend b of fleet .* is cluster-1.* cluster-2"
        ):
            await bus.record_backend("b", "cluster-2")
        assert (await bus.describe()).backends == {"b": "cluster-1", "c.d": "cluster-2"}
        async with await connect(connection, bus.subjects.fleet) as again:
            assert again.subjects.shards == 16

    async def test_at_once(self, bus: JetStreamBus) -> None:
        """Backends that are recorded at the same time do not keep each other from being recorded."""
        names = [f"b{number}" for number in range(5)]
        await asyncio.gather(*(bus.record_backend(name, name) for name in names))
        for (
            name
        ) in names:  # JetStream has no compare-and-set here: the last may have undone another
            await bus.record_backend(name, name)
        assert (await bus.describe()).backends == {name: name for name in names}

    async def test_same_name_at_once(self, bus: JetStreamBus) -> None:
        """Of two backends that take the same name at the same time one is refused."""
        results = await asyncio.gather(
            bus.record_backend("b", "1"), bus.record_backend("b", "2"), return_exceptions=True
        )
        assert sorted(type(result).__name__ for result in results) == [
            "ConfigurationError",
            "NoneType",
        ]


class TestCompare:
    """How what is wanted is compared with what there is."""

    def test_order(self) -> None:
        """The server may list subjects and transforms in another order."""
        subjects = Subjects("f", 2)
        log, state = log_config(subjects, SMALL), state_config(subjects, SMALL)
        compare(log, log | {"subjects": log["subjects"][::-1]}, set())
        (source,) = state["sources"]
        turned = source | {"subject_transforms": source["subject_transforms"][::-1]}
        compare(state, state | {"sources": [turned]}, set())

    def test_each_field_counts(self) -> None:
        """Each field that is not left open makes a difference by itself."""
        log = log_config(Subjects("f", 2), SMALL)
        for name in log.keys() - {"name", "description", "metadata", "duplicate_window"}:
            without = {key: value for key, value in log.items() if key != name}
            with pytest.raises(
                ConfigurationError, match=f"{name} is None|{name} is -1|{name} is 0"
            ):
                compare(log, without, set())
            compare(log, without, {name})
