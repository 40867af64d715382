"""`--cache gpu`, with its images in a CPU's memory: the same batches as from the loader that draws with OpenCV."""

from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch

import data.loading.device_loader
from data.augment.plan_batch import Layout
from data.augment.policies.yolo import YoloPolicy
from data.images.store import ImageStore
from data.loading.build import train_loader
from data.loading.config import LoaderConfig
from data.loading.device_loader import DeviceImages, DeviceLoader, check_memory
from tests.data.pictures import Index, make_records
from tests.refusals import refused

S = 64
SIZES = [(60, 80), (100, 50), (40, 40), (64, 64), (30, 120), (128, 100), (64, 48)]
CONFIG = YoloPolicy(mixup=0.5, degrees=4, scale=0.7)


@pytest.fixture
def index(tmp_path):
    return Index(make_records(tmp_path, SIZES))


def _loader(index, cache="gpu", config=CONFIG, batch=3, **options):
    return train_loader(index, S, config, LoaderConfig(batch, seed=3, cache=cache, device="cpu", **options))


def _same(ours, theirs, images=True):
    for name in ("boxes", "labels", "ignore", "valid"):
        assert torch.equal(getattr(ours.targets, name), getattr(theirs.targets, name)), name
    assert ours.image_ids == theirs.image_ids and ours.letterboxes == theirs.letterboxes
    assert ours.images.shape == theirs.images.shape and ours.images.dtype == theirs.images.dtype == torch.uint8
    assert all(batch.images.is_contiguous(memory_format=torch.channels_last) for batch in (ours, theirs))
    assert not images or torch.equal(ours.images, theirs.images)


@pytest.mark.parametrize("options", [{}, {"rect": True}, {"rank": 1, "world": 2, "batch": 2},
                                     {"config": YoloPolicy(degrees=4, mosaic9=0.5, copy_paste=0.5)}])
def test_batches_equal_those_of_the_other_loader(index, options):
    ours, theirs = _loader(index, **options), _loader(index, cache=None, **options)
    assert isinstance(ours, DeviceLoader) and len(ours) == len(theirs)
    for epoch in (0, 3):
        for loader in (ours, theirs):
            loader.set_epoch(epoch)
        pairs = list(zip(ours, theirs, strict=True))
        assert len(pairs) == len(ours)
        for one, other in pairs:
            _same(one, other, images=False)
            assert (one.images.int() - other.images.int()).abs().float().mean() < 1


def test_the_interface_of_a_loader(index):
    loader = _loader(index, config=YoloPolicy(mixup=1.0))
    loader.set_epoch(2)
    whole = list(loader)
    assert [len(b) for b in whole] == [3, 3, 1] and len(loader) == 3
    _same(loader.batch(1), whole[1])
    loader.set_epoch(2, start=1)
    rest = list(loader)
    assert len(rest) == 2
    _same(rest[0], whole[1])
    loader.close_mosaic()
    loader.set_epoch(2)
    assert not torch.equal(next(iter(loader)).images, whole[0].images)
    weights = np.zeros(len(SIZES))
    weights[4] = 1
    loader.set_weights(weights)
    loader.set_epoch(3)
    assert {i for b in loader for i in b.image_ids} == {104}


def test_workers_change_nothing(index):
    alone, helped = _loader(index), _loader(index, workers=2)
    for epoch in (0, 1):
        for loader in (alone, helped):
            loader.set_epoch(epoch)
        for one, other in zip(alone, helped, strict=True):
            _same(one, other)


def test_damaged_images_are_counted_and_ignored(index):
    Path(index.records[2].path).write_bytes(b"no image")
    with pytest.warns(UserWarning, match="cannot be decoded"):
        ours = _loader(index, config=YoloPolicy(mosaic=0.0))
    assert ours.damaged == [index.records[2].path]
    with pytest.warns(UserWarning, match="cannot be decoded"):
        theirs = list(_loader(index, cache=None, config=YoloPolicy(mosaic=0.0)))
    for one, other in zip(ours, theirs, strict=True):
        _same(one, other, images=False)
        at = one.image_ids.index(102) if 102 in one.image_ids else None
        if at is not None:
            assert one.images[at].float().std() == 0 and one.targets.ignore[at].sum() == 1


def test_the_block_holds_every_image_and_its_smaller_copies(index, monkeypatch):
    monkeypatch.setattr(data.loading.device_loader, "STAGING", 5000)  # some groups of one image, some of more
    store = ImageStore(index.records, S)
    images = DeviceImages(store, torch.device("cpu"), copies=3, fill=7)
    layout, block = images.layout, images.block.numpy()
    assert (block[0] == 7).all() and len(block) == layout.pixels
    for i in range(len(SIZES)):
        image = store.load_own(i)[0]
        start, (height, width) = layout.starts[i, 0], layout.sizes[i, 0]
        assert np.array_equal(block[start:start + height * width].reshape(height, width, 3), image)
        start, (height, width) = layout.starts[i, 2], layout.sizes[i, 2]
        small = block[start:start + height * width].reshape(height, width, 3)
        assert abs(height - image.shape[0] / 4) <= 0.5 and np.abs(small.mean((0, 1)) - image.mean((0, 1))).max() < 2


def test_pinning_and_moving_leave_no_tensor_behind(index, monkeypatch):
    plans = _loader(index)._planned[[(0, 0, True), (0, 1, True)]]
    tensors = {name for name, value in vars(plans).items() if isinstance(value, torch.Tensor)}
    moved = plans.to("meta")
    assert len(tensors) == 12 and all(getattr(moved, name).is_meta for name in tensors)
    assert not moved.targets.boxes.is_meta
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda tensor: tensor + 0)
    pinned = plans.pin_memory()
    assert all(getattr(pinned, name) is not getattr(plans, name) for name in (*tensors, "targets"))
    assert len(pinned) == 2 and pinned.image_ids == plans.image_ids


def test_a_dataset_that_does_not_fit_is_refused(monkeypatch):
    layout = Layout.of(np.full((1000, 2), 640), np.full((1000, 2), 640), 1)
    check_memory(layout, 640, torch.device("cpu"))
    device = torch.device("cuda", 1)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda where: (2 << 30, 80 << 30))
    check_memory(layout, 640, device)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda where: (3 << 29, 80 << 30))
    with refused("no-memory", "1.1 GiB", "1000 images", "640 px", "60%", "1.5 GiB", "ram"):
        check_memory(layout, 640, device)


class Stream:
    """Stands in for a CUDA stream and writes down what is asked of it."""

    def __init__(self, name: str, log: list[str]) -> None:
        self.name, self.log = name, log

    def wait_stream(self, other: "Stream") -> None:
        self.log.append(f"{self.name} waits for {other.name}")

    def wait_event(self, event: str) -> None:
        self.log.append(f"{self.name} waits for {event}")

    def record_event(self) -> str:
        return f"draw {sum(line.startswith('draw') for line in self.log)}"


def test_on_a_gpu_the_next_batch_is_drawn_beside_the_step(index, monkeypatch):
    loader, log = _loader(index), []
    steps = Stream("steps", log)
    loader._stream, render = Stream("side", log), loader._render

    @contextmanager
    def on(stream):
        assert stream is loader._stream
        yield

    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: steps)
    monkeypatch.setattr(torch.cuda, "stream", on)
    loader._render = lambda *args: log.append("draw") or render(*args)
    taken = []
    for batch in loader:
        taken.append(batch)
        log.append("step")
    ahead = ["side waits for steps", "draw"]
    assert log == [*ahead, *ahead, "steps waits for draw 1", "step", *ahead, "steps waits for draw 2", "step",
                   "steps waits for draw 3", "step"]
    loader._stream = None
    for one, other in zip(taken, loader, strict=True):
        _same(one, other)

    loader._stream = Stream("side", log)
    running = iter(loader)
    next(running)
    log.clear()
    running.close()  # the batch that was begun is waited for before its memory goes back
    assert len(log) == 1 and log[0].startswith("steps waits for draw")
