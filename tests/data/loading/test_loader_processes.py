"""Loaders among processes: resuming, ranks, caches, signals, workers that die, memory over epochs."""

import os
import signal
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from data.augment.policies.ssd import SsdPolicy
from data.augment.policies.yolo import YoloPolicy
from data.loading.batches import EpochBatches
from data.loading.build import train_loader
from data.loading.config import LoaderConfig
from tests.data.pictures import Index, equal_batches, make_records
from tests.refusals import refused
from tests.running import run
from utils.errors import UserError
from utils.frame import Frame

SIZES = [(40, 60), (60, 40), (64, 64), (100, 30), (30, 100), (48, 52), (64, 64), (33, 77), (90, 50), (20, 20), (70, 64)]
CONFIG = YoloPolicy(mixup=0.3)
WEIGHTS = np.arange(len(SIZES)) ** 2


@pytest.fixture(scope="module")
def index(tmp_path_factory):
    return Index(make_records(tmp_path_factory.mktemp("images"), SIZES))


def _pass(loader, epoch: int, start: int = 0) -> list:
    loader.set_epoch(epoch, start)
    return list(loader)


@pytest.mark.parametrize("workers", [0, 1, 2])
@pytest.mark.parametrize("rect", [False, True])
def test_an_epoch_can_begin_in_its_middle(index, workers, rect):
    def make(n):
        return train_loader(index, 64, CONFIG, LoaderConfig(2, workers=n, seed=3, rect=rect), WEIGHTS)

    whole = _pass(make(0), 4)
    loader = make(workers)
    later = _pass(loader, 4, start=3)
    assert len(later) == len(whole) - 3 == len(loader) - 3 and all(map(equal_batches, later, whole[3:]))
    assert all(map(equal_batches, _pass(loader, 4), whole))  # only the next pass begins there
    assert equal_batches(loader.batch(2), whole[2])


@pytest.mark.parametrize("rect", [False, True])
@pytest.mark.parametrize(("world", "size"), [(2, 2), (3, 1), (4, 2)])
def test_batches_of_all_ranks_together_are_those_of_one_process(index, rect, world, size):
    def make(rank, world, size):
        config = LoaderConfig(size, seed=1, rank=rank, world=world, rect=rect)
        return _pass(train_loader(index, 64, CONFIG, config, WEIGHTS), 2, start=1)

    alone, ranks = make(0, 1, size * world), [make(r, world, size) for r in range(world)]
    assert {len(r) for r in ranks} == {len(alone)}
    for whole, *parts in zip(alone, *ranks):
        for k in range(len(whole)):
            part, place = parts[k % world], k // world
            assert torch.equal(part.images[place], whole.images[k]) and part.image_ids[place] == whole.image_ids[k]
        assert len({tuple(p.images.shape) for p in parts}) == 1  # the rest are samples seen twice


@pytest.mark.parametrize("workers", [0, 1, 2])
def test_caches_and_workers_change_no_bit(index, tmp_path, monkeypatch, workers):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    config = YoloPolicy(mixup=0.3, degrees=4, scale=0.9)
    want = _pass(train_loader(index, 64, config, LoaderConfig(4, seed=5)), 1)
    for cache in (None, "ram", "disk"):
        loader = train_loader(index, 64, config, LoaderConfig(4, seed=5, cache=cache, workers=workers))
        for _ in range(2):  # a second time from a pool that is full
            assert all(map(equal_batches, _pass(loader, 1), want))


def test_batches_that_are_kept_stay_as_they_are(index):
    loader = train_loader(index, 64, CONFIG, LoaderConfig(2, workers=2, seed=5))
    kept = _pass(loader, 0) + _pass(loader, 1)  # more than there are places for
    again = train_loader(index, 64, CONFIG, LoaderConfig(2, seed=5))
    assert all(map(equal_batches, kept, _pass(again, 0) + _pass(again, 1)))


@pytest.mark.parametrize("workers", [0, 2])
def test_a_pass_that_was_broken_off_is_forgotten(index, workers):
    loader = train_loader(index, 64, CONFIG, LoaderConfig(2, workers=workers, seed=5))
    want = _pass(loader, 1)
    for _ in range(5):
        loader.set_epoch(0)
        for batch in loader:
            assert len(batch) == 2
            break
    assert all(map(equal_batches, _pass(loader, 1), want))


def test_weights_decide_what_is_seen(index):
    loader = train_loader(index, 64, YoloPolicy(mosaic=0), LoaderConfig(4, workers=1))
    loader.set_weights(np.eye(len(SIZES))[6])
    assert {i for b in _pass(loader, 0) for i in b.image_ids} == {106}
    loader.set_weights(None)
    assert sorted(i for b in _pass(loader, 1) for i in b.image_ids) == [100 + i for i in range(len(SIZES))]


def test_rectangular_training_batches(index):
    loader = train_loader(index, 64, CONFIG, LoaderConfig(3, rect=True, frame=Frame(multiple=16)))
    epochs = [_pass(loader, e) for e in range(6)]
    for batches in epochs:
        assert sorted(i for b in batches for i in b.image_ids) == [100 + i for i in range(len(SIZES))]
        for batch in batches:
            height, width = batch.images.shape[2:]
            assert height % 16 == width % 16 == 0 and max(height, width) == 64
            aspects = [SIZES[i - 100][0] / SIZES[i - 100][1] for i in batch.image_ids]
            fits = max(min(max(aspects), 1), 1 / 64) * 64, max(min(1 / min(aspects), 1), 1 / 64) * 64
            assert height - 16 < fits[0] <= height and width - 16 < fits[1] <= width
            boxes = batch.targets.boxes
            assert (boxes >= 0).all() and (boxes[..., 2] <= width).all() and (boxes[..., 3] <= height).all()
            assert batch.targets.valid.sum() + batch.targets.ignore.sum() <= 5 * len(batch)  # no mosaic
    shapes = [[tuple(b.images.shape[2:]) for b in batches] for batches in epochs]
    assert len(set(shapes[0])) > 1 and len({tuple(s) for s in shapes}) > 1  # batches come in another order


def test_rectangular_samples_lie_where_their_boxes_say(tmp_path):
    """White rectangles on black: the boxes that come out enclose what is white."""
    import cv2

    records = make_records(tmp_path, [(60, 120)] * 4, labels=1, suffix=".png")
    for record in records:
        x1, y1, x2, y2 = record.boxes[0] = np.round(record.boxes[0] / 10) * 8 + (4, 4, 16, 12)
        record.ignore[:] = False
        image = np.zeros((60, 120, 3), np.uint8)
        image[int(y1):int(y2), int(x1):int(x2)] = 255
        Path(record.path).write_bytes(cv2.imencode(".png", image)[1].tobytes())
    config = YoloPolicy(degrees=0, fliplr=0.5, flipud=0.5, hsv_h=0, hsv_s=0, hsv_v=0, fill=0)
    loader = train_loader(Index(records), 128, config, LoaderConfig(2, rect=True))
    checked = 0
    for batch in (b for e in range(4) for b in _pass(loader, e)):
        assert batch.images.shape[2:] == (64, 128)
        for image, targets in zip(batch.images.numpy(), batch.targets.unpack(), strict=True):
            for box in targets.boxes.numpy():
                y, x = np.nonzero(image[0] > 127)
                assert np.allclose((x.min(), y.min(), x.max() + 1, y.max() + 1), box, atol=1.1)
                checked += 1
    assert checked > 8


def test_signals_are_for_the_main_process(index):
    loader = train_loader(index, 64, CONFIG, LoaderConfig(2, workers=2))
    loader.set_epoch(0)
    batches = iter(loader)
    next(batches)
    workers = loader._loader._iterator._workers
    for worker in workers:
        os.kill(worker.pid, signal.SIGINT)
        os.kill(worker.pid, signal.SIGTERM)
    assert len(list(batches)) == len(loader) - 1 and all(w.is_alive() for w in workers)


@pytest.mark.filterwarnings("ignore")
def test_a_worker_that_dies_ends_with_one_sentence(index):
    loader = train_loader(index, 64, CONFIG, LoaderConfig(1, workers=1))
    loader.set_epoch(0)
    batches = iter(loader)
    next(batches)
    os.kill(loader._loader._iterator._workers[0].pid, signal.SIGKILL)
    since = time.monotonic()
    with pytest.raises(UserError, match="DataLoader worker") as error:
        list(batches)
    assert error.value.code == "lost-worker"
    assert time.monotonic() - since < 20


EXIT = """
import sys
from data.augment.policies.ssd import SsdPolicy
from data.augment.policies.yolo import YoloPolicy
from data.loading.build import train_loader
from data.loading.config import LoaderConfig
from tests.data.pictures import Index, make_records
from pathlib import Path
index = Index(make_records(Path(sys.argv[1]), [(40, 60)] * 8))
loader = train_loader(index, 64, YoloPolicy(), LoaderConfig(2, workers=2))
loader.set_epoch(0)
batches = iter(loader)
print(len(next(batches)))
if sys.argv[2] == "error":
    raise ValueError("an error")
"""


@pytest.mark.parametrize("how", ["end", "error"])
def test_a_script_can_end_with_a_living_loader(tmp_path, how):
    done = run("-c", EXIT, tmp_path, how, limit=60)
    assert done.stdout == "2\n" and ("an error" in done.stderr) == (how == "error") == bool(done.returncode)


def _resident(pid: int | str) -> int:
    """KiB of a process's own and shared memory."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS:"))


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="memory is read from /proc")
def test_memory_does_not_grow_over_epochs(tmp_path):
    index = Index(make_records(tmp_path, [(96, 128)] * 12))
    loader = train_loader(index, 128, CONFIG, LoaderConfig(4, workers=1))
    loader.set_epoch(0)
    seen = []
    for epoch in range(60):
        loader.set_epoch(epoch)
        for batch in loader:
            assert len(batch) == 4
        if epoch % 10 == 9:
            seen.append((_resident("self"), _resident(loader._loader._iterator._workers[0].pid)))
    grown = np.array(seen[-1]) - np.array(seen[1])
    assert (grown < 1024).all(), seen  # a batch alone is 192 KiB


@pytest.mark.parametrize(("n", "size", "world"), [(7, 2, 1), (10, 4, 3), (1, 5, 2)])
def test_batches_by_number_are_those_of_the_pass(n, size, world):
    for rank in range(world):
        batches = EpochBatches(n, size, rank, world)
        batches.epoch = 3
        assert [batches[k] for k in range(len(batches))] == list(batches)
        batches.start = 1
        assert list(batches) == list(batches) == [batches[k] for k in range(1, len(batches))]


def test_samples_of_ssd_depend_on_seed_epoch_and_position_alone(index):
    """Begun in the middle, in two workers, and among two processes; the end of mosaics changes nothing."""
    def make(**config):
        return train_loader(index, 64, SsdPolicy(), LoaderConfig(seed=3, **config), WEIGHTS)

    whole = _pass(make(batch_size=4), 4)
    later = make(batch_size=4, workers=2)
    later.close_mosaic()
    assert all(map(equal_batches, _pass(later, 4, start=1), whole[1:]))
    assert not equal_batches(_pass(make(batch_size=4), 5)[0], whole[0])
    for rank in range(2):
        for part, batch in zip(_pass(make(batch_size=2, rank=rank, world=2), 4), whole, strict=True):
            assert all(map(torch.equal, part.images, batch.images[rank::2])) or len(part) > len(batch.images[rank::2])
    assert all((b.targets.boxes >= 0).all() and (b.targets.boxes <= 64).all() for b in whole)


def test_frames_of_ssd_are_not_fitted_to_a_batch(index):
    with refused("flag-conflict", "--rect", "policy"):
        train_loader(index, 64, SsdPolicy(), LoaderConfig(2, rect=True))
