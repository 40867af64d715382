from pathlib import Path

import numpy as np
import pytest
import torch

from data.augment.policies.yolo import YoloPolicy
from data.images.letterbox import plan_letterbox
from data.images.placement import Placement
from data.loading.batches import EpochBatches
from data.loading.build import eval_loader, train_loader
from data.loading.config import LoaderConfig
from data.loading.loader import page_locked
from tests.data.pictures import Index, equal_batches, make_records
from tests.refusals import refused
from utils.boxes import clip_boxes
from utils.errors import UserError
from utils.frame import Frame

SIZES = [(40, 60), (60, 40), (64, 64), (100, 30), (30, 100), (48, 52), (64, 64), (33, 77), (90, 50)]
CONFIG = YoloPolicy(mixup=0.3)


@pytest.fixture(scope="module")
def index(tmp_path_factory):
    return Index(make_records(tmp_path_factory.mktemp("images"), SIZES))


def _passes(loader, epochs=(0, 1)) -> list:
    batches = []
    for epoch in epochs:
        loader.set_epoch(epoch)
        batches += list(loader)
    return batches


def test_the_number_of_workers_changes_nothing(index):
    want = _passes(train_loader(index, 64, CONFIG, LoaderConfig(4, workers=0, seed=5)))
    for workers in (1, 2):
        loader = train_loader(index, 64, CONFIG, LoaderConfig(4, workers=workers, seed=5))
        got = _passes(loader)
        assert len(got) == len(want) == 2 * len(loader) and all(map(equal_batches, got, want))


def test_a_resumed_run_sees_what_an_unbroken_one_saw(index):
    whole = train_loader(index, 64, CONFIG, LoaderConfig(4, seed=5))
    torch.manual_seed(0)
    state = torch.get_rng_state()
    later = _passes(whole, (0, 1, 2))[-3:]
    assert torch.equal(state, torch.get_rng_state())  # loading takes nothing from the global generator
    resumed = _passes(train_loader(index, 64, CONFIG, LoaderConfig(4, seed=5)), (2,))
    assert all(map(equal_batches, later, resumed))
    assert not equal_batches(_passes(whole, (0,))[0], _passes(whole, (1,))[0])


def test_batches_have_the_promised_form(index):
    batches = _passes(train_loader(index, 64, CONFIG, LoaderConfig(4)), (0,))
    assert [len(b) for b in batches] == [4, 4, 1]
    assert sorted(i for b in batches for i in b.image_ids) == list(range(100, 109))
    for batch in batches:
        assert batch.images.shape[1:] == (3, 64, 64) and batch.images.dtype == torch.uint8
        assert batch.images.is_contiguous(memory_format=torch.channels_last)
        targets = batch.targets
        assert targets.boxes.shape[:2] == targets.labels.shape == targets.valid.shape
        assert not (targets.valid & targets.ignore).any()
        assert torch.equal(targets.boxes, clip_boxes(targets.boxes, 64, 64))


@pytest.mark.parametrize("workers", [0, 2])
def test_mosaic_closes_under_living_workers(index, workers):
    still = YoloPolicy(translate=0, scale=0, hsv_h=0, hsv_s=0, hsv_v=0, fliplr=0)
    loader = train_loader(index, 64, still, LoaderConfig(9, workers=workers))
    opened = _passes(loader, (0,))[0]
    loader.close_mosaic()
    closed = _passes(loader, (1,))[0]
    of_record = {r.image_id: r for r in index.records}
    for k, image_id in enumerate(closed.image_ids):
        assert closed.targets.ignore[k].sum() == 1
        assert closed.targets.valid[k].sum() <= len(of_record[image_id]) - 1
    assert opened.targets.ignore.sum() > 9


def test_ranks_share_the_batches_of_one_process():
    alone = EpochBatches(16, 8)
    ranks = [EpochBatches(16, 4, rank=r, world=2) for r in range(2)]
    for sampler in (alone, *ranks):
        sampler.epoch = 3
    for whole, *parts in zip(alone, *ranks, strict=True):
        assert sorted(whole) == sorted(parts[0] + parts[1])


@pytest.mark.parametrize(("n", "world", "size"), [(9, 2, 4), (3, 4, 2), (10, 3, 1)])
def test_ranks_take_equally_many_steps_and_miss_no_image(n, world, size):
    ranks = [list(EpochBatches(n, size, rank=r, world=world)) for r in range(world)]
    assert len({len(r) for r in ranks}) == len({sum(map(len, r)) for r in ranks}) == 1
    assert len(ranks[0]) == len(EpochBatches(n, size, world=world))
    assert {key[1] for rank in ranks for batch in rank for key in batch} == set(range(n))


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("rect", [False, True])
def test_evaluation_sees_each_image_once_and_boxes_come_back(index, rect, workers):
    loader = eval_loader(index, 64, LoaderConfig(4, workers=workers, rect=rect))
    of_record = {r.image_id: r for r in index.records}
    seen = []
    for batch in loader:
        seen += batch.image_ids
        for k, image_id in enumerate(batch.image_ids):
            record, transform = of_record[image_id], batch.letterboxes[k]
            targets = batch.targets.unpack()[k]
            assert transform.original == (record.height, record.width)
            sample = loader.dataset[0, image_id - 100]
            assert np.array_equal(batch.images[k].permute(1, 2, 0).numpy(), sample.image)
            assert batch.images.is_contiguous(memory_format=torch.channels_last)
            assert transform.input == tuple(batch.images.shape[2:])
            back = transform.inverse(targets.boxes)
            assert np.allclose(back.numpy(), record.boxes, atol=1e-3)
            assert torch.equal(targets.labels, torch.from_numpy(record.labels))
    assert sorted(seen) == sorted(of_record) and len(loader) == 3
    assert rect or seen == [r.image_id for r in index.records]


def _rect(sizes, imgsz, stride, pad):
    return Placement.of(Frame(multiple=stride), imgsz).rect_frame(sizes, pad)


def test_rectangular_frames_follow_the_rule():
    assert _rect(np.array([[640, 640]]), 640, 32, 0.5) == (672, 672)
    assert _rect(np.array([[1280, 1280]]), 1280, 64, 0.5) == (1344, 1344)
    assert _rect(np.array([[480, 640], [427, 640]]), 640, 32, 0.5) == (512, 672)
    assert _rect(np.array([[640, 480], [640, 427]]), 640, 32, 0.0) == (640, 480)
    assert _rect(np.array([[640, 480], [480, 640]]), 640, 32, 0.0) == (640, 640)


def test_rectangular_batches_are_sorted_by_aspect_and_their_frames_do_not_depend_on_the_batch_size(tmp_path):
    sizes = [(20 + k, 60) for k in range(36)] + [(60, 10 + k) for k in range(36)]
    index = Index(make_records(tmp_path, sizes))
    found = []
    for size in (1, 5, 32, 50):
        batches = list(eval_loader(index, 64, LoaderConfig(size, rect=True, frame=Frame(multiple=16))))
        boxes = [box for b in batches for box in b.letterboxes]
        aspects = [box.original[0] / box.original[1] for box in boxes]
        assert aspects == sorted(aspects) and max(map(len, batches)) <= size
        found.append([(i, box) for b in batches for i, box in zip(b.image_ids, b.letterboxes, strict=True)])
    assert all(other == found[0] for other in found)
    groups = [boxes[k:k + 32] for k in range(0, 72, 32)]  # the batches of YOLOv5, each in its smallest frame
    frames = [{box.input for box in group} for group in groups]
    shapes = [np.array([box.original for box in group]) for group in groups]
    assert frames == [{_rect(shape, 64, 16, 0.5)} for shape in shapes] and len(set(map(tuple, frames))) == 3


def test_square_frames_are_rounded_up_to_the_stride(index):
    assert next(iter(eval_loader(index, 50, LoaderConfig(2)))).images.shape[2:] == (64, 64)


def test_one_frame_that_is_not_square(index):
    batches = list(eval_loader(index, (32, 64), LoaderConfig(4)))
    assert all(b.images.shape[2:] == (32, 64) for b in batches)
    for box in (box for b in batches for box in b.letterboxes):
        assert box == plan_letterbox(box.original, (32, 64))[1]
    with refused("flag-conflict", "--rect"):
        eval_loader(index, (32, 64), LoaderConfig(4, rect=True))


@pytest.mark.parametrize("rect", [False, True])
def test_batches_of_images_that_are_done_are_left_out_and_the_others_stay_as_they_are(index, rect):
    whole = list(eval_loader(index, 64, LoaderConfig(2, rect=rect)))
    done = {*whole[1].image_ids, *whole[2].image_ids, whole[0].image_ids[0]}  # of the first batch one image is not
    rest = list(eval_loader(index, 64, LoaderConfig(2, rect=rect), done))
    assert [batch.image_ids for batch in rest] == [batch.image_ids for batch in [whole[0], *whole[3:]]]
    assert all(torch.equal(a.images, b.images) for a, b in zip(rest, [whole[0], *whole[3:]], strict=True))
    everything = {image for batch in whole for image in batch.image_ids}
    assert list(eval_loader(index, 64, LoaderConfig(2, rect=rect), everything)) == []


def test_evaluation_ranks_split_the_batches(index):
    parts = [list(eval_loader(index, 64, LoaderConfig(2, rank=r, world=2))) for r in range(2)]
    assert sorted(i for part in parts for b in part for i in b.image_ids) == list(range(100, 109))


@pytest.mark.filterwarnings("ignore:.*cannot be decoded")
@pytest.mark.parametrize("workers", [0, 2])
def test_damage_met_by_workers_is_known_to_the_loader(tmp_path, workers):
    records = make_records(tmp_path, SIZES[:4])
    Path(records[2].path).write_bytes(b"nothing")
    loader = train_loader(Index(records), 64, YoloPolicy(), LoaderConfig(2, workers=workers))
    assert loader.damaged == []
    _passes(loader)
    assert loader.damaged == [records[2].path]


def test_no_images_is_told():
    config = LoaderConfig(2)
    for make in (lambda: train_loader(Index([]), 64, CONFIG, config), lambda: eval_loader(Index([]), 64, config)):
        with pytest.raises(UserError) as error:
            make()
        assert error.value.code == "no-images"


def test_page_locked_batches_keep_their_order():
    class Locked:
        def __init__(self, number: int) -> None:
            self.number = number

        def pin_memory(self) -> "Locked":
            return Locked(self.number + 100)

    assert [b.number for b in page_locked(Locked(k) for k in range(5))] == list(range(100, 105))
    assert list(page_locked(iter(()))) == []
    broken = page_locked(Locked(k) for k in range(5))
    assert next(broken).number == 100
    broken.close()
