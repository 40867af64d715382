"""What a split is submitted to: which server's form, its images and categories; refused before the work where not."""

from collections.abc import Hashable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from data import Index
from data.truth import UNUSABLE
from engine.evaluation.submission.coco import MAX_DETECTIONS as COCO_LIMIT
from engine.evaluation.submission.image_info import ImageInfo, read_image_info, test_set_of
from engine.evaluation.submission.image_names import image_stems
from engine.evaluation.submission.visdrone import MAX_DETECTIONS as VISDRONE_LIMIT
from engine.evaluation.submission.visdrone import visdrone_categories
from engine.evaluation.submission.voc import voc_names
from utils.class_lists import COCO, COCO_IDS
from utils.errors import UserError
from utils.select import SelectConfig


@dataclass(frozen=True)
class Target:
    """kind: "coco", "visdrone" or "voc"; info: the images that the server knows; category_ids: of each label; limit:
    detections of an image that it counts, None where there is no limit."""

    kind: str
    info: ImageInfo
    category_ids: list[Hashable]
    limit: int | None = None

    def kept(self, given: int | None) -> int | None:
        """How many detections of an image are kept, None: all. given: `--max-det`, where it was given."""
        if None not in (given, self.limit) and given > self.limit:
            raise UserError(f"--max-det {given}: the server counts the best {self.limit} detections of an image; give "
                            f"{self.limit} or less, or drop the flag", "bad-value")
        return given or self.limit

    def thresholds(self, wanted: SelectConfig, given: int | None) -> SelectConfig:
        """The thresholds with the server's limit."""
        kept = self.kept(given)
        return wanted if kept is None else replace(wanted, max_det=kept)


def find_target(index: Index) -> Target:
    """What the images of a split are submitted to, by the format of their data.

    Raises `UserError` where no server takes it, or not every image of the image-info file can be evaluated.
    """
    kind = index.source.format
    _refuse_missing(index)
    if kind == "visdrone":
        image_stems(index, "--submit")
        return Target("visdrone", info_of(index, range(1, 11)), list(visdrone_categories(index)), VISDRONE_LIMIT)
    if kind == "voc":
        voc_names(index)
        return Target("voc", info_of(index), list(index.category_ids))
    if kind == "coco":
        return _from_image_info(index)
    numbers = [int(stem) if (stem := Path(record.path).stem).isdecimal() else None for record in index.records]
    if kind == "yolo" and tuple(index.names) == COCO and numbers == _ids(index):
        return Target("coco", info_of(index, COCO_IDS), list(COCO_IDS), COCO_LIMIT)
    raise UserError(f"--submit: no test server takes data in the form {kind}; COCO's images may be a list, with its 80 "
                    f"`names` and image files named by their ids; for other data use --save-json", "no-server")


def info_of(index: Index, categories: "range | tuple[int, ...] | None" = None) -> ImageInfo:
    """The images of an index, which are checked against where there is no image-info file."""
    sizes = np.array([(record.width, record.height) for record in index.records], np.float64).reshape(-1, 2)
    source, paths = index.source, [record.path for record in index.records]
    test_set = test_set_of(source.entries[0]) if source.entries[0].is_file() else source.split
    return ImageInfo(test_set, _ids(index), sizes, frozenset(categories or ()), paths,
                     f"`{source.split}:` of {source.yaml.name}")


def _from_image_info(index: Index) -> Target:
    """COCO JSON: the file itself says which images and categories there are."""
    entries = index.source.entries
    if len(entries) > 1:
        raise UserError(f"--submit: `{index.source.split}:` has {len(entries)} annotation files, and the server knows "
                        f"the images of one; give one image-info file", "several-files")
    info = read_image_info(entries[0])
    records = {int(record.image_id): record for record in index.records}
    own = np.array([(records[image].width, records[image].height) for image in info.ids], np.float64).reshape(-1, 2)
    other = np.flatnonzero((info.sizes != own).any(1) & ~np.isnan(info.sizes).any(1))
    if len(other):
        k = other[0]
        raise UserError(f"--submit: {info.names[k]} has {own[k, 0]:g} x {own[k, 1]:g} pixels and {info.file} says "
                        f"{info.sizes[k, 0]:g} x {info.sizes[k, 1]:g} ({len(other):,} such); boxes would lie "
                        f"elsewhere: restore the original files", "other-size")
    return Target("coco", replace(info, sizes=own), list(index.category_ids), COCO_LIMIT)


def _refuse_missing(index: Index) -> None:
    """Raise `UserError` where an image of the split is not there or cannot be read, since servers want all."""
    records, listed = set(_ids(index)), index.truth.record_ids
    absent = [record for record in listed if record not in records]
    if absent:
        findings = index.report.findings
        examples = "; ".join(findings[kind][1] for kind in UNUSABLE if kind in findings)[:300] or "its id twice"
        raise UserError(f"--submit: {len(absent):,} of the {len(listed):,} images of `{index.source.split}:` are not "
                        f"there or cannot be read, the first has the id {absent[0]} ({examples}); the server wants all "
                        f"images: restore them", "missing-image")


def _ids(index: Index) -> list[int]:
    return [int(record.image_id) for record in index.records]
