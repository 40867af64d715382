"""Places for batches: lent once, free again when nobody looks at them."""

import gc

import numpy as np
import torch

from data.loading.batch_ring import NOWHERE, BatchRing


def test_a_place_is_free_again_once_nobody_holds_its_tensor():
    ring = BatchRing(2, 12)
    slot = ring.lend()
    ring.array(slot, (3, 4))[:] = 7
    tensor = ring.tensor(slot, (3, 4))
    part = tensor[1:, :2]
    assert (part == 7).all() and ring.lend() != slot and ring.lend() == NOWHERE
    del tensor
    assert ring.lend() == NOWHERE
    del part
    gc.collect()
    assert ring.lend() == slot


def test_batches_that_nobody_fetched_give_their_places_back():
    ring = BatchRing(3, 4)
    held = ring.tensor(ring.lend(), (4,))
    ring.lend(), ring.lend()
    ring.reclaim()
    places = {ring.lend(), ring.lend()}
    assert NOWHERE not in places and ring.lend() == NOWHERE
    held[:] = 1
    assert all((ring.array(p, (4,)) == 0).all() for p in places)


def test_what_does_not_fit_gets_no_place():
    ring = BatchRing(1, 10)
    assert ring.array(0, (11,)) is None and ring.array(NOWHERE, (1,)) is None and BatchRing(0, 10).lend() == NOWHERE
    assert np.shares_memory(ring.array(0, (10,)), ring.tensor(0, (2, 5)).numpy())
    assert ring.tensor(0, (5,)).dtype == torch.uint8
