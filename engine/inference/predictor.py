"""From frames to detections: what detect.py and the Python interface share."""

import queue
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain

from engine.inference.config import DetectConfig
from engine.inference.detections import ImageDetections
from engine.inference.look import Ensemble, Look
from engine.inference.overlap import in_order
from engine.inference.runtimes.base import Runtime
from engine.inference.sources import Frame, Source
from engine.inference.view_flags import MODELS, merges_models, slicing_of
from utils.errors import UserError
from utils.reporting.stage_clock import format_speed, per_image


class Predictor:
    """A model, or several as an ensemble, that looks at frames. names: of the classes; images: looked at so far.

    at_a_time: how many were looked at at the same time, see `stream`.
    """

    def __init__(self, looks: Ensemble) -> None:
        self.looks, self.names, self.images = looks, looks.looks[0].runtime.names, 0
        self.at_a_time = 1
        self._twins = [looks]  # one for each thread
        self._idle: queue.SimpleQueue[Ensemble] = queue.SimpleQueue()
        self._idle.put(looks)

    def stream(self, frames: Iterable[Frame], ahead: bool = True) -> Iterator[ImageDetections]:
        """The detections of each frame, in order. Raises `UserError`, which names the file, for boxes that are not
        finite.

        Images and videos are looked at by `Runtime.workers` threads, while the caller uses the results before: a frame
        of a stream, or a single image, is waited for and gets all cores. ahead: whether frames may be taken before the
        results of others are used.
        """
        source, frames = frames, iter(frames)
        for frame in frames:
            following = None
            try:
                following = next(frames, None) if ahead and frame.kind != "stream" else None
            except Exception:
                yield self._count(self._predict(frame))
                raise
            if following is None:
                yield self._count(self._predict(frame))
                continue
            self._add_twins()
            for result in in_order(self._predict, chain((frame, following), frames), self.at_a_time,
                                   lambda: isinstance(source, Source) and source.stopped):
                yield self._count(result)

    def _add_twins(self) -> None:
        self.at_a_time = min(look.runtime.workers for look in self.looks.looks)
        while len(self._twins) < self.at_a_time:
            self._twins.append(self.looks.twin())
            self._idle.put(self._twins[-1])

    def _count(self, result: ImageDetections) -> ImageDetections:
        self.images += 1
        return result

    def _predict(self, frame: Frame) -> ImageDetections:
        looks = self._idle.get()
        began = time.perf_counter()
        try:
            result = ImageDetections.of(looks(frame.image), frame, self.names)
            result.seconds, result.seen = time.perf_counter() - began, looks.seen
            return result
        except UserError as error:
            raise UserError(f"{frame.path}: {error}" if error.code == "not-finite" else str(error),
                            code=error.code) from None
        finally:
            self._idle.put(looks)

    def speed(self) -> str:
        """The sizes that images were looked at in, and milliseconds per image by stage, in the thread that did it."""
        stages = Counter()
        for looks in self._twins:
            stages.update(looks.seconds)
        together = f", {self.at_a_time} at a time" if self.at_a_time > 1 else ""
        sizes = " and ".join(dict.fromkeys("{}x{}".format(*look.size) for look in self.looks.looks))
        return f"speed per image at {sizes}{together}: {format_speed(per_image(stages, self.images))}"


def make_predictor(runtimes: Sequence[Runtime], config: DetectConfig) -> Predictor:
    """Models that are open, ready to look at images as the configuration says. Raises `UserError` where one of them
    cannot."""
    looks = []
    for runtime in runtimes:
        thresholds = config.thresholds(runtimes[0].names)
        runtime.check_suppression({"--iou-thres": config.iou_thres is not None, "--agnostic-nms": config.agnostic_nms})
        runtime.check_limits(config.given.get("conf_thres"), config.given.get("max_det"))
        looks.append(Look(runtime, runtime.choose_size(config.imgsz), thresholds, slicing_of(config), config.augment))
    return Predictor(Ensemble(looks, config.merge if merges_models(config) and config.merge else MODELS))
