"""Places for batches: lent once, free again when nobody looks at them."""

import gc

import numpy as np
import torch

from data.loading.batch_ring import NO_SLOT, BatchRing


def test_a_place_is_free_again_once_nobody_holds_its_tensor():
    ring = BatchRing(2, 12)
    slot = ring.acquire()
    ring.array(slot, (3, 4))[:] = 7
    tensor = ring.tensor(slot, (3, 4))
    part = tensor[1:, :2]
    assert (part == 7).all() and ring.acquire() != slot and ring.acquire() == NO_SLOT
    del tensor
    assert ring.acquire() == NO_SLOT
    del part
    gc.collect()
    assert ring.acquire() == slot


def test_batches_that_nobody_fetched_give_their_places_back():
    ring = BatchRing(3, 4)
    held = ring.tensor(ring.acquire(), (4,))
    ring.acquire(), ring.acquire()
    ring.reclaim()
    slots = {ring.acquire(), ring.acquire()}
    assert NO_SLOT not in slots and ring.acquire() == NO_SLOT
    held[:] = 1
    assert all((ring.array(p, (4,)) == 0).all() for p in slots)


def test_what_does_not_fit_gets_no_place():
    ring = BatchRing(1, 10)
    assert ring.array(0, (11,)) is None and ring.array(NO_SLOT, (1,)) is None and BatchRing(0, 10).acquire() == NO_SLOT
    assert np.shares_memory(ring.array(0, (10,)), ring.tensor(0, (2, 5)).numpy())
    assert ring.tensor(0, (5,)).dtype == torch.uint8
