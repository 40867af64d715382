"""Whether a run that goes on sees the images and labels that it was started on.

No file is opened or looked at again: the label cache has the names and sizes in bytes of all images, and the index has
the labels. Where the data lie does not matter.
"""

import hashlib
from typing import Any

from data.index import Index
from data.labels.records import RecordTable
from utils.errors import UserError

SPLITS = {"train": "training", "val": "validation"}


def fingerprint(index: Index) -> dict[str, Any]:
    """{"images", "boxes"} counted, and what changes with them: "files" with names and bytes of images, "labels" with
    their order, sizes in pixels and labels."""
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
    """Whether a run's data are others than when it was saved, which is told; a `UserError` where that is not allowed.

    before, now: split -> `fingerprint`; before is empty where an earlier version saved the run.
    """
    told = [f"the {SPLITS[split]} {_difference(old, now[split])}" for split, old in before.items() if old != now[split]]
    if not told:
        return False
    if not allowed:
        raise UserError(f"--resume: {data} has changed since this run was saved: {'; '.join(told)}; put back what it "
                        "was started on, or go on with the changed data: --allow-data-change")
    print(f"--allow-data-change: {data} has changed since this run was saved: {'; '.join(told)}")
    return True


def _difference(old: dict[str, Any], new: dict[str, Any]) -> str:
    counts = [f"{new[word]} {word} instead of {old[word]}" for word in ("images", "boxes") if old[word] != new[word]]
    what = {"files": "image files are others", "labels": "labels or their order are others"}
    return "split has " + ", ".join(counts) if counts else \
        "split's " + " and ".join(words for word, words in what.items() if old[word] != new[word])
