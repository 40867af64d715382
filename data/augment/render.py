"""Training augmentation, second step: pixels (with OpenCV) and labels follow a `Plan`.

An upright layer, the usual case, is laid out as far as the frame shows it and resized once. Under a rotation, a shear
or a perspective each source is warped straight onto the frame instead of onto a 2S x 2S canvas that is then warped: a
quarter of the memory, one interpolation instead of two. Either way a source that the frame does not show is not loaded.

Legend: S side of the frame, or its height and width; spaces image, canvas and frame as in data.augment.geometry; images
(H, W, 3) BGR uint8.
"""

import math
from collections.abc import Callable

import cv2
import numpy as np

from data.augment.colour import adjust_hsv
from data.augment.copy_paste import paste_labels
from data.augment.copy_small import copy_small_objects
from data.augment.geometry import (
    Array,
    Labels,
    MosaicLayer,
    Size,
    Tile,
    clip,
    frame_sides,
    is_axis_aligned,
    layer_labels,
    scaling,
    transform_boxes,
)
from data.augment.photometric import Photometric, adjust_photometric
from data.augment.plan import Plan
from data.augment.policies.policy import Policy
from data.images.letterbox import FILL
from data.images.store import Scale, reduction, shrink

Colour = tuple[int, int, int]  # BGR
GREY = (FILL,) * 3
LoadImage = Callable[[int], "tuple[Array, Scale] | None"]  # index -> image and its own scale
FLIPS = {(True, False): 1, (False, True): 0, (True, True): -1}  # mirrored in x, in y: the flag of cv2.flip
EXACT = 1e-6  # pixels of the canvas


class Scratch:
    """Memory that is used again for each sample, since fresh memory costs more than what is drawn on it.

    For one thread; in another process or a copy it starts empty.
    """

    def __init__(self) -> None:
        self._held: dict[str, Array] = {}

    def take(self, name: str, *shape: int) -> Array:
        """Memory (shape) uint8 for one purpose; what it held before is lost."""
        need = math.prod(shape)
        if name not in self._held or self._held[name].size < need:
            self._held[name] = np.empty(need, np.uint8)
        return self._held[name][:need].reshape(shape)

    def __reduce__(self) -> tuple:
        return Scratch, ()


def render_plan(plan: Plan, load: LoadImage, size: Size, policy: Policy, scratch: Scratch | None = None,
                out: Array | None = None) -> tuple[Array, set[int]]:
    """Draw a plan: the frame (S, S, 3) RGB uint8, in `out` where given; the indices of images that `load` could not
    give."""
    scratch = scratch or Scratch()
    if out is None:
        out = np.empty((*frame_sides(size), 3), np.uint8)
    fill = policy.fill_bgr
    drawn = [_draw(layer, size, load, fill, scratch, str(k)) for k, layer in enumerate(plan.layers)]
    damaged = set().union(*(missing for _, _, missing in drawn))
    if isinstance(plan.colour, Photometric):
        (layer,), ((image, zoom, _),) = plan.layers, drawn
        _distort_drawn(_enlarged(image, zoom, size, scratch, "frame"), layer, plan.colour, out)
        return out, damaged
    if len(drawn) == 1 and drawn[0][1] > 1:  # colours act on each pixel alone: change them while there are fewer
        (image, zoom, _), = drawn
        image = adjust_hsv(image, plan.colour, scratch.take("coloured", *image.shape))
        np.copyto(out, _enlarged(image, zoom, size, scratch, "frame"))
        return out, damaged
    frames = [_enlarged(image, zoom, size, scratch, f"frame {k}") for k, (image, zoom, _) in enumerate(drawn)]
    return adjust_hsv(frames[0] if len(frames) == 1 else mixup(*frames, plan.blend), plan.colour, out), damaged


def plan_labels(plan: Plan, labels_of: Callable[[int], Labels], size_of: Callable[[int], tuple[int, int]], size: Size,
                policy: Policy, damaged: Callable[[int], bool]) -> Labels:
    """The labels in the frame of a plan. Where an image should be that is damaged, there is an ignore region.

    With copy-paste they hold the pasted objects, and `pasted` for `data.augment.copy_paste.draw_pasted`; with copies of
    small objects those, and `copied` for `data.augment.copy_small.draw_copied`.
    """
    parts = []
    for layer in plan.layers:
        labels = [Labels.unknown(*size_of(t.index)) if damaged(t.index) else labels_of(t.index) for t in layer.tiles]
        parts.append(layer_labels(layer, labels, size, policy.box_filter))
    found = Labels.join(parts)
    if plan.paste is not None:
        found = paste_labels(plan.paste, found, size, blended=len(parts) > 1)
    return found if plan.small is None else copy_small_objects(plan.small, found, plan.layers, size)


def mixup(first: Array, second: Array, weight: float) -> Array:
    """weight * first + (1 - weight) * second, both uint8 of one height and width."""
    return cv2.addWeighted(first, weight, second, 1 - weight, 0)


def render_layer(layer: MosaicLayer, size: Size, load: LoadImage, fill: Colour = GREY, scratch: Scratch | None = None,
                 name: str = "") -> tuple[Array, set[int]]:
    """Draw a layer's tiles on an (S, S, 3) BGR frame; also the indices of images that could not be loaded."""
    scratch = scratch or Scratch()
    image, zoom, damaged = _draw(layer, size, load, fill, scratch, name)
    return _enlarged(image, zoom, size, scratch, f"frame {name}"), damaged


def _draw(layer: MosaicLayer, size: Size, load: LoadImage, fill: Colour, scratch: Scratch,
          name: str) -> tuple[Array, float, set[int]]:
    """A layer as BGR, how much it must still be enlarged to be the frame, and the images that could not be loaded."""
    corner = _first_pixel(layer)
    if corner is not None:
        canvas, damaged = _lay_out(layer, corner, size, load, fill, scratch, name)
        return canvas, float(abs(layer.matrix[0, 0])), damaged
    frame, damaged = _warp_layer(layer, size, load, fill, scratch)
    return cv2.cvtColor(frame, cv2.COLOR_BGRA2BGR, dst=scratch.take(f"drawn {name}", *frame.shape[:2], 3)), 1.0, damaged


def _distort_drawn(frame: Array, layer: MosaicLayer, steps: Photometric, out: Array) -> None:
    """A frame of one upright image in its new colours, RGB in `out`; the fill beside the image keeps its own."""
    cv2.cvtColor(frame, cv2.COLOR_BGR2RGB, dst=out)
    box = _pixels_of(layer.matrix, layer.tiles[0], out.shape[:2])
    if box is not None:
        x1, y1, x2, y2 = box
        adjust_photometric(frame[y1:y2, x1:x2], steps, out[y1:y2, x1:x2])


def _fill(area: Array, colour: Colour) -> None:
    """Fill (H, W, 3 or 4) uint8, in one piece of memory; the fourth channel is of no account."""
    if len(set(colour)) == 1:
        area.fill(colour[0])
    elif area.shape[2] == 4:  # four bytes at once, in a tenth of the time
        area.view(np.uint32).fill(np.array((*colour, 0), np.uint8).view(np.uint32)[0])
    else:
        area[...] = colour


def _enlarged(image: Array, zoom: float, size: Size, scratch: Scratch, name: str) -> Array:
    """The frame of what `_draw` gave: its first pixel is the frame's first, and it reaches past the frame's end."""
    height, width = frame_sides(size)
    if zoom != 1:
        target = scratch.take(name, *(round(side * zoom) for side in image.shape[:2]), 3)
        image = cv2.resize(image, None, dst=target, fx=zoom, fy=zoom, interpolation=cv2.INTER_LINEAR)
    return image[:height, :width]


def _first_pixel(layer: MosaicLayer) -> tuple[int, int] | None:
    """The corner of the canvas (x, y) with which an upright layer's frame begins; None where a warp is needed.

    That is where the canvas is turned, where the frame does not begin with a whole pixel, or where it shrinks to less
    than half, since each source is averaged then; and where it shows a crop of the image as it is held.
    """
    (scale_x, _, shift_x), (_, scale_y, shift_y), _ = layer.matrix.tolist()
    if layer.crop is not None or not is_axis_aligned(layer.matrix):
        return None
    if abs(scale_x) != abs(scale_y) or reduction(abs(scale_x)) > 1:
        return None
    begin = -shift_x / scale_x, -shift_y / scale_y
    places = [*begin, *(v for tile in layer.tiles for v in (*tile.offset, *tile.region))]
    return (round(begin[0]), round(begin[1])) if all(abs(v - round(v)) < EXACT for v in places) else None


def _lay_out(layer: MosaicLayer, corner: tuple[int, int], size: Size, load: LoadImage, fill: Colour, scratch: Scratch,
             name: str) -> tuple[Array, set[int]]:
    """The part of an upright layer's canvas that the frame shows, from `corner` on, mirrored as the frame is."""
    zoom = abs(layer.matrix[0, 0])
    # One pixel more feeds the interpolation at the frame's edge.
    height, width = (math.ceil(side / zoom) + 1 for side in frame_sides(size))
    canvas = scratch.take(f"drawn {name}", height, width, 3)
    mirrored = layer.matrix[0, 0] < 0, layer.matrix[1, 1] < 0
    shown = [(tile, *_seen(tile, 0, corner[0], mirrored[0], width), *_seen(tile, 1, corner[1], mirrored[1], height))
             for tile in layer.tiles]
    shown = [(tile, x, y, left, top) for tile, x, left, y, top in shown if x.start < x.stop and y.start < y.stop]
    if sum((x.stop - x.start) * (y.stop - y.start) for _, x, y, _, _ in shown) < height * width:
        _fill(canvas, fill)  # tiles of a layer share no pixel: fewer pixels than the canvas has leave some uncovered
    damaged: set[int] = set()
    for tile, x, y, left, top in shown:
        loaded = load(tile.index)
        if loaded is None:
            damaged.add(tile.index)
            canvas[y, x] = fill
            continue
        image = _at_scale(*loaded, tile.scale, scratch)
        part = image[top:top + y.stop - y.start, left:left + x.stop - x.start]
        if mirrored in FLIPS:
            cv2.flip(part, FLIPS[mirrored], dst=canvas[y, x])
        else:
            canvas[y, x] = part
    return canvas, damaged


def _seen(tile: Tile, axis: int, corner: int, mirrored: bool, length: int) -> tuple[slice, int]:
    """What is seen of a tile along an axis: its span on the part of the canvas, and the pixel of its image (at the
    tile's scale) that this begins with, or ends with where it is mirrored; the smaller number of the two."""
    low, high, offset = (round(v) for v in (tile.region[axis], tile.region[axis + 2], tile.offset[axis]))
    if not mirrored:
        low, high = max(low - corner, 0), min(high - corner, length)
        return slice(low, high), low + corner - offset
    low, high = max(corner - high, 0), min(corner - low, length)
    return slice(low, high), corner - high - offset


def _at_scale(image: Array, scale: Scale, wanted: Scale, scratch: Scratch) -> Array:
    """An image of `scale` resized to `wanted`; both are pixels per pixel of the original frame."""
    if scale == wanted:
        return image
    height, width = (round(n * w / s) for n, w, s in zip(image.shape, wanted[::-1], scale[::-1]))
    if (height, width) == image.shape[:2]:
        return image
    how = cv2.INTER_AREA if width < image.shape[1] or height < image.shape[0] else cv2.INTER_LINEAR
    return cv2.resize(image, (width, height), dst=scratch.take("tile", height, width, 3), interpolation=how)


def _warp_layer(layer: MosaicLayer, size: Size, load: LoadImage, fill: Colour,
                scratch: Scratch) -> tuple[Array, set[int]]:
    """Draw a layer by warping each source onto an (S, S, 4) BGRA frame.

    Four channels because OpenCV warps them in less than half the time of three.
    """
    frame = scratch.take("warped", *frame_sides(size), 4)
    _fill(frame, fill)
    damaged: set[int] = set()
    to_canvas = None if is_axis_aligned(layer.matrix) else np.linalg.inv(layer.matrix)
    for tile in layer.tiles:
        box = _pixels_of(layer.matrix, tile, size)
        if box is None:
            continue
        loaded = load(tile.index)
        if loaded is None:
            damaged.add(tile.index)
            continue
        image, (sx, sy) = loaded
        to_frame = layer.matrix @ tile.matrix() @ scaling(1 / sx, 1 / sy)
        if to_frame[2, 0] == to_frame[2, 1] == 0:  # under a perspective the scale differs from place to place
            image, (sx, sy) = shrink(image, reduction(float(np.abs(to_frame[:2, :2]).sum(1).max())))
            to_frame = to_frame @ scaling(1 / sx, 1 / sy)
        _warp_tile(frame, image, to_frame, box, None if to_canvas is None else _mask(to_canvas, tile, box))
    return frame, damaged


def _warp_tile(frame: Array, image: Array, matrix: Array, box: tuple[int, int, int, int], mask: Array | None) -> None:
    """Draw `image` through `matrix` (its pixels -> frame) on the pixels `box` (x1, y1, x2, y2) of `frame`.

    mask (h, w) uint8 limits the drawing inside the box; None draws all of it.
    """
    x1, y1, x2, y2 = box
    back = np.linalg.inv(matrix)
    # Only the part of the source that the box shows is converted; two pixels more feed the interpolation at its edge.
    seen = transform_boxes(back, np.array([[x1, y1, x2, y2]]))[0]
    height, width = image.shape[:2]
    left, top = (int(np.clip(np.floor(v) - 2, 0, n - 1)) for v, n in zip(seen[:2], (width, height), strict=True))
    right, bottom = (int(np.clip(np.ceil(v) + 2, k + 1, n)) for v, k, n in
                     zip(seen[2:], (left, top), (width, height), strict=True))
    source = cv2.cvtColor(image[top:bottom, left:right], cv2.COLOR_BGR2BGRA)
    # OpenCV counts from pixel centres, this project from pixel corners: hence the halves.
    index_map = scaling(1, 1, -left - 0.5, -top - 0.5) @ back @ scaling(1, 1, x1 + 0.5, y1 + 0.5)
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    view = frame[y1:y2, x1:x2]
    target = view if mask is None else None
    if matrix[2, 0] == matrix[2, 1] == 0:
        drawn = cv2.warpAffine(source, index_map[:2], (x2 - x1, y2 - y1), dst=target, flags=flags,
                               borderMode=cv2.BORDER_REPLICATE)
    else:
        drawn = cv2.warpPerspective(source, index_map, (x2 - x1, y2 - y1), dst=target, flags=flags,
                                    borderMode=cv2.BORDER_REPLICATE)
    if mask is not None:
        cv2.copyTo(drawn, mask, view)


def _pixels_of(matrix: Array, tile: Tile, size: Size) -> tuple[int, int, int, int] | None:
    """The pixels x1, y1, x2, y2 of the frame whose centres may lie on a tile; None where there are none.

    Centres are compared with half-open intervals, so upright neighbours share no pixel and leave none between them.
    """
    height, width = frame_sides(size)
    hull = clip(transform_boxes(matrix, np.array([tile.region])), (0, 0, width, height))[0]
    x1, y1, x2, y2 = np.ceil(hull - 0.5).astype(int).tolist()
    return (x1, y1, x2, y2) if x1 < x2 and y1 < y2 else None


def _mask(to_canvas: Array, tile: Tile, box: tuple[int, int, int, int]) -> Array:
    """(h, w) uint8, 255 where the centre of a pixel of `box` lies on the tile's region.

    to_canvas (3, 3): frame -> canvas. Columns and rows are multiplied by it, pixels only added up: a tenth of the time
    of `data.augment.geometry.project`.
    """
    u, v = np.arange(box[0], box[2]) + 0.5, np.arange(box[1], box[3])[:, None] + 0.5
    x, y = np.empty((2, len(v), len(u)), np.float32)
    across, down, depth = ((row[0] * u, row[1] * v + row[2]) for row in to_canvas)
    if to_canvas[2, :2].any():
        depth = np.maximum(np.add(*depth), 1e-6)  # (h, w)
        np.divide(np.add(*across), depth, out=x, casting="same_kind")
        np.divide(np.add(*down), depth, out=y, casting="same_kind")
    else:
        np.add(*across, out=x, casting="same_kind")
        np.add(*down, out=y, casting="same_kind")
    x1, y1, x2, y2 = tile.region
    return ((x >= x1) & (x < x2) & (y >= y1) & (y < y2)).view(np.uint8) * 255
