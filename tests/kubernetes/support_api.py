"""The Kubernetes API in raw JSON, for tests: who one is, and requests and watches as that one.

It is independent of the adapter under test on purpose, so that an error there cannot hide itself here.
"""

from __future__ import annotations

import base64
import json
import ssl
import subprocess
from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import aiohttp

from everynode_kubernetes.connections import Connections

CONNECTIONS_MAX = 64
REQUEST_SECONDS_MAX = 30
EVENT_BYTES_MAX = 4 * 1024**2
PATCH_KINDS = {
    "merge": "application/merge-patch+json",
    "strategic": "application/strategic-merge-patch+json",
    "json": "application/json-patch+json",
}

Json = dict[str, Any]


class ApiError(Exception):
    """The API server said no; it has the HTTP status, the headers and the body of the answer."""

    def __init__(self, request: str, status: int, headers: Mapping[str, str], body: str) -> None:
        """Say what was asked and what was answered."""
        super().__init__(f"{request}: {status} {body}")
        self.status = status
        self.headers = headers
        self.body = body


@dataclass(frozen=True)
class Identity:
    """Who a client is, towards which server: with a client certificate, or with a bearer token."""

    server: str
    authority: Path
    certificate: Path | None = None
    key: Path | None = None
    token: str | None = None

    def tls(self) -> ssl.SSLContext:
        """What a connection of this client needs; the server's certificate is verified."""
        context = ssl.create_default_context(cafile=str(self.authority))
        if self.certificate is not None:
            context.load_cert_chain(self.certificate, self.key)
        return context

    def write_kubeconfig(self, path: Path) -> Path:
        """Write a kubeconfig that is complete in itself, and return its path."""
        user: dict[str, str] = {}
        if self.token is not None:
            user["token"] = self.token
        if self.certificate is not None and self.key is not None:
            user["client-certificate-data"] = _base64(self.certificate)
            user["client-key-data"] = _base64(self.key)
        cluster = {"server": self.server, "certificate-authority-data": _base64(self.authority)}
        config = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "test", "cluster": cluster}],
            "users": [{"name": "test", "user": user}],
            "contexts": [{"name": "test", "context": {"cluster": "test", "user": "test"}}],
            "current-context": "test",
        }
        path.write_text(json.dumps(config, indent=1))  # JSON is YAML
        path.chmod(0o600)
        return path


class Authority:
    """The certificate authority of one run, and what it signs.

    Args:
        program: The program `certificates` of the control plane.
        directory: Where keys and certificates are.
    """

    def __init__(self, program: Path, directory: Path) -> None:
        """Make the authority's own keys."""
        self.directory = directory
        self._program = program
        directory.mkdir(parents=True, exist_ok=True)
        self._run("authority", directory)

    @property
    def certificate(self) -> Path:
        """What verifies everything that the authority signed."""
        return self.directory / "ca.crt"

    @property
    def service_accounts_key(self) -> Path:
        """The key that signs service accounts' tokens."""
        return self.directory / "service-accounts.key"

    def server(self, name: str) -> tuple[Path, Path]:
        """A certificate and its key, for a server on 127.0.0.1 or localhost, any port."""
        self._run("server", self.directory, name)
        return self.directory / f"{name}.crt", self.directory / f"{name}.key"

    def client(self, server: str, user: str, groups: Sequence[str] = ()) -> Identity:
        """A user with a client certificate; who has one already gets another one."""
        name = f"client-{len(list(self.directory.glob('client-*.crt')))}"
        self._run("client", self.directory, name, user, *groups)
        certificate, key = self.directory / f"{name}.crt", self.directory / f"{name}.key"
        return Identity(server, self.certificate, certificate, key)

    def _run(self, *args: str | Path) -> None:
        subprocess.run([self._program, *args], check=True, timeout=REQUEST_SECONDS_MAX)


class Api:
    """Requests to one API server as one identity; an async context manager."""

    def __init__(self, identity: Identity) -> None:
        """Connect to nothing yet."""
        self._identity = identity
        self._session: aiohttp.ClientSession | None = None
        self._connections: Connections | None = None

    async def __aenter__(self) -> Self:
        """Open the pool of connections."""
        token = self._identity.token
        self._connections = Connections(CONNECTIONS_MAX, self._identity.tls())
        self._session = aiohttp.ClientSession(
            self._identity.server,
            connector=self._connections.connector,
            headers={"Authorization": f"Bearer {token}"} if token else {},
            read_bufsize=EVENT_BYTES_MAX,
        )
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close all connections."""
        await self.session.close()
        if self._connections is not None:
            await self._connections.close()

    @property
    def session(self) -> aiohttp.ClientSession:
        """The pool of connections."""
        if self._session is None:
            raise RuntimeError("use it as `async with`")
        return self._session

    async def get(self, path: str, **params: str | int) -> Json:
        """Read an object or a list; the parameters go into the query."""
        return await self._json("GET", path, params=params)

    async def create(self, path: str, body: Mapping[str, Any], **params: str | int) -> Json:
        """Create an object in a collection."""
        return await self._json("POST", path, params=params, body=body)

    async def replace(self, path: str, body: Mapping[str, Any], **params: str | int) -> Json:
        """Replace an object."""
        return await self._json("PUT", path, params=params, body=body)

    async def patch(
        self, path: str, body: object, kind: str = "merge", **params: str | int
    ) -> Json:
        """Change an object; the kind is `merge`, `strategic` or `json`."""
        content_type = PATCH_KINDS[kind]
        return await self._json("PATCH", path, params=params, body=body, content_type=content_type)

    async def delete(
        self, path: str, options: Mapping[str, Any] | None = None, **params: str | int
    ) -> Json:
        """Delete an object or a collection; the options are the body of the request."""
        return await self._json("DELETE", path, params=params, body=options)

    async def watch(self, path: str, **params: str | int) -> AsyncGenerator[Json]:
        """The events of a watch until the server ends it; an event of type ERROR comes as any other."""
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=REQUEST_SECONDS_MAX)
        query = {key: str(value) for key, value in {"watch": 1, **params}.items()}
        async with self.session.get(path, params=query, timeout=timeout) as answer:
            if answer.status >= 400:
                body = await answer.text()
                raise ApiError(f"watch {path}", answer.status, answer.headers, body)
            async for line in answer.content:
                yield json.loads(line)

    async def _json(
        self,
        method: str,
        path: str,
        *,
        params: Mapping[str, str | int],
        body: object = None,
        content_type: str = "application/json",
    ) -> Json:
        answer = await self.raw(method, path, params=params, body=body, content_type=content_type)
        decoded: Json = json.loads(answer)
        return decoded

    async def raw(
        self,
        method: str,
        path: str,
        *,
        params: Mapping[str, str | int] | None = None,
        body: object = None,
        content_type: str = "application/json",
    ) -> bytes:
        """Any request, and the bytes of its answer.

        Raises:
            ApiError: The server answered with an error.
        """
        async with self.session.request(
            method,
            path,
            params={key: str(value) for key, value in (params or {}).items()},
            data=None if body is None else json.dumps(body),
            headers={"Content-Type": content_type},
            timeout=aiohttp.ClientTimeout(total=REQUEST_SECONDS_MAX),
        ) as answer:
            content = await answer.read()
            if answer.status >= 400:
                body_text = content.decode(errors="replace")
                raise ApiError(f"{method} {path}", answer.status, answer.headers, body_text)
            return content


def _base64(path: Path) -> str:
    return base64.b64encode(path.read_bytes()).decode()
