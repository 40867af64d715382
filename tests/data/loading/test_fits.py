"""Loaders for models whose frames are stretched, or fit the shorter side of their images."""

from dataclasses import replace

import cv2
import numpy as np
import pytest
import torch

from data.augment.policies.yolo import YoloPolicy
from data.images.placement import Placement
from data.images.store import ImageStore, held_sizes, read_image
from data.labels.records import RecordTable
from data.loading.build import eval_loader, train_loader
from data.loading.config import LoaderConfig
from data.loading.dataset import DetectionDataset
from data.object_sizes import object_sizes
from data.tiles import tile_index
from tests.data.pictures import Index, equal_batches, make_records
from tests.data.test_tiles import make_index
from tests.refusals import refused
from utils.frame import Frame

SIZES = [(40, 60), (60, 40), (64, 64), (100, 30), (30, 100), (48, 52), (64, 64), (33, 77), (90, 50), (120, 160)]
FILL = (124, 116, 104)
STRETCH = Frame(fit="stretch", size=(60, 44), multiple=1, shrink="linear", fill=FILL)
SHORTEST = Frame(fit="shortest", short=48, long=80, pad="corner", multiple=16, fill=FILL)
STILL = YoloPolicy(mosaic=0, translate=0, scale=0, hsv_h=0, hsv_s=0, hsv_v=0, fliplr=0)
MOVED = YoloPolicy(mosaic=0.5, mixup=0.3, degrees=5)


@pytest.fixture(scope="module")
def index(tmp_path_factory) -> Index:
    return Index(make_records(tmp_path_factory.mktemp("images"), SIZES))


def _rgb(record) -> np.ndarray:
    return cv2.cvtColor(read_image(record.path), cv2.COLOR_BGR2RGB)


def _batches(loader, epoch: int = 0) -> list:
    loader.set_epoch(epoch)
    return list(loader)


@pytest.mark.parametrize("cache", [None, "ram", "disk"])
def test_a_stretched_image_is_what_opencv_resizes_it_to(index, cache) -> None:
    loader = eval_loader(index, 1, LoaderConfig(4, frame=STRETCH, cache=cache))
    assert [i for batch in loader for i in batch.image_ids] == [r.image_id for r in index.records]
    for batch in loader:
        for image, image_id, box, targets in zip(batch.images, batch.image_ids, batch.letterboxes,
                                                 batch.targets.unpack(), strict=True):
            record = index.records[image_id - 100]
            want = cv2.resize(_rgb(record), (44, 60), interpolation=cv2.INTER_LINEAR)
            assert np.array_equal(image.permute(1, 2, 0).numpy(), want)
            assert box.input == (60, 44) and box.pad == (0, 0)
            np.testing.assert_allclose(box.inverse(targets.boxes).numpy(), record.boxes, atol=1e-3)


def test_frames_that_average_do_so_when_they_are_stretched(index) -> None:
    batch = next(iter(eval_loader(index, 1, LoaderConfig(10, frame=replace(STRETCH, shrink="area")))))
    want = cv2.resize(_rgb(index.records[9]), (44, 60), interpolation=cv2.INTER_AREA)
    assert np.array_equal(batch.images[9].permute(1, 2, 0).numpy(), want)


def test_an_evaluation_gives_each_batch_the_frame_of_its_images(index) -> None:
    loader = eval_loader(index, 48, LoaderConfig(3, frame=SHORTEST))
    seen, aspects = [], []
    placement = Placement.of(SHORTEST, 48)
    for batch in loader:
        sizes = np.array([SIZES[i - 100] for i in batch.image_ids])
        assert tuple(batch.images.shape[2:]) == placement.batch_frame(sizes)
        for image, size, box in zip(batch.images, sizes.tolist(), batch.letterboxes, strict=True):
            (height, width), pixels = placement.fitted(size), image.permute(1, 2, 0).numpy()
            assert box.pad == (0, 0) and box.scale == (width / size[1], height / size[0])
            assert (pixels[height:] == FILL).all() and (pixels[:, width:] == FILL).all()
        seen += batch.image_ids
        aspects += (sizes[:, 0] / sizes[:, 1]).tolist()
    assert sorted(seen) == [r.image_id for r in index.records] and aspects == sorted(aspects)


@pytest.mark.parametrize("frame", [STRETCH, SHORTEST], ids=["stretch", "shortest"])
def test_training_that_moves_nothing_shows_what_evaluation_shows(index, frame) -> None:
    policy = replace(STILL, fill=FILL)
    for record, size in zip(index.records, SIZES, strict=True):
        placement = Placement.of(frame)
        one = [record]
        trained = DetectionDataset(one, placement, replace(policy, min_side=0, min_area=0, max_aspect=1e6))[0]
        evaluated = DetectionDataset(one, placement)[0]
        assert trained.image.shape == evaluated.image.shape
        if max(placement.fitted(size)) >= max(size):  # enlarged alike; OpenCV shrinks in training by averaging
            difference = np.abs(trained.image.astype(int) - evaluated.image).max()
            assert difference <= 4, (size, difference)
        np.testing.assert_allclose(trained.boxes, evaluated.boxes, atol=1e-3)


@pytest.mark.parametrize("frame", [STRETCH, SHORTEST], ids=["stretch", "shortest"])
@pytest.mark.parametrize("cache", [None, "ram", "disk", "gpu"])
def test_workers_resuming_and_caches_change_nothing(index, frame, cache) -> None:
    weights = np.arange(len(SIZES)) ** 2.0

    def loader(**words):
        return train_loader(index, 48, MOVED, LoaderConfig(3, seed=5, frame=frame, device="cpu", **words), weights)

    want = _batches(loader(cache="gpu" if cache == "gpu" else None), 1)
    frames = {tuple(batch.images.shape[2:]) for batch in want}
    assert frames == {frame.size} if frame.size else len(frames) > 2
    assert all(map(equal_batches, want, _batches(loader(workers=2, cache=cache), 1)))
    again = loader(cache=cache)
    again.set_epoch(1, start=2)
    assert all(map(equal_batches, want[2:], again))


def test_all_processes_get_the_frame_of_the_images_of_all(index) -> None:
    whole = _batches(train_loader(index, 48, MOVED, LoaderConfig(4, frame=SHORTEST)))
    for rank in range(2):
        part = _batches(train_loader(index, 48, MOVED, LoaderConfig(2, rank=rank, world=2, frame=SHORTEST)))
        for batch, own in zip(whole, part, strict=True):
            assert own.images.shape[2:] == batch.images.shape[2:]
            ids = batch.image_ids[rank::2]
            assert own.image_ids == ids and torch.equal(own.images[0], batch.images[rank])


def test_frames_that_are_not_square_have_no_mosaic(index) -> None:
    for frame in (STRETCH, SHORTEST):
        loader = train_loader(index, 48, YoloPolicy(), LoaderConfig(3, frame=frame))
        assert not loader.dataset.augment.shows_others
    square = Frame(fit="stretch", size=(60, 60), multiple=1)
    assert train_loader(index, 60, YoloPolicy(), LoaderConfig(3, frame=square)).dataset.augment.shows_others


@pytest.mark.parametrize("frame", [STRETCH, SHORTEST], ids=["stretch", "shortest"])
def test_tiles_are_images_of_their_own(tmp_path, frame) -> None:
    records = make_records(tmp_path, [(120, 160), (40, 60)], labels=1)
    index = make_index([(120, 160), (40, 60)], [[[10, 20, 90, 80]], []])
    index.records = RecordTable.from_records([replace(new, path=old.path) for new, old in
                                              zip(index.records, records, strict=True)])
    tiled = tile_index(index, 64)
    for loader in (eval_loader(tiled, 48, LoaderConfig(3, frame=frame)),
                   train_loader(tiled, 48, MOVED, LoaderConfig(3, frame=frame))):
        batches = list(loader)
        assert sum(map(len, batches)) == len(tiled.records) > 2
        assert all(tuple(b.images.shape[2:]) == frame.size for b in batches if frame.size)
    dataset = DetectionDataset(tiled.records, Placement.of(frame, 48))
    x1, y1, x2, y2 = tiled.records[0].window
    want = np.ascontiguousarray(_rgb(records[0])[y1:y2, x1:x2])
    (height, width), _ = dataset.placement.alone((y2 - y1, x2 - x1))
    how = cv2.INTER_LINEAR if frame.shrink == "linear" else cv2.INTER_AREA
    assert np.array_equal(dataset[0].image[:height, :width], cv2.resize(want, (width, height), interpolation=how))


def test_images_are_held_as_large_as_frames_show_them() -> None:
    sizes = np.array([[1000, 400], [30, 500], [20, 20]])
    placement = Placement.of(Frame(fit="stretch", size=(300, 200), multiple=1))
    assert held_sizes(sizes, placement, 2.0).tolist() == [[300, 200], [30, 500], [20, 20]]
    assert held_sizes(sizes, placement, 2.0, detail=2.0).tolist() == [[600, 400], [30, 500], [20, 20]]
    sizes[2] = 30
    assert held_sizes(sizes, Placement.of(SHORTEST), 2.0).tolist() == [[80, 32], [5, 80], [48, 48]]


def test_a_jpeg_is_not_decoded_smaller_than_its_frame(tmp_path) -> None:
    record, = make_records(tmp_path, [(400, 100)])
    frame = Frame(fit="stretch", size=(90, 90), multiple=1)
    image, scale = ImageStore([record], Placement.of(frame)).load(0)
    assert image.shape == (90, 90, 3) and scale == (0.9, 0.225)
    want = cv2.resize(read_image(record.path), (90, 90), interpolation=cv2.INTER_AREA)
    assert np.abs(image.astype(int) - want).max() <= 1


def test_objects_are_measured_in_the_frame(index) -> None:
    boxes = np.concatenate([r.boxes[~r.ignore] * np.array([44 / r.width, 60 / r.height] * 2) for r in index.records])
    sides = boxes[:, 2:] - boxes[:, :2]
    found = object_sizes(index.records, Placement.of(STRETCH))
    np.testing.assert_allclose(found, sides[(sides >= 2).all(1)], rtol=1e-5)


def test_rect_needs_frames_of_any_size(index) -> None:
    with refused("flag-conflict", "--rect"):
        eval_loader(index, (48, 64), LoaderConfig(2, rect=True))
