"""What detections are judged against: the annotations of a split as they stand, apart from how they are judged.

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
SLACK = 1.01  # an area up to this times (width + 1) * (height + 1) is one of its box: some tools count whole pixels
TINY = 0.01  # of its box is an area that most objects of a split cannot have
FEW = 10  # objects whose areas may be alike by chance


@dataclass(eq=False)
class Truth:
    """The ground truth of an evaluation, nothing repaired.

    image_ids: what the user's file calls the images, numbers or texts, each once; record_ids: what `Record` calls them,
    the same where the file's are whole numbers; category_ids: what the file calls the K classes, by label. image,
    label (M,) int64: positions; boxes (M, 4) float64 left, top, width, height; areas (M,) float64, as written, NaN
    counts in every area range; crowd (M,) bool: `iscrowd`; marked (M,) bool: `ignore`, which pycocotools does not know.
    what: in a few words, what this is the truth of; file: the one COCO file that this is all of, None where there is
    none; notes: what is to be told beside the numbers; departures: what pycocotools takes otherwise than it is meant.
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
        if self.marked is None:
            self.marked = np.zeros(len(self.image), bool)

    @classmethod
    def from_coco(cls, content: Mapping[str, Any], category_ids: Sequence[Hashable]) -> "Truth":
        """That of COCO JSON as `json.load` gives it; `area` falls back to that of the box, `iscrowd` to 0.

        Raises `UserError` where an annotation names an image or a category that is not there.
        """
        rows, ids = content["annotations"], list(dict.fromkeys(image["id"] for image in content["images"]))
        places = {"image_id": {key: k for k, key in enumerate(ids)},
                  "category_id": {key: k for k, key in enumerate(category_ids)}}
        for row in rows:
            for word, known in places.items():
                if row[word] not in known:
                    raise UserError(f"annotation {row.get('id')}: {word} {row[word]} is not in the ground truth; "
                                    f"drop it")
        image, label = (np.array([known[row[word]] for row in rows], np.int64) for word, known in places.items())
        boxes = np.array([row["bbox"] for row in rows], np.float64).reshape(-1, 4)
        areas = np.array([np.nan if row.get("area") is None else row["area"] for row in rows], np.float64)
        lacking = np.array([row.get("area") is None for row in rows], bool)
        areas = np.where(lacking, boxes[:, 2] * boxes[:, 3], areas)
        return cls(ids, list(category_ids), image, label, boxes, areas,
                   np.array([bool(row.get("iscrowd")) for row in rows], bool))

    def to_coco(self) -> dict[str, Any]:
        """The same as COCO JSON, annotations numbered from 1: pycocotools takes a match with id 0 for none."""
        rows = zip(self.image.tolist(), self.label.tolist(), self.boxes.tolist(), self.areas.tolist(),
                   self.crowd.tolist(), strict=True)
        annotations = [{"id": number, "image_id": self.image_ids[image], "category_id": self.category_ids[label],
                        "bbox": box, "area": area, "iscrowd": int(crowd)}
                       for number, (image, label, box, area, crowd) in enumerate(rows, 1)]
        return {"images": [{"id": i} for i in self.image_ids], "annotations": annotations,
                "categories": [{"id": c} for c in self.category_ids]}

    def odd_areas(self) -> str:
        """Which areas cannot be those of their objects, and how many; '' where all can."""
        odd = impossible_areas(self.areas, self.boxes[:, 2:], ~self.crowd)
        return ", ".join(f"{rows.sum()} {what}" for what, rows in odd.items() if rows.any())

    def by_box_area(self) -> "Truth":
        """The same with each area that of the box."""
        return replace(self, areas=self.boxes[:, 2] * self.boxes[:, 3])

    def marked_as_crowd(self) -> "Truth":
        """The same with what is marked `ignore` an ignore region."""
        return replace(self, crowd=self.crowd | self.marked)


def impossible_areas(areas: np.ndarray, sides: np.ndarray, objects: np.ndarray) -> dict[str, np.ndarray]:
    """What is wrong with areas (M,) of boxes of `sides` (M, 2) -> which (M,); `objects` (M,) are looked at."""
    own, sized = sides.prod(1), objects & (sides > 0).all(1)
    few = sized & (areas < TINY * own)
    alike = objects.sum() >= FEW and len(np.unique(areas[objects])) == 1 and len(np.unique(own[objects])) > 1
    return {"are 0, less, or no number": sized & ~(areas > 0),
            "are larger than their box": sized & (areas > SLACK * (sides + 1).prod(1)),
            "are less than a hundredth of their box": few & (few.sum() > sized.sum() / 2) & (areas > 0),
            "are all the same number": objects & alike}


def most_objects(truth: Truth, by_class: bool) -> tuple[int, int, int]:
    """The most objects that an image has, of all classes or of one; the image's position and the class (0 for all)."""
    objects = np.flatnonzero(~truth.crowd)
    classes = len(truth.category_ids) if by_class else 1
    keys, counts = np.unique(truth.image[objects] * classes + truth.label[objects] * by_class, return_counts=True)
    if not len(counts):
        return 0, 0, 0
    return int(counts.max()), *divmod(int(keys[counts.argmax()]), classes)
