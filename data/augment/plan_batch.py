"""The plans of a batch as a handful of small arrays: all that a device must know to draw its frames.

What depends on numbers alone is decided here, on the CPU and within the loader's workers: which pixels of the frame a
tile may cover, which copy of its image serves it, and where in device memory that copy lies.

Legend: n images of the dataset, K copies of each, every one half the size of that before; B samples, M of them blended
with a second layer, N = B + M layers, C of them with pasted objects; R rows of a layer's table: row 0 is the fill,
then one per tile; H, W pixels of the frame.
"""

from dataclasses import dataclass, fields, replace
from typing import NamedTuple

import cv2
import numpy as np
import torch
from torch import Tensor

from data.augment.colour import HUES
from data.augment.copy_paste import mask
from data.augment.copy_small import copied_pixels
from data.augment.geometry import Array, Labels, MosaicLayer, clip, is_axis_aligned, transform_boxes
from data.augment.photometric import Photometric
from data.augment.plan import Plan
from utils.structures import Letterbox, PackedTargets, Targets, pack_targets

INDEXABLE = 1 << 31  # bytes that 32-bit numbers can address


@dataclass(frozen=True)
class Layout:
    """Where images lie in a block of pixels.

    originals (n, 2): height, width that labels refer to; sizes (n, K, 2): height, width of each copy; starts (n, K):
    the number of its first pixel, the whole block having `pixels` of them, of which pixel 0 is the fill; damaged (n,)
    bool: there is nothing to be drawn.
    """

    originals: Array
    sizes: Array
    starts: Array
    damaged: Array
    pixels: int

    @classmethod
    def of(cls, originals: Array, held: Array, copies: int) -> "Layout":
        """A layout of images of size `held` (n, 2), each followed by its smaller copies, 1/2, 1/4 ... by rounding."""
        by = 2 ** np.arange(copies)
        sizes = np.maximum(np.rint(held[:, None] / by[:, None]), 1).astype(np.int32)  # (n, K, 2)
        ends = 1 + np.cumsum(sizes.prod(2, dtype=np.int64))
        starts = np.concatenate(([1], ends[:-1])).reshape(len(held), copies)
        return cls(originals, sizes, starts, np.zeros(len(held), bool), int(ends[-1]))

    @property
    def dtype(self) -> torch.dtype:
        """The narrowest type that holds the place of any byte."""
        return torch.int32 if 3 * self.pixels < INDEXABLE else torch.int64


class LayerTables(NamedTuple):
    """What `data.augment.render_device.draw_layers` draws N layers from; the fields are those of `PlanBatch`."""

    inverse: Tensor
    boxes: Tensor
    regions: Tensor
    source: Tensor
    rows: Tensor


@dataclass
class PlanBatch:
    """What `data.augment.render_device.render` draws, and the rest of the batch.

    inverse (N, 3, 3) float32 frame -> canvas; boxes (N, R, 4) int32 pixels x1, y1, x2, y2 of the frame that may show a
    tile; regions (N, R, 4) float32 its part of the canvas; source (N, R, 4) float32 factor and summand of x, then of y,
    canvas -> pixel index in the tile's image; rows (N, R, 3) first pixel in the block, last column, last row. The first
    B layers are those of the samples, the others are blended into samples `mixed` (M,), whose own weight is `blend`
    (M,). tables (B, 3, 256) uint8: the new hue, saturation, value; distortions (B, 8) float32: the numbers of
    `data.augment.photometric`, for the pixels in the first tile's box; one of the two has no rows. Samples `pasted`
    (C,) show their own mirror image where the bits of `mirrored` (C, H, ceil(W / 8)) uint8 say so. copied (2, Q)
    int64: pixels of all B frames, row by row, that then show others, and those others. frame: (height,
    width); upright: no layer is turned; flat: none has a perspective; jitters: colours change by the tables.
    """

    inverse: Tensor
    boxes: Tensor
    regions: Tensor
    source: Tensor
    rows: Tensor
    mixed: Tensor
    blend: Tensor
    tables: Tensor
    distortions: Tensor
    pasted: Tensor
    mirrored: Tensor
    copied: Tensor
    frame: tuple[int, int]
    upright: bool
    flat: bool
    jitters: bool
    targets: PackedTargets
    image_ids: list[int]
    letterboxes: list[Letterbox]

    def __len__(self) -> int:
        return len(self.image_ids)

    def pin_memory(self) -> "PlanBatch":
        return replace(self, **{name: t.pin_memory() for name, t in self._tensors()}, targets=self.targets.pin_memory())

    def to(self, device: torch.device | str) -> "PlanBatch":
        """What is drawn from goes to the device, without waiting where it is pinned; the targets stay."""
        return replace(self, **{name: t.to(device, non_blocking=True) for name, t in self._tensors()})

    def layers(self, part: slice) -> LayerTables:
        """The tables of some of the N layers."""
        return LayerTables(*(getattr(self, name)[part] for name in LayerTables._fields))

    def _tensors(self) -> list[tuple[str, Tensor]]:
        return [(f.name, value) for f in fields(self) if isinstance(value := getattr(self, f.name), Tensor)]


def pack_plans(planned: list[tuple[Plan, Labels, int]], frame: tuple[int, int], layout: Layout) -> PlanBatch:
    """(plan, labels in the frame, image id) of each sample -> one batch."""
    plans = [plan for plan, _, _ in planned]
    mixed = [k for k, plan in enumerate(plans) if len(plan.layers) == 2]
    layers = [plan.layers[0] for plan in plans] + [plans[k].layers[1] for k in mixed]
    matrices = np.stack([layer.matrix for layer in layers])
    upright = [is_axis_aligned(matrix) for matrix in matrices]
    boxes, regions, source, rows = tile_tables(layers, matrices, frame, layout)
    regions[upright] = -np.inf, -np.inf, np.inf, np.inf  # their boxes tell the tiles apart, to the pixel
    pasted = [k for k, (_, labels, _) in enumerate(planned) if labels.pasted]
    mirrored = [np.packbits(mask(planned[k][1].pasted, frame) > 0, axis=1) for k in pasted]
    tables, distortions = colour_numbers(plans)
    return PlanBatch(
        inverse=torch.from_numpy(np.linalg.inv(matrices)).float(), boxes=torch.from_numpy(boxes),
        regions=torch.from_numpy(regions), source=torch.from_numpy(source),
        rows=torch.from_numpy(rows).to(layout.dtype), mixed=torch.tensor(mixed, dtype=torch.int64),
        blend=torch.tensor([plans[k].blend for k in mixed], dtype=torch.float32),
        tables=tables, distortions=distortions,
        pasted=torch.tensor(pasted, dtype=torch.int64),
        mirrored=torch.from_numpy(np.array(mirrored, np.uint8).reshape(-1, frame[0], -(-frame[1] // 8))),
        copied=torch.from_numpy(np.concatenate([k * frame[0] * frame[1] + copied_pixels(labels.copied, frame[1])
                                                for k, (_, labels, _) in enumerate(planned)], 1)), frame=frame,
        upright=all(upright), flat=not matrices[:, 2, :2].any(),
        jitters=any(plan.colour != (1.0, 1.0, 1.0) for plan in plans) and len(tables) > 0,
        targets=pack_targets([Targets(*map(torch.from_numpy, (x.boxes, x.labels, x.ignore))) for _, x, _ in planned]),
        image_ids=[image_id for _, _, image_id in planned], letterboxes=[plan.letterbox(frame) for plan in plans])


def tile_tables(layers: list[MosaicLayer], matrices: Array, frame: tuple[int, int],
                layout: Layout) -> tuple[Array, Array, Array, Array]:
    """boxes, regions, source and rows of `PlanBatch` for layers seen through `matrices` (N, 3, 3)."""
    shape = (len(layers), 1 + max(len(layer.tiles) for layer in layers))
    boxes, regions = np.zeros((*shape, 4), np.int32), np.zeros((*shape, 4), np.float32)
    source, rows = np.zeros((*shape, 4), np.float32), np.zeros((*shape, 3), np.int64)
    at = tuple(np.array([(n, k) for n, layer in enumerate(layers) for k in range(1, 1 + len(layer.tiles))]).T)  # 2 x Q
    tiles = [tile for layer in layers for tile in layer.tiles]
    index = np.array([tile.index for tile in tiles])
    scale = np.array([tile.scale for tile in tiles])  # (Q, 2) x, y; image -> canvas
    offset = np.array([tile.offset for tile in tiles])  # (Q, 2)
    regions[at] = [tile.region for tile in tiles]
    for n, layer in enumerate(layers):
        hull = transform_boxes(matrices[n], np.array([tile.region for tile in layer.tiles]))
        # A pixel belongs to what its centre lies on, half-open, by the rule of data.augment.render.
        boxes[n, 1:1 + len(hull)] = np.ceil(clip(hull, (0, 0, frame[1], frame[0])) - 0.5)

    original = layout.originals[index][:, ::-1]  # width, height
    copy = choose_copies(matrices[at[0]], scale * original / layout.sizes[index, 0, ::-1], layout.sizes.shape[1])
    size = layout.sizes[index, copy, ::-1]  # width, height
    factor = size / (original * scale)
    there = ~layout.damaged[index][:, None]  # otherwise zeros: everything is drawn from the one pixel of fill
    source[at] = np.stack((factor, -offset * factor - 0.5), 2).reshape(-1, 4) * there
    rows[at] = np.concatenate((layout.starts[index, copy][:, None], size - 1), 1) * there
    return boxes, regions, source, rows


def choose_copies(matrices: Array, scale: Array, copies: int) -> Array:
    """(Q,) which copy of its image each tile is drawn from, as `data.images.store.reduction` says.

    matrices (Q, 3, 3) canvas -> frame; scale (Q, 2) x, y: pixels of the canvas per pixel of the image as it is held.
    """
    largest = (np.abs(matrices[:, :2, :2]) * scale[:, None]).sum(2).max(1)
    flat = ~matrices[:, 2, :2].any(1)  # under a perspective the scale differs from place to place: every pixel counts
    return ((largest[:, None] * 2 ** np.arange(1, copies) <= 1) & flat[:, None]).sum(1)


def colour_numbers(plans: list[Plan]) -> tuple[Tensor, Tensor]:
    """`tables` and `distortions` of `PlanBatch` for plans of one policy."""
    distorted = [plan.colour.numbers() for plan in plans if isinstance(plan.colour, Photometric)]
    tables = [colour_tables(plan.colour) for plan in plans if not isinstance(plan.colour, Photometric)]
    return (torch.from_numpy(np.array(tables, np.uint8).reshape(-1, 3, 256)),
            torch.from_numpy(np.array(distorted, np.float32).reshape(-1, 8)))


def colour_tables(gains: tuple[float, float, float]) -> Array:
    """(3, 256) uint8: each hue, saturation and value after `data.augment.colour.adjust_hsv`."""
    steps = np.arange(256)
    hue, saturation, value = gains
    levels = steps.astype(np.uint8)
    return np.stack([(steps * hue % HUES).astype(np.uint8), cv2.convertScaleAbs(levels, alpha=saturation).reshape(-1),
                     cv2.convertScaleAbs(levels, alpha=value).reshape(-1)])
