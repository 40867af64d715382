"""What the page says of a neck: whether its gate looks at objects, what each level gives, how much the neck changes."""

from collections.abc import Sequence

import numpy as np

from benchmarks.audit.neck import NeckRecord
from benchmarks.audit.regions import Mean, mean_over_images
from benchmarks.audit.section import BIN_NAMES, Section, bins_of, level_title, percent
from engine.training.assignment_report import TINY

GROUPS = (*BIN_NAMES, f"all < {TINY}", "all")
TITLE = "Neck"
AUC_HEAD = ("size px", "objects", "AUC", "with another image's gate", "difference", "inside minus background")


def groups_of(sizes: np.ndarray) -> dict[str, np.ndarray]:
    """Which objects (K,) belong to each of `GROUPS`; sizes (K,) px."""
    place = bins_of(sizes)
    masks = [place == k for k in range(len(BIN_NAMES))] + [sizes < TINY, np.ones(len(sizes), bool)]
    return dict(zip(GROUPS, masks, strict=True))


def gate_aucs(record: NeckRecord, seed: int) -> dict[str, tuple[int, Mean, Mean, Mean, Mean]]:
    """Of each of `GROUPS` the objects, the AUC, that with another image's gate, their difference, and the mean gate
    inside minus that of the background."""
    images, sizes, auc, other, contrast = np.array(record.objects).reshape(-1, 5).T
    return {name: (int(chosen.sum()), *(mean_over_images(values[chosen], images[chosen], seed)
                                        for values in (auc, other, auc - other, contrast)))
            for name, chosen in groups_of(sizes).items()}


def level_shares(record: NeckRecord) -> dict[str, np.ndarray]:
    """The mean share of each level over images (all pixels, background) and over objects of each size."""
    table = np.array(record.shares).reshape(-1, 1 + len(record.levels))
    size, shares = table[:, 0], table[:, 1:]
    chosen = {"all pixels": size == -1, "background": size == 0,
              **{name: (size > 0) & mask for name, mask in groups_of(size).items() if name in BIN_NAMES}}
    return {name: shares[mask].mean(0) for name, mask in chosen.items() if mask.any()}


def report_neck(records: Sequence[NeckRecord], strides: Sequence[int], seed: int, fresh: bool) -> Section:
    """Tables of all rows. strides: of the head; fresh: whether the weights are untrained."""
    section = Section(TITLE)
    if not records:
        section.lines += ["There is none: the head reads the pyramid of the base (`pan`).", ""]
        section.said = ["the model has no scale-sequence neck, so there is no gate to look at"]
    for record in records:
        section.lines += [f"### {record.title[0].upper()}{record.title[1:]}", ""]
        if record.gate:
            _report_gate(section, record, seed, fresh)
        if record.channels:
            _report_channels(section, record)
        if record.shares:
            _report_levels(section, record)
        if record.added:
            _report_added(section, record, strides)
    return section


def _report_gate(section: Section, record: NeckRecord, seed: int, fresh: bool) -> None:
    mean, spread, low, high = np.mean(record.gate, 0)
    between = float(np.std([row[0] for row in record.gate]))
    for quantity, value in (("mean", mean), ("deviation within an image", spread),
                            ("deviation between images", between), ("share below 0.1", low), ("share above 0.9", high)):
        section.add(f"{record.title}, spatial gate", quantity, value)
    section.lines += [f"Spatial gate, 0 to 1, over {len(record.gate):,} images without their padding: mean {mean:.3f}, "
                      f"standard deviation {spread:.3f} within an image and {between:.3f} between images; {low:.1%} of "
                      f"the pixels below 0.1, {high:.1%} above 0.9.", ""]
    aucs = gate_aucs(record, seed)
    section.add_table(AUC_HEAD, [[name, f"{count:,}", *(part.text() for part in parts)]
                                 for name, (count, *parts) in aucs.items()])
    for name, (count, *parts) in aucs.items():
        section.add(f"{record.title}, spatial gate", "objects", count, name)
        for quantity, part in zip(AUC_HEAD[2:], parts, strict=True):
            for word, value in (("", part.value), (" low", part.low), (" high", part.high)):
                section.add(f"{record.title}, spatial gate", quantity + word, value, name)
    for name, what in ((f"all < {TINY}", f"objects below {TINY} px"), ("all", "all objects")):
        if aucs[name][0]:
            section.said.append(_verdict(what, *aucs[name][1:4], fresh))


def _verdict(what: str, auc: Mean, other: Mean, difference: Mean, fresh: bool) -> str:
    """Whether the gate looks at objects: whether its AUC differs from that with another image's gate."""
    if difference.low is None:
        meaning = "too few images to say whether it looks at them"
    elif difference.low > 0:
        meaning = "it is higher on them than where they lie in general"
    elif difference.high < 0:
        meaning = "it is lower on them than where they lie in general"
    else:
        meaning = "no sign that it looks at them"
    chance = "" if other.value is None else f", with another image's gate {other.value:.2f}"
    note = "; its weights are untrained, so this is their chance" * fresh
    return f"the gate's AUC for {what} against the background is {auc.text()}{chance}: {meaning}{note}"


def _report_channels(section: Section, record: NeckRecord) -> None:
    values = np.array(record.channels, np.float64)  # (n, C)
    across, between = float(values.mean(0).std()), float(values.std(0).mean())
    total = float(values.var())
    share = float(values.var(0).mean() / total) if total > 0 else 0.0
    for quantity, value in (("mean", values.mean()), ("deviation over channels", across),
                            ("deviation over images", between), ("share of the variance over images", share)):
        section.add(f"{record.title}, channel gate", quantity, value)
    section.lines += [f"Channel gate, 0 to 2, {values.shape[1]} channels: mean {values.mean():.3f}, standard deviation "
                      f"{across:.4f} over channels (of their means) and {between:.4f} over images (mean of the "
                      f"channels); {share:.1%} of its variance is over images.", ""]
    section.said.append(f"the channel gate varies by {between:.4f} over images and by {across:.4f} over channels: "
                        f"{share:.0%} of its variance depends on the image")


def _report_levels(section: Section, record: NeckRecord) -> None:
    shares = level_shares(record)
    section.lines += ["Share of each level in what the neck computes at a pixel (`contributions`).", ""]
    section.add_table(["pixels of", *record.levels], [[name, *map(percent, row)] for name, row in shares.items()])
    for name, row in shares.items():
        for level, value in zip(record.levels, row, strict=True):
            section.add(f"{record.title}, contributions", "share", value, name, level)
    told = ", ".join(f"{level} {s:.0%}" for level, s in zip(record.levels, shares["all pixels"], strict=True))
    section.said.append(f"of what the neck computes the levels give {told}")


def _report_added(section: Section, record: NeckRecord, strides: Sequence[int]) -> None:
    added, changed = float(np.mean(record.added)), np.mean(record.changed, 0)
    section.add(f"{record.title}, added", "|added| / |finest level|", added)
    for level, value in enumerate(changed):
        section.add(f"{record.title}, added", "change of the head's input", value, "", level_title(level, strides))
    told = ", ".join(f"{value:.1%} at {level_title(level, strides)}" for level, value in enumerate(changed))
    section.lines += [f"What the neck adds has {added:.1%} of the length of the finest level. Without it the maps that "
                      f"the head reads would differ by {told}.", ""]
    if not changed.any():
        reason = "what it adds is zero" if not added else "nothing reads what it adds"
        section.said.append(f"the neck changes nothing yet: {reason}, so the model is its base")
    else:
        section.said.append(f"what the neck adds has {added:.0%} of the length of the finest level, and changes the "
                            f"finest map that the head reads by {changed[0]:.1%}")
