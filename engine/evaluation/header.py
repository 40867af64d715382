"""What stands above the numbers of an evaluation: which model, which data, how it was evaluated."""

import datetime
from pathlib import Path

import torch

from data import Index
from engine.evaluation.comparison.table import Facts
from engine.evaluation.config import ValConfig
from engine.evaluation.metrics.protocol import COCO
from engine.evaluation.setup import uses_rect
from engine.inference.runtimes.base import Runtime
from engine.inference.runtimes.checkpoint import TorchRuntime
from engine.inference.runtimes.onnx import OnnxRuntime
from engine.inference.view_flags import views_in_words
from models.summary import summarise
from utils.checkpoint import load_checkpoint
from utils.device import describe
from utils.errors import UserError, printable
from utils.select import SelectConfig

LOW = 0.01  # a score above which detections that are left out change AP


def facts_of(config: ValConfig, runtime: Runtime) -> Facts:
    """Parameters, FLOPs at the size used, and that size; of exported files the FLOPs are not known."""
    size = runtime.choose_size(config.imgsz)
    shape = "fitted" if runtime.frame.fits_images else "rect" if uses_rect(config, runtime) else ""
    told = f"{size[0]} x {size[1]} {shape}".rstrip()
    if isinstance(runtime, TorchRuntime):
        lines = summarise(runtime.model, runtime.frame.up(size))
        return Facts(sum(line.params for line in lines), float(sum(line.flops for line in lines)), told)
    if isinstance(runtime, OnnxRuntime):
        return Facts(_stored_numbers(runtime.path), None, told)
    module = getattr(runtime, "module", None)  # a program of torch; other files do not tell
    return Facts(None if module is None else sum(p.numel() for p in module.parameters()), None, told)


def header(config: ValConfig, runtime: Runtime, index: Index, thresholds: SelectConfig, facts: Facts) -> str:
    """The lines above the table: weights, data, images, selection, runtime; a warning where detections that AP needs
    are left out."""
    truth = index.truth
    objects = int((~truth.crowd).sum())
    unread = len(truth.image_ids) - len(index)
    kind, suppresses = type(runtime).__name__.removesuffix("Runtime"), not runtime.finds_sets
    precision = str(runtime.dtype).removeprefix("torch.") if isinstance(runtime, TorchRuntime) else runtime.precision
    without_nms = f", selected in the file: {runtime.selection_in_words}" if runtime.selection else (
        ", from a set without NMS")
    costs = [f"{facts.params:,} parameters"] if facts.params is not None else []
    if facts.flops is not None:
        costs.append(f"{facts.flops / 1e9:.1f} GFLOPs")
    frames = {"rect": "rectangles of like aspect", "fitted": "frames that fit the images"}.get(
        facts.size.rpartition(" ")[2], "one frame for all")
    size = facts.size.removesuffix(" rect").removesuffix(" fitted")
    parts = [f"confidence {thresholds.conf:g} or more"] + [f"NMS at IoU {thresholds.iou:g}"] * suppresses
    lines = {"weights": f"{printable(str(runtime.path))} ({_origin(runtime)}): {', '.join(costs) or 'of unknown size'}",
             "data": f"{printable(str(index.source.yaml))}, {index.source.split}: {len(truth.image_ids):,} images"
                     f"{f' ({unread:,} of them cannot be opened)' if unread else ''}, {objects:,} objects, "
                     f"{len(index.names)} classes{' taken as one' if index.single_cls else ''}",
             "images": f"{size} px, {views_in_words(config) or frames}, {config.batch_size} at a time",
             "detections": f"{', '.join(parts)}, at most {thresholds.max_det} "
                           f"{'a view' if config.slice else 'an image'}"
                           f"{'' if suppresses else without_nms}",
             "protocol": " | ".join(dict.fromkeys((*(p.title for p in config.all_protocols()), COCO.title))),
             "runtime": f"{kind} in {precision} on {describe(runtime.device)}, torch {torch.__version__}"}
    width = max(map(len, lines))
    told = [f"{word:<{width}}  {text}" for word, text in lines.items()]
    if thresholds.conf > LOW and objects:
        told.append(f"warning: detections below a confidence of {thresholds.conf:g} are left out, which cuts AP; "
                    f"papers report it at 0.001 (--conf-thres)")
    return "\n".join(told)


def _origin(runtime: Runtime) -> str:
    """The epoch of a checkpoint of this project, and when the file was written."""
    written = datetime.datetime.fromtimestamp(runtime.path.stat().st_mtime, datetime.timezone.utc)
    said = f"written {written:%Y-%m-%d %H:%M} UTC"
    if not isinstance(runtime, TorchRuntime):
        return said
    try:
        epoch = load_checkpoint(runtime.path).get("epoch")
    except UserError:  # the weights of another code base, which were converted
        epoch = None
    return f"epoch {epoch}, {said}" if isinstance(epoch, int) else said


def _stored_numbers(path: Path) -> int | None:
    """Numbers in the tensors of an .onnx file that are no whole numbers; None where onnx is not installed."""
    try:
        import onnx
    except ImportError:
        return None
    floats = (onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16, onnx.TensorProto.DOUBLE)
    stored = onnx.load(path, load_external_data=False).graph.initializer
    counts = []
    for tensor in stored:
        if tensor.data_type in floats:
            count = 1
            for side in tensor.dims:
                count *= side
            counts.append(count)
    return sum(counts)
