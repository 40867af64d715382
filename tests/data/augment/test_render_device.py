"""Frames drawn from one block of pixels with torch against those that OpenCV draws from the same images."""

from dataclasses import dataclass, replace

import cv2
import numpy as np
import pytest
import torch

import data.augment.plan_batch
from data.augment.colour import adjust_hsv
from data.augment.copy_paste import draw_pasted
from data.augment.geometry import Labels, MosaicLayer, affine_matrix, is_axis_aligned, single_tile, transform_boxes
from data.augment.photometric import Photometric, adjust_photometric
from data.augment.plan import Plan, Scene
from data.augment.plan_batch import PlanBatch, choose_copies, colour_tables, pack_plans
from data.augment.policies.policy import Policy
from data.augment.policies.ssd import SsdPolicy
from data.augment.policies.yolo import YoloPolicy
from data.augment.render import render_plan
from data.augment.render_device import distort_colours, draw_layers, jitter_colours, render
from data.images.store import canonical_sizes, reduction
from data.labels.records import Record
from data.loading.device_loader import DeviceImages, copies_needed
from tests.data.pictures import smooth

S = 96
SIZES = [(120, 160), (160, 90), (64, 64), (96, 96), (70, 300), (41, 33)]
STILL = {"hsv_h": 0.0, "hsv_s": 0.0, "hsv_v": 0.0}


@dataclass
class Store:
    """Images in memory as `ImageStore` gives them: longest side S or less. `missing` cannot be decoded."""

    missing: tuple[int, ...] = ()
    sizes: tuple[tuple[int, int], ...] = tuple(SIZES)
    side: int = S

    def __post_init__(self):
        self.records = [Record("", i, h, w, np.zeros((0, 4), np.float32), np.zeros(0, np.int64))
                        for i, (h, w) in enumerate(self.sizes)]
        self.sizes = np.array(self.sizes)
        self.canonical = canonical_sizes(self.sizes, S)
        self.images = [smooth(*size, k) for k, size in enumerate(self.canonical.tolist())]

    def load_own(self, index):
        return self.load(index)

    def load(self, index):
        if index in self.missing:
            return None
        (height, width), (h, w) = self.sizes[index], self.canonical[index]
        return self.images[index], (w / width, h / height)


NOTHING = Labels(np.zeros((0, 4), np.float32), np.zeros(0, np.int64), np.zeros(0, bool))


def _labels(index: int) -> Labels:
    """Two objects, one of them small."""
    height, width = SIZES[index]
    boxes = np.array([(0.2, 0.3, 0.8, 0.9), (0.1, 0.1, 0.2, 0.3)], np.float32) * (width, height, width, height)
    return Labels(boxes.astype(np.float32), np.zeros(2, np.int64), np.zeros(2, bool))


def _plans(config: Policy, count: int, size=S, seed: int = 0, mosaic: bool = True) -> list[Plan]:
    rng = np.random.default_rng(seed)
    return [config.draw(rng, Scene(k % len(SIZES), size, SIZES.__getitem__,
                                   lambda n: rng.integers(0, len(SIZES), n).tolist(), _labels, mosaic))
            for k in range(count)]


def _pack(plans: list[Plan], images: DeviceImages, frame=(S, S)) -> PlanBatch:
    return pack_plans([(plan, NOTHING, k) for k, plan in enumerate(plans)], frame, images.layout)


def _draw(plans: list[Plan], images: DeviceImages, frame=(S, S), **options) -> np.ndarray:
    """(B, H, W, 3)"""
    out = torch.empty((len(plans), *frame, 3), dtype=torch.uint8)
    return render(_pack(plans, images, frame), images.block, out, **options).numpy()


def _images(config: Policy, store: Store | None = None) -> DeviceImages:
    return DeviceImages(store or Store(), torch.device("cpu"), copies_needed(config), config.fill_bgr)


CONFIGS = {
    "v8": YoloPolicy(flipud=0.5), "v7": YoloPolicy(scale=0.9, scale_extra=0.1, translate=0.2),
    "turned": YoloPolicy(degrees=25, shear=8), "bent": YoloPolicy(degrees=10, perspective=0.001),
    "mixed": YoloPolicy(mixup=0.6), "mixed and turned": YoloPolicy(mixup=1.0, degrees=5, scale=0.9),
    "some mosaic": YoloPolicy(mosaic=0.5, fill=50), "nine": YoloPolicy(mosaic9=0.5, mixup=0.3)}


def _inner(plan: Plan, frame=(S, S)) -> np.ndarray:
    """(H, W) False beside the seams of upright tiles, which OpenCV's way, by one resize, blurs over a pixel."""
    y, x = np.mgrid[:frame[0], :frame[1]] + 0.5
    inner = np.ones(frame, bool)
    for layer in plan.layers:
        if is_axis_aligned(layer.matrix):
            near = 1.5 * max(1.0, abs(layer.matrix[0, 0]))
            for x1, y1, x2, y2 in transform_boxes(layer.matrix, np.array([t.region for t in layer.tiles])):
                outer = (x > x1 - near) & (x < x2 + near) & (y > y1 - near) & (y < y2 + near)
                inner &= ~outer | (x > x1 + near) & (x < x2 - near) & (y > y1 + near) & (y < y2 - near)
    return inner


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("colours", [False, True])
def test_frames_equal_opencvs(name, colours):
    config = CONFIGS[name] if colours else replace(CONFIGS[name], **STILL)
    store, plans = Store(), _plans(config, 12)
    got = _draw(plans, _images(config, store))
    want = np.stack([render_plan(plan, store.load, S, config)[0] for plan in plans])
    error, inner = np.abs(got.astype(int) - want), np.stack([_inner(plan) for plan in plans])
    assert error.mean() < 1 and inner.mean() > 0.8
    assert error[inner].mean() < (0.5 if colours else 0.2)
    assert np.quantile(error[inner], 0.999) <= (5 if colours else 1)
    assert len({plan.layers[0].matrix.tobytes() for plan in plans}) == len(plans) and want.std() > 20


@pytest.mark.parametrize("frame", [(S, S), (64, 112)])
@pytest.mark.parametrize("colours", [False, True])
def test_frames_of_ssd_equal_opencvs(frame, colours):
    """Crops and expansions to the pixel, the fill to the bit, colours within their rounding."""
    config = SsdPolicy() if colours else SsdPolicy(distort=0.0, swap_channels=0.0)
    store, plans = Store(), _plans(config, 24, frame)
    got = _draw(plans, _images(config, store), frame)
    want = np.stack([render_plan(plan, store.load, frame, config)[0] for plan in plans])
    error, fill = np.abs(got.astype(int) - want), (want == config.fill).all(-1)
    assert 0.1 < fill.mean() < 0.8 and (got[fill] == config.fill).all()
    assert error.mean() < 0.2 and np.quantile(error, 0.999) <= (5 if colours else 1)
    assert want[~fill].std() > 20


def test_distortions_follow_opencv_on_every_kind_of_pixel():
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (6, 60, 150, 3), dtype=np.uint8)
    pixels[:, :9] = pixels[:, :9, :, :1]  # greys
    pixels[:, 9:20] //= 10  # dark, so that brightness takes them below 0
    steps = [Photometric(), Photometric(-30.0, 1.4, True, 1.5, 17.0, (1, 2, 0)),
             Photometric(30.0, 1.5, False, 1.4, -18.0, (2, 0, 1)), Photometric(-32.0),
             Photometric(contrast=0.5, hue=3.0), Photometric(hue=-9.0)]
    numbers = torch.tensor([s.numbers() for s in steps])
    boxes = torch.tensor([(0, 0, 150, 60)] * 5 + [(10, 0, 150, 33)])
    got = distort_colours(torch.from_numpy(pixels), numbers, boxes).numpy()
    for k, step in enumerate(steps):
        x1, y1, x2, y2 = boxes[k].tolist()
        want = np.ascontiguousarray(pixels[k, ..., ::-1])
        adjust_photometric(pixels[k, y1:y2, x1:x2], step, want[y1:y2, x1:x2])
        error = np.abs(got[k].astype(int) - want)
        assert error.max() <= 1 and (error > 0).mean() < 0.05  # halves are rounded either way


@pytest.mark.parametrize("name", ["v8", "turned"])
def test_rectangular_frames_equal_opencvs(name):
    config, frame = replace(CONFIGS[name], mosaic=0.0), (64, 112)
    store, plans = Store(), _plans(config, 6, frame)
    got = _draw(plans, _images(config, store), frame)
    want = np.stack([render_plan(plan, store.load, frame, config)[0] for plan in plans])
    assert got.shape == want.shape == (6, 64, 112, 3)
    inner = np.stack([_inner(plan, frame) for plan in plans])
    assert np.abs(got.astype(int) - want)[inner].mean() < 0.5


def test_an_image_that_is_missing_leaves_fill_and_nothing_else_changes():
    config = replace(CONFIGS["mixed and turned"], **STILL)
    store, plans = Store(missing=(1, 3)), _plans(config, 6)
    images = _images(config, store)
    assert images.layout.damaged.tolist() == [False, True, False, True, False, False]
    drawn = [render_plan(plan, store.load, S, config) for plan in plans]
    assert any(damaged for _, damaged in drawn)
    error = np.abs(_draw(plans, images).astype(int) - np.stack([frame for frame, _ in drawn]))
    assert error.mean() < 0.2 and np.quantile(error, 0.999) <= 1
    nothing = _images(config, Store(missing=tuple(range(len(SIZES)))))
    assert (_draw(plans, nothing) == config.fill_bgr[0]).all()


def test_strong_shrinking_averages():
    """Stripes of one pixel turn grey where every eighth pixel would be all black or all white."""
    store = Store(sizes=((S, S),))
    store.images[0][:] = 255 * (np.arange(S) // 1 % 2)[:, None]
    config = YoloPolicy(scale=0.9, **STILL)
    assert copies_needed(config) == 4 and copies_needed(YoloPolicy()) == 1
    layer = MosaicLayer((single_tile(0, (S, S), S),), affine_matrix(S, S, zoom=0.12), 0.12)
    plans = [Plan((layer,), 1.0, (1.0, 1.0, 1.0))]
    grey = _draw(plans, _images(config, store))[0, 44:52, 44:52].astype(int)
    assert np.abs(grey - 127.5).max() < 2
    striped = _draw(plans, DeviceImages(store, torch.device("cpu"), 1))[0, 44:52, 44:52].astype(int)
    assert np.abs(striped - 127.5).max() > 50


def test_copies_follow_the_rule_of_decoding():
    zooms = np.array([2.0, 1.0, 0.51, 0.5, 0.26, 0.25, 0.13, 0.125, 0.1, 0.05])
    matrices = np.stack([affine_matrix(S, S, zoom=z) for z in zooms])
    ones = np.ones((len(zooms), 2))
    assert (2 ** choose_copies(matrices, ones, 7)).tolist() == [reduction(z) for z in zooms]
    assert choose_copies(matrices, ones * (2, 1), 2).tolist() == [0, 0, 0, 0, 0] + [1] * 5  # enlarged on the canvas
    matrices[:, 2, 0] = 1e-4
    assert not choose_copies(matrices, ones, 4).any()


@pytest.mark.parametrize("gains", [(1.01, 1.6, 0.7), (0.985, 0.4, 1.4), (1.0, 1.0, 1.0)])
def test_colours_follow_opencv_on_every_kind_of_pixel(gains):
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (2, 200, 150, 3), dtype=np.uint8)
    pixels[:, :100] = np.clip(pixels[:, :100, :, :1].astype(int) + rng.integers(-5, 6, (2, 100, 150, 3)), 0, 255)
    pixels[:, :2] = pixels[:, :2, :, :1]  # greys
    tables = np.stack([colour_tables(gains), colour_tables((1.0, 1.0, 1.0))])
    got = jitter_colours(torch.from_numpy(pixels), torch.from_numpy(tables)).numpy()
    want = adjust_hsv(pixels[0], gains) if gains != (1.0, 1.0, 1.0) else cv2.cvtColor(
        cv2.cvtColor(pixels[0], cv2.COLOR_BGR2HSV), cv2.COLOR_HSV2RGB)
    assert np.abs(got[0].astype(int) - want).max() <= 1
    assert np.abs(got[1].astype(int) - pixels[1][..., ::-1]).mean() < 1.5  # the way to eight bits and back


def test_pasted_objects_are_their_mirror_images():
    config, frame = YoloPolicy(mosaic=0.0), (S, 68)
    plans, images = _plans(config, 3, frame), _images(config)
    outline = np.array([(10.0, 20), (40, 30), (30, 80)])
    pasted = replace(NOTHING, pasted=(outline, outline + (24.0, 5)))
    packed = pack_plans([(plans[0], NOTHING, 0), (plans[1], pasted, 1), (plans[2], NOTHING, 2)], frame, images.layout)
    plain = _draw(plans, images, frame)
    got = render(packed, images.block, torch.empty(3, *frame, 3, dtype=torch.uint8)).numpy()
    assert np.array_equal(got[[0, 2]], plain[[0, 2]])
    assert np.array_equal(got[1], draw_pasted(plain[1].copy(), pasted.pasted)) and not np.array_equal(got[1], plain[1])


def test_neither_parts_nor_wide_numbers_change_a_pixel(monkeypatch):
    config = CONFIGS["mixed"]
    plans, images = _plans(config, 7), _images(config)
    whole = _draw(plans, images)
    assert np.array_equal(whole, _draw(plans, images, pixels=2 * S * S))
    assert images.layout.dtype == torch.int32
    monkeypatch.setattr(data.augment.plan_batch, "INDEXABLE", 1000)
    assert images.layout.dtype == _pack(plans, images).rows.dtype == torch.int64
    assert np.array_equal(whole, _draw(plans, images))


@pytest.mark.parametrize("name", ["v8", "bent", "mixed and turned", "ssd"])
def test_drawing_asks_nothing_of_the_device(name):
    """On the meta device there are no values: whatever would have to wait for one fails."""
    config = SsdPolicy() if name == "ssd" else CONFIGS[name]
    images = _images(config)
    plans = pack_plans([(plan, replace(NOTHING, pasted=(np.eye(3, 2) * 50,)), 0) for plan in _plans(config, 4)],
                       (S, S), images.layout).to("meta")
    out = render(plans, images.block.to("meta"), torch.empty(4, S, S, 3, dtype=torch.uint8, device="meta"))
    assert out.is_meta and out.shape == (4, S, S, 3)


@pytest.mark.slow
def test_drawing_compiles_to_one_graph_for_all_batch_sizes():
    compiled = {name: torch.compile(f, dynamic=True, fullgraph=True, backend="eager") for name, f in (
        ("draw", draw_layers), ("jitter", jitter_colours), ("distort", distort_colours))}
    for count, config in ((5, CONFIGS["v8"]), (3, CONFIGS["v8"]), (5, SsdPolicy()), (3, SsdPolicy())):
        plans, images = _plans(config, count), _images(config)
        assert np.array_equal(_draw(plans, images), _draw(plans, images, pixels=1 << 40, **compiled))
