"""Training augmentation, second step, on a device: the frames of a whole batch at once, with plain torch operations.

The twin of `data.augment.render` for images in device memory: the same plans give the same frames within
interpolation error, but for the seams between upright tiles, which are sharp here and blurred over a pixel there.
Nothing here waits for the device, and no Python loop runs over images: what depends on numbers was decided when the
plans were packed, on the CPU (`data.augment.plan_batch`).

Legend: B samples, M of them blended with a second layer, N = B + M layers, R rows of a layer's table (row 0 is the
fill, then one per tile), H, W pixels of the frame, P pixels held; spaces as in data.augment.geometry.
Channels are OpenCV's BGR until the last step.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from data.augment.colour import HUES
from data.augment.plan_batch import LayerTables, PlanBatch

EPSILON = 2.0**-23  # float32's, which OpenCV adds to what it divides by
PIXELS = 1 << 22  # drawn at a time: temporaries stay below half a GiB whatever the batch


def render(plans: PlanBatch, block: Tensor, images: Tensor, *, draw: "Callable[..., Tensor] | None" = None,
           jitter: "Callable[..., Tensor] | None" = None, distort: "Callable[..., Tensor] | None" = None,
           pixels: int = PIXELS) -> Tensor:
    """Draw `plans` onto `images` (B, H, W, 3) uint8 RGB and return them; `block` (P, 3) uint8 holds the sources.

    All lie on one device. draw, jitter, distort: `draw_layers`, `jitter_colours` and `distort_colours`, or what
    torch.compile made of them, which needs no temporaries: then let `pixels`, the most that are drawn at a time, be as
    many as there are.
    """
    draw, jitter, distort = draw or draw_layers, jitter or jitter_colours, distort or distort_colours
    height, width = plans.frame
    samples, layers = len(plans), len(plans.rows)
    step = max(pixels // (height * width), 1)
    frames = block.new_empty((layers, height, width, 3))
    for k in range(0, layers, step):
        frames[k:k + step] = draw(block, plans.layers(slice(k, k + step)), plans.frame, plans.upright, plans.flat)
    for k in range(samples, layers, step):
        mixed, blend = plans.mixed[k - samples:k - samples + step], plans.blend[k - samples:k - samples + step]
        frames.index_copy_(0, mixed, mix(frames.index_select(0, mixed), frames[k:k + step], blend))
    if plans.jitters:
        for k in range(0, samples, step):
            images[k:k + step] = jitter(frames[k:min(k + step, samples)], plans.tables[k:k + step])
    elif len(plans.distortions):
        for k in range(0, samples, step):
            part = slice(k, min(k + step, samples))
            images[part] = distort(frames[part], plans.distortions[part], plans.boxes[part, 1])
    else:
        images.copy_(frames[:samples].flip(-1))
    for k in range(0, len(plans.pasted), step):
        pasted = plans.pasted[k:k + step]
        shown = mirror(images.index_select(0, pasted), plans.mirrored[k:k + step])
        images.index_copy_(0, pasted, shown)
    if plans.copied.shape[1]:
        flat = images.view(-1, 3)
        flat.index_copy_(0, plans.copied[0], flat.index_select(0, plans.copied[1]))
    return images


def draw_layers(block: Tensor, layers: LayerTables, frame: tuple[int, int], upright: bool, flat: bool) -> Tensor:
    """(N, H, W, 3) uint8: every layer's tiles on its frame, the rest the fill; arguments as in `PlanBatch`."""
    inverse, boxes, regions, source, rows = layers
    x, y = canvas_points(inverse, frame, upright, flat)
    owner = tile_rows(boxes, None if upright else (regions, x, y), frame)  # (N, H, W) row of the joined tables

    def pick(column: Tensor) -> Tensor:
        return column.reshape(-1).index_select(0, owner.view(-1)).view(owner.shape)

    base, last_x, last_y = (pick(c) for c in rows.unbind(-1))
    # A source stops at its outermost pixel centres: beyond them they repeat, as with cv2.BORDER_REPLICATE.
    u = torch.minimum((x * pick(source[..., 0]) + pick(source[..., 1])).clamp(min=0), last_x)
    v = torch.minimum((y * pick(source[..., 2]) + pick(source[..., 3])).clamp(min=0), last_y)
    left, top = u.floor(), v.floor()
    u, v = (u - left).unsqueeze(-1), (v - top).unsqueeze(-1)
    left, top = left.to(rows.dtype), top.to(rows.dtype)
    right = (left < last_x).to(rows.dtype)  # pixels to the next column, and to the next row below
    down = (top < last_y) * (last_x + 1)
    index = base + top * (last_x + 1) + left

    def between(index: Tensor) -> Tensor:
        a, b = (block.index_select(0, i.view(-1)).view(*i.shape, 3).float() for i in (index, index + right))
        return torch.lerp(a, b, u)

    return torch.lerp(between(index), between(index + down), v).round().to(torch.uint8)


def canvas_points(inverse: Tensor, frame: tuple[int, int], upright: bool, flat: bool) -> tuple[Tensor, Tensor]:
    """x and y on the canvas under every pixel centre, each to be broadcast to (N, H, W).

    inverse (N, 3, 3): frame -> canvas. upright: no layer is turned, so that x depends on the column alone and y on the
    row; flat: no layer has a perspective.
    """
    height, width = frame
    x = torch.arange(width, device=inverse.device) + 0.5
    y = (torch.arange(height, device=inverse.device) + 0.5).view(-1, 1)
    m = inverse.view(-1, 9, 1, 1)
    if upright:
        return x * m[:, 0] + m[:, 2], y * m[:, 4] + m[:, 5]
    px = x * m[:, 0] + (y * m[:, 1] + m[:, 2])
    py = x * m[:, 3] + (y * m[:, 4] + m[:, 5])
    if flat:
        return px, py
    depth = (x * m[:, 6] + (y * m[:, 7] + m[:, 8])).clamp(min=1e-6)
    return px / depth, py / depth


def tile_rows(boxes: Tensor, turned: tuple[Tensor, Tensor, Tensor] | None, frame: tuple[int, int]) -> Tensor:
    """(N, H, W) int32: which row of the tables, all layers' end to end, each pixel is drawn from.

    boxes (N, R, 4): the pixels x1, y1, x2, y2 that may show a tile; turned: (regions (N, R, 4), canvas x, canvas y)
    where upright boxes do not tell the tiles apart.
    """
    (layers, count), (height, width) = boxes.shape[:2], frame
    x = torch.arange(width, dtype=torch.int32, device=boxes.device)
    y = torch.arange(height, dtype=torch.int32, device=boxes.device).view(-1, 1)
    first = torch.arange(layers, dtype=torch.int32, device=boxes.device).view(-1, 1, 1) * count
    owner = first.expand(layers, height, width).contiguous()
    for k in range(1, count):
        x1, y1, x2, y2 = boxes[:, k].view(-1, 4, 1, 1).unbind(1)
        on_tile = ((x >= x1) & (x < x2)) & ((y >= y1) & (y < y2))
        if turned is not None:
            regions, cx, cy = turned
            x1, y1, x2, y2 = regions[:, k].view(-1, 4, 1, 1).unbind(1)
            on_tile = on_tile & (cx >= x1) & (cx < x2) & (cy >= y1) & (cy < y2)
        owner = torch.where(on_tile, first + k, owner)
    return owner


def mix(first: Tensor, second: Tensor, weight: Tensor) -> Tensor:
    """weight (M,) of `first` and the rest of `second`, (M, H, W, 3) uint8, rounded as cv2.addWeighted does."""
    weight = weight.view(-1, 1, 1, 1)
    return (first * weight + second * (1 - weight)).round().to(torch.uint8)


def mirror(images: Tensor, bits: Tensor) -> Tensor:
    """Images (C, H, W, 3) that show their own mirror image where a bit of (C, H, ceil(W / 8)) is set."""
    places = torch.arange(7, -1, -1, dtype=torch.uint8, device=bits.device)
    where = (bits.unsqueeze(-1) >> places & 1).flatten(2)[..., :images.shape[2]].bool()  # (C, H, W)
    return torch.where(where.unsqueeze(-1), images.flip(2), images)


def jitter_colours(frames: Tensor, tables: Tensor) -> Tensor:
    """(B, H, W, 3) BGR -> (B, H, W, 3) RGB, uint8: hue, saturation and value through tables (B, 3, 256) uint8.

    Hue, saturation and value are OpenCV's 8-bit ones, by its own fixed-point rule: hue in steps of two degrees.
    """
    blue, green, red = frames.to(torch.int32).unbind(-1)  # (B, H, W)
    value = torch.maximum(torch.maximum(red, green), blue)
    spread = value - torch.minimum(torch.minimum(red, green), blue)
    hue = torch.where(value == red, green - blue, torch.where(
        value == green, blue - red + 2 * spread, red - green + 4 * spread))
    per_spread, per_value = _reciprocals(frames.device)
    hue = (hue * _look_up(per_spread, spread) + 2048) >> 12
    hue = torch.where(hue < 0, hue + HUES, hue)
    saturation = (spread * _look_up(per_value, value) + 2048) >> 12

    start = 256 * torch.arange(len(frames), dtype=torch.int32, device=frames.device).view(-1, 1, 1)
    new_hue, new_saturation, new_value = tables.float().unbind(1)  # (B, 256)
    value = _look_up(new_value, value + start)
    chroma = value * _look_up(new_saturation / 255, saturation + start)
    hue = hue + start
    # How far a channel lies below the value, of its chroma: a trapezium over the hue circle of six.
    colours = []
    for channel in (5, 3, 1):
        place = (new_hue / 30 + channel) % 6
        share = torch.minimum(place, 4 - place).clamp(0, 1)
        colours.append((value - chroma * _look_up(share, hue)).to(torch.uint8))
    return torch.stack(colours, -1)


def distort_colours(frames: Tensor, numbers: Tensor, boxes: Tensor) -> Tensor:
    """(B, H, W, 3) BGR -> (B, H, W, 3) RGB, uint8: `data.augment.photometric` inside boxes (B, 4) of pixels x1, y1, x2,
    y2, by its numbers (B, 8); the order of the channels alone outside is RGB.

    Hue, saturation and value are OpenCV's of float32 pixels, those below 0 included.
    """
    brightness, before, new_saturation, new_hue, after, *_ = numbers[:, :, None, None].unbind(1)  # (B, 1, 1)
    pixels = (frames + brightness.unsqueeze(-1)) * before.unsqueeze(-1)
    blue, green, red = pixels.unbind(-1)  # (B, H, W)
    value, least = pixels.amax(-1), pixels.amin(-1)
    spread = value - least
    hue = torch.where(value == red, green - blue, torch.where(
        value == green, blue - red + 2 * spread, red - green + 4 * spread)) * (60 / (spread + EPSILON)) + new_hue
    chroma = value * (spread / (value.abs() + EPSILON)) * new_saturation
    colours = []
    for channel in (1, 3, 5):  # blue, green, red; as in `jitter_colours`
        place = (hue / 60 + channel) % 6
        colours.append((value - chroma * torch.minimum(place, 4 - place).clamp(0, 1)) * after)
    pixels = torch.stack(colours, -1).round().clamp(0, 255).to(torch.uint8)
    order = numbers[:, 5:].to(torch.int64).view(-1, 1, 1, 3).expand_as(pixels)
    height, width = frames.shape[1:3]
    x = torch.arange(width, dtype=torch.int32, device=frames.device)
    y = torch.arange(height, dtype=torch.int32, device=frames.device).view(-1, 1)
    x1, y1, x2, y2 = boxes.view(-1, 4, 1, 1).unbind(1)
    inside = ((x >= x1) & (x < x2) & (y >= y1) & (y < y2)).unsqueeze(-1)
    return torch.where(inside, pixels.gather(-1, order), frames.flip(-1))


def _look_up(table: Tensor, index: Tensor) -> Tensor:
    return table.reshape(-1).index_select(0, index.reshape(-1)).view(index.shape)


def _reciprocals(device: torch.device) -> tuple[Tensor, Tensor]:
    """OpenCV's tables for 8-bit pixels, (256,) int32 with 12 fractional bits: 30 / spread and 255 / value."""
    number = torch.arange(256, dtype=torch.float64, device=device).clamp(min=1)
    return tuple(((most << 12) / number).round().to(torch.int32) for most in (30, 255))
