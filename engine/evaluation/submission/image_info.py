"""The images of a test set, as its image-info file names them: what a COCO results file is checked against."""

from collections import Counter
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from data.formats.parsing.json_stream import read_lists
from utils.class_lists import COCO_IDS
from utils.errors import UserError, shown

PREFIXES = ("image_info_", "instances_")
IMAGES = {"test-dev2017": 20_288, "test2017": 40_670, "val2017": 5_000}  # of COCO's own sets


@dataclass(frozen=True, eq=False)
class ImageInfo:
    """The images of a test set, n of them, and its categories.

    test_set: its name in the names of results files, such as test-dev2017; ids (n,) whole numbers; sizes (n, 2) width
    and height in pixels, NaN where they are not stated; categories: ids that detections may have; names (n,) of the
    image files.
    """

    test_set: str
    ids: list[int]
    sizes: np.ndarray
    categories: frozenset[int]
    names: list[str]
    file: str = "the image-info file"

    @cached_property
    def place(self) -> dict[int, int]:
        """The position of each id."""
        return {image: k for k, image in enumerate(self.ids)}

    @cached_property
    def stems(self) -> dict[str, int]:
        """The position of each image by the stem of its file."""
        return {PurePosixPath(name.replace("\\", "/")).stem: k for k, name in enumerate(self.names)}


def test_set_of(file: Path) -> str:
    """The name of the set that an annotation or list file describes: test-dev2017 of image_info_test-dev2017.json."""
    stem = file.stem
    return next((stem.removeprefix(prefix) for prefix in PREFIXES if stem.startswith(prefix)), stem)


def read_image_info(path: Path | str) -> ImageInfo:
    """Read a COCO file's `images` and `categories`; annotations, if there are any, are passed over.

    Raises `UserError` where it is no such file, or an image has no id that is a whole number, or two have the same.
    """
    path = Path(path)
    images: list[tuple[int, float, float, str]] = []
    categories: list[int] = []

    def add_image(item: Any) -> None:
        number = item.get("id") if isinstance(item, dict) else None
        if type(number) is not int:
            raise UserError(f"{path}: an image without a whole number as `id`: {shown(item, 80)}; COCO's server knows "
                            f"images by numbers", "bad-value")
        images.append((number, _pixels(item.get("width")), _pixels(item.get("height")), str(item.get("file_name", ""))))

    def add_category(item: Any) -> None:
        if isinstance(item, dict) and type(item.get("id")) is int:
            categories.append(item["id"])

    try:
        read_lists(path, {"images": add_image, "categories": add_category})
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}; give the image-info file",
                        "unreadable-file") from None
    except ValueError as error:
        raise UserError(f"{path}: no image-info file ({error}); give one such as image_info_test-dev2017.json",
                        "invalid-json") from None
    if not images:
        raise UserError(f"{path}: it lists no images; give a file such as image_info_test-dev2017.json", "no-images")
    ids = [row[0] for row in images]
    repeated = next((image for image, count in Counter(ids).items() if count > 1), None)
    if repeated is not None:
        raise UserError(f"{path}: two images have the id {repeated}; give each one of its own", "repeated-id")
    return ImageInfo(test_set_of(path), ids, np.array([row[1:3] for row in images]).reshape(-1, 2),
                     frozenset(categories or COCO_IDS), [row[3] for row in images], path.name)


def read_images(path: Path | str) -> ImageInfo:
    """The images of a folder with their sizes, or those that a list names, of which no sizes are known.

    Raises `UserError` where there are none.
    """
    from data.formats.paths import image_files, read_lines
    from data.images.headers import read_header

    path = Path(path)
    try:
        if path.is_dir():
            names = image_files(path)
            headers = [read_header(name) for name in names]
            sizes = np.array([(header.width, header.height) for header in headers], np.float64).reshape(-1, 2)
        else:
            names = [line.split()[0] for line in read_lines(path)]
            sizes = np.full((len(names), 2), np.nan)
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}; give the images' folder, or a list of them",
                        "unreadable-file") from None
    except ValueError as error:
        raise UserError(f"{path}: an image in it cannot be read ({error}); restore it", "unreadable-file") from None
    if not names:
        raise UserError(f"{path}: no images there; give the images' folder, or a list of them", "no-images")
    return ImageInfo(path.stem, list(range(len(names))), sizes, frozenset(), names, path.name)


def _pixels(value: Any) -> float:
    return float(value) if type(value) is int and 0 < value < 1 << 31 else float("nan")
