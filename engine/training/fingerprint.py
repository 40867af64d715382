"""Whether a resumed run has the images and labels that it was started on.

No file is opened or stat-ed again: the label cache has the names and sizes in bytes of all images, and the index has
the labels. The location of the data does not matter.
"""

import hashlib
from typing import Any

from data.index import Index
from data.labels.records import RecordTable
from utils.errors import UserError

SPLITS = {"train": "training", "val": "validation"}


def fingerprint(index: Index) -> dict[str, Any]:
    """Counts of "images" and "boxes", and two digests: "files" of names and bytes of images, "labels" of their order,
    sizes in pixels and labels."""
    table = RecordTable.from_records(index.records)
    labels = hashlib.blake2b(digest_size=16)
    base = index.key.base.encode("utf-8", "surrogateescape") if index.key else b""
    paths = table.paths.tobytes()
    labels.update(paths.replace(base, b"\0") if base else paths)
    for column in (table.sizes, table.ends, table.boxes, table.labels, table.ignore):
        labels.update(column.tobytes())
    return {"images": len(table), "boxes": int((~table.ignore).sum()), "files": index.key.images if index.key else "",
            "labels": labels.hexdigest()}


def data_changed(before: dict[str, dict], now: dict[str, dict], data: str, allowed: bool) -> bool:
    """Whether a run's data have changed since it was saved, with a note; a `UserError` where that is not allowed.

    before, now: split -> `fingerprint`; before is empty if an earlier version saved the run.
    """
    changes = [f"the {SPLITS[split]} {_difference(old, now[split])}" for split, old in before.items()
               if old != now[split]]
    if not changes:
        return False
    if not allowed:
        raise UserError(f"--resume: {data} has changed since this run was saved: {'; '.join(changes)}; restore what it "
                        "was started on, or continue with the changed data: --allow-data-change", "data-changed")
    print(f"--allow-data-change: {data} has changed since this run was saved: {'; '.join(changes)}")
    return True


def _difference(old: dict[str, Any], new: dict[str, Any]) -> str:
    counts = [f"{new[key]} {key} instead of {old[key]}" for key in ("images", "boxes") if old[key] != new[key]]
    what = {"files": "image files differ", "labels": "labels or their order differ"}
    return "split has " + ", ".join(counts) if counts else \
        "split's " + " and ".join(text for key, text in what.items() if old[key] != new[key])
