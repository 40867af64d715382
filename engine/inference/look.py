"""How one model, or several as an ensemble, look at an image: whole or sliced, as it is or augmented."""

import copy
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch

from engine.inference.augment import augmented
from engine.inference.merging.models import merge_models
from engine.inference.runtimes.base import Runtime
from engine.inference.slicing import SlicedDetector, Slicing, Views, check_finite
from utils.class_names import match_classes
from utils.reporting.stage_clock import StageClock
from utils.select import SelectConfig
from utils.structures import Detections

STAGES = ("pre-process", "inference", "NMS")


class Look:
    """One model that looks at images. size: of `Runtime.choose_size`; slicing: None for whole images; augment: at
    several scales (`augmented`). clock: seconds by stage; seen: what the last image was looked at as, in words."""

    def __init__(self, runtime: Runtime, size: tuple[int, int], thresholds: SelectConfig,
                 slicing: Slicing | None = None, augment: bool = False) -> None:
        self.runtime, self.size, self.thresholds = runtime, size, thresholds
        self.predict = augmented(runtime) if augment else runtime.predict
        self.sliced = slicing and SlicedDetector(runtime, size, thresholds, slicing,
                                                 Views(predict=self.predict, limit=thresholds.max_det))
        self.clock = self.sliced.clock if self.sliced else StageClock(runtime.device, STAGES)
        self.seen = ""

    def twin(self) -> "Look":
        """The same for another thread: it shares the model, and has clocks and batches of its own."""
        twin = copy.copy(self)
        twin.sliced = self.sliced and self.sliced.twin()
        twin.clock = twin.sliced.clock if twin.sliced else StageClock(self.runtime.device, STAGES)
        return twin

    def __call__(self, image: np.ndarray) -> Detections:
        """The detections in an image (h, w, 3) uint8 BGR, in its frame, on the CPU. Raises `UserError` for boxes that
        are not finite."""
        if self.sliced:
            found, = self.sliced.run([image])
            self.seen = f"{found.count} window{'s' * (found.count > 1)} of {self.sliced.slicing.size} px"
            return found.merged
        clock, runtime = self.clock, self.runtime
        clock.start()
        placed, letterbox = runtime.prepare(image, self.size)
        clock.lap("pre-process")
        boxes, scores = self.predict(placed, runtime.content([letterbox]))
        clock.lap("inference")
        found = runtime.select(boxes, scores, self.thresholds)[0].to_original(letterbox).cpu()
        clock.lap("NMS")
        check_finite(found, runtime.path)
        self.seen = f"{placed.shape[2]}x{placed.shape[3]}"
        return found


class Ensemble:
    """Several models that look at the same images: their detections, merged by `method` of `merging.models`.

    The classes are those of the first; others have the same, in any order (`match_classes`). Raises `UserError` for
    other classes.
    """

    def __init__(self, looks: Sequence[Look], method: str) -> None:
        first = looks[0]
        self.looks, self.method, self.limit = looks, method, first.thresholds.max_det
        self.clock = StageClock(first.runtime.device, ("ensemble",))
        self.orders: list[np.ndarray] = []
        for look in looks:
            order, note = match_classes(look.runtime.names, first.runtime.names, str(look.runtime.path),
                                        str(first.runtime.path))
            if note:
                print(note)
            self.orders.append(np.array(order or range(len(first.runtime.names)), np.int64))
            classes = first.thresholds.classes
            if order and classes is not None:
                own = replace(look.thresholds, classes=tuple(k for k, label in enumerate(order) if label in classes))
                look.thresholds = own
                if look.sliced:
                    look.sliced.thresholds = own

    def twin(self) -> "Ensemble":
        """As `Look.twin`."""
        twin = copy.copy(self)
        twin.looks, twin.clock = [look.twin() for look in self.looks], StageClock(self.clock.device, ("ensemble",))
        return twin

    def __call__(self, image: np.ndarray) -> Detections:
        """As `Look`."""
        parts = [look(image) for look in self.looks]
        if len(parts) == 1:
            return parts[0]
        self.clock.start()
        columns = [(d.boxes.double().numpy(), d.scores.double().numpy(), order[d.labels.numpy()])
                   for d, order in zip(parts, self.orders, strict=True)]
        merged = merge_models(columns, self.method, self.looks[0].thresholds.agnostic)
        boxes, scores, labels = (torch.from_numpy(column[:self.limit]) for column in merged[:3])
        self.clock.lap("ensemble")
        return Detections(boxes.float(), scores.float(), labels)

    @property
    def seen(self) -> str:
        """What the last image was looked at as, in words."""
        return " and ".join(dict.fromkeys(look.seen for look in self.looks))

    @property
    def seconds(self) -> dict[str, float]:
        """Seconds by stage, of all models together."""
        clocks = [look.clock for look in self.looks] + [self.clock] * (len(self.looks) > 1)
        stages = dict.fromkeys(stage for clock in clocks for stage, spent in clock.seconds.items())
        return {stage: sum(clock.seconds.get(stage, 0.0) for clock in clocks) for stage in stages}
