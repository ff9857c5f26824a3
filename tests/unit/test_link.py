"""Answers of JetStream's API: whatever comes where one is awaited ends in an answer or in an error of ours."""

import pytest

from everynode.errors import UnavailableError
from everynode.runtime.link import ApiRefusal, read_answer


def test_answer() -> None:
    """What was answered, or how it was refused."""
    assert {"config": {}} == read_answer(b'{"config": {}}')
    with pytest.raises(ApiRefusal, match=r"no such \(JetStream error 10059\)") as refused:
        read_answer(b'{"error": {"code": 404, "err_code": 10059, "description": "no such"}}')
    assert 10059 == refused.value.code


@pytest.mark.parametrize(
    "answer",
    [
        *(b"", b"[]", b"null", b'{"a": "\xff"}', b"[" * 100_000, b'{"a":' * 100_000),
        *(b'{"error": 1}', b'{"error": []}', b'{"error": {"err_code": "x"}}'),
        *(b'{"error": {"err_code": null}}', b'{"error": {"description": 1}}'),
    ],
)
def test_no_answer(answer: bytes) -> None:
    """Who may write to our inbox can send anything there: it is refused, and nothing else happens (S8)."""
    with pytest.raises(UnavailableError, match="cannot be read"):
        read_answer(answer)
