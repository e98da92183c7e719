"""The tests of the vLLM engine: skipped where vLLM is not installed (`make test-vllm` has it)."""

import importlib.util
from collections.abc import Iterator
from typing import Any

import pytest


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = [item for item in items if "tests/vllm/" in item.path.as_posix()]
    # This folder passes for a package of that name; the real one has an origin.
    found = importlib.util.find_spec("vllm")
    missing = found is None or found.origin is None
    for item in here:
        item.add_marker(pytest.mark.vllm)
        if missing:
            reason = "vLLM is not installed here: make test-vllm makes an environment that has it"
            item.add_marker(pytest.mark.skip(reason=reason))


@pytest.fixture(scope="module")
def policy() -> Any:
    """A random policy with tied embeddings and a size of attention head that vLLM knows."""
    import scripted

    return scripted.policy(head=32, spread=2.0)


@pytest.fixture(scope="module")
def engine(policy: Any) -> Iterator[Any]:
    """One engine a module (it takes seconds to start), with the policy's weights."""
    from vllm_world import open_vllm

    opened = open_vllm(policy)
    yield opened
    opened.close()
