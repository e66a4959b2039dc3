"""Models of real shapes, and machines to fit them into."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from localknobs.fit.cards import GIB
from localknobs.fit.machine import FitMachine
from localknobs.fit.planning import Planning

PROCESSOR = FitMachine(64 * GIB, 60 * GIB, 30e9)


@pytest.fixture(scope="module")
def planning() -> Iterator[Planning]:
    with Planning() as planning:
        yield planning
