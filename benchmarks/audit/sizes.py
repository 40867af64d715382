"""Sizes of objects as the loss sees them, beside those of the labels and of validation."""

from benchmarks.audit.section import BIN_NAMES, Section, percent
from data.doctor.seen_sizes import IN_TRAINING, Seen, describe, difference, labelled
from engine.training.assignment_report import Audited
from engine.training.preview import Preview


def seen_sizes(preview: Preview, train: Audited, val: Audited) -> list[Seen]:
    """Of the labels of the training split, of the audited training batches, and of validation, the latter two as their
    loaders gave them; with `--tile` all are of windows."""
    first, last, where = preview.config.imgsz[0], preview.config.imgsz[-1], " in tiles" * bool(preview.config.tile)
    return [labelled(f"labels of train{where} at {first} px", preview.train_index, preview.model.frame, first),
            Seen(IN_TRAINING, train.size, len(train.size)),
            Seen(f"validation{where} at {last} px", val.size, len(val.size))]


def report_sizes(rows: list[Seen], preview: Preview) -> Section:
    """The table, and how training differs from validation. rows: of `seen_sizes`."""
    section = Section("Sizes that the loss sees")
    policy = describe(preview.recipe.make_policy(preview.model.frame.fill))
    section.lines += [f"Augmentation: {policy or 'none'}.", ""]
    section.add_table(["", "objects", "median px", *BIN_NAMES], [
        [row.what, f"{len(row.sizes):,}", f"{row.median:.1f}", *map(percent, row.shares)] for row in rows])
    for row in rows:
        section.add(row.what, "objects", len(row.sizes))
        section.add(row.what, "median px", row.median if len(row.sizes) else None)
        for name, share in zip(BIN_NAMES, row.shares, strict=True):
            section.add(row.what, "share of the objects", share, name)
    section.said = [difference(*rows[1:])]
    return section
