"""A pool of connections to one API server that is closed when it says so.

Made by ``client``. aiohttp ends the connection of a request that is given up with a farewell to the server, and does
not wait for it: closing its pool leaves such connections open, for as long as the server says nothing. Here every
socket is known, so closing can end them all. Nothing here knows what an API server is.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl

import aiohttp

CLOSE_TURNS_MAX = 200
"""How often it is looked whether the last connection has ended; after the first half of them, once in a while only."""
CLOSE_PAUSE_S = 0.01


class Connections:
    """A pool of connections.

    Args:
        limit: How many are open at once.
        tls: How the server proves who it is, and we to it.
    """

    def __init__(self, limit: int, tls: ssl.SSLContext) -> None:
        """Dial nothing yet."""
        self._sockets: set[socket.socket] = set()
        self.connector = aiohttp.TCPConnector(limit=limit, ssl=tls, socket_factory=self._socket)

    @property
    def open_count(self) -> int:
        """How many sockets are open, those included that only wait for the server's farewell."""
        return sum(one.fileno() != -1 for one in self._sockets)

    def _socket(self, address: aiohttp.AddrInfoType) -> socket.socket:
        """Make a socket; aiohttp makes it non-blocking."""
        self._sockets = {one for one in self._sockets if one.fileno() != -1}
        family, kind, protocol, _, _ = address
        made = socket.socket(family=family, type=kind, proto=protocol)
        self._sockets.add(made)
        return made

    async def close(self) -> None:
        """Close all of them; repeating this is harmless."""
        await self.connector.close()
        for one in self._sockets:
            with contextlib.suppress(OSError):  # not connected, or closed
                one.shutdown(socket.SHUT_RDWR)  # whoever reads from it comes to its end
        for turn in range(CLOSE_TURNS_MAX):
            if not self.open_count:
                break
            await asyncio.sleep(0 if turn < CLOSE_TURNS_MAX // 2 else CLOSE_PAUSE_S)
        self._sockets.clear()


def tls_context(
    *,
    ca_file: str | None,
    cert_file: str | None,
    key_file: str | None,
    verify: bool,
    strict: bool,
) -> ssl.SSLContext:
    """Say how a server proves who it is, and we to it.

    Args:
        ca_file: Who may vouch for the server; ``None``: whom this machine trusts.
        cert_file: Our certificate; ``None`` for none.
        key_file: Its key.
        verify: Whether the server has to prove anything.
        strict: Whether certificates must have the extensions that RFC 5280 asks for.

    Raises:
        OSError: A file cannot be read.
        ssl.SSLError: It is no certificate, or no key.
    """
    context = ssl.create_default_context(cafile=ca_file)
    if cert_file:
        context.load_cert_chain(cert_file, keyfile=key_file)
    if not verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    if not strict:
        context.verify_flags &= ~ssl.VERIFY_X509_STRICT
    return context
