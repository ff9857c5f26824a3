"""Numbers in messages have bounds: what no program here could work with or show is refused when it is read (S8)."""

import pytest

from everynode import wire
from everynode.core.events import Tick
from everynode.core.values import WHOLE_MAX
from everynode.errors import MalformedMessageError
from everynode.runtime.clock import timestamp


def tick(shard: int) -> bytes:
    """Write a message with a number in it."""
    return b'{"v":1,"kind":"Tick","shard":%d,"dueMs":0}' % shard


def test_largest() -> None:
    """The largest number is read, and is a time that can be shown."""
    assert Tick(shard=WHOLE_MAX, due_ms=0) == wire.decode(tick(WHOLE_MAX))
    assert "9999-12-31T23:59:59Z" == timestamp(WHOLE_MAX)


@pytest.mark.parametrize("number", [WHOLE_MAX + 1, 2**63, 2**64, 10**30, 10**400, -1, -(10**400)])
def test_refused(number: int) -> None:
    """A number that is larger, or negative, makes its message one that is passed over."""
    with pytest.raises(MalformedMessageError, match="shard"):
        wire.decode(tick(number))
