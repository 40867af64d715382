"""Speed of a training step and its limit: arithmetic, memory, or launch overhead.

Legend of rows: flops, traffic_gb: of one step, counted from its operations (convolutions and matrix products; bytes
that each operation reads and writes, without what fusing would spare).
"""

import time

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

import train
from benchmarks.gpu.context import Context, median_of, seconds_of
from benchmarks.gpu.steps import AS_TRAINED, CLOSEST, forward_backward, global_settings, make_batch, make_run
from engine.training.autobatch import is_out_of_memory
from utils.device import memory_gb

WARM_UP = 4
FLOOR = (64, 2)  # image size, batch of a step that costs a GPU next to nothing: what is left is the asking
VIEWS = ("view", "reshape", "permute", "transpose", "expand", "slice", "select", "unsqueeze", "squeeze", "split", "t",
         "detach", "alias", "as_strided", "unbind", "empty", "empty_like", "empty_strided", "new_empty", "chunk",
         "_unsafe_view", "narrow", "unfold", "diagonal", "_reshape_alias", "split_with_sizes", "new_empty_strided")


class Traffic(TorchDispatchMode):
    """Counts operations, and the bytes of all tensors that they read and write; views move nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.operations = self.bytes = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        if func._schema.name.split("::")[1] not in VIEWS:
            self.operations += 1
            self.bytes += sum(t.numel() * t.element_size() for t in tree_leaves((args, kwargs, out))
                              if isinstance(t, torch.Tensor))
        return out


def measure_card(context: Context) -> None:
    """What this card reaches: matrix products in bf16 and TF32, copies within its memory, and small requests."""
    n, size = (256, 1 << 20) if context.small else (8192, 1 << 30)
    for word, dtype, tf32 in (("bf16", torch.bfloat16, False), ("TF32", torch.float32, True)):
        before, torch.backends.cuda.matmul.allow_tf32 = torch.backends.cuda.matmul.allow_tf32, tf32
        try:
            seconds = _product_seconds(context, n, dtype)
        finally:
            torch.backends.cuda.matmul.allow_tf32 = before
        context.add({"what": f"matrix product {n} x {n}, {word}", "tflops": 2 * n**3 / seconds / 1e12})
    source = torch.zeros(size, dtype=torch.uint8, device=context.device)
    target = torch.empty_like(source)
    median_of(context, lambda: target.copy_(source), 2)
    seconds = median_of(context, lambda: target.copy_(source), 7, 3)
    context.add({"what": "copy, bytes read and written", "gb_per_s": 2 * size / seconds / 1e9})
    small = torch.zeros(1, device=context.device)
    seconds = median_of(context, lambda: small.add_(1), 5, 200)
    context.add({"what": "one small operation after the other", "us": 1e6 * seconds})


def _product_seconds(context: Context, n: int, dtype: torch.dtype) -> float:
    a, b = (torch.randn(n, n, device=context.device, dtype=dtype) for _ in range(2))
    median_of(context, lambda: a @ b, 2, 2)
    return median_of(context, lambda: a @ b, 3 if context.small else 7, 3)


def measure(context: Context, variant: str, batch: int, compiled: bool) -> None:
    """images/s, memory and costs of a step as train.py takes it: bf16, channels_last, cuDNN's fastest kernels."""
    imgsz, rounds, times = (64, 1, 1) if context.small else (640, 5, 6)
    setting = AS_TRAINED if context.cuda else CLOSEST
    with global_settings(setting):
        context.forget()
        torch.compiler.reset()  # models share the code of their forward pass, of which only so many forms are compiled
        run = make_run(variant + " --compile" * compiled, imgsz, batch, context.device, setting)
        images, targets = make_batch(imgsz, batch, context.device, setting.layout)

        def step() -> None:
            forward_backward(run, images, targets)
            train.step(run)

        since = time.perf_counter()
        try:
            step()
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            context.add({"variant": variant, "batch": batch, "what": "does not fit into memory"})
            return
        context.synchronize()
        first = time.perf_counter() - since
        if run.micro_batches > 1:
            context.add({"variant": variant, "batch": batch,
                         "what": f"fits into memory in {run.micro_batches} parts only"})
            return
        seconds_of(context, step, 1, 1 if context.small else WARM_UP)
        seconds = seconds_of(context, step, rounds, times)
        row = {"variant": variant, "batch": batch, "imgsz": imgsz, "compiled": compiled, "setting": str(setting),
               "first_s": first, "ms": 1e3 * seconds[len(seconds) // 2], "fastest_ms": 1e3 * seconds[0],
               "slowest_ms": 1e3 * seconds[-1], "images_per_s": batch / seconds[len(seconds) // 2],
               "memory_gb": memory_gb(context.device)}
        if not compiled:  # a compiled step's operations are fused: what they read and write is not to be seen
            with FlopCounterMode(display=False) as flops, Traffic() as traffic:
                step()
            row |= {"flops": flops.get_total_flops(), "traffic_gb": traffic.bytes / 1e9,
                    "operations": traffic.operations}
            images, targets = make_batch(*FLOOR, context.device, setting.layout)
            seconds_of(context, step, 1, 1 if context.small else WARM_UP)
            row["floor_ms"] = 1e3 * median_of(context, step, rounds, times)
        context.add(row)
