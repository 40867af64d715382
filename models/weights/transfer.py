"""Weights of another model: by name where the names agree, by order where they do not.

Our compound rows (an ELAN, a transition) declare their parts in the order in which the original model files list them,
so the n-th tensor of an original is the n-th of ours although their names differ.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from models.detector import Detector
from utils.errors import UserError

# Constants that a model file implies: not learned, stored in grid units or not at all depending on the code base.
GEOMETRY = ("anchors", "anchor_grid", "dfl.conv.weight")
COUNTER = "num_batches_tracked"


@dataclass
class TransferReport:
    """What was transferred, as (their key, our key); what was left of theirs, and which of ours kept their values,
    each with the reason."""

    transferred: list[tuple[str, str]] = field(default_factory=list)
    left: dict[str, str] = field(default_factory=dict)
    kept: dict[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        text = f"{len(self.transferred)} tensors transferred"
        for what, entries in (("left", self.left), ("of the model kept as they were", self.kept)):
            for reason in dict.fromkeys(entries.values()):
                keys = [key for key, why in entries.items() if why == reason]
                text += f"; {len(keys)} {what} ({reason}): {', '.join(keys[:3])}{' ...' if len(keys) > 3 else ''}"
        return text


def import_state_dict(model: Detector, original: Mapping[str, Tensor]) -> TransferReport:
    """Transfer an original's whole state dict, in its own order, into the model of the same architecture.

    Geometry constants (anchors, DFL bins) are left out on both sides. Raises `UserError` naming the first pair that
    does not agree in kind or shape, before anything is written.
    """
    report = TransferReport()
    mine, theirs = model.state_dict(), dict(original)
    for key in [k for k in theirs if k.endswith(GEOMETRY)]:
        report.left[key] = "geometry, which the model file gives"
        del theirs[key]
    mine = {k: v for k, v in mine.items() if not k.endswith(GEOMETRY)}
    if not any(k.endswith(COUNTER) for k in theirs):  # files of old torch versions have none
        report.kept = {k: "a counter that the original lacks" for k in mine if k.endswith(COUNTER)}
        mine = {k: v for k, v in mine.items() if not k.endswith(COUNTER)}
    pairs = [(k, k) for k in mine] if mine.keys() == theirs.keys() else list(zip(theirs, mine, strict=False))
    for their, our in pairs:
        if their.rpartition(".")[2] != our.rpartition(".")[2] or theirs[their].shape != mine[our].shape:
            raise UserError(f"weights do not fit: the original has {their} {tuple(theirs[their].shape)} where the "
                            f"model has {our} {tuple(mine[our].shape)}", code="weights-do-not-fit")
    if len(theirs) != len(mine):
        more, keys = ("original", list(theirs)) if len(theirs) > len(mine) else ("model", list(mine))
        raise UserError(f"weights do not fit: the original has {len(theirs)} tensors, the model {len(mine)}; "
                        f"the next one of the {more} is {keys[min(len(theirs), len(mine))]}", code="weights-do-not-fit")
    _write((mine[our], theirs[their]) for their, our in pairs)
    report.transferred = pairs
    return report


def transfer(model: Detector, source: Detector) -> TransferReport:
    """Copy into `model` whatever of `source` fits: head to head, and the rest row by row or in order.

    For fine-tuning with other classes, another neck or an added level; levels of two heads meet by their strides. Row
    by row, rows of the same number and neck to neck, serves two models of our rows. An original's model, of many small
    rows, lists the same tensors in the same order as ours of compound rows: those are copied in order, up to the first
    that differs. Whichever way transfers more is taken.
    """
    ours, theirs = (_by_row(one, by_stride=model.strides != source.strides) for one in (model, source))
    by_row = {key: (key, "the model has no such tensor") for key in theirs}
    in_order = {**by_row, **_in_order(theirs, ours)}
    reports = [_compare(theirs, ours, pairs) for pairs in (by_row, in_order)]
    report = max(reports, key=lambda r: len(r.transferred))
    if source.config.get("details") not in (None, model.config.get("details")):
        report.left["details"] = "batch norm constants or activations of the source alone; without --cfg they stay"
    if source.pixels != model.pixels:
        report.left["pixels"] = (f"the source was trained with {source.pixels.to_dict()}, this model reads "
                                 f"{model.pixels.to_dict()}; without --cfg they stay")
    target, origin = model.state_dict(), source.state_dict()
    _write((target[our], origin[their]) for their, our in report.transferred)
    return report


Entries = dict[tuple[str, str], tuple[str, Tensor]]


def _by_row(model: Detector, by_stride: bool = False) -> Entries:
    """State entries under (row, name in the row); the head and the neck are rows of their own name. by_stride: parts of
    the head that belong to a level are named by its stride in place of its number."""
    head = len(model.model) - 1
    rows = {str(head): "head", **({str(head - 1): "neck"} if model.config["neck"] else {})}
    entries = {}
    for key, value in model.state_dict().items():
        _, row, name = key.split(".", 2)
        if by_stride and row == str(head):
            name = _named_by_stride(name, model)
        entries[rows.get(row, row), name] = (key, value)
    return entries


def _named_by_stride(name: str, model: Detector) -> str:
    """`cv2.1.0.bias` -> `cv2.@16.0.bias`; other names, and those of levels that share their stride, stay."""
    part, _, rest = name.partition(".")
    number, _, rest = rest.partition(".")
    strides = model.strides
    if part not in model.head.level_parts or len(set(strides)) < len(strides):
        return name
    return f"{part}.@{strides[int(number)]}.{rest}"


def _in_order(theirs: Entries, ours: Entries) -> dict[tuple[str, str], tuple[tuple[str, str], str]]:
    """Partners of everything before the head, position by position, as long as kinds and shapes agree."""
    before = [[(row, name) for row, name in entries if row != "head"] for entries in (theirs, ours)]
    partners, stopped = {}, False
    for i, their in enumerate(before[0]):
        our = before[1][i] if i < len(before[1]) else None
        stopped = (stopped or our is None or _kind(their) != _kind(our)
                   or theirs[their][1].shape != ours[our][1].shape)
        partners[their] = (("", ""), "the models differ from there on") if stopped else (our, "")
    return partners


def _kind(place: tuple[str, str]) -> str:
    return place[1].rpartition(".")[2]


def _compare(theirs: Entries, ours: Entries,
             pairs: dict[tuple[str, str], tuple[tuple[str, str], str]]) -> TransferReport:
    """What these pairs would transfer, and why the rest would stay."""
    report = TransferReport()
    for place, (key, value) in theirs.items():
        partner, reason = pairs[place]
        if partner not in ours:
            report.left[key] = reason
        elif ours[partner][1].shape != value.shape:
            report.left[key] = "shapes differ"
        else:
            report.transferred.append((key, ours[partner][0]))
    transferred = {our for _, our in report.transferred}
    report.kept = {key: "nothing to transfer" for key, _ in ours.values() if key not in transferred}
    return report


def _write(pairs: Iterable[tuple[Tensor, Tensor]]) -> None:
    """Copy the second of each pair into the first."""
    with torch.no_grad():
        for ours, theirs in pairs:
            ours.copy_(theirs)
