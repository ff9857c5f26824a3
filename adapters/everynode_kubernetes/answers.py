"""What an answer of the API server that is not a success means for the caller.

Pure: a code, a header and a body go in, an error of this program's tree comes out. The client raises it, the adapter
and the reflector act on it. Nothing here knows how requests are sent.

Rules of the API server's answers: api/meta/v1 Status (apimachinery/pkg/apis/meta/v1/types.go, StatusReason and
CauseType); 429 and 503 come with Retry-After in seconds (apiserver/pkg/server/filters).
"""

from __future__ import annotations

from typing import NamedTuple

import msgspec

from everynode.errors import (
    EverynodeError,
    OutcomeUnknownError,
    RefusedError,
    UnavailableError,
)
from everynode_kubernetes.nesting import decoded

MESSAGE_CHARACTERS_MAX = 500
"""How much of what a server said goes into an error; its answers may quote whole objects."""

CAUSES_MAX = 20
"""How many causes of one refusal are kept."""

RETRY_AFTER_MS_MAX = 300_000
"""The longest wait that a server may ask for; a longer one is cut."""

MS_PER_SECOND = 1000

NAMESPACE_TERMINATING = "NamespaceTerminating"  # CauseType of core/v1, plugin/namespace/lifecycle

_UNAUTHORIZED = 401
_FORBIDDEN = 403
_NOT_FOUND = 404
_REQUEST_TIMEOUT = 408
_CONFLICT = 409
_GONE = 410
_INVALID = 422
_TOO_MANY_REQUESTS = 429
_SERVER_ERROR_FIRST = 500
_SERVICE_UNAVAILABLE = 503


class Cause(NamedTuple):
    """One cause of a refusal (meta/v1 StatusCause).

    Attributes:
        reason: A code, such as ``FieldValueInvalid`` or ``NamespaceTerminating``.
        field: Path of the field that it is about; empty if it is about none.
        message: For people.
    """

    reason: str
    field: str
    message: str


class Refusal(RefusedError):  # noqa: N818 - it reads as what it is: something was refused
    """The API server refused a request for good; unchanged, it will be refused again.

    Args:
        request: What was asked, for people: ``POST /api/v1/namespaces/default/pods``.
        code: HTTP status.
        reason: ``Status.reason``, such as ``AlreadyExists``; empty if the answer was no Status.
        message: What the server said, cut to ``MESSAGE_CHARACTERS_MAX``.
        causes: What the server named one by one, at most ``CAUSES_MAX``.
    """

    def __init__(
        self,
        request: str,
        code: int,
        reason: str = "",
        message: str = "",
        causes: tuple[Cause, ...] = (),
    ) -> None:
        """Keep the parts, so that the caller can tell one refusal from another."""
        super().__init__(f"{request}: refused with {_code_and_reason(code, reason)}: {message}")
        self.code = code
        self.reason = reason
        self.message = message
        self.causes = causes

    @property
    def is_not_found(self) -> bool:
        """What the request was about is not there (or the resource itself is not served)."""
        return self.code == _NOT_FOUND

    @property
    def already_exists(self) -> bool:
        """An object of that name is already there."""
        return self.code == _CONFLICT and self.reason == "AlreadyExists"

    @property
    def is_conflict(self) -> bool:
        """A precondition (uid, resourceVersion) no longer holds: look again."""
        return self.code == _CONFLICT and not self.already_exists

    @property
    def is_invalid(self) -> bool:
        """The object breaks a rule of its kind; ``causes`` names the fields."""
        return self.code == _INVALID

    @property
    def is_of_another_uid(self) -> bool:
        """The object of that name is another one: a precondition failed, or a patch names another uid."""
        changes_uid = any(cause.field == "metadata.uid" for cause in self.causes)
        return self.is_conflict or (self.is_invalid and changes_uid)

    @property
    def is_forbidden(self) -> bool:
        """RBAC, admission or a quota does not allow it."""
        return self.code == _FORBIDDEN

    @property
    def namespace_terminating(self) -> bool:
        """The namespace is being deleted, so nothing can be made in it any more."""
        return self.is_forbidden and any(
            cause.reason == NAMESPACE_TERMINATING for cause in self.causes
        )

    @property
    def is_expired(self) -> bool:
        """A resource version or a continue token is too old: list again."""
        return self.code == _GONE


class _StatusCause(msgspec.Struct):
    """meta/v1 StatusCause."""

    reason: str | None = None
    message: str | None = None
    field: str | None = None


class _StatusDetails(msgspec.Struct, rename="camel"):
    """meta/v1 StatusDetails."""

    causes: list[_StatusCause] | None = None
    retry_after_seconds: int | None = None


class _Status(msgspec.Struct):
    """meta/v1 Status: what the API server answers if it is not with an object."""

    kind: str = ""
    message: str | None = None
    reason: str | None = None
    code: int | None = None
    details: _StatusDetails | None = None


class _ListMetadata(msgspec.Struct):
    """meta/v1 ListMeta."""

    continue_token: str = msgspec.field(name="continue", default="")


class _Page(msgspec.Struct):
    """A list, without its items."""

    metadata: _ListMetadata


_decoder = msgspec.json.Decoder(_Status)
_page_decoder = msgspec.json.Decoder(_Page)


def continue_token_in(page: bytes) -> str:
    """Return the token that the next page of a list is asked for with; empty after the last one.

    Raises:
        msgspec.DecodeError: It is no list.
        UnicodeDecodeError: As well.
    """
    return decoded(_page_decoder, page).metadata.continue_token


def error_of(
    request: str, code: int, body: bytes, *, writes: bool, retry_after: str | None = None
) -> EverynodeError:
    """Translate an answer that is not a success.

    Args:
        request: What was asked, for people: verb and path.
        code: HTTP status, not 2xx.
        body: The answer's body: a Status, or whatever a proxy in between made of it.
        writes: Whether the request would change something.
        retry_after: The header Retry-After, if there was one.

    Returns:
        ``UnavailableError``: nothing happened, or nothing would have; the wait that was asked for is kept.
        ``OutcomeUnknownError``: a write that may have been carried out.
        ``Refusal``: anything else.
    """
    status = _status_in(body)
    wait_ms = _wait_ms(retry_after, status)
    said = _shortened(status.message or "no reason given")
    told = f"{request}: {_code_and_reason(code, status.reason or '')}: {said}"
    if code == _UNAUTHORIZED:
        hint = (
            "the credentials are not accepted (now); they are read again and renewed if they can be"
        )
        return UnavailableError(f"{told}; {hint}", wait_ms)
    if code in {_TOO_MANY_REQUESTS, _SERVICE_UNAVAILABLE}:
        return UnavailableError(told, wait_ms)
    if code >= _SERVER_ERROR_FIRST or code == _REQUEST_TIMEOUT:
        if writes:
            return OutcomeUnknownError(f"{told}; it may have been carried out")
        return UnavailableError(told, wait_ms)
    return Refusal(request, code, status.reason or "", said, _causes_in(status))


def error_in_watch(request: str, status: bytes | msgspec.Raw) -> EverynodeError:
    """Translate the object of a watch event of type ERROR, which is a Status.

    Args:
        request: What was asked, for people: verb and path.
        status: The event's object.
    """
    body = bytes(status)
    return error_of(request, _status_in(body).code or _SERVER_ERROR_FIRST, body, writes=False)


def shortened_text(body: bytes) -> str:
    """What a body says, on one line and short enough for a message."""
    return _shortened(body[: 4 * MESSAGE_CHARACTERS_MAX].decode(errors="replace"))


def _status_in(body: bytes) -> _Status:
    """Read a Status; what is none becomes one whose message is the text."""
    try:
        status = _decoder.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return _Status(message=shortened_text(body))
    return status if status.kind == "Status" else _Status(message=shortened_text(body))


def _causes_in(status: _Status) -> tuple[Cause, ...]:
    """The causes that a Status names, as many as are kept."""
    causes = (status.details and status.details.causes) or []
    return tuple(
        Cause(cause.reason or "", cause.field or "", _shortened(cause.message or ""))
        for cause in causes[:CAUSES_MAX]
    )


def _wait_ms(retry_after: str | None, status: _Status) -> int | None:
    """How long the server asks to wait. The header may also be a date; the API server sends none, so it is ignored."""
    seconds = (status.details and status.details.retry_after_seconds) or None
    if retry_after is not None and retry_after.strip().isdecimal():
        seconds = int(retry_after.strip()[:10])
    if seconds is None or seconds < 0:
        return None
    return min(seconds * MS_PER_SECOND, RETRY_AFTER_MS_MAX)


def _shortened(text: str) -> str:
    """One line, not too long."""
    line = " ".join(text.split())
    return line if len(line) <= MESSAGE_CHARACTERS_MAX else line[:MESSAGE_CHARACTERS_MAX] + "..."


def _code_and_reason(code: int, reason: str) -> str:
    """Read as ``409 AlreadyExists``."""
    return f"{code} {reason}" if reason else str(code)
