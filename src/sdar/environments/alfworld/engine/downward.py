"""Copies of fast-downward's library, one per episode that is alive.

The library keeps its state in global variables, so each episode needs a copy loaded from a file of
its own. Copies are never unloaded, because `fast_downward.close_lib` crashes the process (at its
end, or at the next copy's loading): whoever is done gives his copy to the next one.
"""

import contextlib
import ctypes
import struct
import tempfile
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

from sdar.environments.alfworld.engine.textworld_api import load_stack


class DownwardLibrary:
    """The part of the planner's library that steps a game."""

    def __init__(self) -> None:
        self._downward = load_stack().fast_downward
        self._lib: Any = _load_copy()
        self._operators: Any = (self._downward.Operator * 128)()
        self._effects: Any = (self._downward.Atom * 32)()

    def load_sas(self, sas: bytes) -> None:
        """Start the game: also how an episode is reset."""
        self._lib.load_sas(sas)

    def state_atoms(self) -> list[str]:
        """The value of every state variable, as text."""
        atoms = (self._downward.Atom * self._lib.get_state_size())()
        self._lib.get_state(atoms)
        return [atom.name for atom in atoms]

    def applicable(self) -> list[tuple[int, Any]]:
        """(number, record) of each applicable operator, in the library's order.

        Records are overwritten by the next call.
        """
        count = self._lib.get_applicable_operators_count()
        if count > len(self._operators):
            self._operators = (self._downward.Operator * (2 * count))()
        self._lib.get_applicable_operators(
            ctypes.cast(self._operators, self._lib.get_applicable_operators.argtypes[0])
        )
        records = self._operators
        return [(records[i].id, records[i]) for i in range(count)]

    def apply(self, number: int, effects: int) -> list[str]:
        """Apply an operator with `effects` effect atoms; the atoms as text, in order."""
        if effects > len(self._effects):
            self._effects = (self._downward.Atom * (2 * effects))()
        self._lib.apply_operator(
            number, ctypes.cast(self._effects, self._lib.apply_operator.argtypes[1])
        )
        return [self._effects[i].name for i in range(effects)]

    def goal_reached(self) -> bool:
        return bool(self._lib.check_goal())


_SPARE: list[DownwardLibrary] = []


def take_library() -> DownwardLibrary:
    """A copy nobody plays on; `give_library` hands it back."""
    return _SPARE.pop() if _SPARE else DownwardLibrary()


def give_library(library: DownwardLibrary) -> None:
    _SPARE.append(library)


@contextlib.contextmanager
def borrowed_library() -> Iterator[DownwardLibrary]:
    """A copy for a moment: loading a game needs one."""
    library = take_library()
    try:
        yield library
    finally:
        give_library(library)


def _load_copy() -> Any:
    """A fresh copy, loaded by `fast_downward.load_lib` from a file without debug information.

    Built from source, as pip does, the library is 34 MB, of which 1 MB is ever loaded; copying
    all of it takes .07 s an episode.
    """
    interface = load_stack().fast_downward.interface
    original = interface.DOWNWARD_LIB_PATH
    trimmed = _loadable_part(str(original))
    if trimmed is None:
        return interface.load_lib()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "libdownward.so"
        path.write_bytes(trimmed)
        interface.DOWNWARD_LIB_PATH = str(path)
        try:
            return interface.load_lib()
        finally:
            interface.DOWNWARD_LIB_PATH = original


@lru_cache(maxsize=1)
def _loadable_part(path: str) -> bytes | None:
    """The library up to the end of its last loaded segment; None when it is not 64-bit ELF.

    The dynamic linker reads program headers only; what follows the last segment (sections, symbols
    for the debugger) is never mapped.
    """
    data = Path(path).read_bytes()
    little_endian_64 = b"\x7fELF\x02\x01"
    if not data.startswith(little_endian_64):
        return None
    (table,) = struct.unpack_from("<Q", data, 32)
    entry_size, entries = struct.unpack_from("<HH", data, 54)
    end = table + entry_size * entries
    for entry in range(entries):
        kind, _, offset, _, _, size = struct.unpack_from(
            "<IIQQQQ", data, table + entry * entry_size
        )
        if kind == 1:  # PT_LOAD
            end = max(end, offset + size)
    return data[:end]
