"""The order of samples and their randomness: pure functions of (seed, epoch, index)."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from people_set import people_set, records_of

from msposenet.config import AugmentationConfig
from msposenet.data.samples import TrainingSamples
from msposenet.data.sampling import SampleOrder, epoch_order, rank_share, sample_rng, steps_per_epoch
from msposenet.errors import ConfigError
from msposenet.geometry import Convention


@settings(max_examples=150, deadline=None)
@given(count=st.integers(1, 200), ranks=st.integers(1, 8), per_rank=st.integers(1, 5), epoch=st.integers(0, 3))
def test_all_ranks_together_see_the_same_batches_and_equally_many(count, ranks, per_rank, epoch):
    batch_size = ranks * per_rank
    order = SampleOrder(3, np.zeros(count, np.uint8), [1.0])
    steps = steps_per_epoch(len(order), batch_size)
    seen = []
    for step in range(steps):
        whole = order.batch(epoch, step, batch_size)
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
    with pytest.raises(ConfigError, match="does not divide among 3 workers"):
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


sizes = st.lists(st.integers(1, 60), min_size=1, max_size=4)


@settings(max_examples=150, deadline=None)
@given(sizes=sizes, ranks=st.integers(1, 8), epoch=st.integers(0, 5), grouped=st.booleans(), packed=st.booleans())
def test_every_sample_of_every_set_comes_once_an_epoch(sizes, ranks, epoch, grouped, packed):
    origin = np.repeat(np.arange(len(sizes)), sizes).astype(np.uint8)
    pictures = np.arange(len(origin)) // 3 if grouped else None
    shards = [part for part in np.array_split(np.arange(len(origin)), 5) if len(part)] if packed else None
    order = SampleOrder(9, origin, [1.0] * len(sizes), None if packed else pictures, shards)
    index, occurrence = order.split(order.of(epoch))
    assert sorted(index) == list(range(len(origin))) and not occurrence.any()
    share = [rank_share(order.batch(epoch, 0, ranks), rank, ranks) for rank in range(ranks)]
    assert np.concatenate(share).tolist() == order.batch(epoch, 0, ranks).tolist()


@settings(max_examples=60, deadline=None)
@given(sizes=sizes, weights=st.lists(st.sampled_from([0.25, 0.5, 1.0, 1.7, 3.0]), min_size=4, max_size=4))
def test_weights_say_how_often_a_set_is_met(sizes, weights):
    origin = np.repeat(np.arange(len(sizes)), sizes).astype(np.uint8)
    order = SampleOrder(2, origin, weights[: len(sizes)])
    taken = [max(1, round(weight * size)) for weight, size in zip(weights, sizes)]
    assert len(order) == sum(taken)
    counts = np.zeros(len(origin), int)
    for epoch in range(8):
        codes = order.of(epoch)
        assert len(set(codes.tolist())) == len(codes) == len(order)  # each code has its own augmentation
        index, _ = order.split(codes)
        assert [(origin[index] == i).sum() for i in range(len(sizes))] == taken
        counts += np.bincount(index, minlength=len(origin))
    for i in range(len(sizes)):  # nobody waits while another comes twice more
        of_set = counts[origin == i]
        assert of_set.max() - of_set.min() <= 1


def test_an_occurrence_is_augmented_by_itself():
    draws = {tuple(sample_rng(1, 2, 3, occurrence).random(3)) for occurrence in range(20)}
    assert len(draws) == 20
    assert sample_rng(1, 2, 3, 0).random() == sample_rng(1, 2, 3).random()


def test_persons_of_a_picture_follow_each_other():
    pictures = np.random.default_rng(0).integers(0, 30, 100)
    order = SampleOrder(1, np.zeros(100, np.uint8), [1.0], pictures)
    seen = pictures[order.of(0)]
    assert (np.diff(seen) != 0).sum() + 1 == len(np.unique(pictures))
    assert not np.array_equal(order.of(0), order.of(1))
    assert seen.tolist() != sorted(seen)


def test_a_shard_is_read_from_front_to_back():
    shards = [np.array([3, 0, 4, 1]), np.array([7, 2, 9]), np.array([5, 8, 6])]
    order = SampleOrder(1, np.zeros(10, np.uint8), [1.0], shards=shards)
    starts = set()
    for epoch in range(6):
        codes = order.of(epoch)
        for rows in shards:
            places = [rows.tolist().index(code) for code in codes if code in rows]
            assert places == [(places[0] + step) % len(rows) for step in range(len(rows))]
            starts.add((rows[0], places[0]))
    assert len(starts) > 5  # the place an epoch begins at changes
    assert len({tuple(order.of(epoch)) for epoch in range(6)}) == 6


def test_order_without_weights_is_the_permutation_of_the_epoch():
    order = SampleOrder(4, np.zeros(50, np.uint8), [1.0])
    assert order.of(3).tolist() == epoch_order(4, 3, 50).tolist()
