"""A detector: rows that end in a head, and the interface that scripts use.

Legend: B images, H, W pixels of the input frame, N candidates of an image, C classes.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from models.assign.assignment import Assignment
from models.builder import build_graph
from models.catalogue import resolve, without_neck
from models.details import apply_details
from models.losses import AllReduce
from models.necks.start import start_as_base, starts_as_identity
from utils.errors import UserError
from utils.frame import Frame, Pixels
from utils.select import SelectConfig, find_selector
from utils.structures import Detections, PackedTargets, Raw, Targets, pack_targets


class Detector(nn.Module):
    """forward -> Raw; loss and decode read that Raw; select turns decoded candidates into detections.

    config: the resolved, plain description from which `build_model` makes the same model again. frame, pixels: what the
    model asks of its input.
    """

    def __init__(self, config: dict[str, Any]) -> None:
        super().__init__()
        self.config = config
        self.names: list[str] = list(config["names"])
        self.model = build_graph(config)
        apply_details(self.model, {"batch_norm": config.get("batch_norm")})
        apply_details(self.model, config.get("details"))
        coarsest = int(max(self.model.strides))
        self.frame = Frame.from_mapping(config.get("frame"), config["source"], multiple=coarsest)
        self.pixels = Pixels.from_mapping(config.get("pixels"), config["source"])
        self._constants: dict[torch.device, tuple[Tensor, Tensor]] = {}

    def to(self, *args: Any, **kwargs: Any) -> "Detector":
        """As `nn.Module.to`; `memory_format=torch.channels_last` reaches the 4-D tensors and leaves the others, where
        torch itself refuses a model that holds a 3-D convolution.
        """
        layout = kwargs.pop("memory_format", None)
        if args or kwargs:
            super().to(*args, **kwargs)
        if layout is not None:
            self._apply(lambda t: t.contiguous(memory_format=layout) if t.dim() == 4 else t)
        return self

    @property
    def head(self) -> nn.Module:
        return self.model[-1]

    @property
    def num_classes(self) -> int:
        return self.head.num_classes

    @property
    def strides(self) -> list[int]:
        """Of the head's levels, in pixels."""
        return self.head.strides

    def forward(self, images: Tensor, content: Tensor | None = None,
                targets: Sequence[Targets] | PackedTargets | None = None) -> Raw:
        """(B, 3, H, W) RGB, uint8 or float in [0, 1], -> `Raw`. H and W as `frame` allows.

        content (B, 2): height and width of each image in its frame, of which it takes the top left, the rest is read as
        zeros; None: what targets say, else the whole frames. targets: given in training. Both are for heads that ask
        for them (`Head.hints`); others see neither.
        """
        height, width = images.shape[2:]
        if not torch.jit.is_tracing():
            self._check_size(height, width)
        packed = None if targets is None else pack_targets(targets)
        content = packed.content if content is None and packed is not None else content
        given = {"content": content, "targets": packed, "image_size": (height, width)}
        hints = {name: given[name] for name in self.head.hints}
        images = self._normalised(images)
        if hints.get("content") is not None:
            images = images * _inside(content, height, width)
        return Raw(self.model(images, **hints), (height, width), content)

    def _check_size(self, height: int, width: int) -> None:
        """Raises `UserError` for images that the frame does not allow."""
        source, step = self.config["source"], self.frame.multiple
        if self.frame.size not in (None, (height, width)):
            wanted = " x ".join(map(str, self.frame.size))
            raise UserError(f"--imgsz: {source} takes images of {wanted} pixels, not {height} x {width}",
                            code="fixed-size")
        if height % step or width % step:
            raise UserError(f"--imgsz: {source} takes multiples of {step}, so images of {height} x "
                            f"{width} pixels do not fit", code="bad-size")

    def _normalised(self, images: Tensor) -> Tensor:
        """Images as the network reads them, uint8 ones in the type of the first convolution.

        Whole numbers up to 255 are exact in 16 bits too, so plain pixels are converted at once: the quotient is rounded
        once either way, and no copy in float32 is made.
        """
        whole = images.dtype == torch.uint8
        if self.pixels.is_plain and not whole:
            return images
        kind = images.device.type
        autocast = kind != "meta" and torch.is_autocast_enabled(kind)
        dtype = torch.get_autocast_dtype(kind) if autocast else next(self.parameters()).dtype
        if self.pixels.is_plain:
            return images.to(dtype).div_(255)
        if images.device not in self._constants:  # kept: a copy to a GPU in each step would make the host wait
            self._constants[images.device] = self.pixels.constants(images.device)
        factor, shift = self._constants[images.device]
        images = images.flip(1) if self.pixels.order == "bgr" else images
        return (images.float() * (factor / 255 if whole else factor) - shift).to(dtype)

    def loss(self, raw: Raw, targets: Sequence[Targets] | PackedTargets,
             all_reduce: AllReduce | None = None) -> dict[str, Tensor]:
        """Weighted terms, each a scalar already times the batch size; their sum is what to minimise.

        all_reduce: sums a tensor over processes (`utils.distributed`). The terms are then this process's part of the
        loss of the batch that all of them hold together: summed over processes they are that loss.
        """
        device = next(iter(raw.maps.values()))[0].device
        shared = {"all_reduce": all_reduce} if all_reduce else {}  # a plugin's head may know of one process alone
        return self.head.loss(raw, pack_targets(targets).to(device), **shared)

    @torch.no_grad()
    def assignment(self, raw: Raw, targets: Sequence[Targets] | PackedTargets) -> Assignment:
        """The positives that `loss` of the same arguments learns from."""
        device = next(iter(raw.maps.values()))[0].device
        return self.head.assignment(raw, pack_targets(targets).to(device))

    def decode(self, raw: Raw) -> tuple[Tensor, Tensor]:
        """Boxes (B, N, 4) xyxy in input pixels and scores (B, N, C) in [0, 1], both float32."""
        return self.head.decode(raw)

    @property
    def thresholds(self) -> SelectConfig:
        """Of an evaluation, as the head declares them."""
        return self.head.thresholds

    def select(self, boxes: Tensor, scores: Tensor, config: SelectConfig | None = None) -> list[Detections]:
        """One `Detections` per image from decoded candidates; config: by default the head's `thresholds`."""
        return find_selector(self.head.selection)(boxes, scores, config or self.thresholds)

    def fuse(self) -> "Detector":
        """Fold batch norms, branches and implicit constants in place, for inference; the output stays the same."""
        for module in list(self.modules()):
            if module is not self and hasattr(module, "fuse"):
                module.fuse()
        return self


def _inside(content: Tensor, height: int, width: int) -> Tensor:
    """(B, 1, H, W), True where a frame shows its image; content (B, 2)."""
    y, x = (torch.arange(side, device=content.device) for side in (height, width))
    return ((y < content[:, :1])[:, :, None] & (x < content[:, 1:])[:, None])[:, None]


def build_model(model: str | Path | dict[str, Any], num_classes: int | None = None, *,
                names: Sequence[str] | dict[int, str] | None = None, neck: str | dict[str, Any] | None = None,
                levels: str | None = None, base: Detector | None = None, **head_options: Any) -> Detector:
    """A detector by name (`yolov8n-assn`), by path of a model file, or from a dict of such content.

    num_classes: by default that of names or of the file (80 in ours). neck: "pan", "ssfpn", "assn", or a mapping with
    `type`, the neck's options and `start`: "published" (default) or "identity", with which the model begins as the one
    without the neck does: as `base`, by default a fresh one. levels: "p2" adds a level of half the finest stride
    (`models.levels`). head_options: arguments of the head by name, such as box_loss, assign, gains; None means the
    head's default. Raises `UserError` naming the file, row or option that is wrong.
    """
    detector = Detector(resolve(model, num_classes, names, neck, head_options, levels))
    if starts_as_identity(detector.config):
        start_as_base(detector.model, base.model if base else build_graph(without_neck(detector.config)))
    if isinstance(model, dict) or Path(model).suffix in {".yaml", ".yml"}:  # ours, by name, are tested
        check_forward(detector)
    return detector


def check_forward(detector: Detector) -> None:
    """Run a model once on a small blank image, so that rows which do not fit together are found before any work begins.

    Raises `UserError` naming the row; what the rows declared was checked when they were built.
    """
    graph, training, reached = detector.model, detector.training, [0]
    step = detector.frame.multiple
    # a layer without padding may need more than the least
    sizes = [detector.frame.size] if detector.frame.size else [(2 * step,) * 2, (8 * step,) * 2]
    handles = [layer.register_forward_pre_hook(lambda *_, i=i: reached.append(i)) for i, layer in enumerate(graph)]
    device = next(detector.parameters()).device
    error: Exception | None = None
    try:
        detector.eval()
        for size in sizes:
            try:
                with torch.no_grad():
                    detector.decode(detector(torch.zeros(1, 3, *size, device=device)))
                return
            except Exception as failure:
                error = error or failure
    finally:
        for handle in handles:
            handle.remove()
        detector.train(training)
    row = graph.nodes[reached[-1]]
    raise UserError(f"{detector.config['source']} row {row.index} ({row.module}): fails on an image of "
                    f"{sizes[0][0]} x {sizes[0][1]} pixels: {str(error)[:400] or type(error).__name__}",
                    code="bad-model") from error
