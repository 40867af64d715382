"""`train.py --replay`: a batch whose loss was not finite, run again.

Legend: B images.
"""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from engine.training.multiscale import resize_batch
from models.detector import build_model
from utils.checkpoint import load_checkpoint
from utils.errors import UserError
from utils.structures import PackedTargets


def replay_file(path: str | Path) -> list[str]:
    """Run a file of `engine.training.nonfinite.save_bad_batch` again; returns the lines of the report."""
    stored = load_checkpoint(path)
    if "replay" not in stored:
        raise UserError(f"--replay {path}: holds no batch; give the bad_batch file that the training named",
                        "not-a-bad-batch")
    model = build_model(stored["config"], names=stored["names"])
    model.load_state_dict(stored["model"])
    return replay(model, stored["replay"])


def replay(model: nn.Module, stored: dict[str, Any]) -> list[str]:
    """Run a saved batch again, in the precision it failed in and in fp32, whole and image by image."""
    images, targets = stored["images"], PackedTargets(*stored["targets"])
    if stored["size"]:
        images, targets = resize_batch(images, targets, stored["size"], model.frame.multiple)
    terms = ", ".join(f"{name} {value:g}" for name, value in stored["terms"].items())
    lines = [f"images {stored['image_ids']}, {tuple(images.shape)}; in training: {terms}"]
    bad = [name for name, value in model.state_dict().items() if value.is_floating_point()
            and not value.isfinite().all()]
    if bad:
        lines.append(f"{len(bad)} weights were not finite already, the first: {bad[0]}")
    model.train()
    for amp in dict.fromkeys((stored["amp"], "")):
        dtype = getattr(torch, amp) if amp else None
        terms, first = _run(model, images, targets, dtype)
        lines.append(f"{amp or 'float32'}: " + ", ".join(f"{k} {v:g}" for k, v in terms.items())
                     + (f"; the first layer to give a value that is not finite: {first}" if first else ""))
    for place, image_id in enumerate(stored["image_ids"]):
        twice = [place, place]  # batch norm needs more than one value
        terms, _ = _run(model, images[twice], targets[twice], None)
        lines.append(f"image {image_id}: {int(targets.valid[place].sum())} boxes, "
                     + ", ".join(f"{k} {v / 2:g}" for k, v in terms.items()))
    return lines


def _run(model: nn.Module, images: Tensor, targets: PackedTargets,
         dtype: torch.dtype | None) -> tuple[dict[str, float], str]:
    """The loss terms and the name of the first module whose output is not finite."""
    first: list[str] = []

    def watch(name: str):
        def look(module, inputs, output) -> None:
            if isinstance(output, Tensor) and not first and not output.isfinite().all():
                first.append(f"{name} ({type(module).__name__})")
        return look

    hooks = [m.register_forward_hook(watch(name)) for name, m in model.named_modules() if not list(m.children())]
    try:
        with torch.no_grad(), torch.autocast(images.device.type, dtype=dtype, enabled=dtype is not None):
            raw = model(images, targets=targets)
        with torch.no_grad():
            return {k: float(v) for k, v in model.loss(raw, targets).items()}, "".join(first[:1])
    finally:
        for hook in hooks:
            hook.remove()
