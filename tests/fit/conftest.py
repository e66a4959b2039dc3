"""One planner for the tests of a module."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from localknobs.fit.planning import Planning


@pytest.fixture(scope="module")
def planning() -> Iterator[Planning]:
    with Planning() as planning:
        yield planning
