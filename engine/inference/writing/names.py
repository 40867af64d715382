"""Names of result files and folders: unique, and valid on every file system."""

import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

# File names that Windows reserves for devices.
RESERVED = {"CON", "PRN", "AUX", "NUL", *(f"{port}{n}" for port in ("COM", "LPT") for n in range(1, 10))}


def class_folders(names: Sequence[str]) -> list[str]:
    """A folder name for each class: unique, and valid on every file system.

    Characters other than letters, digits, space, dot and dash become underscores.
    """
    folders: list[str] = []
    taken: set[str] = set()
    for label, name in enumerate(names):
        folder = shorten(re.sub(r"[^\w .-]", "_", name).strip(" ."), 100) or str(label)
        if folder.partition(".")[0].strip().upper() in RESERVED or folder.lower() in taken:
            folder = f"{folder}_{label}"
        taken.add(folder.lower())
        folders.append(folder)
    return folders


def shorten(name: str, limit: int = 180) -> str:
    """A file name of at most `limit` bytes; file systems allow 255, of which numbers and suffixes need some."""
    content = name.encode("utf-8", "surrogateescape")
    return name if len(content) <= limit else content[:limit].decode("utf-8", "ignore").strip(" .")


class UniqueStems:
    """File stems for results, unique also for inputs of the same name (`a/1.jpg`, `b/1.jpg`, `a/1.png`)."""

    def __init__(self) -> None:
        self.given: dict[str, str] = {}
        self.taken: set[str] = set()
        self.next: Counter[str] = Counter()  # per stem: the last number tried

    def __call__(self, path: str, stem: str | None = None) -> str:
        """The stem for an input; stem: wanted, by default that of the path."""
        if path not in self.given:
            base = stem = shorten(Path(path).stem if stem is None else stem)
            while stem in self.taken:
                self.next[base] += 1
                stem = f"{base}_{self.next[base] + 1}"
            self.taken.add(stem)
            self.given[path] = stem
        return self.given[path]
