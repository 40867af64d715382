"""Drawing for the built-in `shapes` data: cluttered backgrounds, and silhouettes with exact boxes and areas.

Legend: H, W pixels of the image; h, w pixels of the patch around one object. Images are BGR uint8. Random numbers are
drawn with `integers`, `random` and `bytes` only, and pixels are blended in integers, so that one seed gives the same
scenes on every machine.
"""

from dataclasses import dataclass

import cv2
import numpy as np

NAMES = ("circle", "square", "triangle", "star", "cross")
SUBPIXEL = 4  # boxes and masks are exact to a quarter of a pixel
HUES = (0, 30, 60, 105, 145)  # OpenCV's half degrees: red, yellow, green, blue, magenta: one for each name


def _ring(radii: tuple[float, ...]) -> np.ndarray:
    """Points around the origin at equal angles, with these radii in turn: (K, 2)."""
    angles = np.arange(len(radii)) * (2 * np.pi / len(radii))
    return np.stack((np.sin(angles), -np.cos(angles)), 1) * np.asarray(radii)[:, None]


def _cross(arm: float = 0.34) -> np.ndarray:
    corners = [(arm, -1), (arm, -arm), (1, -arm), (1, arm), (arm, arm), (arm, 1)]
    return np.array(corners + [(-x, -y) for x, y in corners])


OUTLINES = {
    "circle": _ring((1.0,) * 64),
    "square": np.array([(-1.0, -1.0), (1.0, -1.0), (1.0, 1.0), (-1.0, 1.0)]),
    "triangle": _ring((1.0,) * 3),
    "star": _ring((1.0, 0.4) * 5),
    "cross": _cross(),
}


@dataclass
class Patch:
    """One object, drawn but not yet placed: coverage (h, w) uint8 0..255; box (4,) xyxy pixels from the patch's corner;
    area in square pixels."""

    coverage: np.ndarray
    box: np.ndarray
    area: float


def draw_patch(name: str, root_area: float, angle: float, aspect: float, max_side: float) -> Patch:
    """A silhouette of `root_area`**2 square pixels, turned by `angle` radians, `aspect` times wider than high.

    Its longer side is cut to `max_side` pixels. The box encloses the drawn sub-pixels and nothing more.
    """
    points = OUTLINES[name] * (aspect ** 0.5, aspect ** -0.5)
    cos, sin = np.cos(angle), np.sin(angle)
    points = points @ np.array([(cos, sin), (-sin, cos)])
    x, y = points.T
    area = 0.5 * abs(np.dot(x, np.roll(y, 1)) - np.dot(y, np.roll(x, 1)))  # shoelace
    side = np.ptp(points, axis=0)
    scale = min(root_area / area ** 0.5, max_side / side.max()) * SUBPIXEL
    points = np.rint((points - points.min(0)) * scale).astype(np.int32)
    width, height = -(-(points.max(0) + 1) // SUBPIXEL)
    fine = np.zeros((height * SUBPIXEL, width * SUBPIXEL), np.uint8)
    cv2.fillPoly(fine, [points], 255)
    left, top, drawn_width, drawn_height = cv2.boundingRect(fine)
    box = np.array((left, top, left + drawn_width, top + drawn_height), np.float64) / SUBPIXEL
    coverage = cv2.resize(fine, (int(width), int(height)), interpolation=cv2.INTER_AREA)
    return Patch(coverage, box, cv2.countNonZero(fine) / SUBPIXEL ** 2)


def paste(image: np.ndarray, patch: Patch, left: int, top: int, colour: np.ndarray) -> None:
    """Blend a patch of one BGR colour into the image, its corner at (left, top), wholly inside."""
    height, width = patch.coverage.shape
    region = image[top:top + height, left:left + width]
    cover = patch.coverage[..., None].astype(np.uint16)  # (h, w, 1)
    region[:] = (region * (255 - cover) + colour.astype(np.uint16) * cover + 127) // 255


def object_colour(rng: np.random.Generator, under: np.ndarray, hue: int | None) -> np.ndarray:
    """A strong BGR colour that stands out from `under`, the mean colour beneath; `hue` None takes any."""
    for _ in range(8):
        h = int(rng.integers(180)) if hue is None else (hue + int(rng.integers(-7, 8))) % 180
        colour = _bgr(h, int(rng.integers(170, 256)), int(rng.integers(110, 256)))
        if np.abs(colour.astype(np.int16) - under).max() >= 90:
            break
    return colour


def background(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """A cluttered (H, W, 3) image without an object: gradient, soft texture, blobs and lines, in muted colours."""
    corners = np.array([[_muted(rng), _muted(rng)], [_muted(rng), _muted(rng)]])
    image = cv2.resize(corners, (width, height), interpolation=cv2.INTER_LINEAR).astype(np.int16)
    cells = int(rng.integers(4, 25))
    texture = np.frombuffer(rng.bytes(cells * cells * 3), np.uint8).reshape(cells, cells, 3)
    strength = int(rng.integers(3, 7))  # a 1/2**strength share of the full range, around zero
    texture = cv2.resize(texture, (width, height), interpolation=cv2.INTER_CUBIC).astype(np.int16)
    image += (texture - 128) // 2 ** (6 - strength // 2)
    image = np.clip(image, 0, 255).astype(np.uint8)
    for _ in range(int(rng.integers(2, 9))):
        cv2.fillPoly(image, [_blob(rng, height, width)], _muted(rng).tolist())
    image = cv2.blur(image, (2 * int(rng.integers(1, 4)) + 1,) * 2)
    for _ in range(int(rng.integers(2, 13))):
        x1, x2 = rng.integers(0, width, 2).tolist()
        y1, y2 = rng.integers(0, height, 2).tolist()
        cv2.line(image, (x1, y1), (x2, y2), _muted(rng).tolist(), int(rng.integers(1, 4)), cv2.LINE_AA)
    return image


def add_grain(rng: np.random.Generator, image: np.ndarray) -> None:
    """Sensor noise over background and objects alike, in place."""
    bits = int(rng.integers(2, 5))
    grain = np.frombuffer(rng.bytes(image.size), np.uint8).reshape(image.shape) >> (8 - bits)
    half = np.full_like(image, 2 ** (bits - 1))
    cv2.subtract(cv2.add(image, grain), half, dst=image)


def _blob(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    corners = int(rng.integers(7, 12))
    radii = rng.random(corners) * 0.5 + 0.5
    size = min(height, width) * (0.03 + 0.2 * rng.random() ** 2)
    centre = rng.random(2) * (width, height)
    return np.rint(_ring(tuple(radii)) * size + centre).astype(np.int32)


def _muted(rng: np.random.Generator) -> np.ndarray:
    return _bgr(int(rng.integers(180)), int(rng.integers(0, 90)), int(rng.integers(40, 220)))


def _bgr(hue: int, saturation: int, value: int) -> np.ndarray:
    return cv2.cvtColor(np.array([[(hue, saturation, value)]], np.uint8), cv2.COLOR_HSV2BGR)[0, 0]
