"""From frames to detections: what detect.py and the Python interface share."""

import time
from collections.abc import Iterable, Iterator, Sequence

from engine.inference.config import DetectConfig
from engine.inference.detections import ImageDetections
from engine.inference.look import Ensemble, Look
from engine.inference.runtimes.base import Runtime
from engine.inference.sources import Frame
from engine.inference.view_flags import MODELS, merges_models, slicing_of
from utils.errors import UserError
from utils.reporting.stage_clock import format_speed, per_image


class Predictor:
    """A model, or several as an ensemble, that looks at frames. names: of the classes; images: looked at so far."""

    def __init__(self, looks: Ensemble) -> None:
        self.looks, self.names, self.images = looks, looks.looks[0].runtime.names, 0

    def stream(self, frames: Iterable[Frame]) -> Iterator[ImageDetections]:
        """The detections of each frame, in order. Raises `UserError`, which names the file, for boxes that are not
        finite."""
        for frame in frames:
            yield self._predict(frame)

    def _predict(self, frame: Frame) -> ImageDetections:
        began = time.perf_counter()
        try:
            result = ImageDetections.of(self.looks(frame.image), frame, self.names)
        except UserError as error:
            raise UserError(f"{frame.path}: {error}" if error.code == "not-finite" else str(error),
                            code=error.code) from None
        result.seconds, result.seen = time.perf_counter() - began, self.looks.seen
        self.images += 1
        return result

    def speed(self) -> str:
        """The sizes that images were looked at in, and milliseconds per image by stage."""
        sizes = " and ".join(dict.fromkeys("{}x{}".format(*look.size) for look in self.looks.looks))
        return f"speed per image at {sizes}: {format_speed(per_image(self.looks.seconds, self.images))}"


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
