"""The way to an API server that is not reached directly.

The client asks once for each reading of its configuration. It opens no connection.
"""

from __future__ import annotations

import base64
from typing import NamedTuple
from urllib.request import getproxies, proxy_bypass

from yarl import URL


class Proxy(NamedTuple):
    """An HTTP proxy.

    Attributes:
        url: Without credentials.
        headers: What it is told: who we are, if its URL says so.
    """

    url: URL
    headers: dict[str, str]


def proxy_for(server: URL, named: str | None) -> Proxy | None:
    """The proxy on the way to a server, or ``None`` if it is reached directly.

    Args:
        server: The server.
        named: The one that the kubeconfig names; else the environment decides (HTTPS_PROXY, HTTP_PROXY, NO_PROXY).
    """
    if not named:
        named = getproxies().get(server.scheme)
        if not named or proxy_bypass(server.host or ""):
            return None
    url = URL(named if "://" in named else f"http://{named}")
    headers = {}
    if url.user:
        login = base64.b64encode(f"{url.user}:{url.password or ''}".encode()).decode()
        headers["Proxy-Authorization"] = f"Basic {login}"
    return Proxy(url.with_user(None), headers)
