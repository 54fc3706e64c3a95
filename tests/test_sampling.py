"""The order of samples and their randomness: pure functions of (seed, epoch, index)."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from people_set import people_set, records_of

from msposenet.config import AugmentationConfig
from msposenet.data.samples import TrainingSamples
from msposenet.data.sampling import epoch_order, global_batch, rank_share, sample_rng, steps_per_epoch
from msposenet.errors import ConfigError
from msposenet.geometry import Convention


@settings(max_examples=150, deadline=None)
@given(count=st.integers(1, 200), ranks=st.integers(1, 8), per_rank=st.integers(1, 5), epoch=st.integers(0, 3))
def test_all_ranks_together_see_the_same_batches_and_equally_many(count, ranks, per_rank, epoch):
    batch_size = ranks * per_rank
    steps = steps_per_epoch(count, batch_size)
    seen = []
    for step in range(steps):
        whole = global_batch(3, epoch, step, count, batch_size)
        shares = [rank_share(whole, rank, ranks) for rank in range(ranks)]
        assert {len(share) for share in shares} == {per_rank}
        assert np.concatenate(shares).tolist() == whole.tolist()
        seen += whole.tolist()
    if count >= batch_size:
        assert len(set(seen)) == len(seen) == steps * batch_size
    else:
        assert set(seen) <= set(range(count)) and len(seen) == batch_size


def test_orders_differ_by_epoch_and_seed_and_repeat():
    assert epoch_order(1, 0, 50).tolist() == epoch_order(1, 0, 50).tolist()
    assert sorted(epoch_order(1, 0, 50)) == list(range(50))
    orders = {tuple(epoch_order(seed, epoch, 50)) for seed in range(4) for epoch in range(4)}
    assert len(orders) == 16


def test_every_sample_has_its_own_stream():
    draws = {tuple(sample_rng(1, epoch, index).random(3)) for epoch in range(5) for index in range(200)}
    assert len(draws) == 1000
    assert sample_rng(1, 2, 3).random() == sample_rng(1, 2, 3).random()


def test_a_batch_that_does_not_divide_is_refused():
    with pytest.raises(ConfigError, match="does not divide among 3 ranks"):
        rank_share(np.arange(8), 0, 3)


def test_a_sample_depends_on_seed_epoch_and_index_alone():
    records = records_of(people_set())
    make = TrainingSamples(records, (64, 64), Convention.UNBIASED, AugmentationConfig(), seed=5).make
    other = TrainingSamples(records, (64, 64), Convention.UNBIASED, AugmentationConfig(), seed=6).make
    make(0, 4)  # what was made before does not matter
    for found, wanted in zip(make(1, 2), make(1, 2)):
        np.testing.assert_array_equal(found, wanted)
    assert any((a != b).any() for a, b in zip(make(1, 2), make(2, 2)))
    assert any((a != b).any() for a, b in zip(make(1, 2), other(1, 2)))
