"""Rollouts without surge: within the budget, held where they should be, done in the end; over random histories.

Promises: S1, S2, S3, S6, L1, L2.
"""

from __future__ import annotations

import pytest
from hypothesis import settings
from tests.property.support_rolling import RollingFleet, TroubledFleet

from everynode.core.pacing import Limits

pytestmark = pytest.mark.timeout(600)  # a red run takes its time to find the shortest history


class HurriedFleet(TroubledFleet):
    """The same with little room: commands come a few at a time."""

    limits = Limits(creates_max=2, changes_max=1)
    thrifty = False


TestRollingFleet = RollingFleet.TestCase
TestRollingFleet.settings = settings(stateful_step_count=40)
TestTroubledFleet = TroubledFleet.TestCase
TestTroubledFleet.settings = settings(stateful_step_count=40)
TestHurriedFleet = HurriedFleet.TestCase
TestHurriedFleet.settings = settings(stateful_step_count=40)
