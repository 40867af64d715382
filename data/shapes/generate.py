"""The built-in `shapes` data: deterministic scenes of mostly small objects, written as COCO JSON and JPEG images.

An image depends on (seed, split, its number) and the scene's options only, so a longer set begins with a shorter one.
"""

import json
import os
import shutil
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from data.shapes.draw import HUES, NAMES, Patch, add_grain, background, draw_patch, object_colour, paste
from utils.errors import UserError, nearest, short
from utils.files import prefix, sweep
from utils.truth import LARGE_SIDE, SMALL_SIDE

VERSION = 1  # raised when the same options draw other scenes
SPLITS = ("train", "val", "test")


@dataclass(frozen=True)
class Scene:
    """What a scene holds. Sides and areas are in pixels at the image's own size.

    objects: fewest and most; small, medium: the shares asked for by COCO area (the rest is large; some of those find no
    room: at 320 px the defaults leave 42 % small, 33 % medium, 25 % large); min_side, max_side: of the square
    root of an object's area and of its longer side; overlap: the share of the smaller of two boxes that may be covered;
    class_colour: how often an object has its class's colour, any other otherwise; background, crowd: the share of
    images without an object, and with one crowd region.
    """

    objects: tuple[int, int] = (1, 12)
    small: float = 0.32
    medium: float = 0.33
    min_side: float = 6.0
    max_side: float = 300.0
    overlap: float = 0.1
    class_colour: float = 0.5
    background: float = 0.05
    crowd: float = 0.02


def render(seed: int, split: str, number: int, size: tuple[int, int], scene: Scene) -> tuple[np.ndarray, list[dict]]:
    """Image `number` of a split: BGR uint8 (H, W, 3), and its objects as COCO annotations without ids."""
    rng = np.random.Generator(np.random.PCG64([seed, SPLITS.index(split), number]))
    height, width = size
    image = background(rng, height, width)
    annotations: list[dict[str, Any]] = []
    if rng.random() >= scene.background:
        taken = np.zeros((0, 4))
        if rng.random() < scene.crowd:
            annotations.append(_draw_crowd(rng, image, scene))
            taken = _corners(annotations[0]["bbox"])
        for label, patch in _objects(rng, min(size), scene):
            place = _place(rng, patch, taken, size, scene.overlap)
            if place is not None:
                left, top = place
                paste(image, patch, left, top, _colour(rng, image, patch, left, top, label, scene))
                annotations.append(_annotation(label, patch, left, top))
                taken = np.concatenate((taken, _corners(annotations[-1]["bbox"])))
    add_grain(rng, image)
    return image, annotations


def generate(root: str | Path, split: str, count: int, size: int | tuple[int, int], seed: int,
             scene: Scene | None = None) -> Path:
    """Make `count` images of a split under `root/<split>`, unless they are there already; returns that folder.

    It holds `annotations.json` (COCO form, pixel `area`) and `images/`. The folder appears whole or not at all, and is
    made anew when what it should hold has changed.
    """
    scene = scene or Scene()
    folder = Path(root) / split
    size = (size, size) if isinstance(size, int) else (int(size[0]), int(size[1]))
    stamp = {"version": VERSION, "count": count, "size": list(size), "seed": seed, **asdict(scene),
             "objects": list(scene.objects)}
    if _stamp(folder) == stamp:
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    sweep(folder.parent)
    made = Path(tempfile.mkdtemp(prefix=prefix(split), dir=folder.parent))
    try:
        _write(made, split, count, size, seed, scene)
        (made / "shapes.json").write_text(json.dumps(stamp), encoding="utf-8")
        made.chmod(0o755)
        _swap(made, folder, stamp)
    finally:
        shutil.rmtree(made, ignore_errors=True)
    return folder


def scene_from(options: dict[str, Any], where: str) -> Scene:
    """`Scene` from the options of a YAML; an unknown or unfit one is a `UserError` naming `where`."""
    if not isinstance(options, dict):
        raise UserError(f"{where}: `scene: {short(options)}` should be a mapping such as {{objects: [2, 4]}}",
                        "bad-value")
    known = Scene.__dataclass_fields__
    for key in options.keys() - known.keys():
        raise UserError(f"{where}: scene has no `{short(key)}`; "
                        f"{nearest(str(key), list(known)) or 'known: ' + ', '.join(known)}", "unknown-key")
    for key, value in options.items():
        numbers = value if key == "objects" and isinstance(value, list) and len(value) == 2 else [value]
        if any(isinstance(v, bool) or not isinstance(v, (int, float)) or v < 0 for v in numbers) or (
                key == "objects" and (len(numbers) != 2 or numbers[0] > numbers[1])):
            wanted = "[fewest, most]" if key == "objects" else "a number, 0 or more"
            raise UserError(f"{where}: scene `{key}: {short(value)}` should be {wanted}", "bad-value")
    return Scene(**{k: tuple(v) if k == "objects" else v for k, v in options.items()})


def _objects(rng: np.random.Generator, side: int, scene: Scene) -> list[tuple[int, Patch]]:
    """Labels and drawn silhouettes, the largest first, for they are the hardest to place."""
    drawn = []
    most = min(scene.max_side, 0.6 * side)
    for _ in range(int(rng.integers(scene.objects[0], scene.objects[1] + 1))):
        label, kind, along, turn, stretch = int(rng.integers(len(NAMES))), *rng.random(4).tolist()
        if kind < scene.small:
            low, high = scene.min_side, SMALL_SIDE
        elif kind < scene.small + scene.medium:
            low, high = SMALL_SIDE, LARGE_SIDE
        else:
            low, high, along = LARGE_SIDE, most, along ** 2  # the largest are rare, or nothing else fits
        root_area = low * (max(high, low) / low) ** along  # evenly spread over octaves
        patch = draw_patch(NAMES[label], root_area, turn * 2 * np.pi, 0.8 * 1.5625 ** stretch, most)
        drawn.append((label, patch))
    return sorted(drawn, key=lambda item: -item[1].area)


def _place(rng: np.random.Generator, patch: Patch, taken: np.ndarray, size: tuple[int, int],
           overlap: float) -> tuple[int, int] | None:
    """A corner (left, top) where the patch covers little of what is there; None where 40 tries find none."""
    height, width = patch.coverage.shape
    if height > size[0] or width > size[1]:
        return None
    corners = (rng.random((40, 2)) * (size[1] - width + 1, size[0] - height + 1)).astype(np.int64)
    if not len(taken):
        return int(corners[0, 0]), int(corners[0, 1])
    boxes = np.concatenate((corners, corners), 1) + patch.box  # (40, 4)
    inner = np.minimum(boxes[:, None, 2:], taken[:, 2:]) - np.maximum(boxes[:, None, :2], taken[:, :2])
    inner = inner.clip(0).prod(2)  # (40, taken)
    own = (patch.box[2:] - patch.box[:2]).prod()
    free = (inner <= overlap * np.minimum(own, (taken[:, 2:] - taken[:, :2]).prod(1))).all(1)
    if not free.any():
        return None
    left, top = corners[int(free.argmax())].tolist()
    return left, top


def _draw_crowd(rng: np.random.Generator, image: np.ndarray, scene: Scene) -> dict[str, Any]:
    """A heap of tiny objects of one class, annotated as COCO does it: one region with `iscrowd` 1."""
    label = int(rng.integers(len(NAMES)))
    side = min(int(rng.integers(40, 91)), *image.shape[:2])
    left, top = (int(rng.integers(extent - side + 1)) for extent in (image.shape[1], image.shape[0]))
    corners, area = [], 0.0
    for _ in range(int(rng.integers(12, 25))):
        patch = draw_patch(NAMES[label], float(rng.integers(6, 11)), rng.random() * 2 * np.pi, 1.0, side)
        height, width = patch.coverage.shape
        x, y = left + int(rng.integers(side - width + 1)), top + int(rng.integers(side - height + 1))
        paste(image, patch, x, y, _colour(rng, image, patch, x, y, label, scene))
        corners.append(patch.box + (x, y, x, y))
        area += patch.area
    boxes = np.array(corners)
    (x1, y1), (x2, y2) = boxes[:, :2].min(0).tolist(), boxes[:, 2:].max(0).tolist()
    bbox = [x1, y1, x2 - x1, y2 - y1]
    return {"category_id": label + 1, "bbox": bbox, "area": min(area, bbox[2] * bbox[3]), "iscrowd": 1}


def _colour(rng: np.random.Generator, image: np.ndarray, patch: Patch, left: int, top: int, label: int,
            scene: Scene) -> np.ndarray:
    height, width = patch.coverage.shape
    under = np.array(cv2.mean(image[top:top + height, left:left + width])[:3])
    return object_colour(rng, under, HUES[label] if rng.random() < scene.class_colour else None)


def _annotation(label: int, patch: Patch, left: int, top: int) -> dict[str, Any]:
    x1, y1, x2, y2 = (patch.box + (left, top, left, top)).tolist()
    return {"category_id": label + 1, "bbox": [x1, y1, x2 - x1, y2 - y1], "area": patch.area, "iscrowd": 0}


def _corners(bbox: list[float]) -> np.ndarray:
    x, y, width, height = bbox
    return np.array([(x, y, x + width, y + height)])


def _write(folder: Path, split: str, count: int, size: tuple[int, int], seed: int, scene: Scene) -> None:
    (folder / "images").mkdir()
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for number in range(1, count + 1):
        image, objects = render(seed, split, number, size, scene)
        name = f"{number:06d}.jpg"
        coded, jpeg = cv2.imencode(".jpg", image, (cv2.IMWRITE_JPEG_QUALITY, 95))
        if not coded:
            raise RuntimeError(f"{name}: OpenCV cannot write JPEG")
        (folder / "images" / name).write_bytes(jpeg.tobytes())
        images.append({"id": number, "file_name": name, "height": size[0], "width": size[1]})
        annotations += [{"id": len(annotations) + k, "image_id": number, **o} for k, o in enumerate(objects, 1)]
    categories = [{"id": k, "name": name} for k, name in enumerate(NAMES, 1)]
    content = {"info": {"description": f"ASSN shapes {split}, seed {seed}"}, "images": images,
               "annotations": annotations, "categories": categories}
    (folder / "annotations.json").write_text(json.dumps(content), encoding="utf-8")


def _stamp(folder: Path) -> dict[str, Any] | None:
    try:
        return json.loads((folder / "shapes.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def _swap(made: Path, folder: Path, stamp: dict[str, Any]) -> None:
    """Put `made` where `folder` is; what another process has put there meanwhile is as good."""
    old = made.with_name(made.name + "-old")
    if folder.exists():
        folder.rename(old)
    try:
        os.rename(made, folder)  # noqa: PTH104  Path.rename would be the same; this may meet a folder just made
    except OSError:
        if _stamp(folder) != stamp:
            raise
    finally:
        shutil.rmtree(old, ignore_errors=True)
