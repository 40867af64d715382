"""A submission in the making: its folder, the detections so far, and the files in the end."""

import dataclasses
import hashlib
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from data import Index
from engine.evaluation.collector import Collector
from engine.evaluation.config import ValConfig
from engine.evaluation.metrics.found import Found
from engine.evaluation.submission.coco import file_stem, write_coco
from engine.evaluation.submission.coco_check import RECORD, check_coco
from engine.evaluation.submission.journal import Journal, compare_settings, read_journals
from engine.evaluation.submission.report import Report
from engine.evaluation.submission.target import Target
from engine.evaluation.submission.visdrone import check_visdrone, write_visdrone
from engine.evaluation.submission.voc import check_voc, write_voc_files
from engine.inference.runtimes.base import Runtime
from utils.distributed.group import Group
from utils.errors import UserError
from utils.files import read_blocks, write_bytes
from utils.select import SelectConfig

# Flags on which no detection depends; any other flag that changes between two runs of a name is refused.
WITHOUT_EFFECT = frozenset((
    "weights", "data", "device", "workers", "max_pixels", "trust", "protocol", "size_bins", "eval_iou", "bootstrap",
    "noplots", "project", "name", "exist_ok", "submit", "conf_thres", "iou_thres", "max_det", "imgsz"))
JOURNAL = "journal"


def settings_of(flags: Mapping[str, Any], weights: Sequence[Path | str], index: Index, thresholds: SelectConfig,
                imgsz: Sequence[int]) -> dict[str, Any]:
    """What the detections of a run depend on. flags: all flags, of which those in `WITHOUT_EFFECT` do not count."""
    images = hashlib.sha256()
    for record in index.records:
        images.update(f"{record.image_id} {record.height} {record.width} {Path(record.path).name}\n".encode(
            "utf-8", "surrogateescape"))
    others = {key: value for key, value in flags.items() if key not in WITHOUT_EFFECT and not key.startswith("save_")}
    return {"weights": [_sha256(path) for path in weights], "images": images.hexdigest(),
            "categories": dict(zip(map(str, index.category_ids), index.names, strict=True)), "imgsz": list(imgsz),
            **dataclasses.asdict(thresholds), **others}


def _sha256(path: Path | str) -> str:
    digest = hashlib.sha256()
    for block in read_blocks(str(path)):
        digest.update(block)
    return digest.hexdigest()


class JournalCollector(Collector):
    """A collector that stores each batch before it goes on.

    A batch with an image that could not be decoded is not stored, so that it is evaluated again when the image has been
    restored. damaged: gives the paths of such images so far.
    """

    def __init__(self, index: Index, journal: Journal) -> None:
        super().__init__(index.truth, index.names)
        self.journal, self.damaged = journal, list
        self._paths = {record.image_id: record.path for record in index.records}

    def update(self, image_ids: Sequence[int], detections: Sequence[Any]) -> None:
        super().update(image_ids, detections)
        damaged = set(self.damaged())
        if not damaged or damaged.isdisjoint(self._paths[image] for image in image_ids):
            self.journal.append(image_ids, detections)


class Submission:
    """One submission of a split by all processes of a group.

    folder: of its files; done: ids of images whose detections are known from an earlier run; collector: has these, and
    takes the others. Raises `UserError` where the folder holds something else, or detections by other settings.
    """

    def __init__(self, folder: Path, target: Target, index: Index, settings: dict[str, Any], group: Group) -> None:
        self.folder, self.target, self.index, self.group, self.settings = folder, target, index, group, settings
        journals = folder / JOURNAL
        if group.is_main:
            if folder.exists() and not journals.is_dir() and (not folder.is_dir() or any(folder.iterdir())):
                raise UserError(f"{folder}: holds other results; choose another name with --submit", "folder-exists")
            self._journal = Journal(journals, 0)
            try:
                compare_settings(journals, settings)
            except UserError:
                self._journal.close()
                raise
        group.wait()
        if not group.is_main:
            self._journal = Journal(journals, group.rank)
        group.wait()  # each process has cut off an unfinished record of its own
        self.collector = JournalCollector(index, self._journal)
        self.done: frozenset[int] = frozenset(group.broadcast(self._restore() if group.is_main else None))
        if self.done:
            print(f"{len(self.done):,} of {len(index):,} images are known from an earlier run")

    def _restore(self) -> list[int]:
        """Take up the detections of earlier runs; returns the ids of their images."""
        done: dict[int, None] = {}
        for ids, detections in read_journals(self.folder / JOURNAL):
            new = [k for k, image in enumerate(ids) if image not in done]
            Collector.update(self.collector, [ids[k] for k in new], [detections[k] for k in new])
            done.update(dict.fromkeys(ids))
        return list(done)

    @contextmanager
    def journalling(self, loader: Any = None) -> Iterator[None]:
        """A block in which images are evaluated; says how to go on where it is interrupted. loader: knows which images
        could not be decoded."""
        if loader is not None:
            self.collector.damaged = lambda: loader.damaged
        try:
            yield
        except KeyboardInterrupt:
            if self.group.is_main:
                print(f"what was found so far is in {self.folder}; the same command goes on from there",
                      file=sys.stderr)
            raise
        finally:
            self._journal.close()

    def finish(self, found: Found, damaged: Sequence[str] = ()) -> Report:
        """Write the files of the server, check them, and print the report, which is written beside them too.

        found: the detections on the whole split; damaged: paths of images that could not be decoded. Raises `UserError`
        where there is a problem.
        """
        target, truth, name = self.target, self.index.truth, self.settings["name"]
        if target.kind == "visdrone":
            report = check_visdrone(write_visdrone(found, self.index, self.folder, name), target.info)
        elif target.kind == "voc":
            report = check_voc(write_voc_files(found, self.index, self.folder), target.info)
        else:
            path = self.folder / f"{file_stem(target.info.test_set, name)}.json"
            packed = write_coco(path, truth.image_ids, target.category_ids, found)
            self._record(path, found)
            report = check_coco(packed, target.info)
        if damaged:
            report.add("damaged-image", f"{damaged[0]} could not be decoded: restore it and give the same command "
                                        f"again, which evaluates its batch anew", len(damaged))
        write_bytes(self.folder / "submission.txt", (report.format() + "\n").encode("utf-8", "surrogateescape"))
        print(report.format())
        if not report.is_clean:
            raise UserError(f"{report.path}: not to be uploaded: {', '.join(report.codes)}; correct what the report "
                            f"names", "bad-submission")
        return report

    def _record(self, path: Path, found: Found) -> None:
        """Say beside the results what they come from, and which images were looked at in vain."""
        ids = self.index.truth.image_ids
        empty = found.seen.copy()
        empty[found.images] = False
        content = {"file": path.name, "sha256": _sha256(path), "settings": self.settings,
                   "images_without_detections": [ids[k] for k in np.flatnonzero(empty).tolist()]}
        write_bytes(self.folder / RECORD, json.dumps(content, indent=1).encode())


def open_submission(config: ValConfig, runtime: Runtime, index: Index, target: Target, thresholds: SelectConfig,
                    group: Group) -> Submission:
    """The submission that `--submit NAME` begins, or goes on with, in the folder <project>/<NAME>."""
    if target.limit is not None:
        print(f"at most {target.kept(config.max_det)} detections of an image are kept: the server counts "
              f"{target.limit}")
    folder = Path(config.project) / (config.name if "name" in config.given else config.submit)
    settings = {"name": config.submit} | settings_of(config.to_dict(), config.weights, index, thresholds,
                                                     runtime.choose_size(config.imgsz))
    return Submission(folder, target, index, settings, group)
