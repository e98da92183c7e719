"""What may be remembered between games: translations, parsed grammars, loaded games.

Nothing of textworld is patched; the fast engine is our own reading of the game on top of
fast-downward's library, and these caches sit beside it. The stock engine stays untouched in the
same process, which is what the equality test compares with.

The PDDL to SAS translation is 85 % of the stock engine's load and of its reset. It is done here
once per game (a reset reuses it), without the second, planner-only translation, and with the
garbage collector paused: it allocates millions of small objects and frees none of them before its
end.
"""

import contextlib
import gc
import sys
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator
from typing import Any, Generic, TypeVar

from sdar.environments.alfworld.engine.textworld_api import load_stack

Value = TypeVar("Value")


@contextlib.contextmanager
def paused_collector() -> Iterator[None]:
    """No garbage collection inside (about a third of the translation's time)."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


@contextlib.contextmanager
def kept_interpreter_state() -> Iterator[None]:
    """`sys.argv` and `sys.stdout` are the same afterwards: the translator overwrites both."""
    argv, stdout = sys.argv, sys.stdout
    try:
        yield
    finally:
        sys.argv, sys.stdout = argv, stdout


def translate(domain: str, problem: str) -> tuple[Any, bytes]:
    """The parsed task and its SAS text, as `fast_downward.pddl2sas` gives them."""
    with kept_interpreter_state(), paused_collector():
        task, sas = load_stack().fast_downward.pddl2sas(domain, problem)
    return task, sas.encode("utf-8")


class BoundedCache(Generic[Value]):
    """Least recently used entries leave when their total weight exceeds `limit`.

    The newest entry always stays, however heavy.
    """

    def __init__(self, limit: int, weight: Callable[[Value], int]) -> None:
        self._limit = limit
        self._weight = weight
        self._entries: OrderedDict[Hashable, Value] = OrderedDict()
        self._total = 0

    def __len__(self) -> int:
        return len(self._entries)

    def __contains__(self, key: Hashable) -> bool:
        return key in self._entries

    def get_or_make(self, key: Hashable, make: Callable[[], Value]) -> Value:
        """The entry of `key`, made when absent; it becomes the most recently used."""
        if key in self._entries:
            self._entries.move_to_end(key)
            return self._entries[key]
        value = make()
        self._entries[key] = value
        self._total += self._weight(value)
        while self._total > self._limit and len(self._entries) > 1:
            _, dropped = self._entries.popitem(last=False)
            self._total -= self._weight(dropped)
        return value
