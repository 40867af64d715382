"""COCO JSON: instances_*.json, and image_info_*.json without annotations. Crowds become ignore regions.

Polygons are taken from `segmentation` where it is a list of outlines; masks in run lengths have none. `read` gives what
a training sees and a scan may repair; `read_truth` what is judged, which is the file as it stands.
"""

from collections import Counter
from collections.abc import Collection, Hashable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from data.data_yaml import Source
from data.formats.parsing.coco_box_units import check_units
from data.formats.parsing.coco_file import CROWD, LACKS_AREA, MARKED, CocoFile, meant
from data.formats.parsing.coco_image_paths import find_images
from data.formats.paths import image_files
from data.formats.raw_labels import RawLabels
from data.labels.scan_report import KINDS, ScanReport
from utils.errors import UserError, nearest, shown
from utils.truth import Truth, impossible_areas

SHIFTED = 0.1  # of the annotations: those without a category, from which all ids may be shifted by one


def recognises(entry: Path, images: list[str]) -> bool:
    """An annotation file."""
    return entry.suffix.lower() == ".json"


def inputs(source: Source) -> list[str]:
    """The annotation files and what lies in the image folders."""
    return [str(e) for e in source.entries] + [p for folder in source.image_folders for p in image_files(folder)]


def read(source: Source, report: ScanReport, polygons: bool = False) -> RawLabels:
    """All annotations of a split, classes in the order of the category ids, or of the YAML's `names` if there are."""
    files = [CocoFile(entry, folder, report, [] if polygons else None).read()
             for entry, folder in zip(source.entries, source.image_folders, strict=True)]
    names, category_ids, left_out = _classes(source, files)
    report.notes += source.notes
    parts = [_images(file, report) for file in files]
    to_label = {category: label for label, category in enumerate(category_ids)}
    labels = [file.labels([file.ids[k] for k in part.kept] + part.shared, to_label, left_out, part.shared)
              for file, part in zip(files, parts, strict=True)]
    for file in files:
        file.add_to_report()
    before = np.cumsum([0, *(len(part.kept) for part in parts[:-1])])
    image = _joined([part[0] + start for part, start in zip(labels, before, strict=True)])
    label, flags, numbers, seen = (_joined([part[k] for part in labels]) for k in (1, 2, 3, 4))
    outlines = [p for part in labels for p in part[5]] if polygons else None
    ids = _record_ids(files, report)
    kept = [(f, k) for f, part in zip(files, parts, strict=True) for k in part.kept]
    found = RawLabels(
        paths=[p for part in parts for p in part.paths], label_files=[str(f.entry) for f, _ in kept],
        image_ids=[own[f.ids[k]] for own, f, part in zip(ids, files, parts, strict=True) for k in part.kept],
        stated_sizes=np.array([f.sizes[k] for f, k in kept], np.int64).reshape(-1, 2), image=image,
        boxes=numbers[:, :4].copy(), labels=label, ignore=(flags & (CROWD | MARKED)) > 0, areas=numbers[:, 4].copy(),
        annotation_ids=np.where(np.isnan(numbers[:, 5]), seen, numbers[:, 5]).astype(np.int64), rows=seen, names=names,
        category_ids=category_ids, row_name="annotation", exact=True, polygons=outlines,
        windows=_windows([f.corners[k] for f, k in kept]))
    if not np.isnan(numbers[:, 5]).any():
        found.rows, found.row_name = found.annotation_ids, "id"
    check_units(found)
    _check_areas(found, (flags & LACKS_AREA) > 0, report)
    found.boxes[:, 2:] += found.boxes[:, :2]
    _report_regions(found, flags, report)
    return _with_labels_of_twins(found, report)


def read_truth(source: Source, bare: bool = False) -> tuple[Truth, bool, list[str]]:
    """The annotations of a split as its files have them, whether they are all of one file's, classes and images, and
    the names of the classes. bare: see `CocoFile`."""
    report = ScanReport()
    files = [CocoFile(entry, folder, report, bare=bare).read()
             for entry, folder in zip(source.entries, source.image_folders, strict=True)]
    names, category_ids, left_out = _classes(source, files)
    to_label = {category: label for label, category in enumerate(category_ids)}
    own = [list(dict.fromkeys(file.ids)) for file in files]
    labels = [file.labels(ids, to_label, left_out) for file, ids in zip(files, own, strict=True)]
    before = np.cumsum([0, *map(len, own[:-1])])
    image = _joined([part[0] + start for part, start in zip(labels, before, strict=True)])
    label, flags, numbers = (_joined([part[k] for part in labels]) for k in (1, 2, 3))
    lacking = (flags & LACKS_AREA) > 0
    records = [i for numbers_of in _record_ids(files, report) for i in numbers_of.values()]
    ids = [i for part in own for i in part]
    what = f"annotations of {' and '.join(file.entry.name for file in files)}"
    truth = Truth(ids if len(set(ids)) == len(ids) else list(records), category_ids, image, label,
                  numbers[:, :4].copy(), np.where(lacking, numbers[:, 2] * numbers[:, 3], numbers[:, 4]),
                  (flags & CROWD) > 0, records, (flags & MARKED) > 0, what=what,
                  departures=[said for file in files for said in file.departures()])
    if truth.image_ids != ids:
        truth.notes.append(f"the files share image ids: results number the images of all of them from 1 to {len(ids)}")
    if report.count("corrupt_row"):
        truth.notes.append(f"{report.count('corrupt_row')} annotations are not well formed and are not judged")
    if bare:  # nothing else tells what the scan of a data set would
        truth.notes += [f"{count} {KINDS[kind][0]} are not judged, the first: {example}"
                        for kind, (count, example) in report.findings.items() if kind in ("orphan", "bad_class")]
    if left_out:
        truth.notes.append(f"{len(left_out)} classes that `names` leaves out are not judged")
    return truth, len(files) == 1 and not left_out, names


@dataclass
class _Images:
    """Images of a file that are used: their positions in its list and paths; ids that several images share."""

    kept: list[int]
    paths: list[str]
    shared: list[Hashable]


def _images(file: CocoFile, report: ScanReport) -> _Images:
    """Each image once; those whose id another image has too are left out, since their labels cannot be attributed."""
    first: dict[Hashable, int] = {}
    shared: dict[Hashable, int] = {}
    for k, key in enumerate(file.ids):
        j = first.setdefault(key, k)
        if j != k and (file.names[j], file.corners[j]) == (file.names[k], file.corners[k]):
            report.add("repeated_image", f"{file.entry}: {file.names[k]}")
        elif j != k:
            shared[key] = k
    if shared:
        key, k = next(iter(shared.items()))
        report.add("shared_id", f"{file.entry}: id {key} of {file.names[first[key]]} and {file.names[k]}",
                   sum(key in shared for key in file.ids))
    kept = [k for key, k in first.items() if key not in shared]
    paths, moved = find_images([file.names[k] for k in kept], file.folder)
    if moved:
        report.add("moved_image", f"{file.names[kept[moved[0]]]} is {paths[moved[0]]}", len(moved))
    return _Images(kept, paths, list(shared))


def _record_ids(files: Sequence[CocoFile], report: ScanReport) -> list[dict[Hashable, int]]:
    """Per file, what records call its image ids: the same where all are whole numbers, each once; 1 to n otherwise."""
    ids = [i for f in files for i in dict.fromkeys(f.ids)]
    if len(set(ids)) != len(ids) or not all(type(i) is int and abs(i) < 1 << 62 for i in ids):
        own = "the files share some" if len(set(ids)) != len(ids) else "results have the file's own"
        report.notes.append(f"image ids are not whole numbers, each once: 1 to n are used instead in here; {own}")
        numbers = iter(range(1, len(ids) + 1))
        return [{i: next(numbers) for i in dict.fromkeys(f.ids)} for f in files]
    return [{i: i for i in f.ids} for f in files]


def _windows(corners: list[tuple[int, int, int, int] | None]) -> np.ndarray | None:
    """(n, 4) windows of their files, all 0 for a whole image; None where all are whole."""
    return np.array([c or (0, 0, 0, 0) for c in corners], np.int64) if any(corners) else None


def _report_regions(found: RawLabels, flags: np.ndarray, report: ScanReport) -> None:
    marked = np.flatnonzero((flags & MARKED > 0) & (flags & CROWD == 0))
    if len(marked):
        report.add("marked", f"{found.label_files[found.image[marked[0]]]} {found.row_name} {found.rows[marked[0]]}",
                   len(marked))
    if len(flags) and (flags & CROWD).all():
        report.notes.append(f"all {len(flags)} annotations are `iscrowd: 1`, so there is no object to learn or to "
                            f"find; some tools write that for every mask in run lengths: set `iscrowd` to 0 in "
                            f"{found.label_files[0]} where they are objects")


def _check_areas(found: RawLabels, lacking: np.ndarray, report: ScanReport) -> None:
    """Take the box's own area where the one written cannot be; without one it is taken already."""
    sides = found.boxes[:, 2:]
    odd = np.any(list(impossible_areas(found.areas, sides, ~found.ignore & ~lacking).values()), 0)
    rows = np.flatnonzero(odd)
    if len(rows):
        report.add("odd_area", f"{found.label_files[found.image[rows[0]]]} {found.row_name} {found.rows[rows[0]]}: "
                   f"{found.areas[rows[0]]:g} for {sides[rows[0], 0]:g} x {sides[rows[0], 1]:g} px", len(rows))
        found.areas = np.where(odd, np.nan, found.areas)


def _with_labels_of_twins(found: RawLabels, report: ScanReport) -> RawLabels:
    """A file that is listed under several ids shows the labels of all of them, under each."""
    corners = [None] * len(found.paths) if found.windows is None else map(tuple, found.windows.tolist())
    places = list(zip(found.paths, corners, strict=True))
    listed = Counter(places)
    if len(listed) == len(places):
        return found
    twins: dict[tuple, list[int]] = {}
    for k, place in enumerate(places):
        if listed[place] > 1:
            twins.setdefault(place, []).append(k)
    report.add("twin_image", next(iter(twins))[0], sum(len(group) for group in twins.values()))
    alike = {k: [j for j in group if j != k] for group in twins.values() for k in group}
    rows = [row for row in np.flatnonzero(np.isin(found.image, list(alike))).tolist()
            for _ in alike[found.image[row]]]
    others = [j for row in dict.fromkeys(rows) for j in alike[found.image[row]]]
    picked = np.array([*range(len(found.image)), *rows], np.int64)
    found.image = np.concatenate((found.image, np.array(others, np.int64)))
    for word in ("boxes", "labels", "ignore", "areas", "annotation_ids", "rows"):
        setattr(found, word, getattr(found, word)[picked])
    if found.polygons is not None:
        found.polygons = [found.polygons[row] for row in picked.tolist()]
    return found


def _joined(parts: list[np.ndarray]) -> np.ndarray:
    """All parts end to end; a single one as it is."""
    return parts[0] if len(parts) == 1 else np.concatenate(parts)


def _classes(source: Source, files: Sequence[CocoFile]) -> tuple[list[str], list[Hashable], set[Hashable]]:
    """Names and category ids by label, and the ids that the YAML's `names` leaves out."""
    known: dict[Hashable, str] = {}
    for file in files:
        for key, name in file.categories.items():
            if known.setdefault(key, name) != name:
                raise UserError(f"{file.entry}: category {key} is {shown(name)} here and {shown(known[key])} in "
                                f"{files[0].entry.name}; the files of a split need the same categories",
                                "class-conflict")
    if not known:
        raise UserError(f"{files[0].entry}: its list `categories` is empty; give each class an `id` and a `name`",
                        "no-classes")
    for file in files:
        _check_shift(file, known)
    by_id = sorted(known, key=lambda key: (isinstance(meant(key), str), meant(key)))
    if source.names is None:
        if source.nc not in (None, len(by_id)):
            raise UserError(f"{source.yaml}: `nc: {source.nc}` but {len(by_id)} categories in "
                            f"{source.entries[0].name}; correct `nc` or leave it out", "key-conflict")
        return [known[i] for i in by_id], by_id, set()
    ids = {name: i for i, name in known.items()}
    for name in source.names:
        if list(known.values()).count(name) > 1:
            twice = [key for key, other in known.items() if other == name]
            raise UserError(f"{source.entries[0]}: {shown(name)} is the name of the categories {twice[0]} and "
                            f"{twice[1]}; give each class a name of its own, or leave `names` out of {source.yaml}",
                            "duplicate-class")
        if name not in ids and not set(ids) <= set(source.names):
            hint = nearest(name, list(ids)) or "known: " + ", ".join(ids)
            raise UserError(f"{source.yaml}: `names` has {shown(name)}, which {source.entries[0].name} has not; {hint}",
                            "unknown-class")
    absent = [name for name in source.names if name not in ids]
    if absent:  # every class of the file has its name, so this is no slip: another split has objects of these
        more = f" and {len(absent) - 1} more of `names`" if absent[1:] else ""
        files[0].report.notes.append(f"{source.entries[0].name} has no category {shown(absent[0])}{more}: no object of "
                                     f"it here")
        free = 1 + max((i for i in map(meant, known) if type(i) is int), default=0)
        ids |= {name: k for k, name in enumerate(absent, free)}
    chosen = [ids[name] for name in source.names]
    return source.names, chosen, set(known) - set(chosen)


def _check_shift(file: CocoFile, known: Collection[Hashable]) -> None:
    """`UserError` where all category ids of the annotations are one less, or one more, than those of categories."""
    ids, used = ({meant(key) for key in keys} for keys in (known, file.kinds))
    if not file.codes or used <= ids or not all(type(i) is int for i in (*ids, *used)):
        return
    strays = np.array([meant(key) not in ids for key in file.kinds])
    share = strays[np.frombuffer(file.codes, np.int32)[1::4]].mean()
    if share >= SHIFTED and any(all(i + step in ids for i in used) for step in (1, -1)):
        raise UserError(f"{file.entry}: annotations have `category_id` {min(used)} to {max(used)}, categories have "
                        f"`id` {min(ids)} to {max(ids)}: they seem to count from different numbers, and every class "
                        f"would be another; correct one of them", "shifted-class-ids")
