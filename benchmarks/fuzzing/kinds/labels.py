"""Labels of every format: spoiled rows, trees and bytes; no row may be lost without being counted."""

import json
import shutil
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.fuzzing.kind import Kind, read_facts, write_facts
from benchmarks.fuzzing.kinds.common import (
    NAMES,
    SIDE,
    check_counted,
    read,
    rows,
    write_pictures,
    write_yaml,
    write_yolo,
)
from benchmarks.fuzzing.mutate import (
    TEXTS,
    as_json,
    encoded,
    few,
    junk,
    pick,
    spoil_bytes,
    spoil_rows,
    spoil_tree,
)


class YoloTxt(Kind):
    """Label rows with wrong numbers, columns, separators, encodings."""

    name, weight = "yolo", 3.0

    def ground(self, folder: Path) -> None:
        write_yaml(folder, write_yolo(folder, np.random.default_rng(0)))

    def make(self, rng: np.random.Generator, ground: Path, folder: Path) -> None:
        shutil.copytree(ground, folder, dirs_exist_ok=True)
        file = folder / "labels" / "train" / "0.txt"
        table = rows(rng, int(rng.integers(1, 8)))
        if rng.random() < 0.2:  # polygons
            table = [[row[0], *np.round(rng.random(2 * int(rng.integers(3, 9))), 4)] for row in table]
        lines = spoil_rows(rng, table)
        data = encoded(rng, pick(rng, ("\n", "\n", "\r\n")).join(lines) + "\n", 0.1)
        spoiled = rng.random() < 0.2
        file.write_bytes(spoil_bytes(rng, data) if spoiled else data)
        write_facts(folder, written=0 if spoiled else len(lines) + 3, polygons=bool(rng.random() < 0.2))

    def attempt(self, folder: Path) -> None:
        facts = read_facts(folder)
        check_counted(read(folder, polygons=facts["polygons"]).report, facts["written"])


class VocXml(Kind):
    """XML files whose elements are missing, doubled, of other content or encoding."""

    name, weight = "voc", 2.0

    def ground(self, folder: Path) -> None:
        write_pictures(folder / "images")
        (folder / "images" / "1.xml").write_bytes(ET.tostring(voc_tree(np.random.default_rng(0))))
        write_yaml(folder, {"train": "images", "val": "images", "names": NAMES, "format": "voc"})

    def make(self, rng: np.random.Generator, ground: Path, folder: Path) -> None:
        shutil.copytree(ground, folder, dirs_exist_ok=True)
        root = voc_tree(rng)
        for _ in range(few(rng)):
            _spoil_element(rng, root)
        coding = pick(rng, ("utf-8", "utf-8", "utf-8", "utf-16", "gbk", "us-ascii", "latin-1"))
        try:
            data = ET.tostring(root, coding, xml_declaration=bool(rng.random() < 0.5))
        except (UnicodeError, ValueError, TypeError):
            data = ET.tostring(root)
        if rng.random() < 0.2:
            data = pick(rng, XML_HEADS) + data
        spoiled = rng.random() < 0.2
        (folder / "images" / "0.xml").write_bytes(spoil_bytes(rng, data) if spoiled else data)
        objects = len(list(root.iter("object"))) + 2
        write_facts(folder, written=0 if spoiled else objects)

    def attempt(self, folder: Path) -> None:
        check_counted(read(folder).report, read_facts(folder)["written"])


XML_HEADS = (
    b"<!DOCTYPE a [<!ENTITY x 'y'>]>", b"<?xml version='1.0' encoding='x'?>", b"\xef\xbb\xbf", b"<?xml version='9'?>",
    b"\n\n", b"<?xml version='1.0' encoding='gb2312'?>", b"<?xml version='1.0' encoding='utf-16'?>", b"<a>" * 20_000,
    b"<?xml version='1.0' encoding='rot13'?>", b"<?xml version='1.0' encoding='big5'?>", b"\0" * 70,
)


def voc_tree(rng: np.random.Generator) -> ET.Element:
    """An annotation with two objects."""
    root = ET.Element("annotation")
    for word, text in (("folder", "images"), ("filename", "0.jpg"), ("segmented", "0")):
        ET.SubElement(root, word).text = text
    size = ET.SubElement(root, "size")
    for word, text in (("width", str(SIDE)), ("height", str(SIDE)), ("depth", "3")):
        ET.SubElement(size, word).text = text
    for _ in range(2):
        item = ET.SubElement(root, "object")
        for word, text in (("name", pick(rng, NAMES)), ("difficult", "0"), ("truncated", "0")):
            ET.SubElement(item, word).text = text
        box = ET.SubElement(item, "bndbox")
        x, y = rng.integers(1, 30, 2)
        for word, value in (("xmin", x), ("ymin", y), ("xmax", x + 20), ("ymax", y + 30)):
            ET.SubElement(box, word).text = str(value)
    return root


def _spoil_element(rng: np.random.Generator, root: ET.Element) -> None:
    parents = [(parent, child) for parent in root.iter() for child in parent]
    if not parents:
        return
    parent, child = pick(rng, parents)
    chance = rng.random()
    if chance < 0.55:
        value = str(junk(rng, 3))
        child.text = "".join(c for c in value if c.isprintable())[:2000]
    elif chance < 0.7:
        parent.remove(child)
    elif chance < 0.85:
        for _ in range(int(rng.choice([1, 2, 400]))):
            parent.append(child)
    else:
        child.tag = pick(rng, ("object", "bndbox", "size", "name", "polygon", "robndbox", "x", "part"))


class CocoJson(Kind):
    """COCO files with other types, ids and lists than the format has."""

    name, weight = "coco", 3.0

    def ground(self, folder: Path) -> None:
        write_pictures(folder / "images")
        write_yaml(
            folder,
            {"path": ".", **{split: {"images": "images", "annotations": "truth.json"} for split in ("train", "val")}},
        )

    def make(self, rng: np.random.Generator, ground: Path, folder: Path) -> None:
        shutil.copytree(ground, folder, dirs_exist_ok=True)
        tree = spoil_tree(rng, coco_tree(rng))
        data = pick(rng, (as_json, as_json, lambda t: json.dumps(t, indent=1, ensure_ascii=True).encode()))(tree)
        data = data if rng.random() < 0.9 else encoded(rng, data.decode(), 1.0)
        spoiled = rng.random() < 0.2
        (folder / "truth.json").write_bytes(spoil_bytes(rng, data) if spoiled else data)
        listed = tree.get("annotations") if isinstance(tree, dict) else None
        write_facts(
            folder, written=len(listed) if isinstance(listed, list) and not spoiled else 0,
            polygons=bool(rng.random() < 0.3), evaluate=bool(rng.random() < 0.5),
        )

    def attempt(self, folder: Path) -> None:
        facts = read_facts(folder)
        index = read(folder, polygons=facts["polygons"])
        check_counted(index.report, facts["written"])
        if facts["evaluate"]:
            evaluate(index)


def evaluate(index: Any) -> None:
    """Evaluate detections that are the truth itself, as `val.py` would."""
    import torch

    from engine.evaluation.collector import Collector
    from engine.evaluation.metrics.judge import judge
    from utils.structures import Detections
    from utils.truth import Truth

    collector = Collector(Truth.from_coco(index.coco(), index.category_ids))
    for record in index.records:
        boxes = torch.from_numpy(record.boxes)
        collector.update(
            [record.image_id],
            [Detections(boxes, torch.linspace(0.9, 0.1, len(boxes)), torch.from_numpy(record.labels))],
        )
    judge(collector.truth, collector.found())


def coco_tree(rng: np.random.Generator) -> dict[str, Any]:
    """Two images, five annotations, with what tools write beside what is needed."""
    categories = [{"id": i * 7 + 1, "name": name, "supercategory": "x"} for i, name in enumerate(NAMES)]
    images = [{"id": 10 + i, "file_name": f"{i}.jpg", "width": SIDE, "height": SIDE, "license": 1} for i in range(2)]
    annotations = []
    for i in range(5):
        x, y, w, h = (float(v) for v in np.round(rng.uniform(2, 30, 4), 2))
        annotations.append(
            {
                "id": i + 1, "image_id": 10 + i % 2, "category_id": int(rng.integers(3)) * 7 + 1,
                "bbox": [x, y, w, h], "area": round(w * h, 2), "iscrowd": int(i == 4), "ignore": 0,
                "segmentation": [[x, y, x + w, y, x + w, y + h]]
                if i < 4
                else {"counts": [0, 9, SIDE * SIDE - 9], "size": [SIDE, SIDE]},
            }
        )
    return {
        "info": {"year": 2020}, "licenses": [], "images": images, "annotations": annotations,
        "categories": categories,
    }


class VisDroneTxt(Kind):
    """VisDrone's `annotations/*.txt`: left, top, width, height, score, class, truncation, occlusion."""

    name, weight = "visdrone", 1.0
    folder = "annotations"

    def row(self, rng: np.random.Generator) -> list[Any]:
        return [*rng.integers(1, 30, 4), int(rng.random() < 0.9), int(rng.integers(12)), 0, int(rng.integers(3))]

    def line(self, words: str) -> str:
        return words.replace(" ", ",")

    def ground(self, folder: Path) -> None:
        write_pictures(folder / "images")
        write_yaml(folder, {"path": ".", "train": "images", "val": "images", "names": self.names()})

    def names(self) -> list[str]:
        return ["pedestrian", "people", "bicycle", "car", "van", "truck", "tricycle", "awning-tricycle", "bus", "motor"]

    def make(self, rng: np.random.Generator, ground: Path, folder: Path) -> None:
        shutil.copytree(ground, folder, dirs_exist_ok=True)
        place = folder / self.folder
        place.mkdir()
        head, written, bytes_too = pick(rng, ("", self.head())), 0, bool(rng.random() < 0.2)
        for number in range(2):
            table = [self.row(rng) for _ in range(3)]
            lines = spoil_rows(rng, table) if number == 0 else [" ".join(map(str, row)) for row in table]
            data = (head + "\n".join(map(self.line, lines)) + pick(rng, ("\n", ",\n", ""))).encode("utf-8", "replace")
            (place / f"{number}.txt").write_bytes(spoil_bytes(rng, data) if bytes_too and number == 0 else data)
            written += len(lines)
        write_facts(folder, written=0 if bytes_too else written)

    def head(self) -> str:
        return ""

    def attempt(self, folder: Path) -> None:
        check_counted(read(folder).report, read_facts(folder)["written"])


class DotaTxt(VisDroneTxt):
    """DOTA's `labelTxt/*.txt`: eight corners, class name, difficult; two lines of head."""

    name, weight = "dota", 1.0
    folder = "labelTxt"

    def row(self, rng: np.random.Generator) -> list[Any]:
        x, y, w, h = rng.integers(1, 30, 4)
        return [x, y, x + w, y, x + w, y + h, x, y + h, pick(rng, ("plane", "ship", TEXTS[2])), int(rng.integers(3))]

    def line(self, words: str) -> str:
        return words

    def names(self) -> list[str]:
        return ["plane", "ship", "storage-tank"]

    def head(self) -> str:
        return "imagesource:GoogleEarth\ngsd:0.14\n"
