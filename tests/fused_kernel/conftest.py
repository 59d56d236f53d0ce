import importlib.util

import pytest


@pytest.fixture(autouse=True)
def triton_is_there() -> None:
    """The CPU build of torch does not bring triton."""
    if importlib.util.find_spec("triton") is None:
        pytest.skip("needs triton: `nox -s tests_triton` has it")
