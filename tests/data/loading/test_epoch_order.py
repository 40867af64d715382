"""Which image stands where in an epoch: permutations, weights, partners within reach, groups of like aspect."""

import numpy as np
import pytest

from data.loading.epoch_order import STRIDE, WINDOW, AspectOrder, EpochOrder, resample


def _all(order: EpochOrder, epoch: int) -> list[int]:
    return order.at(epoch, range(len(order)))


def test_an_epoch_is_a_permutation_of_its_own():
    order = EpochOrder(50, seed=3)
    assert sorted(_all(order, 0)) == list(range(50)) == sorted(_all(order, 7))
    assert _all(order, 0) != _all(order, 1) != _all(EpochOrder(50, seed=4), 1)
    assert _all(EpochOrder(50, seed=3), 1) == _all(order, 1)


def test_any_epoch_can_be_asked_whichever_is_set():
    order = EpochOrder(50, seed=3)
    before = [_all(order, e) for e in range(4)]
    for epoch in (2, 1, 3):
        order.set_epoch(epoch)
        assert order.epoch == epoch and [_all(order, e) for e in range(4)] == before
        assert [order[p] for p in range(50)] == before[epoch]


def test_weights_count_from_the_next_epoch_on():
    order = EpochOrder(40, seed=0)
    order.set_epoch(1)
    plain = _all(order, 1)
    weights = np.linspace(0, 2, 40)
    order.set_weights(weights)
    assert _all(order, 1) == plain and order.weights is None
    order.set_epoch(1)
    heavy = _all(order, 1)
    assert heavy != plain and 0 not in heavy and np.array_equal(order.weights, weights)
    assert _all(EpochOrder(40, seed=0, weights=weights), 1) == heavy  # as in a run that was resumed
    other = _all(order, 5)
    order.set_weights(None)
    order.set_epoch(1)
    assert _all(order, 1) == plain and _all(order, 5) != other


@pytest.mark.parametrize("seed", range(5))
def test_an_image_stands_as_often_as_it_weighs(seed):
    rng = np.random.default_rng(seed)
    weights = rng.random(97) ** 4 * (rng.random(97) < 0.8)
    want = weights / weights.sum() * 97
    counts = np.bincount(resample(weights, rng.random()), minlength=97)
    assert counts.sum() == 97 and (np.floor(want) <= counts).all() and (counts <= np.ceil(want)).all()
    assert resample(np.ones(97), rng.random()).tolist() == list(range(97))


@pytest.mark.parametrize("wrong", [np.ones(3), -np.ones(4), np.zeros(4), np.full(4, np.nan)])
def test_weights_that_say_nothing_are_refused(wrong):
    with pytest.raises(ValueError, match=r"\(4,\)"):
        EpochOrder(4, 0, wrong)


def test_forked_workers_see_what_was_set():
    import multiprocessing

    order = EpochOrder(30, seed=1)
    order.set_weights(np.arange(30))
    context = multiprocessing.get_context("fork")
    order.set_epoch(2)
    asked, answer = context.Pipe()
    worker = context.Process(target=lambda: (answer.recv(), answer.send(_all(order, order.epoch))))
    worker.start()
    order.set_epoch(9)  # after the fork
    asked.send(None)
    assert asked.recv() == _all(order, 9)
    worker.join()


def test_partners_of_large_data_stand_where_the_same_process_was():
    rng = np.random.default_rng(0)
    order = EpochOrder(3000, 0)
    steps = range(STRIDE, STRIDE * WINDOW + 1, STRIDE)
    before, now = (_all(order, e) for e in (4, 5))
    for position in (2000, 500):
        tape = (before + now)[:3000 + position]
        want = {tape[-step] for step in steps}
        assert set(order.mosaic_indices(rng, 5, position, 2000)) == want
    first = _all(order, 0)
    assert {first.index(i) for i in order.mosaic_indices(rng, 0, 500, 2000)} == {(500 - s) % 3000 for s in steps}
    small = EpochOrder(20, 0)
    assert set(small.mosaic_indices(rng, 1, 3, 500)) == set(range(20))


def test_decoding_once_is_enough_from_the_second_epoch_on():
    """Images within reach are those that were decoded for the samples before, across the border of epochs too."""
    order, rng = EpochOrder(1500, 0), np.random.default_rng(0)
    lately = _all(order, 1)[-STRIDE * WINDOW:]
    for position in range(0, 1500, 7):
        window = (lately + _all(order, 2)[:position])[-STRIDE * WINDOW:]
        assert set(order.mosaic_indices(rng, 2, position, 8)) <= set(window)


@pytest.mark.parametrize("n", [8, 29, 64])
def test_like_aspects_stand_together(n):
    rng = np.random.default_rng(n)
    sizes = rng.integers(30, 90, (n, 2))
    order = AspectOrder(sizes, 8, seed=0)
    spread = []
    for epoch in range(3):
        images = _all(order, epoch)
        assert sorted(images) == list(range(n))
        groups = [order.batch_group(epoch, p) for p in range(0, n, 8)]
        assert sum(groups, []) == images and all(order.batch_group(epoch, p + 3) == g for p, g in zip(
            range(0, n - 3, 8), groups))
        aspects = [sizes[g, 0] / sizes[g, 1] for g in groups]
        spread += [np.ptp(a) for a in aspects]
        bounds = sorted((a.min(), a.max()) for a in aspects)
        assert all(high <= low for (_, high), (low, _) in zip(bounds, bounds[1:]))
    assert n == 8 or _all(order, 0) != _all(order, 1)
