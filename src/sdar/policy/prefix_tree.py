"""The sequences of a pass as a tree: what several of them begin with is one path in it.

A node is a token after all those before it; equal beginnings are the same nodes, whatever they come
from (a skill, a group's first prompt, words that every prompt has). A causal model gives a node one
hidden state, however many sequences go through it, so that a pass need only compute nodes.

Shape suffixes: S sequences, N nodes, M nodes that are read, U rows (sequences that are no beginning
of another one), G rows of a group, T tokens of a padded row, B own tokens of a padded row, Q reads
of a padded row, R reads of a padded sequence.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Array = NDArray[np.int64]


@dataclass(frozen=True)
class RowGroup:
    """Rows that attend together: with all their nodes, or with their own alone."""

    paths_GT: Tensor
    """Their nodes; 0 on padding."""
    depths_GB: Tensor | None = None
    """Where in them the nodes are that attend; the row's last one again on padding. None: all."""

    @property
    def attending_GB(self) -> Tensor:
        """The nodes that attend."""
        if self.depths_GB is None:
            return self.paths_GT
        return self.paths_GT.gather(1, self.depths_GB)

    def to(self, device: torch.device | str) -> "RowGroup":
        """The same on a device."""
        depths_GB = None if self.depths_GB is None else self.depths_GB.to(device)
        return RowGroup(self.paths_GT.to(device), depths_GB)


@dataclass(frozen=True)
class PrefixTree:
    """Nodes are numbered row after row, each row's own behind those that it shares."""

    ids_N: Tensor
    """Token ids."""
    depths_N: Tensor
    """Tokens before the node: its position."""
    nodes_UT: Tensor
    """The path of each row; 0 on padding."""
    groups: tuple[RowGroup, ...]
    """The rows as they attend."""
    places_N: Tensor
    """Where a node attends: in the nodes of all groups, flattened, one group behind the other."""
    read_M: Tensor
    """The nodes that are read."""
    read_depths_UQ: Tensor
    """The depths of those that are met first in each row; of its last token on padding."""
    reads_UQ: Tensor
    """Which of the M they are; 0 on padding."""
    read_places_M: Tensor
    """Where in `reads_UQ`, flattened, each of the M is."""
    reads_SR: Tensor
    """Of each sequence, which of the M it reads."""
    row_S: Tensor
    """The row of which each sequence is a beginning, or all."""

    def to(self, device: torch.device | str) -> "PrefixTree":
        """The same on a device."""
        held = {name: getattr(self, name) for name in self.__annotations__ if name != "groups"}
        moved = {name: tensor.to(device) for name, tensor in held.items()}
        return PrefixTree(groups=tuple(group.to(device) for group in self.groups), **moved)


WORTH = 0.9
"""Nodes per token up to which a tree is worth its own work and memory (a layer's keys, values and
queries are laid out as rows, its result as nodes)."""
OWN_SHARES = (0.25, 0.5, 0.75)
"""Rows whose own nodes are up to such a share of the longest row attend together."""


def worthwhile_tree(
    sequences: Sequence[Sequence[int]], positions_SR: Array, device: torch.device | str
) -> PrefixTree | None:
    """The tree, on a device, of sequences that begin alike often enough; None of others."""
    if len(sequences) < 2:
        return None
    # On a GPU, attention with a mask is slower than some queries too many.
    grouped = torch.device(device).type == "cpu"
    tree = prefix_tree(sequences, positions_SR, grouped=grouped)
    return tree.to(device) if len(tree.ids_N) <= WORTH * sum(map(len, sequences)) else None


def prefix_tree(
    sequences: Sequence[Sequence[int]], positions_SR: Array, *, grouped: bool = False
) -> PrefixTree:
    """The tree of sequences, none of them empty, of which `positions_SR` are read. `grouped`: rows
    attend with their own nodes, which needs a mask, and not with those that they share."""
    order, shared = shared_beginnings(sequences)
    lengths = np.array([len(sequences[i]) for i in order])
    # A sequence is a row of its own unless the next one begins with all of it.
    ends = np.append(shared[1:] < lengths[:-1], True)
    row_S = np.empty(len(order), dtype=np.int64)
    row_S[order] = np.append(0, np.cumsum(ends)[:-1])
    rows = np.flatnonzero(ends)
    # What a row shares with the row before is what all sequences from there to here share.
    starts = np.append(0, rows[:-1] + 1)
    begins_U = np.minimum.reduceat(shared, starts)
    lengths_U = lengths[rows]

    width = int(lengths_U.max())
    ids_UT = np.zeros((len(rows), width), dtype=np.int64)
    for row, place in enumerate(rows):
        ids_UT[row, : lengths_U[row]] = sequences[order[place]]
    columns = np.arange(width)
    real_UT = columns < lengths_U[:, None]
    new_UT = real_UT & (columns >= begins_U[:, None])
    numbers_UT = np.cumsum(new_UT).reshape(new_UT.shape) - 1
    # A token that is not the row's own is that of the last row above which has it.
    owner_UT = np.maximum.accumulate(np.where(new_UT, np.arange(len(rows))[:, None], 0), axis=0)
    nodes_UT = np.where(real_UT, np.take_along_axis(numbers_UT, owner_UT, axis=0), 0)
    places_N = np.flatnonzero(new_UT)
    groups, attending_N = [RowGroup(torch.from_numpy(nodes_UT))], places_N
    if grouped:
        groups, attending_N = _groups(nodes_UT, begins_U, lengths_U, places_N)

    read_N = np.zeros(len(places_N), dtype=bool)
    nodes_SR = nodes_UT[row_S[:, None], positions_SR]
    read_N[nodes_SR] = True
    read_UT = new_UT & read_N[nodes_UT]
    most = int(read_UT.sum(axis=1).max())
    # A row's reads first, in order.
    depths_UQ = np.sort(np.where(read_UT, columns, width), axis=1)[:, :most]
    read_UQ = depths_UQ < width
    reads_UQ = np.where(read_UQ, np.cumsum(read_UQ).reshape(read_UQ.shape) - 1, 0)
    arrays = (
        ids_UT.reshape(-1)[places_N],
        places_N % width,
        nodes_UT,
        attending_N,
        np.flatnonzero(read_N),
        np.where(read_UQ, depths_UQ, lengths_U[:, None] - 1),
        reads_UQ,
        np.flatnonzero(read_UQ),
        (np.cumsum(read_N) - 1)[nodes_SR],
        row_S,
    )
    ids_N, depths_N, paths_UT, *rest = (
        torch.from_numpy(np.ascontiguousarray(array)) for array in arrays
    )
    return PrefixTree(ids_N, depths_N, paths_UT, tuple(groups), *rest)


def _groups(
    nodes_UT: Array, begins_U: Array, lengths_U: Array, places_N: Array
) -> tuple[list[RowGroup], Array]:
    """Groups of rows with about as many own nodes, and where in them each node attends."""
    own_U, width = lengths_U - begins_U, nodes_UT.shape[1]
    kind_U = np.searchsorted(np.array(OWN_SHARES) * width, own_U)
    row_N, depth_N = np.divmod(places_N, width)
    groups, attending_N, before = [], np.empty_like(places_N), 0
    for kind in np.unique(kind_U):
        rows_G = np.flatnonzero(kind_U == kind)
        paths_GT = nodes_UT[rows_G, : lengths_U[rows_G].max()]
        if kind == len(OWN_SHARES):
            group, most, begins_G = RowGroup(torch.from_numpy(paths_GT)), paths_GT.shape[1], None
        else:
            most, begins_G = int(own_U[rows_G].max()), begins_U[rows_G, None]
            depths_GB = np.minimum(begins_G + np.arange(most), lengths_U[rows_G, None] - 1)
            group = RowGroup(torch.from_numpy(paths_GT), torch.from_numpy(depths_GB))
        groups.append(group)
        place_U = np.full(len(own_U), -1)
        place_U[rows_G] = np.arange(len(rows_G))
        here_N = place_U[row_N] >= 0
        columns = depth_N if begins_G is None else depth_N - begins_U[row_N]
        attending_N[here_N] = (before + place_U[row_N] * most + columns)[here_N]
        before += len(rows_G) * most
    return groups, attending_N


def shared_beginnings(sequences: Sequence[Sequence[int]]) -> tuple[list[int], Array]:
    """The numbers of the sequences in lexicographic order, so that equal beginnings stand together,
    and how many tokens each begins with that the one before begins with, too."""
    order = sorted(range(len(sequences)), key=lambda i: tuple(sequences[i]))
    shared = np.zeros(len(order), dtype=np.int64)
    before = np.zeros(0, dtype=np.int64)
    for place, number in enumerate(order):
        here = np.asarray(sequences[number], dtype=np.int64)
        least = min(len(before), len(here))
        unequal = np.flatnonzero(before[:least] != here[:least])
        shared[place] = unequal[0] if len(unequal) else least
        before = here
    return order, shared


def count_nodes(sequences: Sequence[Sequence[int]]) -> int:
    """Nodes of the sequences' tree."""
    _, shared = shared_beginnings(sequences)
    return sum(map(len, sequences)) - int(shared.sum())
