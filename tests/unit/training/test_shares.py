"""Who does what: everything once, evenly."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sdar.policy.micro_batches import plan_micro_batches, split_evenly
from sdar.training.shares import StepShares, deal, slots_of_rank

LENGTHS = st.lists(st.integers(1, 500), min_size=1, max_size=60)


@given(st.integers(1, 200), st.integers(1, 9))
def test_every_slot_is_played_once_and_the_first_rank_plays(slots, ranks):
    shares = [slots_of_rank(slots, ranks, rank) for rank in range(ranks)]
    assert [slot for share in shares for slot in share] == list(range(slots))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1
    assert len(shares[0]) > 0


def test_groups_stay_whole_where_their_number_divides():
    assert [slots_of_rank(4 * 8, 2, rank) for rank in (0, 1)] == [range(16), range(16, 32)]


@given(LENGTHS, st.integers(1, 9))
def test_samples_are_dealt_once_as_many_to_each_and_about_as_long(lengths, ranks):
    shares = deal(lengths, ranks)
    assert sorted(index for share in shares for index in share) == list(range(len(lengths)))
    assert all(share == sorted(share) for share in shares)
    assert max(map(len, shares)) - min(map(len, shares)) <= 1
    tokens = [sum(lengths[index] for index in share) for share in shares]
    assert max(tokens) - min(tokens) <= max(lengths)


def sequences(lengths):
    """Of tokens that many share."""
    return [[n % 3, *range(n - 1)] for n in lengths]


@given(LENGTHS, st.integers(1, 5), st.integers(1, 30), st.booleans())
def test_minibatches_are_those_of_one_process(lengths, ranks, minibatch, share):
    micro_batch = min(4, minibatch)
    settings = {"minibatch": minibatch, "micro_batch": micro_batch, "micro_batch_tokens": 900}
    shares = StepShares.of_step(sequences(lengths), ranks, **settings, share=share)
    assert [part.samples for part in shares.minibatches] == split_evenly(len(lengths), minibatch)
    for part in shares.minibatches:
        computed = [row for plan in part.plans for rows in plan for row in rows]
        assert sorted(computed) == list(part.samples)
        assert part.passes == max(map(len, part.plans))
    assert sorted(row for rows in shares.samples for row in rows) == list(range(len(lengths)))
    for rank, rows in enumerate(shares.samples):
        assert rows == sorted(rows)
        mine = [row for part in shares.minibatches for rows in part.plans[rank] for row in rows]
        assert sorted(mine) == rows, "a sample is scored where it is learnt from"


def test_one_rank_plans_as_ever():
    lengths = [5, 90, 12, 44, 44, 300, 7]
    shares = StepShares.of_step(
        sequences(lengths), 1, minibatch=7, micro_batch=3, micro_batch_tokens=200, share=False
    )
    (part,) = shares.minibatches
    assert part.plans == [plan_micro_batches(lengths, 3, 200)]
    assert part.padding == pytest.approx(1 - sum(lengths) / (3 * 12 + 2 * 44 + 90 + 300))
