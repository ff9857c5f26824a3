"""A real Kubernetes control plane for the tests, or the reason why there is none.

One control plane serves all tests that leave it clean: they take a `namespace` of their own, and nodes of their own
from `control_plane.own_nodes`. A test that stops, kills or reconfigures something takes `start_control_plane`.
"""

from __future__ import annotations

import functools
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path

import pytest
import pytest_asyncio
from tests.kubernetes.support_control_plane import ControlPlane
from tests.kubernetes.support_programs import (
    MissingProgramsError,
    Programs,
    are_required,
    find_programs,
)

StartControlPlane = Callable[..., AbstractAsyncContextManager[ControlPlane]]


@pytest.fixture(scope="session")
def programs() -> Programs:
    """The programs of a control plane; without them the test is skipped, or fails where they are required."""
    try:
        return find_programs()
    except MissingProgramsError as error:
        reason = str(error)
    if are_required():
        pytest.fail(reason)
    pytest.skip(reason)


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def control_plane(
    programs: Programs,  # noqa: ARG001 - skips
    tmp_path_factory: pytest.TempPathFactory,
) -> AsyncIterator[ControlPlane]:
    """A control plane that all tests share, with kwok and without the DaemonSet controller; it must be left clean."""
    async with ControlPlane.start(tmp_path_factory.mktemp("shared")) as plane:
        yield plane


@pytest.fixture
def start_control_plane(
    programs: Programs,  # noqa: ARG001 - skips
    tmp_path: Path,
) -> StartControlPlane:
    """Start a control plane that the test may do anything to; takes what `ControlPlane.start` takes by name."""
    return functools.partial(ControlPlane.start, tmp_path)


@pytest_asyncio.fixture
async def namespace(control_plane: ControlPlane) -> AsyncIterator[str]:
    """A namespace of the test's own on the shared control plane."""
    async with control_plane.namespace() as name:
        yield name
