"""A fresh decoder for every test."""

import pytest
from sampled_groups import make_decoder


@pytest.fixture
def decoder():
    """Wide enough in its weights to be far from uniform."""
    return make_decoder()
