"""The policy of DETR: sizes and crops that are drawn before the frame, and what they do to labels and pixels."""

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from data.augment.plan import Scene
from data.augment.policies.detr import DetrPolicy, crop_span, fitted
from data.augment.policies.yolo import YoloPolicy
from data.labels.records import Record
from data.loading.build import train_loader
from data.loading.config import LoaderConfig
from tests.data.pictures import Index, equal_batches, make_records
from tests.refusals import refused
from utils.frame import Frame

SIZES = [(40, 60), (60, 40), (64, 64), (100, 30), (30, 100), (48, 52), (64, 64), (33, 77), (90, 50), (120, 160)]
FRAME = Frame(fit="shortest", short=80, long=133, pad="corner", multiple=16, fill=(124, 116, 104))
sides = st.tuples(st.integers(1, 3000), st.integers(1, 3000))


@settings(max_examples=200, deadline=None)
@given(sides, st.integers(0, 2**32), st.sampled_from([(800, 1333), (80, 133), (32, 400)]), st.booleans())
def test_a_window_lies_in_its_image_and_fits_the_model(size, seed, limits, cropped) -> None:
    policy = DetrPolicy(crop=float(cropped))
    window = policy.draw_window(np.random.default_rng(seed), size, limits)
    x1, y1, x2, y2 = window.region
    assert 0 <= x1 < x2 <= size[1] + 1e-6 and 0 <= y1 < y2 <= size[0] + 1e-6
    short = max(policy.shortest) * limits[0] / 800
    assert min(window.size) <= short and max(window.size) <= max(limits[1], 1) and min(window.size) >= 1
    if not cropped:
        assert window.region == (0, 0, size[1], size[0])


@settings(max_examples=100, deadline=None)
@given(sides, st.integers(0, 2**32))
def test_the_size_is_known_before_anything_else(size, seed) -> None:
    policy, scene = DetrPolicy(), Scene(0, (800, 800), lambda _: size, lambda _: [], sides=(800, 1333))
    plan = policy.draw(np.random.default_rng(seed), scene)
    assert plan.content == policy.draw_size(np.random.default_rng(seed), size, scene.sides)


def test_sizes_follow_the_shorter_side_until_the_longer_is_too_long() -> None:
    assert fitted((480, 640), 800, 1333) == (800, 1066)
    assert fitted((400, 1000), 800, 1333) == (533, 1333) and fitted((1000, 400), 480, 1333) == (1200, 480)
    assert crop_span(700, 0.0, 0.0, (384, 600)) == (0, 384) and crop_span(700, 0.999, 0.999, (384, 600)) == (100, 700)
    assert crop_span(300, 0.5, 0.5, (384, 600)) == (0, 300)  # what is smaller stays whole


@pytest.fixture(scope="module")
def index(tmp_path_factory) -> Index:
    return Index(make_records(tmp_path_factory.mktemp("images"), SIZES))


def test_boxes_sit_on_their_objects(tmp_path) -> None:
    """A white object on black, cropped, mirrored and resized: the box is where the white is."""
    picture = np.zeros((90, 130, 3), np.uint8)
    picture[30:70, 40:100] = 255
    cv2.imwrite(str(tmp_path / "0.png"), picture)
    record = Record(str(tmp_path / "0.png"), 1, 90, 130, np.array([[40, 30, 100, 70]], np.float32),
                    np.zeros(1, np.int64), np.zeros(1, bool))
    loader = train_loader(Index([record] * 60), 80, DetrPolicy(fill=(0, 0, 0)), LoaderConfig(1, seed=3, frame=FRAME))
    loader.set_epoch(0)
    seen = 0
    for position in range(60):
        sample = loader.dataset[0, position]
        ys, xs = np.nonzero(sample.image[..., 0] > 127)
        if not len(sample.boxes):
            assert len(ys) < 40 * 2
            continue
        seen += 1
        x1, y1, x2, y2 = sample.boxes[0]
        height, width = sample.letterbox.content
        assert x2 <= width and y2 <= height
        np.testing.assert_allclose((xs.min(), ys.min(), xs.max() + 1, ys.max() + 1), (x1, y1, x2, y2), atol=1.6)
    assert seen > 30


def test_frames_hold_the_drawn_sizes_of_their_batch(index) -> None:
    loader = train_loader(index, 80, DetrPolicy(), LoaderConfig(4, seed=5, frame=FRAME))
    loader.set_epoch(1)
    shapes = set()
    for batch in loader:
        content = batch.targets.content
        assert content.tolist() == [list(box.content) for box in batch.letterboxes]
        most = content.max(0).values.tolist()
        assert list(batch.images.shape[2:]) == [-(-side // 16) * 16 for side in most]
        shapes.add(tuple(batch.images.shape[2:]))
        for image, (height, width) in zip(batch.images, content.tolist(), strict=True):
            fill = torch.tensor(FRAME.fill, dtype=torch.uint8)[:, None, None]
            assert (image[:, height:] == fill).all() and (image[:, :, width:] == fill).all()
    assert len(shapes) > 1 and {s for e in (2, 3) for s in frames_of(loader, e)} - shapes  # drawn anew in each epoch


def frames_of(loader, epoch) -> set:
    loader.set_epoch(epoch)
    return {tuple(batch.images.shape[2:]) for batch in loader}


def test_workers_and_a_resumed_epoch_give_the_same_batches(index) -> None:
    def loader(**words):
        made = train_loader(index, 80, DetrPolicy(), LoaderConfig(4, seed=5, frame=FRAME, **words))
        made.set_epoch(2)
        return made

    want = list(loader())
    for other in (loader(workers=1), loader(cache="ram")):
        for a, b in zip(want, other, strict=True):
            assert equal_batches(a, b) and torch.equal(a.targets.content, b.targets.content)
    again = loader()
    again.set_epoch(2, 1)
    assert all(map(equal_batches, want[1:], again))


def test_processes_share_frames(index) -> None:
    both = [train_loader(index, 80, DetrPolicy(), LoaderConfig(2, seed=5, rank=rank, world=2, frame=FRAME))
            for rank in (0, 1)]
    for loader in both:
        loader.set_epoch(0)
    for a, b in zip(*both, strict=True):
        assert a.images.shape[2:] == b.images.shape[2:]


def test_what_cannot_be_is_refused(index) -> None:
    with refused("bad-value", "crop 2", "shortest"):
        DetrPolicy(crop=2, shortest=[])
    with refused("bad-value", "least_crop 700 is above most_crop 600"):
        DetrPolicy(least_crop=700)
    with refused("flag-conflict", "one size"):
        train_loader(index, 64, DetrPolicy(), LoaderConfig(2))


def test_other_policies_leave_the_size_to_the_frame() -> None:
    assert not YoloPolicy().draws_sizes
