"""Evaluation of sliced inference: the whole image, its windows and what was merged of them, judged side by side.

The story: each image is decoded once -> its windows and all of it, looked at -> three sets of detections in the
original frame -> three judgements by one protocol, duplicates at seams, milliseconds of each.
"""

import time
from collections import deque
from collections.abc import Container, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch

from data import Index
from data.images.store import ImageStore
from engine.evaluation.collector import Collector
from engine.evaluation.confusion import ConfusionMatrix
from engine.evaluation.evaluate import ALONE, Evaluation
from engine.evaluation.metrics.found import Found
from engine.evaluation.metrics.judge import Metrics, judge
from engine.evaluation.metrics.protocol import COCO, Protocol
from engine.evaluation.submission.submit import JournalCollector
from engine.inference.merging.views import COUNTED
from engine.inference.slicing import STAGES, SlicedDetector
from utils.distributed.group import Group
from utils.reporting.progress import Progress

ROWS = ("full", "sliced", "merged")


@dataclass
class Share:
    """The share of one process. found: of each of `ROWS`; seconds: by stage, and `load`; counts: images, windows,
    duplicates before and after merging."""

    found: list[Found]
    matrix: np.ndarray
    seconds: dict[str, float]
    counts: np.ndarray
    damaged: list[str]


@torch.no_grad()
def evaluate_sliced(detector: SlicedDetector, index: Index, protocol: Protocol = COCO, *, threads: int = 1,
                    group: Group = ALONE, merged: JournalCollector | None = None,
                    done: Container[int] = ()) -> Evaluation:
    """Evaluate a model on the images of `index`, whole, sliced, and merged: the result is that of the merged, by COCO's
    protocol; the table of the three is by `protocol`.

    detector: with labels of the dataset; with `Views.always_full` for the table of the three
    (`Evaluation.comparison`), without it only the merged are judged. threads: that decode images ahead. group: the
    processes that call this together, each with its share of the images; all get the result of the whole split.

    merged, done: where a submission takes the merged detections, and has those of the images with the ids `done` from
    an earlier run. Then nothing else is judged, and no batch holds views of two images, so that what is found in one
    does not depend on which others were left.
    """
    store = ImageStore(index.records, detector.placement, exact=True)
    if merged is not None:
        merged.damaged = lambda: store.damaged
    ids = [int(record.image_id) for record in index.records]
    own = [k for k, image in enumerate(ids) if image not in done][group.rank::group.world]
    loaded = LoadedAhead(store, own, max(threads, 1), detector.placement.frame.fill)
    rows = ROWS if detector.views.always_full else ROWS[-1:]
    collectors = [Collector(index.truth, index.names) for _ in rows] if merged is None else [merged]
    confusion, counts = ConfusionMatrix(len(index.names)), np.zeros(4, np.int64)
    views = detector.run(loaded) if merged is None else (one for image in loaded for one in detector.run([image]))
    progress = Progress(views, "val", len(own), unit="image", shown=group.is_main)
    for number, sliced in zip(own, progress, strict=True):
        record, found_by_row = index.records[number], (sliced.full, sliced.windows, sliced.merged)
        for collector, found in zip(collectors, found_by_row[-len(collectors):], strict=True):
            collector.update([record.image_id], [found])
        confusion.update(sliced.merged, *map(torch.from_numpy, (record.boxes, record.labels, record.ignore)))
        counts += (1, sliced.count, *sliced.duplicates)
    share = Share([c.found() for c in collectors], confusion.matrix,
                  {"load": loaded.seconds, **detector.clock.seconds}, counts, store.damaged)
    parts = group.gather(share)
    found = [Found.join(part.found[k] for part in parts or [share]) for k in range(len(collectors))]
    metrics, confusion.matrix, speed, comparison, damaged = group.broadcast(
        joined(parts, found, index, protocol, detector) if parts else None)
    return Evaluation(metrics, index.truth, found[-1], confusion, {}, speed, max_det=detector.thresholds.max_det,
                      comparison=comparison, damaged=damaged)


def joined(parts: Sequence[Share], found: Sequence[Found], index: Index, protocol: Protocol,
           detector: SlicedDetector) -> tuple[Metrics, np.ndarray, dict[str, float], str, list[str]]:
    """COCO's metrics, confusion, ms per image, the table and the damaged images of all processes; found: of each of
    `ROWS`, or of the last alone."""
    judged = [judge(index.truth, each, index.names, protocol) for each in found]
    counts = np.sum([part.counts for part in parts], 0)
    speed = {stage: 1e3 * sum(part.seconds[stage] for part in parts) / max(int(counts[0]), 1)
             for stage in ("load", *STAGES)}
    table = format_comparison(judged, found, speed, counts, detector) if len(found) == len(ROWS) else ""
    damaged = list(dict.fromkeys(path for part in parts for path in part.damaged))
    metrics = judged[-1] if protocol == COCO else judge(index.truth, found[-1], index.names)
    return metrics, np.sum([part.matrix for part in parts], 0), speed, table, damaged


def format_comparison(judged: Sequence[Metrics], found: Sequence[Found], speed: dict[str, float], counts: np.ndarray,
                      detector: SlicedDetector) -> str:
    """A text table: of the whole images, of all windows as they are, and of the merged, the APs of the protocol,
    detections, duplicates at seams, milliseconds of an image."""
    names = [stat.name for stat in judged[0].protocol.stats if stat.kind == "AP"]
    slicing = detector.slicing
    spent = [speed["full"], speed["windows"],
             speed["windows"] + speed["merge"] + (speed["full"] if slicing.with_full else 0.0)]
    duplicates = ["-", str(counts[2]), str(counts[3])]
    lines = [f"{'':8}" + "".join(f"{name:>9}" for name in names) + f"{'found':>10}{'duplicates':>12}{'ms/image':>10}"]
    for k, row in enumerate(ROWS):
        values = "".join(f"{'-' if (value := judged[k].values[name]) < 0 else f'{value:.3f}':>9}" for name in names)
        lines.append(f"{row:8}{values}{len(found[k]):>10}{duplicates[k]:>12}{spent[k]:>10.1f}")
    return "\n".join([*lines, f"windows of {slicing.size} px that overlap by {slicing.overlap:g}, "
                      f"{counts[1] / max(counts[0], 1):.1f} an image; merged by {slicing.merge}"
                      + " with the whole image" * slicing.with_full
                      + f"; duplicates: same class, score {COUNTED} or more, found again in another view"])


class LoadedAhead:
    """Images (h, w, 3) uint8 BGR in order, decoded by threads while others are looked at; grey where damaged.

    seconds: how long was waited for them.
    """

    def __init__(self, store: ImageStore, numbers: Sequence[int], threads: int, fill: tuple[int, int, int]) -> None:
        self.store, self.numbers, self.threads, self.fill = store, numbers, threads, fill
        self.seconds = 0.0

    def __iter__(self) -> Iterator[np.ndarray]:
        with ThreadPoolExecutor(self.threads) as pool:
            waiting: deque = deque()
            for number in [*self.numbers, *[None] * self.threads]:
                if number is not None:
                    waiting.append((number, pool.submit(self.store.load_whole, number)))
                if waiting and (number is None or len(waiting) > self.threads):
                    began = time.perf_counter()
                    first, task = waiting.popleft()
                    image = task.result()
                    self.seconds += time.perf_counter() - began
                    yield self._grey(first) if image is None else image

    def _grey(self, number: int) -> np.ndarray:
        height, width = self.store.sizes[number].tolist()
        return np.broadcast_to(np.array(self.fill[::-1], np.uint8), (height, width, 3))
