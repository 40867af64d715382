"""`val.py --task speed`: what an image costs by stage, one at a time and in batches, without any metric."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import islice

from data import Index
from data.loading.build import eval_loader
from data.loading.config import LoaderConfig
from engine.evaluation.config import ValConfig
from engine.inference.runtimes.base import Runtime
from utils.device import describe
from utils.reporting.stage_clock import StageClock, per_image
from utils.select import SelectConfig

CONF, IOU = 0.25, 0.45  # as YOLOv5's `--task speed`: what a user of detections would keep
WARM_UP = 3  # times that the first batch is run before the clock starts
LIMIT = 1000  # images of a measurement
STAGES = ("pre-process", "inference", "nms")


@dataclass(frozen=True)
class Speed:
    """Milliseconds per image by stage in batches of so many, over so many images. pre-process: reading, resizing and
    the copy to the device, by this process alone."""

    batch: int
    images: int
    stages: dict[str, float]

    @property
    def per_second(self) -> float:
        """Images in a second, the stages one after another."""
        return 1e3 / max(sum(self.stages.values()), 1e-9)

    @property
    def per_second_computed(self) -> float:
        """Images in a second where other processes read and resize them meanwhile."""
        return 1e3 / max(sum(self.stages.values()) - self.stages["pre-process"], 1e-9)


def speed_thresholds(config: ValConfig, runtime: Runtime) -> SelectConfig:
    """The flags that were given, else confidence 0.25 and IoU 0.45; sets, in which nothing is suppressed, keep their
    own IoU."""
    own = runtime.thresholds
    return config.thresholds(replace(own, conf=CONF, iou=own.iou if runtime.finds_sets else IOU))


def measure(config: ValConfig, runtime: Runtime, index: Index) -> list[Speed]:
    """The speed at batch 1 and at `--batch-size`, on the split's first `LIMIT` images, in square frames without
    `--rect`."""
    size, thresholds = runtime.choose_size(config.imgsz), speed_thresholds(config, runtime)
    some = index.subset(min(len(index), LIMIT))
    found = []
    for batch in sorted({1, config.batch_size}):
        loader = eval_loader(some, size, LoaderConfig(batch, rect=bool(config.rect), frame=runtime.frame))
        found.append(_measured(loader, batch, runtime, thresholds))
    return found


def _measured(loader, batch_size: int, runtime: Runtime, thresholds: SelectConfig) -> Speed:
    for batch in islice(loader, 1):
        for _ in range(WARM_UP):
            runtime.select(*runtime.predict(batch.to(runtime.device).images, batch.targets.content), thresholds)
    images, clock = 0, StageClock(runtime.device, STAGES)
    for batch in loader:
        pixels = batch.images.to(runtime.device)
        clock.lap("pre-process")
        boxes, scores = runtime.predict(pixels, batch.targets.content)
        clock.lap("inference")
        for detections in runtime.select(boxes, scores, thresholds):
            detections.cpu()
        clock.lap("nms")
        images += len(batch)
    return Speed(batch_size, images, per_image(clock.seconds, images))


def format_table(rows: Sequence[Speed], runtime: Runtime, size: tuple[int, int], thresholds: SelectConfig) -> str:
    """What was measured, and a line for each batch size."""
    head = (f"{runtime.path} at {size[0]} x {size[1]} px on {describe(runtime.device)}"
            f"{', 16 bits' if runtime.half else ''}; conf {thresholds.conf:g}, IoU {thresholds.iou:g}; ms per image, "
            f"{rows[0].images} images after {WARM_UP} batches of warm-up")
    columns = (f"{'batch':>5}{'pre-process':>13}{'inference':>11}{'nms':>7}{'all':>8}{'images/s':>10}"
               f"{'without reading':>17}")
    lines = [f"{r.batch:>5}{r.stages['pre-process']:>13.1f}{r.stages['inference']:>11.1f}{r.stages['nms']:>7.1f}"
             f"{sum(r.stages.values()):>8.1f}{r.per_second:>10.1f}{r.per_second_computed:>17.1f}" for r in rows]
    return "\n".join([head, columns, *lines])
