"""docs/wire.md says what the code does: each of its examples is read, and no kind of message is left out."""

import re
from pathlib import Path
from typing import get_args

import pytest

from everynode.core.commands import BATCH_MESSAGES_MAX, Result, Verb
from everynode.core.identity import shard_of
from everynode.core.values import SetKey
from everynode.runtime.delivering import ACK_WAIT_MS
from everynode.runtime.settings import LOG_MAX_AGE_SECONDS, LOG_MAX_BYTES
from everynode.runtime.streams import BACKEND, SCHEMA, SHARD_COUNT, log_name, state_name
from everynode.wire import (
    KINDS,
    ORPHANS,
    SCHEMA_VERSION,
    TOMBSTONES,
    AnyMessage,
    Subjects,
    decode_from,
)

DOCUMENT = (Path(__file__).parents[2] / "docs" / "wire.md").read_text(encoding="utf-8")
EXAMPLES = re.findall(r"```message\n(\S+)\n(.*?)```", DOCUMENT, flags=re.DOTALL)
SUBJECTS = Subjects("prod", 16)


@pytest.mark.parametrize(("subject", "body"), EXAMPLES, ids=[subject for subject, _ in EXAMPLES])
def test_example(subject: str, body: str) -> None:
    """An example is a message, and stands on its subject."""
    decode_from(SUBJECTS, subject, body.encode())


def test_every_kind() -> None:
    """There is an example of every kind of message."""
    shown = {type(decode_from(SUBJECTS, subject, body.encode())) for subject, body in EXAMPLES}
    assert set(AnyMessage.__args__) == shown
    assert set(TOMBSTONES) <= shown


def test_every_subject() -> None:
    """The table of subjects has every kind of subject, and says which of them STATE keeps."""
    rows = re.findall(
        r"^\| `(\w+)\.[^|]*\|[^|]*\|[^|]*\| (yes|no) \|$", DOCUMENT, flags=re.MULTILINE
    )
    assert rows == [(kind.name, "yes" if kind.kept_in_state else "no") for kind in KINDS]


def test_every_word_of_an_outcome() -> None:
    """It names each verb of a command, and explains each result."""
    assert [verb for verb in get_args(Verb) if f"`{verb}`" not in DOCUMENT] == []
    rows = re.findall(r"^\| `(\w+)` \|[^|]*\|$", DOCUMENT, flags=re.MULTILINE)
    assert rows == list(get_args(Result))


def test_facts() -> None:
    """Names and limits are those of the code."""
    for text in (
        f"`{log_name('<fleet>')}`",
        f"`{state_name('<fleet>')}`",
        f"| `{SCHEMA}` | the schema version of all bodies: `{SCHEMA_VERSION}` |",
        f"`{ORPHANS}` in its place",
        f"`{SHARD_COUNT}`",
        f"`{BACKEND}<name>`",
        f"age ({LOG_MAX_AGE_SECONDS // 86_400} days) and size ({LOG_MAX_BYTES // 2**30} GiB)",
        f"such as `{LOG_MAX_AGE_SECONDS}s`",
        f"at most {BATCH_MESSAGES_MAX:,}",
        f"{ACK_WAIT_MS // 1_000} seconds to acknowledge",
        f"`default/web` is in shard {shard_of(SetKey('default', 'web'), 16)}",
    ):
        assert text in DOCUMENT
