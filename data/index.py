"""A split of a dataset, ready to train on or to evaluate with: `load_index`."""

import os
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from data.data_yaml import Source, read_source
from data.formats import reader
from data.images.decode import MAX_PIXELS
from data.labels import label_cache
from data.labels.check_labels import scan
from data.labels.records import Record, RecordTable
from data.labels.scan_report import ScanReport
from data.shapes import generate as shapes
from data.truth import truth_of
from utils.errors import UserError, short
from utils.truth import AREA_RANGES, Truth


@dataclass
class Index:
    """The records of a split with what they mean.

    records: a sequence of `Record`; names: of the classes, by label; category_ids: what each label is called in result
    files, as in the source where it is COCO, 1..nc otherwise; report: what the scan found; source: where it came from;
    key: of its files, None where no cache was asked for; single_cls: all classes were made one; part: these are not all
    images of the split.
    """

    records: Sequence[Record]
    names: list[str]
    category_ids: list[Hashable]
    report: ScanReport
    source: Source
    key: label_cache.Key | None = None
    single_cls: bool = False
    part: bool = False

    def __len__(self) -> int:
        return len(self.records)

    def subset(self, images: "int | Sequence[int]") -> "Index":
        """The first `images` images, or those at these positions. The report stays that of the whole split."""
        positions = range(min(images, len(self))) if isinstance(images, int) else images
        return replace(self, records=RecordTable.from_records(self.records).select(positions), part=True)

    def of_ids(self, image_ids: Sequence[int]) -> list[Record]:
        """The records of some images, by their ids. Raises ValueError for one that is unknown."""
        table = RecordTable.from_records(self.records)
        places = [np.flatnonzero(table.image_ids == image_id)[:1].tolist() for image_id in image_ids]
        unknown = [image_id for image_id, place in zip(image_ids, places, strict=True) if not place]
        if unknown:
            raise ValueError(f"image id {unknown[0]} is not in the index")
        return [table[place] for place, in places]

    def for_training(self) -> "Index":
        """Without the objects that `difficult: drop` of the YAML leaves to the background in training."""
        table = RecordTable.from_records(self.records)
        dropped = int(table.ignore.sum())  # formats with `difficult` have no other ignore regions
        if self.source.difficult != "drop" or not dropped:
            return self
        table = table.keep_labels(~table.ignore)
        notes = [*self.report.notes, f"`difficult: drop`: {dropped} difficult objects are background in training"]
        background = int((np.diff(table.ends, prepend=0) == 0).sum())
        return replace(self, records=table,
                       report=replace(self.report, ignored=0, background=background, notes=notes))

    @cached_property
    def truth(self) -> Truth:
        """What detections on these images are judged against: the annotations as the user's files have them."""
        return truth_of(self)

    def coco(self) -> dict[str, Any]:
        """The ground truth in the form of COCO JSON: native areas and category ids, ignore regions as `iscrowd`."""
        images, annotations = [], []
        for record in self.records:
            name = Path(record.path).name
            images.append({"id": record.image_id, "file_name": name, "height": record.height, "width": record.width})
            boxes = record.boxes.astype(np.float64)
            boxes[:, 2:] -= boxes[:, :2]
            # float32 holds a thousandth of a pixel: rounded to it, the source's own decimals come back exactly
            rows = zip(np.round(boxes, 3).tolist(), record.labels.tolist(), record.ignore.tolist(),
                       record.areas.tolist(), record.annotation_ids.tolist(), strict=True)
            annotations += [{"id": number, "image_id": record.image_id, "category_id": self.category_ids[label],
                             "bbox": box, "area": area, "iscrowd": int(ignore)}
                            for box, label, ignore, area, number in rows]
        if len({a["id"] for a in annotations}) != len(annotations) or any(a["id"] < 1 for a in annotations):
            for number, annotation in enumerate(annotations, 1):  # pycocotools takes id 0 for "no match"
                annotation["id"] = number
        categories = [{"id": i, "name": name} for i, name in zip(self.category_ids, self.names, strict=True)]
        return {"images": images, "annotations": annotations, "categories": categories}

    def counts(self) -> np.ndarray:
        """(nc, 3) boxes of each class that are small, medium, large by COCO area; ignore regions are left out."""
        table, bins = RecordTable.from_records(self.records), len(AREA_RANGES)
        size = np.digitize(table.areas, [low for low, _ in AREA_RANGES.values()][1:])
        place = (table.labels * bins + size)[~table.ignore]
        return np.bincount(place, minlength=len(self.names) * bins).reshape(-1, bins)


def load_index(data: str | Path, split: str, *, cache: bool = True, single_cls: bool = False,
               strict: bool = False, polygons: bool = False, max_pixels: int = MAX_PIXELS) -> Index:
    """Read a split ("train", "val" or "test") of `data`, a name in cfg/data or the path of a YAML.

    cache: use and write the label cache. single_cls: all objects are one class. strict: anything that the scan would
    repair or leave out is a `UserError`. polygons: read outlines too, for copy-paste. max_pixels: larger images are
    skipped and counted. `shapes` are drawn where they are not there yet.
    """
    source = read_source(data, split)
    if source.format == "shapes":
        source = _draw_shapes(source)
    (table, meta, report), key = _load(source, cache, polygons, max_pixels)
    if strict:
        report.check_strict()
    if not len(table):
        first = "".join(f"; {example}" for _, example in report.findings.values())[:300]
        folder = (source.image_folders or source.entries)[0]
        if report.count("corrupt_label"):
            raise UserError(f"{source.yaml}: no label file of `{split}:` can be read{first}; correct these files",
                            "no-labels")
        raise UserError(f"{source.yaml}: no usable image for `{split}:` in {folder}{first}; correct `{split}:` "
                        f"or put images there", "no-images")
    names, category_ids = meta["names"], meta["category_ids"]
    single_cls = single_cls and len(names) > 1
    if single_cls:
        names, category_ids = ["item"], [1]
        table = replace(table, labels=np.zeros_like(table.labels))
    return Index(table, names, category_ids, report, source, key, single_cls)


def _load(source: Source, cache: bool, polygons: bool,
          max_pixels: int) -> tuple[tuple[RecordTable, dict[str, Any], ScanReport], label_cache.Key | None]:
    labels = reader(source.format)
    settings = (source.format, source.split, source.names, source.difficult, source.notes, polygons,
                max_pixels, [str(p) for p in (*source.entries, *source.image_folders)])
    key = label_cache.digest(settings, labels.inputs(source)) if cache else None
    name = f"{source.yaml.stem}-{source.split}{'-polygons' if polygons else ''}.cache.npz"
    places = label_cache.cache_paths(source.root, name)
    damaged: list[Path] = []
    known = label_cache.load(places, key, damaged) if cache else None
    if known is not None:
        return known, key
    report = ScanReport()
    found = labels.read(source, report, polygons)
    if found.paths and report.count("missing_label") == len(found.paths) and source.split != "test":
        if not any(map(os.path.lexists, found.paths)):
            raise UserError(f"{source.yaml}: not one of the {len(found.paths)} images that `{source.split}:` names is "
                            f"there; the first: {found.paths[0]}; correct the list or `path`", "no-images")
        raise UserError(f"{source.yaml}: not one label file for the {len(found.paths)} images of `{source.split}:`; "
                        f"put them where the first is looked for, {found.label_files[0]}, or correct `format`",
                        "no-labels")
    table = scan(found, report, max_pixels)
    meta = {"names": found.names, "category_ids": found.category_ids}
    if cache and len(table) and label_cache.save(places, key, table, meta, report) is None:
        report.notes.append(f"the label cache could not be written to any of {', '.join(map(str, places))}")
    report.notes += [f"the label cache {file} was damaged: all labels were read anew" for file in damaged]
    return (table, meta, report), key


def _draw_shapes(source: Source) -> Source:
    """Generate a split of the synthetic data where it is not there yet; the COCO source that reads it."""
    options = source.options
    for key, least in (("count", 1), ("seed", 0)):
        if not isinstance(options[key], int) or isinstance(options[key], bool) or options[key] < least:
            word = source.split if key == "count" else key
            raise UserError(f"{source.yaml}: `{word}: {options[key]}` should be a whole number, {least} or more",
                            "bad-value")
    size = options["size"]
    sides = size if isinstance(size, list) else [size, size]
    if len(sides) != 2 or any(not isinstance(s, int) or not 32 <= s <= 8192 for s in sides):
        raise UserError(f"{source.yaml}: `size: {short(size)}` should be a number of pixels or [height, width], "
                        f"32 to 8192", "bad-value")
    scene = shapes.scene_from(options["scene"] or {}, str(source.yaml))
    try:
        folder = shapes.generate(source.root, source.split, options["count"], tuple(sides), options["seed"], scene)
    except OSError as error:
        raise UserError(f"{source.yaml}: {source.root} cannot be written ({error.strerror}); give `path:` a folder "
                        f"that can", "unwritable-file") from None
    return replace(source, format="coco", entries=[folder / "annotations.json"], image_folders=[folder / "images"])
