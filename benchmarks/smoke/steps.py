"""One training step, with the very parts that train.py is made of: is it right, does it wait, how fast is it?"""

import contextlib
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

import train
from benchmarks.smoke.goldens import check, exact_fp32, relative
from benchmarks.smoke.results import PROJECT, Piece
from models.starting import make_training, start_model
from tests.models.loss_cases import random_targets
from utils.device import memory_gb
from utils.distributed import Group
from utils.settings import make_parser
from utils.state import Training
from utils.structures import PackedTargets

NAMES = ["one", "two", "three"]
NOISE = 10  # how many times the CPU's own rounding error in fp32 another device may be off
EXACT = 1e-6  # relative, in float64
NEAR = 0.05  # relative difference of the first loss that bf16 (8 bits) may make
EQUAL = {"yolov8n-assn": (320, 4), "yolov7": (256, 2)}  # model -> image size, batch
EQUAL_SMALL = {"yolov8n-assn": (64, 2)}
SPEED = ("yolov8n", "yolov8n --neck ssfpn", "yolov8n-assn", "yolov7-assn")


@dataclass(frozen=True)
class Setting:
    """How a step runs. train.py is deterministic on a CPU and lets cuDNN try its algorithms (autotune) on a GPU."""

    amp: str
    layout: torch.memory_format
    deterministic: bool = True
    autotune: bool = False

    def __str__(self) -> str:
        words = [self.amp, "channels_last" if self.layout == torch.channels_last else "contiguous"]
        return ", ".join([*words, *["not deterministic"] * (not self.deterministic), *["autotune"] * self.autotune])


PLAIN, CLOSEST = Setting("fp32", torch.contiguous_format), Setting("fp32", torch.channels_last)
AS_TRAINED = Setting("bf16", torch.channels_last, False, True)  # what train.py does on a GPU that knows bf16
SETTINGS = (PLAIN, CLOSEST, Setting("bf16", torch.contiguous_format), Setting("bf16", torch.channels_last),
            Setting("bf16", torch.channels_last, False), AS_TRAINED)


def plan(small: bool) -> list[str]:
    """The models whose step is compared with the CPU's."""
    return list(EQUAL_SMALL if small else EQUAL)


def plan_speed(small: bool) -> list[str]:
    """The models whose step is timed, in words of train.py."""
    return ["yolov8n-assn"] if small else list(SPEED)


@contextlib.contextmanager
def global_settings(setting: Setting) -> Iterator[None]:
    """Determinism and cuDNN's autotuner as `setting` says; put back afterwards."""
    before = torch.are_deterministic_algorithms_enabled(), torch.backends.cudnn.benchmark
    fill = torch.utils.deterministic.fill_uninitialized_memory
    try:
        torch.use_deterministic_algorithms(setting.deterministic, warn_only=True)
        torch.utils.deterministic.fill_uninitialized_memory = False
        torch.backends.cudnn.benchmark = setting.autotune
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*deterministic.*")
            yield
    finally:
        torch.use_deterministic_algorithms(before[0])
        torch.utils.deterministic.fill_uninitialized_memory = fill
        torch.backends.cudnn.benchmark = before[1]


def make_run(words: str, imgsz: int, batch: int, device: torch.device, setting: Setting, *,
             optimizer: str | None = None, double: bool = False) -> Training:
    """A training as train.py makes it, the same weights for the same words."""
    flags = ["--cfg", *words.split(), "--data", "-", "--imgsz", str(imgsz), "--batch-size", str(batch),
             "--amp", setting.amp, "--noautoanchor"]
    args = make_parser("").parse_args(flags + (["--optimizer", optimizer] if optimizer else []))
    torch.manual_seed(0)
    with contextlib.redirect_stdout(None):
        model, recipe = start_model(args, NAMES, train.AUGMENT_WORDS, lambda imgsz: np.zeros((0, 2)))
        model = (model.double() if double else model).to(device, memory_format=setting.layout)
        run = make_training(args, recipe, model, Group(), device, 100)
    run.model.train()
    return run


def make_batch(imgsz: int, batch: int, device: torch.device,
               layout: torch.memory_format) -> tuple[Tensor, PackedTargets]:
    """uint8 noise (B, 3, S, S) and up to 30 boxes in each image, one of them a crowd region."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (batch, 3, imgsz, imgsz), dtype=torch.uint8, generator=generator)
    targets = random_targets(batch, 30, imgsz, len(NAMES))
    targets.ignore[0, 0], targets.valid[0, 0] = True, False
    return images.to(device, memory_format=layout), targets.to(device)


def forward_backward(run: Training, images: Tensor, targets: PackedTargets) -> dict[str, Tensor]:
    """The first half of a step of train.py, up to the gradients; `train.step` is the other."""
    names, losses = train.learn(run, images, targets, due=True)
    return dict(zip(names, losses, strict=True))


def measure(words: str, device: torch.device, small: bool) -> Piece:
    """Loss terms, gradients, updates and averaged weights of one step against the CPU; and whether a step waits.

    In float64 the device must agree with the CPU to many digits. In fp32 both are off from that truth: fresh deep
    models amplify rounding a thousandfold and more, so the CPU's own error, in two memory layouts, says what is to be
    expected (PyTorch's batch norm of channels_last on a CPU adds up in one long fp32 sum: the larger of the two).
    """
    imgsz, batch = (EQUAL_SMALL if small else EQUAL)[words]
    cpu = torch.device("cpu")
    with exact_fp32(), global_settings(CLOSEST):
        truth = _one_step(words, imgsz, batch, cpu, PLAIN, double=True)
        rounded = [_one_step(words, imgsz, batch, cpu, setting) for setting in (PLAIN, CLOSEST)]
        exact = _one_step(words, imgsz, batch, device, CLOSEST, double=True)
        ours = _one_step(words, imgsz, batch, device, CLOSEST)
    checks = [check(f"{what}, float64", relative(exact[what], truth[what]), EXACT) for what in truth]
    for what in truth:
        noise = max(relative(one[what], truth[what]) for one in rounded)
        checks.append(check(f"{what}, fp32", relative(ours[what], truth[what]), max(NOISE * noise, 1e-5)))
    checks += [_sync_check(words, imgsz, batch, device, setting) for setting in (CLOSEST, AS_TRAINED)]
    return {"imgsz": imgsz, "batch": batch, "checks": checks}


def _one_step(words: str, imgsz: int, batch: int, device: torch.device, setting: Setting, double: bool = False) -> dict:
    """Vectors of the loss terms and, over all parameters, of gradient norms, gradients, updates and averages."""
    # SGD, since an update by Adam is the sign of the gradient at first: rounding would turn small ones over.
    run = make_run(words, imgsz, batch, device, setting, optimizer="SGD", double=double)
    start = _vector(p for p in run.model.parameters())
    averaged = _vector(p for p in run.ema.model.parameters())
    losses = forward_backward(run, *make_batch(imgsz, batch, device, setting.layout))
    gradients = [p.grad for p in run.model.parameters() if p.grad is not None]
    found = {"loss terms": _vector(losses.values()), "gradient norms": _vector(g.double().norm() for g in gradients),
             "gradients": _vector(gradients)}
    train.step(run)
    running = [b for b in run.model.buffers() if b.is_floating_point()]
    return found | {"updates of the weights": _vector(run.model.parameters()) - start,
                    "updates of the averaged weights": _vector(run.ema.model.parameters()) - averaged,
                    "batch-norm statistics": _vector(running)}


def _vector(tensors) -> Tensor:
    """One float64 vector on the CPU, each tensor in its logical order whatever its memory layout."""
    return torch.cat([t.detach().double().cpu().flatten() for t in tensors])


def _sync_check(words: str, imgsz: int, batch: int, device: torch.device, setting: Setting) -> Piece:
    """Does forward, loss, backward, optimiser or EMA wait for the device? PyTorch raises where one does."""
    what = f"no synchronisation in {setting}"
    if device.type != "cuda":
        return {"what": what, "error": None, "limit": None, "ok": True, "note": "not checked: no CUDA"}
    run = make_run(words, imgsz, batch, device, setting)
    images, targets = make_batch(imgsz, batch, device, setting.layout)

    def whole_step() -> None:
        forward_backward(run, images, targets)
        train.step(run)

    with global_settings(setting):
        whole_step()  # first use creates handles and the optimiser's state
        torch.cuda.synchronize(device)
        note = waits(whole_step)
    return {"what": what, "error": None, "limit": None, "ok": not note, "note": note}


def waits(whole_step: Callable[[], None]) -> str:
    """'' where a step does not synchronise, otherwise where it does."""
    torch.cuda.set_sync_debug_mode("error")
    try:
        whole_step()
    except RuntimeError as error:
        ours = [f for f in traceback.extract_tb(error.__traceback__) if Path(f.filename).is_relative_to(PROJECT)]
        first = f"{Path(ours[-1].filename).relative_to(PROJECT)}:{ours[-1].lineno} {str(error).splitlines()[0]}"
    else:
        return ""
    finally:
        torch.cuda.set_sync_debug_mode("default")
    with warnings.catch_warnings(record=True) as caught:  # the first place is known; find them all
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            whole_step()
        finally:
            torch.cuda.set_sync_debug_mode("default")
    places = {f"{Path(w.filename).name}:{w.lineno}" for w in caught if "synchroniz" in str(w.message)}
    return f"{first}; all: {', '.join(sorted(places))}"


def measure_speed(words: str, device: torch.device, small: bool) -> Piece:
    """images/s, peak memory and first loss of a step in every setting."""
    imgsz, batch, steps = (64, 2, 1) if small else (640, 16, 30)
    rows: list[Piece] = []
    for setting in SETTINGS[:4] if device.type == "cpu" else SETTINGS:
        with global_settings(setting):
            rows.append({"setting": str(setting)} | _timed(words, imgsz, batch, steps, device, setting))
        difference = abs(rows[-1]["loss"] / rows[0]["loss"] - 1)
        rows[-1] |= {"loss_difference": difference, "ok": difference <= NEAR}
    return {"imgsz": imgsz, "batch": batch, "steps": steps, "rows": rows}


def _timed(words: str, imgsz: int, batch: int, steps: int, device: torch.device, setting: Setting) -> Piece:
    def settle() -> None:
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
    run = make_run(words, imgsz, batch, device, setting)
    images, targets = make_batch(imgsz, batch, device, setting.layout)
    seconds, losses = [], []
    for _ in range(steps + min(steps, 5)):
        settle()
        since = time.perf_counter()
        losses.append(sum(forward_backward(run, images, targets).values()).detach() / batch)
        train.step(run)
        settle()
        seconds.append(time.perf_counter() - since)
    median = sorted(seconds[-steps:])[steps // 2]
    return {"images_per_s": batch / median, "ms_per_step": 1e3 * median, "memory_gb": memory_gb(device),
            "loss": float(losses[0])}
