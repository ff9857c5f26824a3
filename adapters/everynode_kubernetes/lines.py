"""Cuts a stream of bytes into lines.

A watch is one JSON document a line, of any length: an object may have megabytes. The client feeds it what comes from
the connection. It knows nothing of JSON or HTTP.
"""

from __future__ import annotations

from everynode.errors import UnavailableError

LINE_BYTES_MAX = 64 * 1024 * 1024
"""A longer line is no object: etcd takes about 1.5 MiB for one."""


class Lines:
    """The beginning of a line that has not ended yet.

    Args:
        bytes_max: The longest line that is waited for.
    """

    def __init__(self, bytes_max: int = LINE_BYTES_MAX) -> None:
        """Begin with nothing."""
        self._bytes_max = bytes_max
        self._pieces: list[bytes] = []
        self._bytes = 0

    def feed(self, chunk: bytes) -> list[bytes]:
        """Take the next bytes and return the lines that they complete, without their ends; empty ones are left out.

        Raises:
            UnavailableError: A line is longer than ``bytes_max``.
        """
        *complete, rest = chunk.split(b"\n")
        if complete:
            complete[0] = b"".join([*self._pieces, complete[0]])
            self._pieces.clear()
            self._bytes = 0
        self._pieces.append(rest)
        self._bytes += len(rest)
        if self._bytes > self._bytes_max:
            message = f"a line of a watch is longer than {self._bytes_max} bytes"
            raise UnavailableError(f"{message}; is an API server at that address?")
        return [line for line in complete if line]
