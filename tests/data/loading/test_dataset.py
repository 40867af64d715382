from pathlib import Path

import numpy as np
import pytest

from data.augment.policies.yolo import YoloPolicy
from data.images.letterbox import letterbox
from data.labels.records import RecordTable
from data.loading.dataset import DetectionDataset
from tests.data.pictures import make_records, smooth

SIZES = [(40, 60), (60, 40), (64, 64), (100, 30), (30, 100), (48, 52)]


@pytest.fixture(scope="module")
def records(tmp_path_factory):
    return make_records(tmp_path_factory.mktemp("images"), SIZES)


def _place(dataset: DetectionDataset, image: int, epoch: int = 0) -> int:
    """The position at which an image stands."""
    return dataset.order.at(epoch, range(len(dataset))).index(image)


def _same(a, b) -> bool:
    return (np.array_equal(a.image, b.image) and np.array_equal(a.boxes, b.boxes)
            and np.array_equal(a.labels, b.labels) and np.array_equal(a.ignore, b.ignore))


def test_a_sample_depends_on_seed_epoch_and_position_alone(records):
    config = YoloPolicy(mixup=0.5, degrees=5)
    first, second = (DetectionDataset(r, 64, config, 3) for r in (records, RecordTable.from_records(records)))
    keys = [(e, i) for e in range(2) for i in range(len(records))]
    forwards = {k: first[k] for k in keys}
    assert all(_same(second[k], forwards[k]) for k in reversed(keys))
    assert not np.array_equal(forwards[0, 2].image, forwards[1, 2].image)
    assert not np.array_equal(DetectionDataset(records, 64, config, 4)[0, 2].image, forwards[0, 2].image)


def test_training_samples_are_well_formed(records):
    for key in [(0, 1), (0, 1, False), 1]:
        dataset = DetectionDataset(records, 64, YoloPolicy())
        sample = dataset[key]
        assert sample.image.shape == (64, 64, 3) and sample.image.dtype == np.uint8 and sample.image.flags.c_contiguous
        assert sample.boxes.dtype == np.float32 and sample.labels.dtype == np.int64 and sample.ignore.dtype == bool
        assert sample.image_id == 100 + dataset.order.at(0, [1])[0] and sample.letterbox.scale == (1.0, 1.0)


def test_without_mosaic_a_sample_shows_its_own_image_only(records):
    still = YoloPolicy(translate=0, scale=0, hsv_h=0, hsv_s=0, hsv_v=0, fliplr=0)
    dataset = DetectionDataset(records, 64, still)
    sample = dataset[0, _place(dataset, 2), False]
    assert np.abs(sample.image.astype(int) - smooth(64, 64, 2)[..., ::-1]).mean() < 2  # RGB
    assert set(sample.labels.tolist()) <= set(records[2].labels.tolist()) and sample.ignore.sum() == 1


@pytest.mark.parametrize("suffix", [".jpg", ".png"])
def test_large_images_are_averaged_not_sampled(tmp_path, suffix):
    sizes = [(401, 599), (1300, 900)]
    records = make_records(tmp_path, sizes, suffix=suffix)
    still = YoloPolicy(translate=0, scale=0, hsv_h=0, hsv_s=0, hsv_v=0, fliplr=0, min_side=0,
                          max_aspect=1e6)
    for i, size in enumerate(sizes):
        training = DetectionDataset(records, 64, still)
        trained, evaluated = training[0, _place(training, i), False], DetectionDataset(records, 64)[0, i]
        assert np.allclose(trained.boxes, evaluated.boxes, atol=1e-3)
        inside = trained.image[20:44, 20:44].astype(int) - evaluated.image[20:44, 20:44]
        assert np.abs(inside).mean() < 3, size


def test_evaluation_is_the_letterbox_with_every_label(records):
    for i, record in enumerate(records):
        sample = DetectionDataset(records, 64)[0, i]
        want, transform = letterbox(smooth(*SIZES[i], i), 64, antialias=True)
        assert np.abs(sample.image.astype(int) - want[..., ::-1]).mean() < 3
        assert sample.letterbox == transform and sample.image_id == record.image_id
        assert len(sample.boxes) == len(record) and np.array_equal(sample.ignore, record.ignore)
        left, top = transform.pad
        assert np.allclose((sample.boxes - (left, top) * 2) / (transform.scale * 2), record.boxes, atol=1e-3)


def test_ram_cache_changes_no_box(records):
    config = YoloPolicy(degrees=5, scale=0.9)
    plain, held = (DetectionDataset(records, 64, config, 1, cache=c) for c in (None, "ram"))
    for i in range(len(records)):
        a, b = plain[0, i], held[0, i]
        assert np.array_equal(a.boxes, b.boxes) and np.array_equal(a.labels, b.labels)
        assert np.abs(a.image.astype(int) - b.image).mean() < 8


@pytest.mark.filterwarnings("ignore:.*cannot be decoded")
@pytest.mark.parametrize("augment", [None, YoloPolicy(mosaic=0)])
def test_a_damaged_image_teaches_nothing(tmp_path, augment):
    records = make_records(tmp_path, SIZES[:2])
    Path(records[0].path).write_bytes(b"\xff\xd8 not a picture")
    dataset = DetectionDataset(records, 64, augment)
    sample = dataset[0, _place(dataset, 0) if augment else 0]
    assert sample.ignore.tolist() == [True] and len(np.unique(sample.image)) == 1
    assert np.prod(sample.boxes[0, 2:] - sample.boxes[0, :2]) > 64 * 64 * 0.1
    assert dataset.damaged == [records[0].path]


@pytest.mark.filterwarnings("ignore:.*cannot be decoded")
@pytest.mark.parametrize("augment", [None, YoloPolicy(mixup=0.5, copy_paste=0.5), YoloPolicy(mosaic=0)])
def test_a_batch_is_its_samples_one_by_one(tmp_path, augment):
    records = make_records(tmp_path, SIZES)
    Path(records[2].path).write_bytes(b"\xff\xd8 not a picture")
    dataset, keys = DetectionDataset(records, 64, augment), [(1, k) for k in range(len(SIZES))]
    room = np.empty((len(keys), 64, 64, 3), np.uint8)
    drawn = dataset.draw(keys, room)
    assert any(sample.ignore.any() for sample in drawn)  # of the damaged image, which nothing knew before
    for key, image, sample in zip(keys, room, drawn, strict=True):
        assert np.array_equal(sample.image, image) and np.shares_memory(sample.image, image)
        assert _same(sample, dataset[key])


def test_images_without_labels_and_bad_indices(tmp_path):
    records = make_records(tmp_path, SIZES[:1], labels=0)
    for augment in (None, YoloPolicy(mixup=1.0)):
        dataset = DetectionDataset(records, 64, augment)
        assert dataset[0, 0].boxes.shape == (0, 4)
        with pytest.raises(IndexError):
            dataset[0, 1]
