"""Weights from elsewhere, by name where the names agree and by order where they do not.

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
class CarryReport:
    """What was carried, as (their key, our key); what was left of theirs, and which of ours kept their values, each
    with the reason."""

    carried: list[tuple[str, str]] = field(default_factory=list)
    left: dict[str, str] = field(default_factory=dict)
    kept: dict[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        text = f"{len(self.carried)} tensors carried"
        for what, entries in (("left", self.left), ("of the model kept as they were", self.kept)):
            for reason in dict.fromkeys(entries.values()):
                keys = [key for key, why in entries.items() if why == reason]
                text += f"; {len(keys)} {what} ({reason}): {', '.join(keys[:3])}{' ...' if len(keys) > 3 else ''}"
        return text


def import_state_dict(model: Detector, original: Mapping[str, Tensor]) -> CarryReport:
    """Carry an original's whole state dict, in its own order, into the model of the same architecture.

    Geometry constants (anchors, DFL bins) are left out on both sides. Raises `UserError` naming the first pair that
    does not agree in kind or shape, before anything is written.
    """
    report = CarryReport()
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
                            f"model has {our} {tuple(mine[our].shape)}")
    if len(theirs) != len(mine):
        more, keys = ("original", list(theirs)) if len(theirs) > len(mine) else ("model", list(mine))
        raise UserError(f"weights do not fit: the original has {len(theirs)} tensors, the model {len(mine)}; "
                        f"the {more} goes on with {keys[min(len(theirs), len(mine))]}")
    _write((mine[our], theirs[their]) for their, our in pairs)
    report.carried = pairs
    return report


def transfer(model: Detector, source: Detector) -> CarryReport:
    """Carry into `model` whatever of `source` fits, row by row: rows of the same number, and head to head.

    For fine-tuning with other classes or another neck: a neck stands between the base's rows and the head, so all rows
    of the base keep their numbers. Tensors of other shapes, and rows that the other lacks, are reported.
    """
    report = CarryReport()
    heads = {"model": len(model.model) - 1, "source": len(source.model) - 1}
    necks = {"model": bool(model.config["neck"]), "source": bool(source.config["neck"])}
    ours = _by_row(model, heads["model"], necks["model"])
    theirs = _by_row(source, heads["source"], necks["source"])
    writes = []
    for (row, name), (key, value) in theirs.items():
        if (row, name) not in ours:
            report.left[key] = "the model has no such tensor"
        elif ours[row, name][1].shape != value.shape:
            report.left[key] = "shapes differ"
        else:
            report.carried.append((key, ours[row, name][0]))
            writes.append((ours[row, name][1], value))
    carried = {our for _, our in report.carried}
    report.kept = {key: "nothing to carry" for key, _ in ours.values() if key not in carried}
    _write(writes)
    return report


def _by_row(model: Detector, head: int, has_neck: bool) -> dict[tuple[str, str], tuple[str, Tensor]]:
    """State entries under (row, name in the row); the head and the neck are rows of their own name."""
    rows = {str(head): "head", **({str(head - 1): "neck"} if has_neck else {})}
    entries = {}
    for key, value in model.state_dict().items():
        _, row, name = key.split(".", 2)
        entries[rows.get(row, row), name] = (key, value)
    return entries


def _write(pairs: Iterable[tuple[Tensor, Tensor]]) -> None:
    """Copy the second of each pair into the first."""
    with torch.no_grad():
        for ours, theirs in pairs:
            ours.copy_(theirs)
