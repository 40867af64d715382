"""Data YAML, list files and the label cache."""

import io
import json
import shutil
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.fuzzing.kind import Kind, Wrong, read_facts, write_facts
from benchmarks.fuzzing.kinds.common import check_sound, read, write_yaml, write_yolo
from benchmarks.fuzzing.mutate import NUMBERS, TEXTS, pick, spoil_bytes, spoil_tree
from benchmarks.fuzzing.yaml_text import spoil_yaml
from data import Index, load_index


class DataYaml(Kind):
    """A YAML with faults over a whole data set."""

    name, weight = "data-yaml", 3.0

    def ground(self, folder: Path) -> None:
        write_yolo(folder, np.random.default_rng(0))

    def make(self, rng: np.random.Generator, ground: Path, folder: Path) -> None:
        shutil.copytree(ground, folder, dirs_exist_ok=True)
        content: dict[str, Any] = {
            "path": ".", "train": "images/train", "val": ["images/train"], "test": None, "nc": 3,
            "names": {0: "person", 1: "car", 2: "traffic light"},
        }
        if rng.random() < 0.3:
            content = {
                "train": "images/train", "val": "images/train", "names": ["person", "car", "traffic light"],
                "format": "yolo", "difficult": "keep",
            }
        if rng.random() < 0.15:
            content = {
                "format": "shapes", "path": "shapes", "train": 1, "val": 1, "size": [32, 48], "seed": 0,
                "scene": {"max_objects": 4}, "names": ["circle"],
            }
            data = spoil_yaml(rng, content)
            large = [w for w in data.replace(b",", b" ").split() if w.strip(b"-+.").isdigit() and len(w) > 2]
            content = {**content, "train": 1} if large else content  # many large pictures are no fault, only work
            data = spoil_yaml(rng, {"seed": 0}) + b"\nformat: shapes\ntrain: 1\nsize: 32\n" if large else data
        else:
            data = spoil_yaml(rng, content)
        (folder / "data.yaml").write_bytes(data)
        write_facts(folder, split=str(rng.choice(["train", "train", "val", "test"])))

    def attempt(self, folder: Path) -> None:
        read(folder, read_facts(folder)["split"])


class ListFile(Kind):
    """A split that is a list of images, with lines that name none."""

    name, weight = "list", 1.0

    def ground(self, folder: Path) -> None:
        write_yolo(folder, np.random.default_rng(0), 3)

    def make(self, rng: np.random.Generator, ground: Path, folder: Path) -> None:
        shutil.copytree(ground, folder, dirs_exist_ok=True)
        lines = [f"images/train/{i}.jpg" for i in range(3)]
        for _ in range(int(rng.integers(1, 4))):
            lines.insert(int(rng.integers(len(lines) + 1)), pick(rng, (*TEXTS, *LINES)).replace("\n", " "))
        text = pick(rng, ("\n", "\r\n", "\r", "\n\n")).join(lines)
        coding = pick(rng, ("utf-8", "utf-8", "utf-8-sig", "utf-16", "latin-1"))
        data = text.encode(coding, "replace")
        (folder / "train.txt").write_bytes(spoil_bytes(rng, data) if rng.random() < 0.3 else data)
        write_yaml(folder, {"train": "train.txt", "names": ["a", "b", "c"]})
        sources = [line for line in lines if line.endswith(".jpg") or rng.random() < 0.2]
        (folder / "source.txt").write_text("\n".join(sources).encode("utf-8", "replace").decode(), encoding="utf-8")

    def attempt(self, folder: Path) -> None:
        from engine.inference.sources import open_source

        index = read(folder)
        found = {Path(record.path).name for record in index.records}
        if not found <= {"0.jpg", "1.jpg", "2.jpg"}:
            raise Wrong(f"images that nobody listed: {sorted(found)[:5]}")
        for _ in open_source("source.txt"):
            pass


LINES = (
    "images", "images/train", ".", "images/train/0.jpg", "./images/train/1.jpg", "images\\train\\2.jpg",
    "/images/train/0.jpg", "images/train/9.jpg", "images/train/0.jpg 0", "'images/train/0.jpg'",
    '"images/train/1.jpg"', "images/train/0.jpg,", "# images/train/0.jpg", "images/train/" + "x" * 300 + ".jpg",
    "labels/train/0.txt", "data.yaml", "train.txt", "images/train/*.jpg", "file://images/train/0.jpg",
    "images/train/0", "images/train/0.JPG", "../" * 40 + "x.jpg",
)


class LabelCache(Kind):
    """The label cache beside a data set, with corrupted arrays or container."""

    name, weight = "cache", 1.0

    def ground(self, folder: Path) -> None:
        content = write_yolo(folder, np.random.default_rng(0), 3)
        write_yaml(folder, {"path": ".", **content})

    def make(self, rng: np.random.Generator, ground: Path, folder: Path) -> None:
        shutil.copytree(ground, folder, dirs_exist_ok=True)
        write_facts(folder, recipe=[int(x) for x in rng.integers(0, 2**31, 4)])

    def attempt(self, folder: Path) -> None:
        """The cache's key holds where the data lie, so it is made here, and spoiled by what the facts say."""
        truth = load_index("data.yaml", "train")
        cached = sorted(folder.rglob("*.cache.npz"))
        if not cached:
            raise Wrong("no cache was written beside the data")
        rng = np.random.default_rng(read_facts(folder)["recipe"])
        whole = cached[0].read_bytes()
        by_bytes = rng.random() < 0.4
        cached[0].write_bytes(spoil_bytes(rng, whole) if by_bytes else spoiled_arrays(rng, whole))
        again = load_index("data.yaml", "train")
        check_sound(again)
        if by_bytes and not same(truth, again):
            raise Wrong("spoiled cache believed: other records than those of the label files")


def spoiled_arrays(rng: np.random.Generator, data: bytes) -> bytes:
    """An .npz whose checksums are right and whose arrays are not."""
    with np.load(io.BytesIO(data), allow_pickle=False) as stored:
        arrays = {name: stored[name] for name in stored.files}
    for _ in range(int(rng.integers(1, 3))):
        name = pick(rng, sorted(arrays))
        if name == "meta":
            meta = spoil_tree(rng, json.loads(arrays[name].tobytes()))
            arrays[name] = np.frombuffer(json.dumps(meta).encode(), np.uint8)
        else:
            arrays[name] = _spoil_array(rng, arrays[name])
    out = io.BytesIO()
    np.savez(out, **{name: array for name, array in arrays.items() if rng.random() > 0.03})
    return spoil_names(rng, out.getvalue())


def spoil_names(rng: np.random.Generator, data: bytes) -> bytes:
    """Now and then compressed, or with an entry that is no array."""
    if rng.random() > 0.1:
        return data
    out = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as new:
        for name in old.namelist():
            new.writestr(name, old.read(name))
        new.writestr("more.npy", b"\x93NUMPY\x01\x00v\x00{'descr': '|O', 'fortran_order': False, 'shape': (9,), }\n")
    return out.getvalue()


def _spoil_array(rng: np.random.Generator, array: np.ndarray) -> np.ndarray:
    chance = rng.random()
    if chance < 0.5 and array.size:
        array = array.copy()
        number = float(pick(rng, NUMBERS))
        info = np.iinfo(array.dtype) if array.dtype.kind in "iu" else None
        number = 0.0 if info and not np.isfinite(number) else number
        number = int(np.clip(number, int(info.min), int(info.max) // 2)) if info else number
        with np.errstate(all="ignore"):
            array.reshape(-1)[int(rng.integers(array.size))] = number
        return array
    if chance < 0.65:
        return array[: int(rng.integers(len(array) + 1))] if array.ndim else array
    if chance < 0.75:
        return np.concatenate((array, array)) if array.ndim else array
    if chance < 0.9:
        return array.astype(pick(rng, (np.float64, np.int8, np.uint64, bool, "U8", np.complex64)))
    return array.reshape(-1) if array.ndim != 1 else array[None]


def same(a: Index, b: Index) -> bool:
    """Whether two indexes hold the same records."""
    if len(a) != len(b) or a.names != b.names:
        return False
    return all(
        x.path == y.path
        and (x.height, x.width) == (y.height, y.width)
        and np.array_equal(x.boxes, y.boxes)
        and np.array_equal(x.labels, y.labels)
        and np.array_equal(x.ignore, y.ignore)
        for x, y in zip(a.records, b.records, strict=True)
    )
