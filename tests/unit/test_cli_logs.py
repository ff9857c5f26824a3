"""What the log of a process may show."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import structlog

from everynode.cli.logs import configure


@pytest.fixture(autouse=True)
def _restored() -> Iterator[None]:
    """Leave structlog as it was."""
    yield
    structlog.reset_defaults()


@pytest.mark.parametrize("log_format", ["json", "console"])
def test_a_traceback_shows_no_values(capsys: pytest.CaptureFixture[str], log_format: str) -> None:
    """A traceback says where something failed, and never what variables held: templates with secrets are in them."""
    configure("info", log_format)
    template = {"pass" + "word-of-a-template": 1}

    try:
        template["nothing"] += int("x")
    except KeyError:
        structlog.get_logger().exception("failed")

    written = capsys.readouterr().err
    assert "KeyError" in written
    assert "test_a_traceback_shows_no_values" in written
    assert "password-of-a-template" not in written
