"""The headers of messages that are handed over as they come off the connection."""

from __future__ import annotations

import pytest
from nats.aio.client import Client
from nats.aio.msg import Msg

from everynode.runtime.intake import _Taken, read_headers, source_of


@pytest.mark.parametrize(
    ("head", "headers"),
    [
        ("NATS/1.0\r\n\r\n", {}),
        (
            "NATS/1.0\r\nNats-Stream-Source: LOG 7 > >\r\nEmpty:\r\n\r\n",
            {"Nats-Stream-Source": "LOG 7 > >", "Empty": ""},
        ),
        ("NATS/1.0 503\r\n\r\n", {"Status": "503"}),
        ("NATS/1.0 409 No one\r\n\r\n", {"Status": "409", "Description": "No one"}),
        (
            "NATS/1.0 100 Idle Heartbeat\r\nNats-Last-Consumer: 8\r\nNats-Last-Stream:9\r\n\r\n",
            {
                "Status": "100",
                "Description": "Idle Heartbeat",
                "Nats-Last-Consumer": "8",
                "Nats-Last-Stream": "9",
            },
        ),
    ],
)
async def test_headers_are_read_as_the_library_reads_them(
    head: str, headers: dict[str, str]
) -> None:
    """With or without a status line."""
    assert headers == read_headers(head.encode())
    assert headers == (await Client()._process_headers(head.encode()) or {})


@pytest.mark.parametrize(
    "forged",
    [
        "X: y",  # without an end
        "Nats-Stream-Source : LOG 999 > >\r\n",
        "\u00a0Nats-Stream-Source: LOG 999 > >\r\n",
        "Nats-Stream-Source: LOG 999 > >",
    ],
)
def test_where_it_came_from_is_what_the_server_says(forged: str) -> None:
    """S7: the server's own line stands last, and what a publisher writes before it does not count."""
    head = f"NATS/1.0\r\n{forged}Nats-Stream-Source: LOG 7 > >\r\n\r\n"
    assert "LOG 7 > >" == source_of(_Taken("subject", "", b"", head.encode()))


def test_one_that_does_not_say_where_it_came_from() -> None:
    """With headers of another kind, without any, and as the library hands it over."""
    assert not source_of(_Taken("subject", "", b"", b"NATS/1.0\r\nA: b\r\n\r\n"))
    assert not source_of(_Taken("subject", "", b"", None))
    message = Msg(Client(), "subject", "", b"", {"Nats-Stream-Source": "LOG 7 > >"})
    assert "LOG 7 > >" == source_of(message)


def test_what_is_no_header_is_passed_over() -> None:
    """Bytes that are no text, and lines without a colon."""
    assert {"A": "\ufffd"} == read_headers(b"NATS/1.0\r\nnothing\r\nA: \xff\r\n\r\n")
