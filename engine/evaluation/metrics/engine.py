"""COCO's matching and accumulation, by hotcoco (Rust), or by pycocotools where hotcoco is not installed.

Both see the same problem: images and categories numbered in the order in which COCOeval sorts their ids, so that equal
scores and the order of sums are those of pycocotools on the user's own file, also where ids are strings or very large.

Legend: n images, M annotations, D detections, K classes; T IoU thresholds, R = 101 recalls, A area ranges, L limits of
the number of detections.
"""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np

from engine.evaluation.metrics.found import Found
from engine.evaluation.metrics.protocol import Protocol
from utils.truth import Truth

RECALLS = np.linspace(0.0, 1.0, 101)


@dataclass(frozen=True, eq=False)
class Arrays:
    """COCOeval's arrays, classes in the order of `Truth.category_ids`: precision (T, R, K, A, L) at the recalls, recall
    (T, K, A, L); -1 where a class has no object. id_order (K,): the classes in the order in which COCOeval sums."""

    precision: np.ndarray
    recall: np.ndarray
    id_order: np.ndarray


class Engine:
    """One truth and the detections on it, prepared for any protocol; subclasses implement `_accumulate`."""

    def __init__(self, truth: Truth, found: Found) -> None:
        self.truth, self.found = truth, found
        self._images, self._classes = ranks(truth.image_ids), ranks(truth.category_ids)

    def accumulate(self, protocol: Protocol) -> Arrays:
        """Precision and recall by a protocol."""
        if self.truth.category_ids:
            precision, recall = self._accumulate(protocol)
        else:
            shape = len(protocol.ious), 0, len(protocol.areas), len(protocol.max_dets)
            precision, recall = np.zeros((shape[0], len(RECALLS), *shape[1:])), np.zeros(shape)
        return Arrays(precision[:, :, self._classes], recall[:, self._classes], np.argsort(self._classes))

    def _accumulate(self, protocol: Protocol) -> tuple[np.ndarray, np.ndarray]:
        """COCOeval's `precision` and `recall`, classes in the order in which it sorts them."""
        raise NotImplementedError


class HotcocoEngine(Engine):
    """By hotcoco."""

    @cached_property
    def _loaded(self) -> tuple[Any, Any]:
        from hotcoco import COCO

        truth, found = self.truth, self.found
        objects = COCO.from_arrays(
            [{"id": k} for k in range(1, len(truth.image_ids) + 1)],
            [{"id": k, "name": str(k)} for k in range(1, len(truth.category_ids) + 1)],
            self._images[truth.image] + 1, self._classes[truth.label] + 1, truth.boxes,
            ids=np.arange(1, len(truth.image) + 1), area=truth.areas, iscrowd=truth.crowd.astype(np.int64))
        rows = np.column_stack((self._images[found.images] + 1, found.boxes, found.scores,
                                self._classes[found.labels] + 1))
        return objects, objects.load_res(rows)

    def _evaluation(self, ious: Sequence[float], areas: dict[str, tuple[float, float]],
                    max_dets: Sequence[int]) -> Any:
        from hotcoco import COCOeval

        evaluation = COCOeval(*self._loaded, "bbox")
        params = evaluation.params
        params.iou_thrs, params.max_dets = list(ious), list(max_dets)
        params.area_rng, params.area_rng_lbl = [list(span) for span in areas.values()], list(areas)
        evaluation.evaluate()
        return evaluation

    def _accumulate(self, protocol: Protocol) -> tuple[np.ndarray, np.ndarray]:
        evaluation = self._evaluation(protocol.ious, protocol.areas, protocol.max_dets)
        evaluation.accumulate()
        arrays = evaluation.eval  # a copy at every access
        return np.asarray(arrays["precision"]), np.asarray(arrays["recall"])

    def tide(self, iou: float = 0.5, near: float = 0.1, max_det: int = 100) -> dict[str, Any]:
        """TIDE's errors (Bolya et al. 2020): `counts` by type, and `delta_ap`, what AP at `iou` (`ap_base`) would gain
        if the errors of one type alone were mended. near: least overlap of an error of place."""
        return self._evaluation([iou], {"all": (0.0, 1e10)}, [max_det]).tide_errors(pos_thr=iou, bg_thr=near)

    def calibration(self, iou: float = 0.5, max_det: int = 100, bins: int = 10) -> dict[str, Any]:
        """How scores agree with the share of hits at one IoU threshold: `bins` of equal width (`bin_lower`,
        `bin_upper`, `avg_confidence`, `avg_accuracy`, `count`), and `ece`, the expected calibration error (Guo et al.
        2017, eq. 3), in which each bin weighs as many detections as it holds."""
        evaluation = self._evaluation([iou], {"all": (0.0, 1e10)}, [max_det])
        return evaluation.calibration(n_bins=bins, iou_threshold=iou)


class PycocotoolsEngine(Engine):
    """By COCOeval itself: the reference, and many times slower."""

    def evaluation(self, ious: Sequence[float], areas: dict[str, tuple[float, float]],
                   max_dets: Sequence[int]) -> Any:
        """A `COCOeval` of the whole problem, evaluated; images, classes and rows are numbered from 1."""
        from engine.evaluation.metrics.reference import coco_evaluation

        truth = replace(self.truth, image_ids=(self._images + 1).tolist(), category_ids=(self._classes + 1).tolist())
        found, images, labels = self.found, self._images + 1, self._classes + 1
        rows = [{"image_id": image, "category_id": label, "bbox": box, "score": score} for image, label, box, score in
                zip(images[found.images].tolist(), labels[found.labels].tolist(), found.boxes.tolist(),
                    found.scores.tolist(), strict=True)]
        evaluation = coco_evaluation(truth.to_coco(), rows)
        params = evaluation.params
        params.iouThrs, params.maxDets = np.array(ious), list(max_dets)
        params.areaRng, params.areaRngLbl = [list(span) for span in areas.values()], list(areas)
        evaluation.evaluate()
        return evaluation

    def _accumulate(self, protocol: Protocol) -> tuple[np.ndarray, np.ndarray]:
        from engine.evaluation.metrics.reference import silent

        with silent():
            evaluation = self.evaluation(protocol.ious, protocol.areas, protocol.max_dets)
            evaluation.accumulate()
        return evaluation.eval["precision"], evaluation.eval["recall"]


def open_engine(truth: Truth, found: Found) -> Engine:
    """hotcoco where it is installed, else pycocotools."""
    try:
        import hotcoco  # noqa: F401
    except ImportError:
        return PycocotoolsEngine(truth, found)
    return HotcocoEngine(truth, found)


def ranks(ids: Sequence[Hashable]) -> np.ndarray:
    """(n,) the place of each id in the order in which COCOeval sorts them; strings after numbers where there are both.
    """
    order = sorted(range(len(ids)), key=lambda k: (isinstance(ids[k], str), ids[k]))
    places = np.empty(len(ids), np.int64)
    places[order] = np.arange(len(ids))
    return places
