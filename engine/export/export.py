"""Export of a model to an ONNX or TorchScript file, which is compared with PyTorch before it replaces an older one.

Legend: B images in a batch, H, W pixels of the input frame, N candidate boxes of one image, C classes.
Interface of every file: `images` (B, 3, H, W) float32 RGB in [0, 1] -> `boxes` (B, N, 4) float32 xyxy input pixels,
`scores` (B, N, C) float32; with `half` too, where only the computation between is fp16. Boxes are decoded; selection
(NMS, or the best of a set) is left to the reader. A file always reads whole frames: it knows of no padding.
`engine.inference.metadata.ExportMetadata` is stored inside.
"""

import copy
import io
import math
import sys
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from engine.export.config import OPSET, ExportConfig
from engine.inference.metadata import METADATA_KEY, ExportMetadata
from engine.inference.runtimes.base import Runtime, first_line
from engine.inference.runtimes.checkpoint import TorchRuntime
from engine.inference.runtimes.open import load_runtime
from utils.boxes import box_iou
from utils.errors import UserError
from utils.files import replacing
from utils.select import SELECTORS, SelectConfig
from utils.structures import Detections
from utils.trusted_exports import remember

# Tolerance of a file against PyTorch, by (half, kind of input): boxes in input pixels, scores, fraction of detections
# that may differ (rounded up: a difference in the last digit can reverse a decision of NMS and those that follow).
# Noise is far from the training data and amplifies rounding: pictures decide, noise only guards against gross errors.
TOLERANCE = {(False, "pictures"): (0.1, 1e-3, 0.02), (False, "random"): (1.0, 1e-2, 1.0),
             (True, "pictures"): (4.0, 0.05, 0.1), (True, "random"): (1e4, 1.0, 1.0)}


READER = {"nms": "NMS is left to the reader", "topk": "the reader takes the best pairs of box and class, without NMS"}
SAME = 0.9  # IoU of a box in both, at least
MOST_RANKS = 300  # best scores of a set that are compared


@dataclass(frozen=True)
class Comparison:
    """Differences on one input: the greatest of boxes (px; candidates above the confidence only) and of scores, the
    number of detections and how many of them differ. Of a set: of boxes that are found by both, and of scores of equal
    rank."""

    kind: str
    shape: tuple[int, int, int]
    boxes: float
    scores: float
    found: int
    differ: int

    def __str__(self) -> str:
        what = f"{self.kind} {self.shape[0]}x3x{self.shape[1]}x{self.shape[2]}"
        return (f"{what:<24} boxes within {self.boxes:.2g} px, scores within {self.scores:.2g}, "
                f"{self.found - self.differ} of {self.found} detections the same")


def export(model: nn.Module, path: Path, config: ExportConfig, pictures: Tensor) -> list[Comparison]:
    """Write `model` to `path` (.onnx or .torchscript).

    model: a Detector on the device to export on; it is not changed. pictures: (K, 3, h, w) uint8 RGB, real content for
    the comparison. The file is written beside `path` and moved there if every comparison is within `TOLERANCE`;
    otherwise raises `UserError` and leaves `path` untouched.
    """
    device = next(model.parameters()).device
    _check_config(path, config, device)
    if model.head.selection not in tuple(SELECTORS):
        raise UserError(f"{path}: {type(model.head).__name__} selects detections by a function of its own, which no "
                        f"file can hold; a head to export names one of {', '.join(SELECTORS)}", "unknown-selection")
    fused = copy.deepcopy(model).eval().fuse().float()
    checked_on = torch.device("cpu") if path.suffix == ".onnx" else device  # ONNX is bound to no device
    reference = TorchRuntime(path, copy.deepcopy(fused), checked_on, half=False)
    traced = _Exported(fused.half() if config.half else fused, config.half).eval()
    metadata = ExportMetadata(
        tuple(model.names), tuple(model.strides), None if config.dynamic else config.size,
        None if config.dynamic else config.batch_size, config.half,
        device=device.type if path.suffix == ".torchscript" else "", trained=model.config.get("trained", {}),
        select=model.head.selection, thresholds=model.thresholds, frame=model.frame, pixels=model.pixels)
    write = _write_onnx if path.suffix == ".onnx" else _write_torchscript
    try:
        with replacing(path) as temporary:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # tracing warns of constants; the comparisons below decide
                write(traced, temporary, metadata, config)
            written = load_runtime(temporary, checked_on, trust=True)
            written.path = path  # for its error messages
            compare = _compare_sets if model.head.selection == "topk" else _compare_one
            comparisons = list(_compare(reference, written, config, pictures, compare))
            check_tolerance(comparisons, path, config)
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error.strerror}), and whatever lay there is untouched; copy the "
                        "weights to another folder", "unwritable-file") from None
    if path.suffix == ".torchscript" and not remember(path):
        print(f"warning: {path}: its digest could not be noted in the user's cache folder; detect.py and val.py will "
              "ask for --trust", file=sys.stderr)
    return comparisons


class _Exported(nn.Module):
    """From float images to decoded boxes and scores, as one module to trace."""

    def __init__(self, model: nn.Module, half: bool) -> None:
        super().__init__()
        self.model, self.dtype = model, torch.float16 if half else torch.float32

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        return self.model.decode(self.model(images.to(self.dtype)))


def _check_config(path: Path, config: ExportConfig, device: torch.device) -> None:
    if path.suffix == ".torchscript" and config.half and device.type == "cpu":
        raise UserError("--half with torchscript needs a GPU: fp16 operators are some hundred times slower on a CPU; "
                        "use --device 0, or --include onnx", "needs-gpu")
    for package in ["onnx", "onnxruntime"] * (path.suffix == ".onnx") + ["onnxslim"] * config.simplify:
        try:
            __import__(package)
        except ImportError:
            raise UserError(f"{path.name}: needs {package}, which is not installed; pip install {package}",
                            "missing-package") from None


def _example(config: ExportConfig, device: torch.device) -> Tensor:
    return torch.rand(config.batch_size, 3, *config.size, device=device)


def _write_torchscript(traced: nn.Module, path: Path, metadata: ExportMetadata, config: ExportConfig) -> None:
    device = next(traced.parameters()).device
    with torch.inference_mode():
        script = torch.jit.trace(traced, _example(config, device), check_trace=False)
    # Through memory, since torch's own writer aborts the process on a full disk.
    path.write_bytes(script.save_to_buffer(_extra_files={f"{METADATA_KEY}.json": metadata.to_json()}))


def _write_onnx(traced: nn.Module, path: Path, metadata: ExportMetadata, config: ExportConfig) -> None:
    import onnx

    axes = {"images": {0: "batch", 2: "height", 3: "width"},
            "boxes": {0: "batch", 1: "candidates"}, "scores": {0: "batch", 1: "candidates"}}
    if not config.dynamic:  # a set has as many answers as it finds
        axes = {} if metadata.select == "nms" else {name: {1: "candidates"} for name in ("boxes", "scores")}
    device, opset = next(traced.parameters()).device, config.opset or OPSET
    written = io.BytesIO()
    try:
        # dynamo=False: the exporter that needs no package beside onnx, and that torch 2.6 and 2.15 both have.
        torch.onnx.export(traced, (_example(config, device),), written, input_names=["images"],
                          output_names=["boxes", "scores"], opset_version=opset,
                          dynamic_axes=axes, dynamo=False)
    except (ValueError, RuntimeError) as error:
        raise UserError(f"--opset {opset}: this model cannot be exported with it: {first_line(error)}",
                        "unsupported-opset") from error
    graph = onnx.load_model_from_string(written.getvalue())
    if config.simplify:
        import onnxslim

        graph = onnxslim.slim(graph)
    for output, last in zip(graph.graph.output, (4, len(metadata.names)), strict=True):  # tracing leaves this size open
        output.type.tensor_type.shape.dim[2].dim_value = last
    stride = metadata.frame.multiple
    sides = f"multiples of {stride}" if metadata.frame.size is None else "{} and {}".format(*metadata.frame.size)
    graph.doc_string = (f"images: RGB in [0, 1], height and width {sides}; boxes: x1, y1, x2, y2 in pixels of images; "
                        "scores: one per class, " + READER[metadata.select])
    entries = {METADATA_KEY: metadata.to_json(), "stride": str(stride), "names": repr(dict(enumerate(metadata.names)))}
    for key, value in entries.items():
        graph.metadata_props.add(key=key, value=value)
    path.write_bytes(graph.SerializeToString())


def export_size(model: nn.Module, config: ExportConfig) -> tuple[int, int]:
    """(height, width) of the frame to export for: `--imgsz`, or that of the training, as the model's frame takes it.

    Raises `UserError` for another size than a fixed one, and for `--dynamic` where the size is fixed, or would be in
    the file.
    """
    frame, name = model.frame, Path(config.weights).name
    if config.dynamic and not model.head.free_size:
        raise UserError(f"--dynamic: {type(model.head).__name__}, the head of {name}, takes numbers from the size of "
                        "the frame that a file cannot work out again; drop the flag, and export once for each --imgsz",
                        "fixed-size")
    if config.dynamic and frame.size is not None:
        raise UserError(f"--dynamic: {name} is a model of images of {frame.size[0]} x {frame.size[1]} pixels alone; "
                        "drop the flag", "fixed-size")
    trained = model.config.get("trained", {}).get("imgsz", [])[-1:] if frame.size is None else None
    wanted = config.imgsz or trained or None
    if frame.fits_images and wanted is not None and len(wanted) == 2:
        return frame.up(tuple(wanted))  # tall or wide
    return frame.up(frame.round(wanted, name))


def _compare(reference: Runtime, exported: Runtime, config: ExportConfig, pictures: Tensor,
             compare: Callable[[str, Tensor, Runtime, Runtime], Comparison]) -> Iterator[Comparison]:
    """Compare on random and real input at the size and batch of `config`; if these are free, at another one too."""
    height, width = config.size
    shapes = [(config.batch_size, height, width)]
    if config.dynamic:
        stride = reference.frame.multiple
        shapes.append((config.batch_size + 1, height + stride, max(width - stride, stride)))
    generator = torch.Generator().manual_seed(0)
    for batch, h, w in shapes:
        noise = torch.rand(batch, 3, h, w, generator=generator)
        real = nn.functional.interpolate(pictures.float() / 255, (h, w), mode="bilinear", antialias=True)
        real = real[torch.arange(batch) % len(real)]
        for kind, images in (("random", noise), ("pictures", real)):
            yield compare(kind, images, reference, exported)


def _answers(images: Tensor, reference: Runtime, exported: Runtime) -> list[tuple[Tensor, Tensor]]:
    """Boxes and scores of both."""
    try:
        return [reference.predict(images), exported.predict(images)]
    except UserError as error:
        raise UserError(f"not written, the exported model does not run: {error}", error.code) from None


def _compare_one(kind: str, images: Tensor, reference: Runtime, exported: Runtime) -> Comparison:
    (boxes, scores), (other_boxes, other_scores) = _answers(images, reference, exported)
    if boxes.shape != other_boxes.shape or scores.shape != other_scores.shape:
        raise UserError(f"{exported.path}: not written, for images {list(images.shape)} it gives boxes "
                        f"{tuple(other_boxes.shape)}, PyTorch {tuple(boxes.shape)}", "export-differs")
    # Scores that differ by rounding alone, as in a barely trained model, must have the same order in both.
    coarse, other_coarse = (s.round(decimals=2 if exported.half else 4) for s in (scores, other_scores))
    conf = _separating_confidence(coarse)
    found = reference.select(boxes, coarse, SelectConfig(conf))
    other = exported.select(other_boxes, other_coarse, SelectConfig(conf))
    total = max(sum(map(len, found)), sum(map(len, other)))
    same = sum(_same(a, b) for a, b in zip(found, other, strict=True))
    candidates = coarse.amax(-1) > conf  # (B, N); boxes of lower scores do not matter
    difference = (boxes - other_boxes).abs().amax(-1)
    difference = difference[candidates] if candidates.any() else difference
    return Comparison(kind, (len(images), *images.shape[2:]), difference.max().item(),
                      (scores - other_scores).abs().max().item(), total, total - same)


def _compare_sets(kind: str, images: Tensor, reference: Runtime, exported: Runtime) -> Comparison:
    """As `_compare_one` for models that answer with a set, of no order and with as many boxes as they find: where two
    answers are nearly tied rounding makes them change places, and of two neighbours the other one stay."""
    (boxes, scores), (other_boxes, other_scores) = _answers(images, reference, exported)
    coarse, other_coarse = (s.round(decimals=2 if exported.half else 4) for s in (scores, other_scores))
    conf = _separating_confidence(coarse)
    found = reference.select(boxes, coarse, SelectConfig(conf))
    other = exported.select(other_boxes, other_coarse, SelectConfig(conf))
    ranks = min(scores[0].numel(), other_scores[0].numel(), MOST_RANKS)
    ranked = [s.flatten(1).topk(ranks, 1).values for s in (scores, other_scores)]
    pairs = [_nearest(a, b) for a, b in zip(found, other, strict=True)]
    back = [_nearest(b, a) for a, b in zip(found, other, strict=True)]
    total, nearest = max(sum(map(len, found)), sum(map(len, other))), torch.cat(pairs)
    same = min(int(torch.cat(side).isfinite().sum()) for side in (pairs, back))
    if not same:  # nothing to measure
        nearest = nearest.new_tensor([max(images.shape[2:]) if total else 0.0])
    return Comparison(kind, (len(images), *images.shape[2:]), nearest[nearest.isfinite()].max().item(),
                      (ranked[0] - ranked[1]).abs().max().item() if ranks else 0.0, total, total - same)


def _nearest(a: Detections, b: Detections) -> Tensor:
    """(K,) of each detection of `a` the greatest difference of a side, px, from the nearest of the same class with an
    IoU above `SAME` in `b`; infinite where there is none."""
    if not len(a) or not len(b):
        return a.boxes.new_full((len(a),), math.inf)
    same = (box_iou(a.boxes, b.boxes) > SAME) & (a.labels[:, None] == b.labels)
    return (a.boxes[:, None] - b.boxes).abs().amax(-1).masked_fill(~same, math.inf).amin(1)


def _separating_confidence(scores: Tensor) -> float:
    """0.25, or if no score is above it the middle of the widest gap in the lower half of the 100 best scores."""
    best = scores.amax(-1).flatten().sort(descending=True).values[:100]
    if best[0] > 0.25 or len(best) < 2:
        return 0.25
    gaps = best[:-1] - best[1:]
    at = gaps[len(gaps) // 2:].argmax().item() + len(gaps) // 2
    return max((best[at] + best[at + 1]).item() / 2 - 2e-5, 0.0)  # below scores that rounding made equal


def _same(a: Detections, b: Detections) -> int:
    """How many detections of `a` have one of the same class with an IoU above 0.9 in `b`."""
    if not len(a) or not len(b):
        return 0
    match = (box_iou(a.boxes, b.boxes) > SAME) & (a.labels[:, None] == b.labels)
    return int(match.any(1).sum())


def check_tolerance(comparisons: list[Comparison], path: Path, config: ExportConfig) -> None:
    """Raises `UserError` if a comparison is not within `TOLERANCE`."""
    for found in comparisons:
        boxes, scores, fraction = TOLERANCE[config.half, found.kind]
        few_differ = found.differ <= math.ceil(fraction * found.found)
        if not (found.boxes <= boxes and found.scores <= scores and few_differ):  # NaN fails too
            raise UserError(f"{path}: not written, the exported model differs from PyTorch: {found} (allowed: "
                            f"{boxes} px, {scores}, {fraction:.0%} of the detections)", "export-differs")
