"""`--batch-size -1`: the largest batch whose training step fits into memory, found by measuring real steps.

Memory grows linearly with the batch, so a line through a few small batches predicts the limit; a step at the predicted
batch verifies it.
"""

import contextlib
import math
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from utils.errors import UserError
from utils.memory import free_memory, processes_here
from utils.structures import Targets, pack_targets

FRACTION = 0.75  # of the free memory; the rest is for validation, larger frames and fragmentation
MOST = 1024
# On a CPU larger batches gain little (yolov8n at 320 px: 83, 77, 69 ms per image at 4, 8, 16 images), and out of memory
# ends the process, or others, without an error to catch.
MOST_ON_CPU = 16
CPU_ALLOCATOR = ("DefaultCPUAllocator", "not enough memory", "can't allocate memory")
CUDA_LIBRARIES = ("CUDA out of memory", "CUBLAS_STATUS_ALLOC_FAILED", "CUDNN_STATUS_ALLOC_FAILED",
                  "CUDA error: out of memory")


@dataclass(frozen=True)
class Meter:
    """Memory of a device. free: bytes that this process holds or may still allocate; peak(step) runs a step and returns
    its peak memory in bytes."""

    free: int
    peak: Callable[[Callable[[], None]], int]


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error means out of memory: torch's, Python's, or one of the allocator or of a CUDA library."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(sign in str(error) for sign in (*CPU_ALLOCATOR, *CUDA_LIBRARIES))


def find_batch(try_step: Callable[[int], None], model: nn.Module, device: torch.device, *, least: int = 1,
               most: int = MOST, reserve: int = 0, meter: Meter | None = None) -> int:
    """The largest batch whose training step stays within `FRACTION` of the device's free memory.

    try_step(n): forward, loss and backward of n images (`probe_step`), without an optimiser step. least, a power of
    two: the smallest that can be trained, 2 where batch norm sees one value of an image; most: upper limit, such as the
    number of training images; on a CPU never above 16. reserve: bytes that are allocated later: optimiser state
    (`optimizer_bytes`), averaged weights. The result is 1, 2, 4 or a multiple of 8, or `most` if everything fits. The
    model's state and torch's random state are restored, also after an error; gradients are None afterwards. Raises
    `UserError` if not even `least` images fit. Under torchrun each process finds its own: take the smallest.
    """
    meter = meter or meter_of(device)
    most = max(least, min(most, MOST if device.type == "cuda" else MOST_ON_CPU))
    if meter is None:
        print(f"--batch-size -1: free memory is not known on this system; taking {most}")
        return most
    limit = int(meter.free * FRACTION) - reserve
    with untouched(model, device):
        seen = _measure(try_step, model, meter, limit, least, most)
        batch = _largest(seen, limit, most)
        batch = batch if batch == most else _whole(batch)
        while batch not in seen:
            peak = _peak(try_step, model, meter, batch)
            if peak is not None and peak <= limit:
                seen[batch] = peak
            else:
                smaller = batch // 2 if peak is None else min(batch - 1, int(batch * limit / peak))
                batch = max(_whole(smaller), least)
    print(f"--batch-size -1: taking {batch}, whose step holds {seen[batch] / 2**30:.2f} GiB of "
          f"{meter.free / 2**30:.2f} GiB{', the largest that is tried' if batch == most else ''}")
    return batch


def _measure(try_step: Callable[[int], None], model: nn.Module, meter: Meter, limit: int, least: int,
             most: int) -> dict[int, int]:
    """Peak bytes at 1, 2, 4, ... images, from `least` up to the limit. A batch that the line through the smaller ones
    predicts to exceed it is not tried, since on a CPU that could end the process."""
    seen: dict[int, int] = {}
    batch = least
    while batch <= min(most, 64) and (len(seen) < 2 or _largest(seen, limit, most) >= batch):
        peak = _peak(try_step, model, meter, batch)
        if peak is None or peak > limit:
            break
        seen[batch] = peak
        batch *= 2
    if not seen:
        what = "one image fits" if least == 1 else f"{least} images fit"
        raise UserError(f"--batch-size -1: not even {what} into the free memory; lower --imgsz, or use a smaller model",
                        "out-of-memory")
    return seen


def _peak(try_step: Callable[[int], None], model: nn.Module, meter: Meter, batch: int) -> int | None:
    """Peak bytes of a step; None if it ran out of memory."""
    try:
        return meter.peak(lambda: try_step(batch))
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
    except MemoryError:
        pass
    finally:  # outside of the `except`, whose error keeps the tensors of the step alive
        model.zero_grad(set_to_none=True)
    torch.cuda.empty_cache()  # does nothing without CUDA
    return None


def _largest(seen: dict[int, int], limit: int, most: int) -> int:
    """The batch at which a line memory = a + b * batch, fitted to what was measured, meets the limit; at least the
    largest batch measured."""
    known = max(seen)
    if len(seen) < 2:
        return known
    n, mean, height = len(seen), sum(seen) / len(seen), sum(seen.values()) / len(seen)
    slope = (sum(b * peak for b, peak in seen.items()) - n * mean * height) / sum((b - mean) ** 2 for b in seen)
    # small batches may fit into memory that is already allocated: at least the slope of the last doubling
    slope = max(slope, (seen[known] - seen[known // 2]) / (known - known // 2))
    if slope <= 0:
        return most
    return max(known, min(most, known + int((limit - seen[known]) / slope)))


def _whole(batch: int) -> int:
    """Rounded down to a multiple of 8, below 8 to a power of two."""
    return batch // 8 * 8 if batch >= 8 else 1 << (max(batch, 1).bit_length() - 1)


@contextlib.contextmanager
def untouched(model: nn.Module, device: torch.device) -> Iterator[None]:
    """Restore weights, batch-norm statistics, training mode and torch's random state; gradients are None afterwards."""
    state = {key: value.detach().to("cpu", copy=True) for key, value in model.state_dict().items()}
    training = model.training
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        try:
            yield
        finally:
            model.zero_grad(set_to_none=True)
            model.load_state_dict(state)
            model.train(training)
            if device.type == "cuda":
                torch.cuda.empty_cache()


def probe_step(model: nn.Module, device: torch.device, size: tuple[int, int], amp: torch.dtype | None = None,
               boxes: int = 64) -> Callable[[int], None]:
    """A `try_step` for `find_batch`: forward, loss and backward as training does them, on noise of `size` (height,
    width) with `boxes` labels per image, more than in most data sets. amp: the autocast type; the model is on its
    device."""
    height, width = size

    def step(batch: int) -> None:
        model.train()
        random = torch.Generator().manual_seed(batch)
        images = torch.randint(0, 256, (batch, 3, height, width), dtype=torch.uint8, generator=random)
        images = images.to(device, memory_format=torch.channels_last)
        frame = torch.tensor([width, height])
        corners = torch.rand(batch, boxes, 2, generator=random) * frame * 0.75
        sides = torch.rand(batch, boxes, 2, generator=random) * frame * 0.23 + frame * 0.01
        xyxy = torch.cat((corners, corners + sides), -1)
        targets = pack_targets([Targets(b, torch.zeros(boxes, dtype=torch.long)) for b in xyxy]).to(device)
        with torch.autocast(device.type, dtype=amp, enabled=amp is not None):
            raw = model(images, targets=targets)
        sum(model.loss(raw, targets).values()).backward()

    return step


def optimizer_bytes(model: nn.Module, optimizer: str) -> int:
    """Bytes of the optimiser's state: one number per trained parameter for SGD, two for Adam and AdamW."""
    trained = sum(p.numel() * p.element_size() for p in model.parameters() if p.requires_grad)
    return trained * (1 if optimizer == "SGD" else 2)


def meter_of(device: torch.device) -> Meter | None:
    """The memory of a CUDA device or of this process; None where the system does not tell."""
    if device.type == "cuda":
        free = torch.cuda.mem_get_info(device)[0] + torch.cuda.memory_reserved(device)
        return Meter(free, lambda step: _cuda_peak(step, device))
    free, held = free_memory(), _status("VmRSS")
    return Meter(int(free / processes_here()) + held, _process_peak) if held and free < math.inf else None


def _cuda_peak(step: Callable[[], None], device: torch.device) -> int:
    """Peak of the memory reserved by the allocator, fragmentation included. The second step is measured: in the first
    one cuDNN benchmarks algorithms with workspaces of their own."""
    step()
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats(device)
    step()
    torch.cuda.synchronize(device)
    return torch.cuda.max_memory_reserved(device)


def _process_peak(step: Callable[[], None]) -> int:
    """Peak resident memory of this process while a step runs."""
    with contextlib.suppress(OSError):  # without it the peak is that of the process's lifetime: never less
        Path("/proc/self/clear_refs").write_text("5")
    step()
    return _status("VmHWM")


def _status(key: str) -> int:
    """An entry of /proc/self/status in bytes, 0 if it is missing."""
    if sys.platform != "linux":
        return 0
    lines = Path("/proc/self/status").read_text(encoding="ascii", errors="replace").splitlines()
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{key}:")), 0)
