"""A detector from a checkpoint (.pt), run by PyTorch."""

from pathlib import Path

import torch
from torch import Tensor

from engine.inference.metadata import ExportMetadata
from engine.inference.runtimes.base import Runtime
from engine.inference.runtimes.onednn import packed

WORKERS = 4  # at most: each holds the activations of an image


def metadata_of(model: torch.nn.Module, half: bool = False) -> ExportMetadata:
    """What a model says about itself, as an exported file would."""
    selection = model.head.selection if isinstance(model.head.selection, str) else "nms"
    return ExportMetadata(tuple(model.names), tuple(model.strides), None, None, half,
                          trained=model.config.get("trained", {}), select=selection, thresholds=model.thresholds,
                          frame=model.frame, pixels=model.pixels)


class TorchRuntime(Runtime):
    """A PyTorch model, fused, in channels-last order, which is faster on CPUs and GPUs.

    model: the module; on a CPU `predict` runs a copy of it (`packed`) that has the weights of when it was opened.
    half: fp16 on a GPU and bf16 on a CPU, where fp16 is about a hundred times slower.
    workers: on a CPU two images on a core each are done sooner than one after the other on both cores
    (`python -m benchmarks.detecting`): the threads of one image wait for each other in every layer.
    """

    def __init__(self, path: Path, model: torch.nn.Module, device: torch.device, half: bool) -> None:
        super().__init__(path, metadata_of(model, half), device, model.select)
        self.workers = 1 if device.type != "cpu" else min(torch.get_num_threads(), WORKERS)
        self.dtype = (torch.float16 if device.type == "cuda" else torch.bfloat16) if half else torch.float32
        self.model = model.eval().fuse().to(device, self.dtype, memory_format=torch.channels_last)
        self._packed = packed(self.model) if (device.type, self.dtype) == ("cpu", torch.float32) else self.model

    def _predict(self, images: Tensor, content: Tensor | None = None) -> tuple[Tensor, Tensor]:
        images = images if images.dtype == torch.uint8 else images.to(self.dtype)
        model = self._packed
        return model.decode(model(images.contiguous(memory_format=torch.channels_last), content))
