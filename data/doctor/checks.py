"""The dataset doctor: what a dataset holds, what is suspicious in it, and a verdict.

Legend: n images, M labels of a split. A finding is a `note`, a `look` (somebody should look at it) or `broken`
(results on this data would mean nothing); the verdict is the worst of them.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import ceil
from typing import Any

import numpy as np

from data.doctor.advice import advice_for, why_empty
from data.doctor.duplicates import Duplicates, find_duplicates, same_labels
from data.doctor.suspicious_labels import KINDS as SUSPICIONS
from data.doctor.suspicious_labels import LOOK_FROM, Suspects, suspects
from data.index import Index
from data.labels.records import RecordTable
from data.labels.scan_report import HARMLESS, KINDS
from utils.errors import short

LEVELS = ("note", "look", "broken")
VERDICTS = {"note": "healthy", "look": "look at this", "broken": "broken"}
MANY = 0.1  # share of labels or images lost, or of images seen in training, from which a split is broken
RARE, IMBALANCE = 10, 100  # objects; times
PER_IMAGE = 100  # detections of a class per image that COCO's AP counts
# ordinary in a few images or labels, not in a tenth of them
OFTEN = ("missing_label", "wrong_size", "odd_area", "unturned_image")
BY_IMAGE = ("corrupt_label", "missing_label", "wrong_size")  # kinds that are counted by image
SIDES = (8, 16, 32)  # pixels
NAMED = 5  # examples that a line names


@dataclass(frozen=True)
class Finding:
    """One thing to report: kind, level, split ('' for all), what, and examples (paths, pairs, classes)."""

    kind: str
    level: str
    split: str
    text: str
    examples: list[str] = field(default_factory=list)

    def format(self) -> str:
        """A line, then its examples; the report holds them all."""
        where = f"{self.split}: " if self.split else ""
        more = len(self.examples) - NAMED
        rest = [f"      ... and {more} more, in report.json"] if more > 0 else []
        return "\n".join([f"  {where}{self.text}", *(f"      {e}" for e in self.examples[:NAMED]), *rest])


@dataclass(frozen=True)
class Pair:
    """Two like images: (split, position) of each; exact: byte for byte; likeness: correlation; same: their labels."""

    a: tuple[str, int]
    b: tuple[str, int]
    exact: bool
    likeness: float
    same: bool


def examine(index: Index, split: str, imgsz: int) -> tuple[list[Finding], dict[str, Any], Suspects]:
    """The findings of one split, its numbers as plain data, and its suspicious labels."""
    table = RecordTable.from_records(index.records)
    found = suspects(table)
    numbers, advice = _numbers(index, table, split, imgsz)
    findings = [*_scanned(index, split), *_totals(index, split), *_suspicious(index, table, split, found),
                *_dense(index, table, split), *advice]
    return findings, numbers, found


def _scanned(index: Index, split: str) -> list[Finding]:
    """What the scan repaired or left out."""
    report, findings = index.report, []
    for kind, (what, done) in KINDS.items():
        if kind not in report.findings:
            continue
        count, example = report.findings[kind]
        # A label file that cannot be read takes its image with it.
        by_image = "image" in kind or kind in BY_IMAGE
        whole = report.images if by_image else report.boxes + report.ignored
        lost = count / max(whole if kind in OFTEN else count + whole, 1)
        level = "note" if kind in HARMLESS else "broken" if "skipped" in done and lost >= MANY else "look"
        if kind in OFTEN and lost >= MANY:
            level = "look"
        findings.append(Finding(kind, level, split, f"{count} {what}: {done}", [example]))
    return findings


def _totals(index: Index, split: str) -> list[Finding]:
    report = index.report
    if not report.boxes:
        level = "note" if split == "test" else "broken"  # test splits are published without labels
        return [Finding("no_objects", level, split, f"there is not one object in this split: {why_empty(report)}")]
    share = report.background / max(report.images, 1)
    if share > 0.5:
        return [Finding("background", "look", split, f"{share:.0%} of the images have no object: are labels missing?")]
    return []


def _suspicious(index: Index, table: RecordTable, split: str, found: Suspects) -> list[Finding]:
    findings, image = [], table.image_of_label()
    for kind, rows in found.labels.items():
        share = len(rows) / max(len(table.labels), 1)
        findings.append(Finding(kind, "look" if share >= LOOK_FROM[kind] else "note", split,
                                f"{len(rows)} {SUSPICIONS[kind]} ({share:.2%} of all)",
                                [describe(index, table, int(image[row]), int(row)) for row in rows[:100]]))
    if len(found.crowded):
        counts = np.diff(table.ends, prepend=0)
        findings.append(Finding("crowded", "look", split,
                                f"{len(found.crowded)} images with far more labels than others",
                                [f"{table.path(i)}: {counts[i]} labels" for i in found.crowded[:100]]))
    return findings


def _dense(index: Index, table: RecordTable, split: str) -> list[Finding]:
    """Images with more objects of a class than COCO's AP can count."""
    rows = np.flatnonzero(~table.ignore)
    keys = table.image_of_label()[rows] * len(index.names) + table.labels[rows]
    found, counts = np.unique(keys, return_counts=True)
    many = np.flatnonzero(counts > PER_IMAGE)
    if not len(many):
        return []
    many = many[np.argsort(-counts[many], kind="stable")]
    places = [(int(k // len(index.names)), int(k % len(index.names))) for k in found[many]]
    text = (f"{len({i for i, _ in places})} images hold more than {PER_IMAGE} objects of one class, the fullest "
            f"{counts[many[0]]}: COCO's AP counts {PER_IMAGE} detections of a class per image and cannot reach 1")
    return [Finding("dense", "look", split, text, [f"{table.path(i)}: {n} of {index.names[c]}" for (i, c), n in
                                                   zip(places[:100], counts[many].tolist(), strict=False)])]


def describe(index: Index, table: RecordTable, image: int, row: int) -> str:
    """A label in words: file, class, size and place."""
    x1, y1, x2, y2 = table.boxes[row].tolist()
    name = index.names[table.labels[row]]
    return f"{table.path(image)}: {name} of {x2 - x1:.1f} x {y2 - y1:.1f} px at ({x1:.0f}, {y1:.0f})"


def _numbers(index: Index, table: RecordTable, split: str, imgsz: int) -> tuple[dict[str, Any], list[Finding]]:
    """The numbers of a split as plain data, and what its sizes suggest for a training at `imgsz`."""
    longest = table.sizes.max(1)
    by_area = np.argsort(table.sizes.astype(np.int64).prod(1), kind="stable")
    shapes = {word: table.sizes[by_area[at]].tolist()[::-1]
              for word, at in (("smallest", 0), ("median", len(by_area) // 2), ("largest", -1))}
    counts = index.counts()
    objects = ~table.ignore
    zoom = imgsz / longest[table.image_of_label()][objects]
    sides = np.sqrt((table.boxes[objects, 2:] - table.boxes[objects, :2]).prod(1))
    total = max(len(sides), 1)
    below = {limit: int((sides * zoom < limit).sum()) for limit in SIDES}
    per_image = np.bincount(table.image_of_label()[objects], minlength=len(table))
    numbers = {"images": len(table), "boxes": int(objects.sum()), "ignored": index.report.ignored,
               "background": int((per_image == 0).sum()), "image_sizes": shapes, "most_objects": int(per_image.max()),
               "median_objects": float(np.median(per_image)), "small_share": float(counts[:, 0].sum() / total),
               "imgsz": imgsz, "below": {str(k): v for k, v in below.items()},
               "counts": dict(zip(index.names, counts.tolist(), strict=True))}
    return numbers, _advice(split, imgsz, sides, zoom, below, int(np.median(longest)))


def _advice(split: str, imgsz: int, sides: np.ndarray, zoom: np.ndarray, below: Mapping[int, int],
            longest: int) -> list[Finding]:
    """What would help where objects get lost at `imgsz`: tiles or more pixels where images have them, finer strides."""
    total = max(len(sides), 1)
    if not len(sides):
        return []
    lost = below[8] / total
    text = (f"resized to --imgsz {imgsz}, " + ", ".join(f"{below[k]} ({below[k] / total:.1%})" for k in SIDES)
            + f" objects are smaller than {', '.join(map(str, SIDES))} px (square root of the box's area)")
    if below[16] / total < 0.05:
        return [Finding("resized", "note", split, text)]
    limit = 8 if lost >= 0.01 else 16
    now = below[limit] / total
    larger = min(ceil(longest / 32) * 32, 2 * imgsz)
    advice = []
    for worth, what, share in (
            (longest >= 1.5 * imgsz, f"--tile {imgsz}, windows of the full images", np.mean(sides < limit)),
            (longest > imgsz, f"--imgsz {larger}", np.mean(sides * zoom * (larger / imgsz) < limit))):
        if worth and share < 0.9 * now:
            advice.append(f"{what}: {share:.1%} instead of {now:.1%} of the objects are below {limit} px")
    advice.append("a model with a P2 level (stride 4), such as --cfg yolov8n-p2")
    return [Finding("resized", "look" if lost >= 0.05 else "note", split, text, advice)]


def compare_classes(indexes: Mapping[str, Index]) -> list[Finding]:
    """What the splits say about classes: those never seen in training, rare ones, extreme imbalance."""
    counts = {split: index.counts().sum(1) for split, index in indexes.items()}
    names = next(iter(indexes.values())).names
    if any(index.names != names for index in indexes.values()):
        said = "; ".join(f"{split} has {short(', '.join(index.names))}" for split, index in indexes.items())
        return [Finding("names", "broken", "", f"the splits do not have the same classes: {said}")]
    findings = []
    same = sorted({n for n in names if names.count(n) > 1})
    if same:
        findings.append(Finding("same_name", "look", "", f"{len(same)} names stand for more than one class", same))
    trained = counts.get("train")
    absent = [n for k, n in enumerate(names) if not any(c[k] for c in counts.values())]
    if absent:
        one = next(iter(indexes.values())).source
        shifted = absent[0] == names[0] and one.format == "yolo" and not one.first_id
        hint = " (the first is among them: do class ids count from 1?)" if shifted else ""
        findings.append(Finding("absent", "look", "", f"{len(absent)} classes without an object in any split{hint}",
                                absent))
    if trained is None or not trained.any():
        return findings
    for split, count in counts.items():
        unseen = [f"{n}: {count[k]}" for k, n in enumerate(names) if count[k] and not trained[k]]
        if unseen:
            findings.append(Finding("unseen", "look", split,
                                    f"{len(unseen)} classes with objects here and none in train", unseen))
    held = counts.get("val")
    unproven = [n for k, n in enumerate(names) if trained[k] and held is not None and held.any() and not held[k]]
    if unproven:
        findings.append(Finding("unproven", "note", "val", f"{len(unproven)} classes of train without an object here",
                                unproven))
    rare = [f"{n}: {trained[k]}" for k, n in enumerate(names) if 0 < trained[k] < RARE]
    if rare:
        findings.append(Finding("rare", "look", "train", f"{len(rare)} classes with fewer than {RARE} objects", rare))
    most, least = int(trained.argmax()), int(np.where(trained > 0, trained, trained.max() + 1).argmin())
    if trained[most] > IMBALANCE * trained[least]:
        times = f"{trained[most] / trained[least]:.0f} times as many objects as {names[least]}"
        findings.append(Finding("imbalance", "look", "train",
                                f"{names[most]} has {times}: --rare-classes shows rare ones more often"))
    return findings


def compare_images(indexes: Mapping[str, Index], near: bool) -> tuple[list[Finding], list[Pair]]:
    """Duplicates within and across splits, the pairs across splits first."""
    tables = {split: RecordTable.from_records(index.records) for split, index in indexes.items()}
    places = [(split, i) for split, table in tables.items() for i in range(len(table))]
    paths = [tables[split].path(i) for split, i in places]
    found = find_duplicates(paths, near)
    pairs = []
    for (i, j), exact, likeness in zip(found.pairs.tolist(), found.exact, found.likeness, strict=True):
        left, right = (tables[places[k][0]][places[k][1]] for k in (i, j))
        same = same_labels(left, right, 0.005 if exact else 0.03)
        pairs.append(Pair(places[i], places[j], bool(exact), float(likeness), same))
    pairs.sort(key=lambda p: (p.a[0] == p.b[0], not p.exact, -p.likeness))
    splits = np.array([list(tables).index(split) for split, _ in places])
    findings = _leaks(list(tables), splits, found, pairs, tables) + _repeats(pairs, tables)
    if len(found.unreadable):
        findings.append(Finding("undecodable", "look", "", f"{len(found.unreadable)} images cannot be decoded",
                                [paths[i] for i in found.unreadable]))
    if found.plain:
        findings.append(Finding("plain", "note", "", f"{found.plain} images are nearly empty and were not compared"))
    return findings, pairs


def _leaks(names: list[str], splits: np.ndarray, found: Duplicates, pairs: Sequence[Pair],
           tables: Mapping[str, RecordTable]) -> list[Finding]:
    """Images of one split that another one has too."""
    findings = []
    for b in range(1, len(names)):
        for a in range(b):
            exact = _shared(found.exact_group, splits, a, b)
            near = _shared(found.group, splits, a, b) & ~exact
            count, total = int((exact | near).sum()), int((splits == b).sum())
            if not count:
                continue
            trained = names[a] == "train"
            said = f"{count} of {total} images are in {names[a]} too ({exact.sum()} exact, {near.sum()} near copies)"
            if trained:
                said += ": results on them say little about new images"
            elif exact.sum() == total:
                said = f"the images are those of {names[a]}"
            level = ("broken" if count >= MANY * total else "look") if trained else "note"
            examples = [_pair_text(p, tables) for p in pairs if {p.a[0], p.b[0]} == {names[a], names[b]}]
            findings.append(Finding("leak", level, names[b], said, examples))
    return findings


def _shared(group: np.ndarray, splits: np.ndarray, a: int, b: int) -> np.ndarray:
    """(n,) images of split b whose group has an image of split a."""
    return (splits == b) & np.isin(group, group[splits == a])


def _repeats(pairs: Sequence[Pair], tables: Mapping[str, RecordTable]) -> list[Finding]:
    findings = []
    for split in tables:
        inside = [p for p in pairs if p.a[0] == p.b[0] == split]
        if inside:
            exact = sum(p.exact for p in inside)
            said = f"{len(inside)} images are copies of another here ({exact} exact, {len(inside) - exact} near)"
            findings.append(Finding("repeated", "look" if exact else "note", split, said,
                                    [_pair_text(p, tables) for p in inside]))
    differ = [p for p in pairs if not p.same]
    if differ:
        findings.append(Finding("disagreement", "look", "", f"{len(differ)} pairs of like images have different labels",
                                [_pair_text(p, tables) for p in differ]))
    return findings


def _pair_text(pair: Pair, tables: Mapping[str, RecordTable]) -> str:
    left, right = (tables[split][i] for split, i in (pair.a, pair.b))
    how = "exact" if pair.exact else f"near, {pair.likeness:.3f}"
    labels = f"{len(left)} labels" if pair.same else f"{len(left)} and {len(right)} labels, not the same"
    return f"{left.path} ({pair.a[0]}) = {right.path} ({pair.b[0]}): {how}; {labels}"


def verdict(findings: Sequence[Finding]) -> tuple[str, list[str]]:
    """`healthy`, `look at this` or `broken`, and a line for each reason with what to do, the worst first."""
    worst = max((LEVELS.index(f.level) for f in findings), default=0)
    reasons = [f"{VERDICTS[level]}: {f'{f.split}: ' if f.split else ''}{f.text}"
               f"{f'; the first: {f.examples[0]}' if f.kind in KINDS else ''}{advice_for(f.kind)}"
               for level in reversed(LEVELS[1:]) for f in findings if f.level == level]
    return VERDICTS[LEVELS[worst]], reasons
