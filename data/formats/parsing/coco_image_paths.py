"""Where the images of a COCO file lie, when `file_name` is not quite it: backslashes, lost or foreign folders, URLs."""

import os
import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import unquote, urlsplit

from data.formats.paths import IMAGE_SUFFIXES, image_files

URL = re.compile(r"[a-z][a-z0-9+.-]+://", re.IGNORECASE)


def find_images(names: Sequence[str], folder: Path) -> tuple[list[str], list[int]]:
    """The path of each `file_name`, and the positions of those that are found elsewhere than it says.

    A file that is not at its name is looked for by name below the image folder. It is taken where exactly one file fits
    best and no other name means the same file; else the path stays the one that is not there.
    """
    paths = [os.path.join(folder, name) for name in names]  # noqa: PTH118  Path costs 10x here
    here = set(os.listdir(folder)) if os.path.isdir(folder) else set()  # noqa: PTH112, PTH208
    absent = [k for k, path in enumerate(paths) if names[k] not in here and not os.path.isfile(path)]  # noqa: PTH113
    if not absent:
        return paths, []
    there = set(image_files(folder))
    files = defaultdict(list)
    for path in sorted(there):
        files[_parts(path)[-1]].append(path)
        files[_stem(_parts(path)[-1])].append(path)
    chosen = {k: _best(names[k], files) for k in absent}
    claims = Counter(path for path in chosen.values() if path)
    taken = set(paths) & there
    moved = [k for k, path in chosen.items() if path and path not in taken
             and (claims[path] == 1 or len({names[j] for j in absent if chosen[j] == path}) == 1)]
    for k in moved:
        paths[k] = chosen[k]
    return paths, moved


def _best(name: str, files: dict[str, list[str]]) -> str:
    """The one file that shares most of the end of its path with `name`; '' where none or several do."""
    tried = [name] if not URL.match(name) else [urlsplit(name).path, urlsplit(name).query.rpartition("=")[2]]
    for text in dict.fromkeys([*tried, *map(unquote, tried)]):
        parts = _parts(text)
        last = parts[-1] if parts else ""
        found = files.get(last, []) if _suffix(last) in IMAGE_SUFFIXES else files.get(f"{last}.*", [])
        if found:
            shared = [_shared(parts[:-1], _parts(path)[:-1]) for path in found]
            best = [path for path, n in zip(found, shared, strict=True) if n == max(shared)]
            if len(best) > 1:  # a.jpg and A.JPG
                best = [path for path in best if path.endswith(text.replace("\\", "/").rpartition("/")[2])]
            return best[0] if len(best) == 1 else ""
    return ""


def _parts(path: str) -> list[str]:
    return [part for part in path.replace("\\", "/").casefold().split("/") if part not in ("", ".")]


def _suffix(name: str) -> str:
    return os.path.splitext(name)[1]  # noqa: PTH122


def _stem(name: str) -> str:
    return os.path.splitext(name)[0] + ".*"  # noqa: PTH122


def _shared(a: list[str], b: list[str]) -> int:
    """How many parts two paths share, counted from their ends."""
    return next((k for k, (x, y) in enumerate(zip(a[::-1], b[::-1], strict=False)) if x != y), min(len(a), len(b)))
