"""Settings shared by all tests: one CPU thread per worker, so that parallel workers do not fight, and fixed seeds."""

import pytest
import torch

torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def fixed_seed():
    """Each test starts from the same random state, whatever ran before it."""
    torch.manual_seed(0)
