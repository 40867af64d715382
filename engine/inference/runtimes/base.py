"""The interface through which every kind of model file is run.

Legend: B images in a batch, H, W pixels of the input frame, N candidate boxes of one image, C classes.
An exported file takes `images` (B, 3, H, W) float32 RGB in [0, 1], gives what `engine.inference.outputs` describes, and
has an `ExportMetadata` inside.
"""

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor

from data.images.letterbox import place
from data.images.placement import Placement
from engine.inference.metadata import ExportMetadata, is_count, is_list_of
from engine.inference.outputs import read_outputs
from utils.errors import UserError
from utils.select import SelectConfig, Selector, find_selector, nms_operator
from utils.structures import Detections, Letterbox


class Runtime:
    """A detector that is ready to run; subclasses implement `_predict` for one batch.

    names: class names; strides: pixels per cell of each level; frame: how it wants images placed, and fixed_size: the
    only (height, width) it takes, or None; fixed_batch: the only batch size of the file, or None (`predict` takes any:
    it pads or splits); is_set: whether the model answers with a set; finds_sets: whether no box that `predict` gives
    suppresses another; trained, thresholds, precision: see `ExportMetadata`; selection: the thresholds of a file that
    selects detections itself, else None; device: the device of `boxes` and `scores`, on which images are best put too;
    workers: how many images are best looked at at a time, where there are many and no single one is waited for.
    """

    workers = 1

    def __init__(self, path: Path, metadata: ExportMetadata, device: torch.device,
                 selection: Selector | None = None) -> None:
        self.path, self.device = path, device
        self.names, self.strides = list(metadata.names), list(metadata.strides)
        self.frame, self.fixed_batch, self.half = metadata.file_frame, metadata.batch, metadata.half
        self._model_frame, self._sizes = metadata.frame, {}
        self.layout, self.selection, self.precision = metadata.layout, metadata.selection, metadata.precision
        self.is_set = metadata.select == "topk"
        self.finds_sets = self.is_set or self.selection is not None
        self.thresholds = self.selection or metadata.thresholds
        self._selector = find_selector(selection or ("topk" if self.finds_sets else metadata.select))
        nms_operator()
        trained = metadata.trained if isinstance(metadata.trained, dict) else {}
        self.trained = trained if is_list_of(trained.get("imgsz", [640]), is_count, 2) else {}

    @property
    def fixed_size(self) -> tuple[int, int] | None:
        return self.frame.size

    def choose_size(self, wanted: Sequence[int] | None = None) -> tuple[int, int]:
        """(height, width), or (shorter, longer) side, to run at (`Frame.resolve`): the file's fixed size, or `wanted`,
        or the size of the training, or that of the frame.

        Raises `UserError` if `wanted` differs from a fixed size. Asked again it says nothing again.
        """
        key = wanted and tuple(wanted)
        if key not in self._sizes:
            self._sizes[key] = self._size_for(wanted)
        return self._sizes[key]

    def _size_for(self, wanted: Sequence[int] | None) -> tuple[int, int]:
        if self.fixed_size is not None and (wanted is None or tuple(wanted) == self.fixed_size):
            return self.fixed_size
        frame = self._model_frame
        size = frame.round(wanted or self.trained.get("imgsz", [])[-1:] or None, str(self.path))
        if self.fixed_size not in (None, frame.up(size)):
            bound = " ".join(map(str, self.fixed_size))
            raise UserError(f"--imgsz: {self.path} was exported for {bound} only; give that, or export with --dynamic",
                            "fixed-size")
        return self.fixed_size or size

    def prepare(self, image: np.ndarray, size: tuple[int, int]) -> tuple[Tensor, Letterbox]:
        """BGR (H, W, 3) uint8 -> RGB (1, 3, h, w) uint8 and its letterbox, with as little padding as the file allows.

        size: see `choose_size`.
        """
        inner, transform = Placement(self.frame, size).alone(image.shape[:2])
        placed = place(image, inner, transform, fill=self.frame.fill, antialias=self.frame.shrink == "area")
        return torch.from_numpy(cv2.cvtColor(placed, cv2.COLOR_BGR2RGB)).permute(2, 0, 1)[None], transform

    def content(self, letterboxes: Sequence[Letterbox]) -> Tensor | None:
        """(B, 2) height and width of images at the top left of their frames; None where they lie elsewhere."""
        if self.frame.pad != "corner":
            return None
        return torch.tensor([letterbox.content for letterbox in letterboxes]).view(-1, 2)

    def predict(self, images: Tensor, content: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """images (B, 3, H, W), uint8 or float in [0, 1] -> boxes (B, N, 4) xyxy input pixels, scores (B, N, C).

        Both are float32. content: see `content`; an exported file reads whole frames, padding too. Raises `UserError`
        if the file does not take images of this size.
        """
        height, width = images.shape[-2:]
        if self.fixed_size and (height, width) != self.fixed_size:
            bound = "x".join(map(str, self.fixed_size))
            again = ", or export it again with --dynamic" if self._model_frame.size is None else ""
            raise UserError(f"{self.path}: takes {bound} pixels, got {height}x{width}; give that --imgsz{again}",
                            "fixed-size")
        stride = self.frame.multiple
        if height % stride or width % stride:
            raise UserError(f"{self.path}: takes heights and widths in multiples of {stride}, got {height}x{width}",
                            "bad-size")
        step = self.fixed_batch or len(images)
        parts = []
        with torch.inference_mode():
            for k, part in enumerate(images.to(self.device, non_blocking=True).split(step)):
                short = step - len(part)
                padded = torch.cat((part, part.new_zeros(short, *part.shape[1:]))) if short else part
                shown = None if content is None or short else content[k * step:(k + 1) * step].to(self.device)
                parts.append([out[:len(part)] for out in self._checked(self._predict(padded, shown), len(padded))])
        boxes, scores = zip(*parts, strict=True)
        return torch.cat(boxes), torch.cat(scores)

    def _checked(self, answer: Any, batch: int) -> tuple[Tensor, Tensor]:
        """Boxes and scores from what a file returned. Raises `UserError` if their shapes are wrong."""
        parts = answer if isinstance(answer, tuple | list) else (answer,)
        boxes, scores = read_outputs(parts, self.layout, self.selection is not None, len(self.names), self.path)
        if len(boxes) != batch:
            raise UserError(f"{self.path}: answers to {len(boxes)} images where {batch} were given; export it again",
                            "bad-output")
        return boxes, scores

    def _predict(self, images: Tensor, content: Tensor | None = None) -> Sequence[Tensor] | Tensor:
        """The outputs of the file, in the order of `output_names`."""
        raise NotImplementedError

    def check_suppression(self, given: Mapping[str, bool]) -> None:
        """Raises `UserError` for flags about suppression where none is done; given: flag -> whether it was given."""
        flags = [flag for flag, is_given in given.items() if is_given]
        if flags and self.selection:
            raise UserError(f"{' '.join(flags)}: {self.path} selects detections itself, {self.selection_in_words}; "
                            "export it again with other ones, or without --nms", "flag-without-effect")
        if flags and self.finds_sets:
            raise UserError(f"{' '.join(flags)}: {self.path} answers with a set, in which no box suppresses another; "
                            f"drop {'them' if len(flags) > 1 else 'the flag'}", "flag-without-effect")

    def check_limits(self, conf: float | None, max_det: int | None) -> None:
        """Say of a file that selects detections itself how it does, as flags cannot widen that. None: not given.

        Raises `UserError` for a confidence below, or more detections than, what it was exported with.
        """
        own = self.selection
        if own:
            print(f"{self.path}: selects detections itself: {self.selection_in_words}", file=sys.stderr)
        wrong = [] if own is None else [
            f"--{name} {value:g}" for name, value, lost in (
                ("conf-thres", conf, conf is not None and conf < own.conf),
                ("max-det", max_det, max_det is not None and max_det > own.max_det)) if lost]
        if wrong:
            raise UserError(f"{', '.join(wrong)}: {self.path} selects detections itself, {self.selection_in_words}, "
                            f"and gives no others; export it with --nms {' '.join(wrong)}", "flag-without-effect")

    @property
    def selection_in_words(self) -> str:
        """How a file that selects detections itself does it."""
        own = self.selection
        return f"confidence {own.conf:g}, " + f"NMS at IoU {own.iou:g}, " * (not self.is_set) + (
            "across classes, " * own.agnostic + f"at most {own.max_det} of an image")

    def select(self, boxes: Tensor, scores: Tensor, config: SelectConfig | None = None) -> list[Detections]:
        """The detections of each image from the output of `predict`; config: by default the model's `thresholds`."""
        return self._selector(boxes, scores, config or self.thresholds)


def as_unit(images: Tensor) -> Tensor:
    """uint8 images -> float32 in [0, 1]; float images are taken as they are, in float32."""
    return images.float() / 255 if images.dtype == torch.uint8 else images.float()


def first_line(error: BaseException) -> str:
    """The first sentence of a library's error, which may be pages long."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0].split(". ")[0][:200]
