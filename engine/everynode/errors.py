"""The exception tree: one leaf for each thing that a caller can do.

    EverynodeError
    ├── InvariantError            a bug in this program: stop and report
    ├── RefusedError              permanent: report it, do not repeat it
    │   ├── InvalidObjectError        a document that a person wrote is wrong; all its problems at once
    │   ├── MalformedMessageError     a message from the bus is wrong; the next ones are unaffected
    │   ├── RecordingError            a recorded log cannot be read, or only in part
    │   └── ConfigurationError        a setting, a server or a stream is not what this program needs
    ├── UnavailableError          transient: wait ``retry_after_ms`` and repeat
    ├── OutcomeUnknownError       it may or may not have happened: look before acting again
    └── StaleError                decided on an old view: read on, then decide again

Every module may import this one; this one imports nothing. Exceptions of libraries are translated
where they are met and chained, so that they never leave the module that uses the library.
"""

from __future__ import annotations

from typing import NamedTuple


class EverynodeError(Exception):
    """Base of everything that this package raises on purpose."""


class InvariantError(EverynodeError):
    """Something that cannot be true was true: a bug in this program, not in its input."""


class RefusedError(EverynodeError):
    """Permanently refused; repeating it unchanged will be refused again."""


class Problem(NamedTuple):
    """One thing that is wrong with an object.

    Attributes:
        field: Path of the field, as kubectl writes it: ``spec.template.spec.tolerations[0].key``.
        message: What was wrong and what to do about it.
    """

    field: str
    message: str

    def __str__(self) -> str:
        """Read as ``field: message``."""
        return f"{self.field}: {self.message}" if self.field else self.message


class InvalidObjectError(RefusedError):
    """A document is refused; ``problems`` lists everything that is wrong with it.

    Args:
        subject: The object, as a person would name it: ``DaemonSet kube-system/fluentd``.
        problems: At least one problem, in the order of the document.
    """

    def __init__(self, subject: str, problems: tuple[Problem, ...]) -> None:
        """Keep the parts, so that ``-o json`` can show them apart."""
        super().__init__(f"{subject}: " + "; ".join(str(problem) for problem in problems))
        self.subject = subject
        self.problems = problems


class MalformedMessageError(RefusedError):
    """A message from the bus cannot be used; it is reported and skipped."""


class RecordingError(RefusedError):
    """A recorded log cannot be read, or only in part; the message says how far it could be."""


class ConfigurationError(RefusedError):
    """A setting, a server or a stream is not what this program needs; the message says what to change."""


class UnavailableError(EverynodeError):
    """The other side cannot answer now.

    Args:
        message: Who could not answer what.
        retry_after_ms: How long the other side asked us to wait; ``None`` if it did not say.
    """

    def __init__(self, message: str, retry_after_ms: int | None = None) -> None:
        """Keep the wait beside the message."""
        super().__init__(message)
        self.retry_after_ms = retry_after_ms


class OutcomeUnknownError(EverynodeError):
    """A call ended without an answer: it may have been carried out."""


class StaleError(EverynodeError):
    """A compare-and-set lost: someone else wrote first.

    Args:
        message: What was refused.
        last_sequence: The sequence that the server named as the last one, if it named one.
    """

    def __init__(self, message: str, last_sequence: int | None = None) -> None:
        """Keep the sequence that the server named."""
        super().__init__(message)
        self.last_sequence = last_sequence
