"""Fixed seeds, and the number of threads put back after every test."""

from __future__ import annotations

import zlib
from collections.abc import Iterator

import hypothesis
import numpy as np
import pytest

import fastsoftmax

SEED = 20_261_123

# Without a deadline: the first example of a dtype may compile its kernel.  Derandomized: a run that
# fails here fails everywhere; `--hypothesis-seed=random --hypothesis-profile=default` explores.
hypothesis.settings.register_profile("fixed", deadline=None, derandomize=True)
hypothesis.settings.load_profile("fixed")


@pytest.fixture(scope="session")
def session_seed() -> int:
    """The one seed of the run: nothing here draws from a global generator."""
    return SEED


@pytest.fixture
def rng(request: pytest.FixtureRequest, session_seed: int) -> np.random.Generator:
    """A generator of the test's own, so that its data depend on no other test and on no order."""
    return np.random.default_rng([session_seed, zlib.crc32(request.node.nodeid.encode())])


@pytest.fixture(autouse=True)
def _threads_put_back() -> Iterator[None]:
    before = fastsoftmax.get_num_threads()
    yield
    fastsoftmax.set_num_threads(before)
