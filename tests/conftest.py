"""What every test gets: compile caches of the session's own, one torch thread."""

import importlib.util
from collections.abc import Iterator

import pytest
from hypothesis import settings

# What else runs on the machine is no property of the code.
settings.register_profile("shared machine", deadline=None)
settings.load_profile("shared machine")


@pytest.fixture(scope="session", autouse=True)
def own_compile_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Nothing of the user's compile caches is read or filled, in this process or in those it starts."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path_factory.mktemp("inductor")))
        patch.setenv("TORCHINDUCTOR_COMPILE_THREADS", "1")
        # Whether the CPU can what it says it can, each process that compiles would try: eight seconds.
        patch.setenv("TORCHINDUCTOR_VEC_ISA_OK", "1")
        if importlib.util.find_spec("torch") is not None:
            import torch

            # Two threads wait for each other at every small operation as soon as anything else runs on the machine.
            torch.set_num_threads(1)
        yield


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--quarter", action="store_true", help="Fewer kills, cheats and hostile files.")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip what needs a GPU where there is none, with the reason."""
    marked = [item for item in items if item.get_closest_marker("cuda")]
    if not marked:
        return
    if importlib.util.find_spec("torch") is None:
        reason = "needs an NVIDIA GPU; torch is not installed"
    else:
        import torch

        if torch.cuda.is_available():
            return
        reason = "needs an NVIDIA GPU; torch finds none here"
    for item in marked:
        item.add_marker(pytest.mark.skip(reason=reason))
