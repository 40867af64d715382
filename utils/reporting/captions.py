"""Where captions go: at a free spot beside their boxes, over no small object and over no other caption.

Legend: N boxes, n captions, K spots that each caption may take. Rectangles are xyxy pixels.
"""

import numpy as np

SHARE = 0.12  # of a box that is not small, the most that a caption may cover
CROWDED = 2.5  # what it costs to lie on other boxes, times the part of the caption that does
# Spots: which side of the box the caption keeps to across (0 left, 1 right) and how much of its own width it is moved
# back, likewise down (0 top, 1 bottom) and its height, and what the spot costs. The first is above, its left at the
# box's left.
SPOTS = np.array([(0, 0, 0, 1, 0.0), (1, 1, 0, 1, 0.3), (0, 0, 1, 0, 0.5), (0, 0, 0, 0, 0.6), (1, 1, 1, 0, 0.7),
                  (1, 0, 0, 0, 0.8), (0, 1, 0, 0, 0.9), (1, 0, 1, 1, 0.9), (0, 1, 1, 1, 1.0), (0, 0, 1, 1, 1.0),
                  (1, 1, 1, 1, 1.1), (1, 1, 0, 0, 1.1)])
OVER = SPOTS[:, 0] == SPOTS[:, 1]  # above, below or inside: such a caption may be slid across, the others down


def overlaps(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """(..., 4) and (N, 4) -> (..., N) the areas that they have in common."""
    x1, y1, x2, y2 = (one[..., k, None] for k in range(4))
    across = np.minimum(x2, other[:, 2]) - np.maximum(x1, other[:, 0])
    down = np.minimum(y2, other[:, 3]) - np.maximum(y1, other[:, 1])
    return np.maximum(across, 0) * np.maximum(down, 0)


def place_captions(boxes: np.ndarray, small: np.ndarray, rows: np.ndarray, sizes: np.ndarray, shape: tuple[int, int],
                   taken: np.ndarray) -> np.ndarray:
    """The captions of some boxes: (n, 4) whole pixels, -1 where no spot is free; those that come first choose first.

    boxes (N, 4) with their lines; small (N,) bool: those that no caption may touch; rows (n,): the boxes that get a
    caption; sizes (n, 2) width and height of the captions; shape: of the picture, (height, width); taken (m, 4): where
    captions are already.
    """
    spots, costs = _spots(boxes[rows], sizes, shape)
    costs += _covering(spots, boxes, small, rows)
    placed = np.full((len(rows), 4), -1)
    occupied = np.concatenate((taken, placed))
    count = len(taken)
    order = np.argsort(costs, axis=1, kind="stable")
    best = np.take_along_axis(costs, order, 1)
    for k in np.flatnonzero(np.isfinite(best[:, 0])).tolist():
        tried, there = spots[k, order[k, :np.isfinite(best[k]).sum()]], occupied[:count]
        apart = (tried[:, None, :2] >= there[:, 2:]) | (tried[:, None, 2:] <= there[:, :2])
        free = apart.any(2).all(1).nonzero()[0]
        if len(free):
            placed[k] = occupied[count] = tried[free[0]]
            count += 1
    return placed


def _spots(boxes: np.ndarray, sizes: np.ndarray, shape: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """(n, K, 4) int spots of captions of boxes (n, 4), and (n, K) what each costs: infinite outside the picture."""
    (height, width), (w, h) = shape, sizes.T[:, :, None]
    x1, y1, x2, y2 = np.concatenate((np.floor(boxes[:, :2]), np.ceil(boxes[:, 2:])), 1).T[:, :, None]
    left = x1 + SPOTS[:, 0] * (x2 - x1) - SPOTS[:, 1] * w
    top = y1 + SPOTS[:, 2] * (y2 - y1) - SPOTS[:, 3] * h
    left = np.where(OVER, np.clip(left, 0, np.maximum(width - w, 0)), left)  # slid back into the picture
    top = np.where(OVER, top, np.clip(top, 0, np.maximum(height - h, 0)))
    spots = np.stack((left, top, left + w, top + h), 2)
    outside = (left < 0) | (top < 0) | (left + w > width) | (top + h > height)
    return spots.astype(int), np.where(outside, np.inf, SPOTS[:, 4])


def _covering(spots: np.ndarray, boxes: np.ndarray, small: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """(n, K) what it costs that spots (n, K, 4) lie on boxes: infinite on small ones and on too much of any."""
    areas = (boxes[:, 2:] - boxes[:, :2]).prod(1)
    common = overlaps(spots.astype(np.float32), boxes.astype(np.float32))  # (n, K, N)
    hides = ((common > SHARE * areas) | ((common > 0) & small)).any(2)
    common[np.arange(len(rows)), :, rows] = 0
    sizes = (spots[..., 2] - spots[..., 0]) * (spots[..., 3] - spots[..., 1])
    return np.where(hides, np.inf, CROWDED * common.sum(2) / np.maximum(sizes, 1))


def place_legend(size: tuple[int, int], boxes: np.ndarray, small: np.ndarray, captions: np.ndarray,
                 shape: tuple[int, int]) -> tuple[int, int]:
    """(left, top) of a legend of (width, height): where it covers no caption, the fewest small boxes, and the least of
    others, of equal spots the one nearest to a corner."""
    (width, height), steps = size, np.linspace(0, 1, 17)
    x, y = np.meshgrid(steps * max(shape[1] - width, 0), steps * max(shape[0] - height, 0))
    left, top = np.floor(x.ravel()), np.floor(y.ravel())
    spots = np.stack((left, top, left + width, top + height), 1)
    common = overlaps(spots, boxes)
    away = np.hypot(np.minimum(x, x.max() - x), np.minimum(y, y.max() - y)).ravel() / max(shape)
    cost = (1e4 * overlaps(spots, captions).any(1) + 100 * (common[:, small] > 0).sum(1)
            + 10 * common.sum(1) / (width * height) + away)
    k = int(cost.argmin())
    return int(left[k]), int(top[k])
