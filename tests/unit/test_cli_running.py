"""How commands are run and how they end: exit codes, signals, options."""

import asyncio
import inspect
import os
import signal
from typing import Any

import pytest

from everynode.cli.exits import ExitCode, exit_code_of
from everynode.cli.main import COMMANDS
from everynode.cli.options import Target, connected
from everynode.cli.running import beside, run, until_stopped
from everynode.errors import (
    ConfigurationError,
    EverynodeError,
    OutcomeUnknownError,
    StaleError,
    UnavailableError,
)


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (ConfigurationError("x"), ExitCode.REFUSED),
        (StaleError("x"), ExitCode.REFUSED),
        (UnavailableError("x"), ExitCode.NO_ANSWER),
        (OutcomeUnknownError("x"), ExitCode.NO_ANSWER),
    ],
)
def test_exit_code_of_an_error(error: EverynodeError, code: ExitCode) -> None:
    """Only an error that a later try may mend has the code that says so."""
    assert exit_code_of(error) == code


async def wait_for_ever() -> None:
    """A part that never ends by itself."""
    await asyncio.Event().wait()


async def fail() -> None:
    """A part that fails."""
    raise UnavailableError("failed")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_cancels_a_command(number: signal.Signals) -> None:
    """SIGINT, SIGTERM and SIGHUP let a command clean up, and it counts as interrupted."""
    cleaned = []

    async def command() -> ExitCode:
        try:
            os.kill(os.getpid(), number)
            await wait_for_ever()
        finally:
            cleaned.append(number)
        return ExitCode.DONE

    assert run(command()) == ExitCode.INTERRUPTED
    assert cleaned == [number]


def test_a_hangup_that_is_to_be_outlived() -> None:
    """A command that was started to ignore SIGHUP (`nohup`) goes on."""

    async def command() -> ExitCode:
        os.kill(os.getpid(), signal.SIGHUP)
        await asyncio.sleep(0)
        return ExitCode.DONE

    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        assert run(command()) == ExitCode.DONE
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_service_that_is_stopped_has_done_its_work() -> None:
    """What runs until it is stopped ends well when it is."""

    async def command() -> ExitCode:
        os.kill(os.getpid(), signal.SIGTERM)
        await until_stopped(wait_for_ever(), wait_for_ever())
        return ExitCode.DONE

    assert run(command()) == ExitCode.DONE


async def test_a_part_that_fails_ends_the_others() -> None:
    """The error of the part that failed comes out as it is, not in a group."""
    with pytest.raises(UnavailableError, match="failed"):
        await until_stopped(wait_for_ever(), fail())


async def test_a_part_that_fails_ends_the_body() -> None:
    """Beside a part that failed nothing goes on."""
    with pytest.raises(UnavailableError, match="failed"):
        async with beside(wait_for_ever(), fail()):
            await wait_for_ever()


async def test_parts_end_with_the_body() -> None:
    """When the body is done, the parts beside it are stopped; its errors are its own."""
    async with beside(wait_for_ever()):
        pass
    with pytest.raises(ConfigurationError):
        async with beside(wait_for_ever()):
            raise ConfigurationError("mine")


async def test_output_that_cannot_be_written_ends_the_parts() -> None:
    """An error of stdout in the body comes out as it is, so that it ends in one line."""
    with pytest.raises(BrokenPipeError):
        async with beside(wait_for_ever()):
            raise BrokenPipeError


def test_options_of_a_connected_command() -> None:
    """A connected command has its own options and those that say where its fleet is."""

    async def command(target: Target, name: str, *, flag: bool = False) -> ExitCode:
        raise NotImplementedError

    decorated: Any = connected()(command)
    parameters = list(inspect.signature(decorated).parameters)
    assert parameters[:2] == ["name", "flag"]
    assert {"nats", "fleet", "creds", "nkey", "tls_ca", "log_level", "no_color"} < set(parameters)
    assert "target" not in parameters


def test_every_command_has_a_module() -> None:
    """Each command in the table can be imported and has an app."""
    for name, entry in COMMANDS.items():
        module = __import__(f"everynode.cli.{entry.module}", fromlist=["app"])
        assert module.app.registered_commands, name
