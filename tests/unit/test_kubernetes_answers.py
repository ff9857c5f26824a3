"""What the API server's answers mean: each code becomes the error that tells the caller what to do."""

from __future__ import annotations

import json
from typing import Any

import pytest

from everynode.errors import EverynodeError, OutcomeUnknownError, UnavailableError
from everynode_kubernetes import answers
from everynode_kubernetes.answers import Cause, Refusal, error_in_watch, error_of

REQUEST = "POST /api/v1/namespaces/default/pods"


def status(code: int, reason: str, message: str = "it said so", **details: Any) -> bytes:
    """The body of an answer that is no success."""
    document = {"kind": "Status", "code": code, "reason": reason, "message": message}
    return json.dumps({**document, "details": details}).encode()


def refusal(code: int, reason: str, **details: Any) -> Refusal:
    """The refusal that such an answer becomes."""
    error = error_of(REQUEST, code, status(code, reason, **details), writes=True)
    assert isinstance(error, Refusal)
    return error


def properties(error: Refusal) -> set[str]:
    """What a refusal says that it is."""
    names = (
        "is_not_found",
        "already_exists",
        "is_conflict",
        "is_invalid",
        "is_forbidden",
        "namespace_terminating",
        "is_expired",
    )
    return {name for name in names if getattr(error, name)}


@pytest.mark.parametrize(
    ("code", "reason", "expected"),
    [
        (400, "BadRequest", set()),
        (403, "Forbidden", {"is_forbidden"}),
        (404, "NotFound", {"is_not_found"}),
        (409, "AlreadyExists", {"already_exists"}),
        (409, "Conflict", {"is_conflict"}),
        (410, "Expired", {"is_expired"}),
        (410, "Gone", {"is_expired"}),
        (413, "RequestEntityTooLarge", set()),
        (415, "UnsupportedMediaType", set()),
        (422, "Invalid", {"is_invalid"}),
    ],
)
def test_refusals_are_told_apart(code: int, reason: str, expected: set[str]) -> None:
    """A client error is a refusal that knows what kind of refusal it is, and nothing else."""
    error = refusal(code, reason)

    assert (code, reason, expected) == (error.code, error.reason, properties(error))


def test_a_terminating_namespace_is_told_by_its_cause() -> None:
    """A 403 whose cause is NamespaceTerminating is not a matter of rights."""
    cause = {"reason": "NamespaceTerminating", "message": "ns is going", "field": "metadata"}

    error = refusal(403, "Forbidden", causes=[{"reason": "Other"}, cause])

    assert {"is_forbidden", "namespace_terminating"} == properties(error)
    assert (Cause("Other", "", ""), Cause("NamespaceTerminating", "metadata", "ns is going")) == (
        error.causes
    )


def test_a_refusal_names_request_code_reason_and_message() -> None:
    """What people read says what was asked and what the server said to it."""
    error = refusal(422, "Invalid")

    assert f"{REQUEST}: refused with 422 Invalid: it said so" == str(error)
    assert "it said so" == error.message


@pytest.mark.parametrize("writes", [True, False])
@pytest.mark.parametrize("code", [401, 429, 503])
def test_nothing_happened(code: int, *, writes: bool) -> None:
    """Refused for now, before anything was done: the caller may repeat even a write."""
    error = error_of(REQUEST, code, status(code, "Whatever"), writes=writes)

    assert UnavailableError is type(error)
    assert f"{REQUEST}: {code} Whatever: it said so" in str(error)


@pytest.mark.parametrize("code", [408, 500, 502, 504, 599])
@pytest.mark.parametrize(
    ("writes", "expected"), [(True, OutcomeUnknownError), (False, UnavailableError)]
)
def test_a_failing_server_may_have_written(
    code: int, expected: type[EverynodeError], *, writes: bool
) -> None:
    """A server's own error leaves open what became of a write, and says nothing of what was to be read."""
    assert expected is type(error_of(REQUEST, code, b"", writes=writes))


@pytest.mark.parametrize(
    ("header", "seconds", "expected"),
    [
        (None, None, None),
        ("7", None, 7_000),
        (" 7 ", None, 7_000),
        ("0", None, 0),
        ("7", 3, 7_000),
        (None, 3, 3_000),
        ("Wed, 21 Oct 2015 07:28:00 GMT", None, None),
        ("-1", None, None),
        ("1.5", None, None),
        ("²", None, None),
        ("9" * 5000, None, answers.RETRY_AFTER_MS_MAX),
        (None, -3, None),
    ],
)
def test_how_long_the_server_asks_to_wait(
    header: str | None, seconds: int | None, expected: int | None
) -> None:
    """Retry-After counts, else the Status' details; nonsense is no wish, and no wish is honoured without a limit."""
    details: dict[str, Any] = {} if seconds is None else {"retryAfterSeconds": seconds}
    body = status(429, "TooManyRequests", **details)

    error = error_of(REQUEST, 429, body, writes=True, retry_after=header)

    assert isinstance(error, UnavailableError)
    assert expected == error.retry_after_ms


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (b"", "no reason given"),
        (b"404 page\n not   found\n", "404 page not found"),
        (b"\xff\xfe", "\ufffd\ufffd"),
        (b"[1, 2]", "[1, 2]"),
        (b'{"kind": "Pod", "message": "no status"}', '{"kind": "Pod", "message": "no status"}'),
        (b'{"kind": "Status", "details": 3}', '{"kind": "Status", "details": 3}'),
        (b'{"kind": "Status"}', "no reason given"),
    ],
)
def test_an_answer_that_is_no_status(body: bytes, expected: str) -> None:
    """Whatever a proxy says instead of a Status is shown as it is, and the code decides alone."""
    error = error_of(REQUEST, 404, body, writes=False)

    assert isinstance(error, Refusal)
    assert (expected, "", ()) == (error.message, error.reason, error.causes)


def test_messages_and_causes_are_bounded() -> None:
    """B1: a server that quotes a whole object back does not fill the logs and the outcomes."""
    causes = [{"reason": "FieldValueInvalid", "message": "y" * 9_999, "field": "f"}] * 999
    body = status(422, "Invalid", "x" * 99_999, causes=causes)

    error = error_of(REQUEST, 422, body, writes=True)

    assert isinstance(error, Refusal)
    limit = answers.MESSAGE_CHARACTERS_MAX
    assert "x" * limit + "..." == error.message
    assert answers.CAUSES_MAX == len(error.causes)
    assert "y" * limit + "..." == error.causes[0].message


def test_an_error_in_a_watch_carries_its_code_inside() -> None:
    """The Status of an ERROR event is translated by its own code: the HTTP code was 200 long ago."""
    error = error_in_watch("WATCH /api/v1/pods", status(410, "Expired"))

    assert isinstance(error, Refusal)
    assert error.is_expired


@pytest.mark.parametrize("content", [b"null", b"{}", b'"oops"', status(500, "InternalError")])
def test_any_other_error_in_a_watch_is_passing(content: bytes) -> None:
    """What cannot be read as a Status with a code is a failing server, and nothing was written."""
    assert UnavailableError is type(error_in_watch("WATCH /api/v1/pods", content))
