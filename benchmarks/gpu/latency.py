"""Inference latency: fused models in 16 bits, plain, compiled and as a CUDA graph; and suppression.

A time is that of one call, from the asking until its result is there; boxes are decoded, suppression is apart.
"""

import contextlib
import time
from collections.abc import Callable, Iterator

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.gpu.behaviour import DENSE, SPARSE, candidates
from benchmarks.gpu.context import Context, median_of, seconds_of
from models import build_model
from models.detector import Detector
from utils.select import non_max_suppression

BATCHES, BATCHES_SMALL = (1, 16, 64), (1,)
DTYPES = {"fp16": torch.float16, "bf16": torch.bfloat16}
CALLS = 20
AGREE = 0.02  # relative difference of a replayed or compiled model's scores in 16 bits


def build(variant: str, context: Context, dtype: torch.dtype) -> Detector:
    """A fused model, `yolov8n --neck assn`, the same weights for the same flags."""
    name, _, neck = variant.partition(" --neck ")
    torch.manual_seed(0)
    model = build_model(name, 80, neck=neck or None).eval().fuse()
    return model.to(context.device, dtype, memory_format=torch.channels_last)


@contextlib.contextmanager
def autotuned() -> Iterator[None]:
    """cuDNN tries its algorithms on each new shape, and no gradients are kept."""
    before = torch.backends.cudnn.benchmark
    torch.backends.cudnn.benchmark = True
    try:
        with torch.no_grad():
            yield
    finally:
        torch.backends.cudnn.benchmark = before


def noise(batch: int, imgsz: int, device: torch.device) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (batch, 3, imgsz, imgsz), dtype=torch.uint8, generator=generator)
    return images.to(device, memory_format=torch.channels_last)


def time_calls(context: Context, call: Callable[[], object]) -> dict[str, float]:
    """Median, fastest and slowest of some calls, each waited for, in ms."""
    seconds = seconds_of(context, call, 2 if context.small else CALLS)
    return {"ms": 1e3 * seconds[len(seconds) // 2], "fastest_ms": 1e3 * seconds[0], "slowest_ms": 1e3 * seconds[-1]}


def captured(context: Context, call: Callable[[], tuple[Tensor, Tensor]]) -> tuple[Callable[[], None], tuple]:
    """A call as a CUDA graph: what replays it, and the tensors that a replay writes its result to."""
    here, side = torch.cuda.current_stream(context.device), torch.cuda.Stream(context.device)
    side.wait_stream(here)
    with torch.cuda.stream(side):  # libraries set themselves up and are tuned outside of the graph
        for _ in range(3):
            call()
    here.wait_stream(side)
    torch.cuda.synchronize(context.device)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        result = call()
    return graph.replay, result


def measure(context: Context, variant: str) -> None:
    """One model in both types at every batch, plain and as a CUDA graph; its FLOPs for one image."""
    imgsz = 64 if context.small else 640
    with autotuned():
        for word, dtype in DTYPES.items() if context.cuda else [("fp32", torch.float32)]:
            model = build(variant, context, dtype)
            flops = _flops(model, noise(1, imgsz, context.device))
            for batch in BATCHES_SMALL if context.small else BATCHES:
                _measure_batch(context, model, noise(batch, imgsz, context.device),
                               {"variant": variant, "type": word, "batch": batch, "imgsz": imgsz, "flops": flops})
            del model
            context.forget()


def _flops(model: Detector, images: Tensor) -> int:
    with FlopCounterMode(display=False) as counter:
        model(images)
    return counter.get_total_flops()


def _measure_batch(context: Context, model: Detector, images: Tensor, row: dict) -> None:
    def call() -> tuple[Tensor, Tensor]:
        return model.decode(model(images))

    for _ in range(1 if context.small else 4):
        call()
    context.add({**row, "mode": "plain", **time_calls(context, call)})
    if not context.cuda:
        return
    wanted = [t.clone() for t in call()]
    replay, result = captured(context, call)
    replay()
    error = _difference(result, wanted)
    context.add({**row, "mode": "CUDA graph", **time_calls(context, replay), "what": "CUDA graph, its result",
                 "difference": error, "ok": error <= AGREE})


def _difference(found: tuple[Tensor, Tensor], wanted: list[Tensor]) -> float:
    """Of boxes relative to their largest number, or of scores, whichever is more."""
    boxes = float((found[0] - wanted[0]).abs().max() / wanted[0].abs().max())
    return max(boxes, float((found[1] - wanted[1]).abs().max()))


def measure_compiled(context: Context, variant: str) -> None:
    """A compiled model in fp16 at batches 1 and 16, and how long compiling took."""
    imgsz = 64 if context.small else 640
    word, dtype = ("fp16", torch.float16) if context.cuda else ("fp32", torch.float32)
    with autotuned():
        model = build(variant, context, dtype)
        batches = BATCHES_SMALL if context.small else BATCHES[:2]
        plain = [model.decode(model(noise(batch, imgsz, context.device))) for batch in batches]
        torch.compiler.reset()
        # on a CPU a compiler of C++ would take minutes
        model.model.compile(dynamic=False, backend="inductor" if context.cuda else "eager")
        for batch, wanted in zip(batches, plain, strict=True):
            images = noise(batch, imgsz, context.device)
            since = time.perf_counter()
            found = model.decode(model(images))
            context.synchronize()
            first = time.perf_counter() - since
            for _ in range(3):
                model(images)
            error = _difference(found, list(wanted))
            context.add({"variant": variant, "type": word, "batch": batch, "imgsz": imgsz, "mode": "compiled",
                         "first_s": first, **time_calls(context, lambda: model.decode(model(images))),  # noqa: B023
                         "what": "compiled, its result", "difference": error, "ok": error <= AGREE})
    torch.compiler.reset()


def measure_nms(context: Context) -> None:
    """Suppression alone: few candidates as detect.py has them, and many as val.py has them."""
    count, classes = (200, 3) if context.small else (8400, 80)
    for word, dense, options in (("sparse", False, SPARSE), ("dense", True, DENSE)):
        for batch in BATCHES_SMALL if context.small else BATCHES:
            boxes, scores = (t.to(context.device) for t in candidates(batch, count, classes, dense))
            kept = non_max_suppression(boxes, scores, options)
            asked = int((scores > options.conf).sum()) // batch
            ms = 1e3 * median_of(context, lambda: non_max_suppression(boxes, scores, options),  # noqa: B023
                                 2 if context.small else 7)
            context.add({"variant": word, "batch": batch, "candidates": asked,
                         "kept": sum(map(len, kept)) / batch, "ms": ms})
