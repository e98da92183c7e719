"""The tree of a pass's sequences: every beginning once, and the way back from it."""

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from sdar.policy.micro_batches import KEYS_SHARE, pad_batch, plan_passes
from sdar.policy.prefix_tree import count_nodes, prefix_tree, shared_beginnings
from sdar.training.shares import deal_shared

SEQUENCES = st.lists(st.lists(st.integers(0, 2), min_size=1, max_size=9), min_size=1, max_size=25)


def beginnings(sequences):
    return {tuple(ids[: depth + 1]) for ids in sequences for depth in range(len(ids))}


@given(SEQUENCES, st.randoms(use_true_random=False))
def test_nodes_are_the_distinct_beginnings_and_rows_lead_to_them(sequences, random):
    reads = [[random.randrange(len(ids)) for _ in range(3)] for ids in sequences]
    tree = prefix_tree(sequences, np.array(reads), grouped=random.random() < 0.7)
    ids, depths, paths = tree.ids_N.tolist(), tree.depths_N.tolist(), tree.nodes_UT.tolist()
    assert len(ids) == len(beginnings(sequences)) == count_nodes(sequences)

    for sequence, row in zip(sequences, tree.row_S.tolist(), strict=True):
        path = paths[row][: len(sequence)]
        assert [ids[node] for node in path] == sequence
        assert [depths[node] for node in path] == list(range(len(sequence)))
    attending = [
        (group.paths_GT[row], column if group.depths_GB is None else group.depths_GB[row, column])
        for group in tree.groups
        for row in range(len(group.paths_GT))
        for column in range(group.attending_GB.shape[1])
    ]
    for node, place in enumerate(tree.places_N.tolist()):
        path, depth = attending[place]
        assert path[depth] == node
        assert depths[node] == depth
    met = [tuple(path) for group in tree.groups for path in padded(group.paths_GT, tree)]
    assert sorted(met) == sorted(map(tuple, paths)), "each row attends once"
    rows = {tuple(ids[node] for node in path[: 1 + max_depth(path, depths)]) for path in paths}
    assert len(rows) == len(paths), "no row is there twice"


def padded(paths_GT, tree):
    return torch.nn.functional.pad(
        paths_GT, (0, tree.nodes_UT.shape[1] - paths_GT.shape[1])
    ).tolist()


def max_depth(path, depths):
    """The last place of a row that is no padding."""
    return max(place for place, node in enumerate(path) if depths[node] == place)


@given(SEQUENCES, st.randoms(use_true_random=False))
def test_what_is_read_is_found_once_and_given_to_all(sequences, random):
    reads = [[random.randrange(len(ids)) for _ in range(2)] for ids in sequences]
    tree = prefix_tree(sequences, np.array(reads))
    read = tree.read_M.tolist()
    wanted = {
        tuple(ids[: depth + 1]) for ids, own in zip(sequences, reads, strict=True) for depth in own
    }
    assert len(set(read)) == len(read) == len(wanted)
    paths, row_of = tree.nodes_UT.tolist(), tree.row_S.tolist()
    for sequence, own in enumerate(reads):
        found = [read[number] for number in tree.reads_SR[sequence].tolist()]
        assert found == [paths[row_of[sequence]][depth] for depth in own]
    flat = list(
        zip(
            np.repeat(np.arange(len(paths)), tree.reads_UQ.shape[1]).tolist(),
            tree.read_depths_UQ.flatten().tolist(),
            tree.reads_UQ.flatten().tolist(),
            strict=True,
        )
    )
    for number, place in enumerate(tree.read_places_M.tolist()):
        row, depth, found = flat[place]
        assert found == number
        assert paths[row][depth] == read[number]
    lengths = [1 + max_depth(path, tree.depths_N.tolist()) for path in paths]
    assert all(depth < lengths[row] for row, depth, _ in flat), "padding reads what is there"


@given(SEQUENCES)
def test_equal_beginnings_stand_together(sequences):
    order, shared = shared_beginnings(sequences)
    assert sorted(order) == list(range(len(sequences)))
    ordered = [sequences[index] for index in order]
    assert ordered == sorted(sequences)
    for before, here, same in zip(ordered, ordered[1:], shared[1:], strict=False):
        assert here[:same] == before[:same]
        assert here[same : same + 1] != before[same : same + 1] or same in (len(here), len(before))


@given(SEQUENCES, st.integers(1, 9), st.integers(1, 60))
def test_a_plan_keeps_its_limits_and_computes_no_more_than_without(sequences, samples, tokens):
    plan = plan_passes(sequences, samples, tokens, share=True)
    assert sorted(index for rows in plan for index in rows) == list(range(len(sequences)))
    for rows in plan:
        assert 1 <= len(rows) <= samples
        tree = prefix_tree([sequences[i] for i in rows], np.zeros((len(rows), 1), dtype=np.int64))
        cost = len(tree.ids_N) + KEYS_SHARE * tree.nodes_UT.numel()
        assert len(rows) == 1 or cost <= tokens
    computed = sum(count_nodes([sequences[i] for i in rows]) for rows in plan)
    assert computed <= sum(map(len, sequences))


def test_siblings_meet_in_a_micro_batch():
    skills = [[kind] * 40 for kind in range(4)]
    sequences = [[*skills[i % 4], 10 + i, *range(i % 7)] for i in range(64)]
    shared = plan_passes(sequences, 16, None, share=True)
    assert [{sequences[i][0] for i in rows} for rows in shared] == [{0}, {1}, {2}, {3}]
    computed = [count_nodes([sequences[i] for i in rows]) for rows in shared]
    assert sum(computed) < 0.2 * sum(map(len, sequences))


@given(SEQUENCES, st.integers(1, 6))
def test_ranks_take_runs_of_like_cost(sequences, ranks):
    shares = deal_shared(sequences, ranks)
    assert sorted(index for share in shares for index in share) == list(range(len(sequences)))
    assert all(share == sorted(share) for share in shares)
    order, shared = shared_beginnings(sequences)
    own = {index: len(sequences[index]) - int(n) for index, n in zip(order, shared, strict=True)}
    costs = [sum(own[index] for index in share) for share in shares]
    assert max(costs) - min(costs) <= 2 * max(own.values())


def test_there_is_a_tree_only_where_much_is_shared():
    assert pad_batch([[1, 2]], [[3]], share=True).tree is None
    assert pad_batch([[1, 2]] * 2, [[3]] * 2).tree is None
    alike = [[1, *range(20 * row, 20 * row + 12)] for row in range(5)]
    assert pad_batch(alike, [[3]] * 5, share=True).tree is None
    assert len(pad_batch([[1, 2]] * 2, [[3], [4]], share=True).tree.ids_N) == 2
