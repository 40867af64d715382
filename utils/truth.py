"""The ground truth of an evaluation: the annotations of a split, without repairs.

Legend: n images, M annotations, K classes.
"""

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from utils.errors import UserError

# COCO's size ranges, in pixels of the original image: sides are square roots of areas; a range ends below its limit.
SMALL_SIDE, LARGE_SIDE = 32, 96
AREA_RANGES = {"small": (0, SMALL_SIDE ** 2), "medium": (SMALL_SIDE ** 2, LARGE_SIDE ** 2),
               "large": (LARGE_SIDE ** 2, float("inf"))}
SLACK = 1.01  # times (width + 1) * (height + 1): largest area of a box, since some tools count whole pixels
TINY = 0.01  # of the box: an area that most objects of a split cannot have
FEW = 10  # objects that may have the same area by chance


@dataclass(eq=False)
class Truth:
    """The ground truth of an evaluation, as annotated.

    image_ids: the file's ids of the images, numbers or strings, unique; record_ids: the ids in `Record`, the same if
    the file's are whole numbers; category_ids: the file's ids of the K classes, by label. image, label (M,) int64:
    positions; boxes (M, 4) float64 left, top, width, height; areas (M,) float64, as annotated, NaN counts in every area
    range; crowd (M,) bool: `iscrowd`; marked (M,) bool: `ignore`, which pycocotools does not know. what: a short
    description; file: the COCO file that this is the whole of, else None; notes: printed with the metrics; departures:
    what pycocotools reads in another way than it is meant.
    """

    image_ids: list[Hashable]
    category_ids: list[Hashable]
    image: np.ndarray
    label: np.ndarray
    boxes: np.ndarray
    areas: np.ndarray
    crowd: np.ndarray
    record_ids: list[Hashable] = field(default_factory=list)
    marked: np.ndarray | None = None
    what: str = "ground truth"
    file: Path | None = None
    notes: list[str] = field(default_factory=list)
    departures: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.record_ids = self.record_ids or self.image_ids
        if len(set(self.category_ids)) != len(self.category_ids):
            raise ValueError(f"expected different category ids, got {self.category_ids}")
        if self.marked is None:
            self.marked = np.zeros(len(self.image), bool)

    @classmethod
    def from_coco(cls, content: Mapping[str, Any], category_ids: Sequence[Hashable]) -> "Truth":
        """From COCO JSON as `json.load` gives it; `area` defaults to that of the box, `iscrowd` to 0.

        Raises `UserError` if an annotation refers to an unknown image or category.
        """
        rows, ids = content["annotations"], list(dict.fromkeys(image["id"] for image in content["images"]))
        places = {"image_id": {key: k for k, key in enumerate(ids)},
                  "category_id": {key: k for k, key in enumerate(category_ids)}}
        for row in rows:
            for key, known in places.items():
                if row[key] not in known:
                    raise UserError(f"annotation {row.get('id')}: {key} {row[key]} is not in the ground truth; "
                                    f"drop it", "unknown-id")
        image, label = (np.array([known[row[key]] for row in rows], np.int64) for key, known in places.items())
        boxes = np.array([row["bbox"] for row in rows], np.float64).reshape(-1, 4)
        areas = np.array([np.nan if row.get("area") is None else row["area"] for row in rows], np.float64)
        lacking = np.array([row.get("area") is None for row in rows], bool)
        areas = np.where(lacking, boxes[:, 2] * boxes[:, 3], areas)
        return cls(ids, list(category_ids), image, label, boxes, areas,
                   np.array([bool(row.get("iscrowd")) for row in rows], bool))

    def to_coco(self) -> dict[str, Any]:
        """As COCO JSON, annotations numbered from 1, since pycocotools takes a match with id 0 for no match."""
        rows = zip(self.image.tolist(), self.label.tolist(), self.boxes.tolist(), self.areas.tolist(),
                   self.crowd.tolist(), strict=True)
        annotations = [{"id": number, "image_id": self.image_ids[image], "category_id": self.category_ids[label],
                        "bbox": box, "area": area, "iscrowd": int(crowd)}
                       for number, (image, label, box, area, crowd) in enumerate(rows, 1)]
        return {"images": [{"id": i} for i in self.image_ids], "annotations": annotations,
                "categories": [{"id": c} for c in self.category_ids]}

    def odd_areas(self) -> str:
        """Description and number of areas that cannot be those of their objects; '' if there are none."""
        odd = impossible_areas(self.areas, self.boxes[:, 2:], ~self.crowd)
        return ", ".join(f"{rows.sum()} {what}" for what, rows in odd.items() if rows.any())

    def by_box_area(self) -> "Truth":
        """A copy with the areas of the boxes."""
        return replace(self, areas=self.boxes[:, 2] * self.boxes[:, 3])

    def marked_as_crowd(self) -> "Truth":
        """A copy in which annotations marked `ignore` are ignore regions."""
        return replace(self, crowd=self.crowd | self.marked)


def impossible_areas(areas: np.ndarray, sides: np.ndarray, objects: np.ndarray) -> dict[str, np.ndarray]:
    """Problem -> mask (M,) of the areas (M,) with it. sides: of the boxes (M, 2); only `objects` (M,) are checked."""
    own, sized = sides.prod(1), objects & (sides > 0).all(1)
    few = sized & (areas < TINY * own)
    alike = objects.sum() >= FEW and len(np.unique(areas[objects])) == 1 and len(np.unique(own[objects])) > 1
    return {"are 0, less, or no number": sized & ~(areas > 0),
            "are larger than their box": sized & (areas > SLACK * (sides + 1).prod(1)),
            "are less than a hundredth of their box": few & (few.sum() > sized.sum() / 2) & (areas > 0),
            "are all the same number": objects & alike}


def most_objects(truth: Truth, by_class: bool) -> tuple[int, int, int]:
    """The largest number of objects in an image, of all classes or of one; its position, and the class (0 for all)."""
    objects = np.flatnonzero(~truth.crowd)
    classes = len(truth.category_ids) if by_class else 1
    keys, counts = np.unique(truth.image[objects] * classes + truth.label[objects] * by_class, return_counts=True)
    if not len(counts):
        return 0, 0, 0
    return int(counts.max()), *divmod(int(keys[counts.argmax()]), classes)
