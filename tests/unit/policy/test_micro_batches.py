"""Padding, micro-batches and minibatches."""

from hypothesis import given
from hypothesis import strategies as st

from sdar.policy.micro_batches import pad_batch, padding_share, plan_micro_batches, split_evenly

LENGTHS = st.lists(st.integers(1, 60), min_size=1, max_size=80)


@given(LENGTHS, st.integers(1, 12), st.integers(1, 300))
def test_plan_covers_every_sample_once_within_its_limits(lengths, samples, tokens):
    plan = plan_micro_batches(lengths, samples, tokens)
    assert sorted(index for rows in plan for index in rows) == list(range(len(lengths)))
    for rows in plan:
        assert 1 <= len(rows) <= samples
        assert len(rows) == 1 or len(rows) * max(lengths[i] for i in rows) <= tokens
    widest = [max(lengths[i] for i in rows) for rows in plan]
    assert widest == sorted(widest)
    assert 0 <= padding_share(lengths, plan) < 1


def test_sorting_by_length_leaves_little_padding():
    lengths = [130 + (i * i * 31) % 120 for i in range(700)]
    plan = plan_micro_batches(lengths, 64, 4096)
    assert padding_share(lengths, plan) < 0.03
    unsorted = [list(rows) for rows in split_evenly(700, 16)]
    assert padding_share(lengths, unsorted) > 0.15


@given(st.integers(0, 2000), st.integers(1, 300))
def test_minibatches_are_in_order_and_of_like_size(count, most):
    parts = split_evenly(count, most)
    assert [i for part in parts for i in part] == list(range(count))
    sizes = [len(part) for part in parts]
    assert all(0 < size <= most for size in sizes)
    assert not sizes or max(sizes) - min(sizes) <= 1
    assert len(parts) == -(-count // most)


def test_pad_batch():
    batch = pad_batch([[1, 2, 3], [4]], [[5, 6], [7, 8, 9]])
    assert batch.input_ids_ST.tolist() == [[1, 2, 3, 5], [4, 7, 8, 0]]
    assert batch.positions_SR.tolist() == [[2, 3, 3], [0, 1, 2]]
    assert batch.targets_SR.tolist() == [[5, 6, 0], [7, 8, 9]]
    assert batch.mask_SR.tolist() == [[True, True, False], [True, True, True]]
