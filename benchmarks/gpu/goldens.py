"""The numbers of the original implementations (the golden fixtures), computed again on the device in plain fp32."""

import contextlib
import json
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from benchmarks.gpu.context import Context
from models import build_model
from models.losses import (
    AnchorLossConfig,
    DFLLossConfig,
    TalOptions,
    anchor_head_loss,
    box_similarity,
    dfl_head_loss,
)
from models.weights import import_state_dict
from tests.golden_rule import filled_state_dict, rule_input
from tests.models.loss_cases import anchor_maps, dfl_maps, targets_from_rows
from utils.boxes import cxcywh_to_xyxy
from utils.structures import Raw

MODELS = {"yolov8n": "yolov8n", "yolov8n-assn": "yolov8n-assn", "yolov7": "yolov7", "yolov7-assn": "yolov7-assn",
          "yolov7-ss": "yolov7-ssfpn", "yolov5s": "yolov5s", "yolov3-tiny": "yolov3-tiny", "yolov7-w6": "yolov7-w6",
          "yolor-csp": "yolor-csp", "yolov4-p5-ss": "yolov4-p5-ssfpn"}  # fixture -> our name
LOSSES = ("loss_v8_8.1.47", "loss_v8_8.4.190", "loss_yolov5", "loss_sca_yolov3", "loss_yolov7", "loss_yolov7_ota",
          "loss_yolov7_aux_ota")
SIMILARITY = "box_similarity"


def measure_model(context: Context, name: str) -> None:
    """Maps, decoded boxes and scores of one model, plain and fused."""
    fixture = _read(context, name)
    if fixture:
        with exact_fp32():
            _check_model(context, MODELS[name], *fixture)


def measure_losses(context: Context) -> None:
    """Losses with their gradients, and similarities of boxes."""
    for name in LOSSES[1:2] if context.small else LOSSES:
        fixture = _read(context, name)
        if fixture:
            with exact_fp32():
                _check_losses(context, name, *fixture)
    fixture = _read(context, SIMILARITY)
    if fixture:
        _check_similarities(context, fixture[1])


def _read(context: Context, name: str) -> tuple[dict, dict[str, np.ndarray]] | None:
    """The pair of files of a fixture; None, which is told, where this machine has no such folder."""
    folder = context.shared / "golden"
    if not folder.is_dir():
        context.skip(name, "the originals' numbers are not here")
        return None
    meta = json.loads((folder / f"{name}.json").read_text(encoding="utf-8"))
    with np.load(folder / f"{name}.npz", allow_pickle=False) as stored:
        return meta, dict(stored)


@contextlib.contextmanager
def exact_fp32() -> Iterator[None]:
    """No TF32, which PyTorch lets convolutions use by default and which keeps only ten bits of each factor."""
    settings = torch.backends.cudnn, torch.backends.cuda.matmul
    before = [setting.allow_tf32 for setting in settings]
    try:
        for setting in settings:
            setting.allow_tf32 = False
        yield
    finally:
        for setting, value in zip(settings, before, strict=True):
            setting.allow_tf32 = value


@torch.no_grad()
def _check_model(context: Context, ours: str, meta: dict, arrays: dict[str, np.ndarray]) -> None:
    device = context.device
    model = build_model(ours, meta["nc"]).eval()
    import_state_dict(model, filled_state_dict(meta))
    model.to(device)
    noise, v8 = meta["noise_f32_vs_f64_max_abs"], meta["family"] == "yolov8"
    images = rule_input(meta["input_shape"]).to(device)
    raw = model(images)
    for ours_, theirs in (("box", "raw_box"), ("cls", "raw_cls")) if v8 else (("lead", "raw"),):
        errors = [_largest(level, arrays[f"{theirs}_{i}"]) for i, level in enumerate(raw.maps[ours_])]
        context.check(f"{ours_} maps", max(errors), max(1e-4, *(20 * n for n in noise[theirs])))
    rect = model(rule_input(meta["rect_input_shape"]).to(device))
    _check_decoded(context, "", model.decode(raw), arrays["pred"], 1, noise, v8)
    wanted = arrays["rect_pred_cols8" if v8 else "rect_pred_rows8"]
    _check_decoded(context, " (not square)", model.decode(rect), wanted, 8, noise, v8)
    fused = next((name for name in arrays if name.startswith("pred_fused")), None)
    model.fuse()
    after = model.decode(model(images))
    wanted, step = (arrays[fused], 16) if fused else (arrays["pred"], 1)
    _check_decoded(context, " (fused)", after, wanted, step, noise, v8)


def _check_decoded(context: Context, label: str, found: tuple[Tensor, Tensor], wanted: np.ndarray, step: int,
                   noise: dict, v8: bool) -> None:
    """Decoded boxes and scores, every `step`-th row, against centre, size, [objectness,] scores of the original."""
    rows = torch.from_numpy(wanted.transpose(0, 2, 1) if v8 else wanted)
    scores = rows[..., 4:] if v8 else rows[..., 4:5] * rows[..., 5:]
    boxes = cxcywh_to_xyxy(rows[..., :4])
    difference = (found[0][:, ::step].cpu() - boxes).abs()
    # The fixtures allow 1e-4 of, and 20 times the noise on, a centre and a side; a corner is one and half the other.
    centre, side = rows[..., :2].abs(), rows[..., 2:4].abs()
    allowed = 1e-4 * (centre + side / 2).repeat(1, 1, 2) + 30 * noise["pred_box_px"]
    worst = (difference / allowed).argmax()
    context.check(f"boxes{label}, px", difference.flatten()[worst], allowed.flatten()[worst])
    context.check(f"scores{label}", _largest(found[1][:, ::step], scores), max(1e-4, 20 * noise["pred_conf"]))


def _largest(found: Tensor, wanted: np.ndarray | Tensor) -> float:
    return float((found.detach().cpu() - torch.as_tensor(wanted)).abs().max())


def _check_similarities(context: Context, arrays: dict[str, np.ndarray]) -> None:
    device = context.device
    truth = torch.from_numpy(arrays["box2"]).to(device)
    for kind in ("iou", "giou", "diou", "ciou", "sca"):
        boxes = torch.from_numpy(arrays["box1"]).to(device).requires_grad_()
        similarity = box_similarity(boxes, truth, kind)
        context.check(f"similarity {kind}", _largest(similarity, arrays[f"scaloss_{kind}"]), 1e-5)
        if f"scaloss_{kind}_grad_box1" in arrays:
            (1 - similarity).sum().backward()
            wanted = torch.from_numpy(arrays[f"scaloss_{kind}_grad_box1"])
            context.check(f"gradient of {kind}", relative(boxes.grad, wanted), 1e-4)


def _check_losses(context: Context, name: str, meta: dict, arrays: dict[str, np.ndarray]) -> None:
    device = context.device
    for case, expected in meta["results"].items():
        letter, classes = case.split("_nc")
        rows = arrays.get(f"targets_{letter}", np.zeros((0, 6), np.float32))
        targets = targets_from_rows(rows, meta["batch"], meta["image_size"]).to(device)
        maps, losses = _losses(name, meta, int(classes), targets, device)
        terms = [*losses.values(), sum(losses.values())]
        sum(losses.values()).backward()
        wanted = [2 * item for item in expected["items"][:3]] + [expected["total"]]
        error = max(abs(t.item() - w) / max(abs(w), 1e-6) for t, w in zip(terms, wanted, strict=True))
        context.check(f"{name}: terms {case}", error, 1e-4)
        stored = [i for i in range(len(maps)) if f"{case}_grad_{i}" in arrays]
        if stored:
            errors = [relative(_gradient(maps[i]), torch.from_numpy(arrays[f"{case}_grad_{i}"])) for i in stored]
            context.check(f"{name}: gradients {case}", max(errors), 1e-3)


def _losses(name: str, meta: dict, classes: int, targets, device: torch.device) -> tuple[list, dict[str, Tensor]]:
    """The head's raw maps (a level's tensor, or its box and class tensors) and the loss terms."""
    size, strides = (meta["image_size"],) * 2, meta["strides"]
    if "v8" in name:
        box, cls = ([m.to(device).requires_grad_() for m in maps] for maps in dfl_maps(2, classes, size[0]))
        tal = TalOptions(min_side=16.0 if name.endswith("8.4.190") else 0.0)
        raw = Raw({"box": tuple(box), "cls": tuple(cls)}, size)
        losses = dfl_head_loss(raw, strides, targets, DFLLossConfig(meta["hyp"], tal=tal))
        return list(zip(box, cls, strict=True)), losses
    anchors = torch.tensor(meta["anchors_px"], dtype=torch.float32, device=device).view(len(strides), -1, 2)
    lead, aux = ([m.to(device).requires_grad_() for m in anchor_maps(2, classes, size[0], strides, first=first)]
                 for first in (0, len(strides)))
    aux = aux if meta["n_maps"] > len(strides) else []
    raw = Raw({"lead": tuple(lead), **({"aux": tuple(aux)} if aux else {})}, size)
    config = AnchorLossConfig(meta["hyp"], "ota" if "ota" in name else "anchor", "sca" if "sca" in name else "ciou")
    losses = anchor_head_loss(raw, anchors, strides, targets, config)
    return [*lead, *aux], losses


def _gradient(level: Tensor | tuple[Tensor, Tensor]) -> Tensor:
    return level.grad if isinstance(level, Tensor) else torch.cat([part.grad for part in level], 1)


def relative(found: Tensor, wanted: Tensor) -> float:
    """||found - wanted|| / ||wanted||, in float64; of two zeros 0."""
    wanted = wanted.double()
    distance = (found.detach().cpu().double() - wanted).norm()
    return float(distance / wanted.norm()) if wanted.norm() > 0 else float(distance)
