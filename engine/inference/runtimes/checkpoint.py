"""A detector from a checkpoint (.pt), run by PyTorch."""

from pathlib import Path

import torch
from torch import Tensor

from engine.inference.metadata import ExportMetadata
from engine.inference.runtimes.base import Runtime


def metadata_of(model: torch.nn.Module, half: bool = False) -> ExportMetadata:
    """What a model says about itself, as an exported file would."""
    selection = model.head.selection if isinstance(model.head.selection, str) else "nms"
    return ExportMetadata(tuple(model.names), tuple(model.strides), None, None, half,
                          trained=model.config.get("trained", {}), select=selection, thresholds=model.thresholds,
                          frame=model.frame, pixels=model.pixels)


class TorchRuntime(Runtime):
    """A PyTorch model, fused, in channels-last order, which is faster on CPUs and GPUs.

    half: fp16 on a GPU and bf16 on a CPU, where fp16 is about a hundred times slower.
    """

    def __init__(self, path: Path, model: torch.nn.Module, device: torch.device, half: bool) -> None:
        super().__init__(path, metadata_of(model, half), device, model.select)
        self.dtype = (torch.float16 if device.type == "cuda" else torch.bfloat16) if half else torch.float32
        self.model = model.eval().fuse().to(device, self.dtype, memory_format=torch.channels_last)

    def _predict(self, images: Tensor, content: Tensor | None = None) -> tuple[Tensor, Tensor]:
        images = images if images.dtype == torch.uint8 else images.to(self.dtype)
        return self.model.decode(self.model(images.contiguous(memory_format=torch.channels_last), content))
