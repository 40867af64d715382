"""The steps of SSD's augmentation, from the random draws of the published codes (amdegroot/ssd.pytorch, ASSD-Pytorch).

Where the policy of this project differs on purpose, the test says so: a black fill (ASSD) is passed as one; corners of
crops, drawn from 1 on there, are drawn from 0 on; neither boxes minus 1 nor pixels beyond 0..255 are repeated; a crop
sees its image's own pixels at its edges, where the originals repeat those of the edge.
"""

import cv2
import numpy as np
import pytest

from data.augment.geometry import Labels
from data.augment.photometric import Photometric, distort
from data.augment.plan import Plan
from data.augment.policies.ssd import CROPS, ORDERS, TRIES, WHOLE, SsdPolicy, crop_layer, expanded, first_crop
from data.augment.render import plan_labels, render_plan

CASES = ["ssd0", "ssd1", "ssd2", "ssd3", "ssd4", "ssd5", "assd0", "assd1", "assd2"]
# Levels of 255: OpenCV 4 warps with steps of 1/32 pixel.
EXACT = 1 if int(cv2.__version__.split(".")[0]) >= 5 else 2
BY_ASSD = (1, 0, 3, 2)  # y1, x1, y2, x2 <-> x1, y1, x2, y2


class Replay:
    """A case of the golden file: its draws by step, and what the originals had after each."""

    def __init__(self, meta: dict, arrays: dict, case: str) -> None:
        self.case, = (c for c in meta["cases"] if c["id"] == case)
        self.arrays, self.image = arrays, arrays["image"]
        self.size = self.image.shape[:2]
        self.is_assd = case.startswith("assd")
        self.draws = {step["step"]: step["draws"] for step in self.case["steps"]}
        self.frame = self.after("Resize")[0]["shape"][0]

    def after(self, step: str) -> "tuple[dict, np.ndarray]":
        """The last step of this name and the sampled image after it."""
        k = max(k for k, s in enumerate(self.case["steps"]) if s["step"] == step)
        return self.case["steps"][k], self.arrays[f"{self.case['id']}_{k:02d}_img"]

    def values(self, step: str) -> list:
        return [value for _, _, value in self.draws[step]]

    def photometric(self) -> Photometric:
        def change(step: str, neutral: float) -> float:
            drawn, *value = self.values(step)
            return value[0] if drawn else neutral

        steps = [step["step"] for step in self.case["steps"]]
        swapped, *order = self.values("RandomLightingNoise")
        return Photometric(
            change("RandomBrightness", 0.0), change("RandomContrast", 1.0),
            steps.index("RandomContrast") < steps.index("ConvertColor_HSV"), change("RandomSaturation", 1.0),
            change("RandomHue", 0.0), ORDERS[order[0]] if swapped else ORDERS[0])

    def canvas(self) -> tuple[int, int, int, int]:
        height, width = self.size
        left_alone, *rest = self.values("Expand")
        if left_alone:
            return 0, 0, width, height
        ratio, first, second = rest
        left, top = (second, first) if self.is_assd else (first, second)
        return expanded(self.size, ratio, left / (width * ratio - width), top / (height * ratio - height))

    def crop(self, canvas: tuple, boxes: np.ndarray) -> tuple[int, int, int, int]:
        """By `first_crop` from the tries of the last choice; all before it must have failed."""
        sides = np.array((canvas[2] - canvas[0], canvas[3] - canvas[1]))
        groups: list[tuple[int, list[float]]] = []
        for kind, _, value in self.draws["RandomSampleCrop"]:
            if kind == "choice":
                groups.append((value, []))
            else:
                groups[-1][1].append(value)
        for k, (choice, values) in enumerate(groups):
            if CROPS["code"][choice] == WHOLE:
                assert k == len(groups) - 1
                return canvas
            found = first_crop(canvas, self.shares(values, sides), CROPS["code"][choice], boxes, self.size, 0.3)
            assert (found is None) == (k < len(groups) - 1)
        return found

    def shares(self, values: list[float], sides: np.ndarray) -> np.ndarray:
        """(T, 4) the draws of the originals as shares of the way from least to most."""
        shares, rest = [], list(values)
        while rest:
            wanted = np.array((rest.pop(0), rest.pop(0)))
            corner = np.zeros(2)
            if 0.5 <= wanted[1] / wanted[0] <= 2:  # they draw no corner for others
                corner = np.array((rest.pop(0), rest.pop(0)))[::-1 if self.is_assd else 1]
            shares.append(((wanted / sides - 0.3) / 0.7).tolist() + (corner / (sides - wanted)).tolist())
        assert len(shares) <= TRIES
        return np.array(shares)

    def plan(self) -> Plan:
        canvas = self.canvas()
        crop = self.crop(canvas, self.labels().boxes.astype(np.float64))
        layer = crop_layer(0, self.size, crop, bool(self.values("RandomMirror")[0]), self.frame)
        return Plan((layer,), 1.0, self.photometric())

    def labels(self) -> Labels:
        height, width = self.size
        boxes = self.arrays["boxes"] * np.array((width, height, width, height), np.float32)
        labels = self.arrays["labels"].astype(np.int64)
        return Labels(boxes, labels, np.zeros(len(labels), bool))


@pytest.fixture(params=CASES)
def replay(golden, request) -> Replay:
    meta, arrays = golden("ssd_augment")
    assert [c["id"] for c in meta["cases"]] == CASES
    return Replay(meta, arrays, request.param)


def test_colours(replay):
    """Unclipped float32 pixels before the geometry, at the places and in the means that the file holds."""
    step, want = replay.after("RandomLightingNoise")
    pixels = distort(replay.image, replay.photometric())
    y, dy, x, dx = step["sample"]
    assert np.abs(pixels[y::dy, x::dx] - want).max() < 2e-3
    assert np.abs(pixels.mean((0, 1), np.float64) - step["mean"]).max() < 1e-3


def test_crops_and_boxes(replay):
    plan = replay.plan()
    x1, y1, x2, y2 = plan.layers[0].crop
    step, _ = replay.after("RandomSampleCrop")
    assert [y2 - y1, x2 - x1] == step["shape"][:2]
    k = next(k for k, s in enumerate(replay.case["steps"]) if s["step"] == "ToPercentCoords")
    want = replay.arrays[f"{replay.case['id']}_{k:02d}_boxes"]
    want = want[:, BY_ASSD] if replay.is_assd else want
    found = plan_labels(plan, lambda i: replay.labels(), lambda i: replay.size, replay.frame, SsdPolicy(),
                        lambda i: False)
    assert np.abs(found.boxes / replay.frame - want).max() < 1e-6
    assert np.array_equal(found.labels, replay.arrays[f"{replay.case['id']}_{k:02d}_labels"])


def test_frames(replay):
    """One resample to eight bits, then colours, against colours, a crop and a resize in float32: the same but for
    rounding where colours are linear, and within 15 levels where saturation or hue, which are not, meet an edge that
    the resize blurs."""
    plan, policy = replay.plan(), SsdPolicy(fill=(0, 0, 0) if replay.is_assd else (123, 117, 104))
    frame, _ = render_plan(plan, lambda i: (replay.image, (1.0, 1.0)), replay.frame, policy)
    step, want = replay.after("Resize")
    y, dy, x, dx = step["sample"]
    got, want = frame[y::dy, x::dx, ::-1].astype(float), np.clip(want, 0, 255)
    scale = plan.layers[0].matrix.diagonal()[:2]
    near = np.abs(scale) / 2  # pixels of the frame on the outer half of the crop's edge pixels
    columns, rows = (np.arange(start, replay.frame, by) + 0.5 for start, by in ((x, dx), (y, dy)))
    inner = ((rows > near[1]) & (rows < replay.frame - near[1]))[:, None] & (
        (columns > near[0]) & (columns < replay.frame - near[0]))
    error = np.abs(got - want)[inner]
    assert inner.mean() > 0.6
    if plan.colour.saturation == 1 and plan.colour.hue == 0:
        assert error.mean() < 0.5 and error.max() < EXACT
    else:
        assert error.mean() < 1.5 and error.max() < 15
