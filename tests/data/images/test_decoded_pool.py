"""The shared pool of decoded images: what it keeps, how a race is seen, and that it changes no sample."""

import multiprocessing
import os
import signal

import numpy as np
import pytest

import data.images.decoded_pool
from data.augment.policies.yolo import YoloPolicy
from data.images.decoded_pool import DecodedPool, pool_for
from data.loading.config import LoaderConfig
from data.loading.dataset import DetectionDataset
from tests.data.pictures import make_records

SIZE = (10, 10)
BYTES = 300


def _image(value: int) -> np.ndarray:
    return np.full((*SIZE, 3), value, np.uint8)


def _filled(capacity: int, images: int) -> DecodedPool:
    pool = DecodedPool(100, capacity)
    for i in range(images):
        pool.put(i, _image(i))
    return pool


def test_the_latest_images_are_held():
    pool = _filled(40 * BYTES, 60)
    held = [i for i in range(100) if pool.get(i, SIZE) is not None]
    assert held == list(range(60 - len(held), 60)) and 30 <= len(held) <= 35  # an eighth is about to go
    assert all((pool.get(i, SIZE) == i).all() for i in held) and pool.views_intact()
    pool.clear()
    assert pool.get(59, SIZE) is None


def test_an_image_that_is_there_is_not_taken_twice():
    pool = _filled(40 * BYTES, 3)
    pool.put(1, _image(99))
    assert (pool.get(1, SIZE) == 1).all()


def test_images_of_many_sizes_lie_in_one_piece():
    rng = np.random.default_rng(0)
    pool = DecodedPool(500, 20_000)
    for i in range(500):
        height, width = rng.integers(1, 25, 2).tolist()
        pool.put(i, np.full((height, width, 3), i % 251, np.uint8))
        image = pool.get(i, (height, width))
        assert image.shape == (height, width, 3) and (image == i % 251).all() and pool.views_intact()


def test_overwriting_what_is_being_read_is_noticed():
    pool = _filled(40 * BYTES, 10)
    assert pool.get(0, SIZE) is not None
    for i in range(10, 40):
        pool.put(i, _image(i))
    assert pool.views_intact()  # the ring is full, nothing is lost
    assert pool.get(6, SIZE) is not None
    for i in range(40, 47):
        pool.put(i, _image(i))
    assert not pool.views_intact() and pool.views_intact()


def test_what_is_too_large_is_left_out():
    pool = DecodedPool(3, 1000)
    pool.put(0, _image(1))
    assert pool.get(0, SIZE) is None


def test_forked_processes_share_it():
    pool = DecodedPool(4, 40 * BYTES)
    context = multiprocessing.get_context("fork")
    worker = context.Process(target=lambda: pool.put(2, _image(7)))
    worker.start()
    worker.join()
    assert (pool.get(2, SIZE) == 7).all()


def test_a_process_that_dies_with_the_lock_stops_nobody(monkeypatch):
    monkeypatch.setattr(data.images.decoded_pool, "PATIENCE", 0.05)
    pool = _filled(40 * BYTES, 2)

    def die():
        pool._lock.acquire()
        os.kill(os.getpid(), signal.SIGKILL)

    worker = multiprocessing.get_context("fork").Process(target=die)
    worker.start()
    worker.join()
    pool.put(5, _image(5))
    assert pool.get(5, SIZE) is None and (pool.get(1, SIZE) == 1).all()
    pool.put(6, _image(6))  # does not even wait


@pytest.mark.parametrize("capacity", [BYTES * 16, 64 * 64 * 3 * 16, 10**7])
def test_the_pool_changes_no_sample(tmp_path, capacity):
    sizes = [(40, 60), (60, 40), (64, 64), (100, 30), (30, 100), (48, 52)] * 3
    records = make_records(tmp_path, sizes)
    config = YoloPolicy(mixup=0.3, degrees=3)
    plain, pooled = (DetectionDataset(records, 64, config, 1) for _ in range(2))
    pooled.store.pool = DecodedPool(len(sizes), capacity)
    for position in range(len(sizes)):
        a, b = plain[0, position], pooled[0, position]
        assert np.array_equal(a.image, b.image) and np.array_equal(a.boxes, b.boxes)


def test_a_sample_is_drawn_again_where_the_pool_was_overwritten_meanwhile(tmp_path):
    records = make_records(tmp_path, [(64, 64)] * 6)
    plain, pooled = (DetectionDataset(records, 64, YoloPolicy(), 1) for _ in range(2))
    pooled.store.pool = pool = DecodedPool(6, 10**6)
    for position in range(6):
        pooled[0, position]
    get = pool.get

    def get_and_lose(index, size):
        image = get(index, size)
        pool._head.array[0] += pool.capacity  # another process has promised the whole ring ...
        if image is not None:
            image[:] = 0  # ... and written
        return image

    pool.get = get_and_lose
    assert all(np.array_equal(plain[0, p].image, pooled[0, p].image) for p in range(6))


def test_the_room_follows_the_memory_and_the_data(monkeypatch):
    held = np.full((5000, 2), 100)  # 30 kB each

    def images(free: float, **given) -> int:
        monkeypatch.setattr(data.images.decoded_pool, "free_memory", lambda: free)
        pool = pool_for(held, LoaderConfig(1, world=given.pop("world", 1)), **given)
        return 0 if pool is None else pool.capacity // 30_000

    assert images(1e12) > 5000  # all of them
    assert 1024 * 1.25 < images(5e8) < 1024 * 1.6  # what mosaics need
    assert images(5e8, world=2) < images(5e8) * 0.6 and images(5e8, world=3) == images(5e8)
    assert images(5e8, mosaic=False) == 0 and images(1e12, mosaic=False) > 5000
    assert images(6e7) == 500 and images(1e6) == 0
    assert pool_for(np.zeros((0, 2), int), LoaderConfig(1)) is None
