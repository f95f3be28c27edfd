"""What tests on a network of their own share: the means to make one, or why not, and a training to compare with."""

from __future__ import annotations

import pytest

from tests.network import hosts
from tests.network.faults import undisturbed
from tests.network.records import Result


@pytest.fixture(scope="session", autouse=True)
def means() -> None:
    if reason := hosts.missing():
        pytest.skip(reason)


@pytest.fixture(scope="session")
def baseline(digits: str, tmp_path_factory: pytest.TempPathFactory) -> Result:
    """What the training gives where nothing happens to it."""
    return undisturbed(tmp_path_factory.mktemp("undisturbed"), digits)
