"""Which objects get how many positives, by several assigners on the same batches.

Legend: L levels of the pyramid.
"""

from collections.abc import Mapping, Sequence

import numpy as np

from benchmarks.audit.section import Section, number, percent
from engine.training.assignment_audit import tally
from engine.training.assignment_report import TINY, Audited
from engine.training.preview import Preview
from models.detector import Detector, build_model
from utils.errors import UserError

Splits = dict[str, dict[str, Audited]]  # assigner -> split ("train", "val") -> its objects
WHERE = {"train": "training batches", "val": "validation images"}


def with_assigners(model: Detector, names: Sequence[str]) -> dict[str, Detector]:
    """The model under the first of these names, or that of its assigner where there are none, and copies of it with the
    other assigners. Raises `UserError` for one that its head does not have."""
    found = {names[0] if names else model.head.assigner: model}
    for name in names[1:]:
        try:
            other = build_model(model.config, assign=name)
        except UserError as error:
            raise UserError(f"--assign {name}: {error}", error.code) from None
        other.load_state_dict(model.state_dict())
        found[name] = other.to(next(model.parameters()).device)
    return found


def count_positives(preview: Preview, names: Sequence[str], batches: int) -> Splits:
    """Of so many training batches, and of all validation images."""
    models = with_assigners(preview.model, names)
    train = tally(models, preview.training_batches(batches), preview.amp, "train")
    val = tally(models, preview.validation_batches(), preview.amp, "val")
    return {name: {"train": train[name], "val": val[name]} for name in models}


def report_positives(found: Splits, strides: Sequence[int]) -> Section:
    """Tables by size bin, side by side."""
    section, names = Section("Positives by assigner"), list(found)
    first = next(iter(found.values()))
    rows = {(name, split): part.rows() for name, splits in found.items() for split, part in splits.items()}
    counted = ", ".join(f"{part.images:,} {WHERE[split].split()[0]} images" for split, part in first.items())
    section.lines += [f"Of {counted}: the share of the objects that no prediction learns, and the mean positives of an "
                      "object.", ""]
    section.add_table(["split", "size px", "objects", *(f"none: {name}" for name in names),
                       *(f"mean: {name}" for name in names)], [
        [split, own[k]["size"], f"{own[k]['objects']:,}", *(percent(rows[name, split][k]["without"]) for name in names),
         *(number(rows[name, split][k]["mean"], ".2f") for name in names)]
        for split in first for own in [rows[names[0], split]] for k in range(len(own))])
    if any(row["levels"] for part in rows.values() for row in part):
        section.lines += [f"Positives by level, in percent at strides {' · '.join(map(str, strides))}.", ""]
        section.add_table(["split", "size px", *names], [
            [split, own[k]["size"], *(_levels(rows[name, split][k]) for name in names)]
            for split in first for own in [rows[names[0], split]] for k in range(len(own))])
    for (name, split), part in rows.items():
        for row in part:
            for quantity in ("objects", "without", "mean", "median", "iou", "anchor_iou", "cost"):
                section.add(f"{name}, {split}", quantity, row[quantity], row["size"])
            for stride, share in zip(strides, row["levels"], strict=False):
                section.add(f"{name}, {split}", "share of the positives", share, row["size"], f"stride {stride}")
    section.said = [_tiny(split, {name: splits[split] for name, splits in found.items()}) for split in first]
    return section


def _levels(row: Mapping) -> str:
    return " · ".join(f"{100 * share:.0f}" for share in row["levels"]) if row["mean"] else "-"


def _tiny(split: str, found: Mapping[str, Audited]) -> str:
    """How many of the objects below `TINY` px get no positive, by assigner."""
    sizes = next(iter(found.values())).size
    tiny = sizes < TINY
    if not tiny.any():
        return f"no object of the {WHERE[split]} is below {TINY} px"
    shares = [f"{np.mean(part.positives[tiny] == 0):.1%} under {name}" for name, part in found.items()]
    return (f"of the {int(tiny.sum()):,} objects below {TINY} px in the {WHERE[split]} no prediction learns "
            f"{', '.join(shares)}")
