"""Every batch at a size of its own: within bounds, whole strides, boxes along with pixels."""

import torch
from hypothesis import given
from hypothesis import strategies as st

from engine.training.multiscale import draw_size, resize_batch
from utils.structures import Targets, pack_targets


@given(st.integers(0, 9), st.integers(0, 9), st.integers(0, 99), st.sampled_from([64, 320, 416, 640]),
       st.sampled_from([32, 64]))
def test_sizes_are_whole_strides_within_half_and_three_halves(seed, epoch, batch, imgsz, stride):
    size = draw_size(seed, epoch, batch, imgsz, stride)
    assert size % stride == 0 and imgsz * 0.5 - stride <= size <= imgsz * 1.5
    assert size == draw_size(seed, epoch, batch, imgsz, stride)


def test_all_sizes_are_met():
    assert {draw_size(0, 0, k, 128, 32) for k in range(100)} == {64, 96, 128, 160, 192}


def test_boxes_follow_the_pixels():
    images = torch.zeros(1, 3, 64, 96, dtype=torch.uint8)
    images[:, :, 16:32, 24:48] = 200
    targets = pack_targets([Targets(torch.tensor([[24.0, 16.0, 48.0, 32.0]]), torch.zeros(1, dtype=torch.int64))])
    bigger, moved = resize_batch(images, targets, 192, 32)
    assert bigger.shape == (1, 3, 128, 192) and moved.boxes[0, 0].tolist() == [48, 32, 96, 64]
    x1, y1, x2, y2 = moved.boxes[0, 0].int().tolist()
    inside = bigger[0, 0, y1 + 1:y2 - 1, x1 + 1:x2 - 1]
    assert torch.allclose(inside, torch.full_like(inside, 200 / 255), atol=1e-6)
    assert bigger[0, 0, :y1 - 1].max() == 0


def test_the_same_size_changes_nothing():
    images = torch.randint(255, (2, 3, 64, 64), dtype=torch.uint8)
    targets = pack_targets([Targets.empty(), Targets.empty()])
    assert resize_batch(images, targets, 64, 32)[0] is images
