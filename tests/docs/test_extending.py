"""Every example of docs/extending.md works as it is written: its files are written out and its commands run."""

import csv
import re
import shlex
import sys
from pathlib import Path

import pytest

import data.__main__
import data.formats
import models.__main__
import train
from models import registry
from models.boxes import similarity
from tests.data import makers
from tests.tiny import tiny_data

DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "extending.md"
PARSERS = {"train.py": (train.main, train.build_parser), "data": (data.__main__.main, data.__main__.build_parser),
           "models": (models.__main__.main, models.__main__.build_parser)}
SMALL = {"train.py": "--imgsz 64 --epochs 1 --batch 2 --workers 0 --device cpu --noplots --noautoanchor --project runs",
         "data": "--noplots --project runs", "models": "--imgsz 64"}


@pytest.fixture(autouse=True)
def in_a_folder(monkeypatch, tmp_path):
    """Work in an empty folder; registered layers, and loaded plugins and formats, are removed afterwards."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(registry, "_LAYERS", {name: list(kinds) for name, kinds in registry._LAYERS.items()})
    kinds, before = dict(similarity.KINDS), set(sys.modules)
    yield
    similarity.KINDS.clear()
    similarity.KINDS.update(kinds)
    for name in set(sys.modules) - before:
        if "_plugin_" in name or name.startswith("data.formats."):
            del sys.modules[name]


def blocks(title: str) -> list[tuple[str, str]]:
    """(language, text) of the code blocks in a section."""
    section = DOCUMENT.read_text(encoding="utf-8").split(f"\n## {title}\n")[1].split("\n## ")[0]
    return re.findall(r"```(\w+)\n(.*?)```", section, re.DOTALL)


def write_files(title: str) -> list[str]:
    """Write the files of a section, each named by its first line, below the working directory."""
    names = []
    for language, text in blocks(title):
        if language in ("python", "yaml"):
            path = Path(text.splitlines()[0].removeprefix("# "))
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
            names.append(str(path))
    return names


def run_commands(title: str, **more: str) -> None:
    """Run the commands of a section in this process, at the smallest size. more: further flags by command."""
    for language, text in blocks(title):
        for line in text.splitlines() if language == "sh" else []:
            command, *words = shlex.split(line.replace("python -m ", "").replace("python ", ""))
            main, parser = PARSERS[command]
            small = f"{SMALL[command]} {more.get(command.removesuffix('.py'), '')}".split()
            main(parser().parse_args([*words, *small]))


def test_every_example_is_at_most_one_file_and_one_yaml():
    sections = re.findall(r"\n## (.*)\n", DOCUMENT.read_text(encoding="utf-8"))
    for title in sections:
        languages = [language for language, _ in blocks(title)]
        assert languages and languages.count("yaml") <= 1 and languages.count("python") <= 1, title
        assert languages.count("sh") == 1, title


@pytest.mark.parametrize("title", ["A layer", "A neck", "A head", "A box loss"])
def test_a_module_of_a_model(tmp_path, title):
    assert len(write_files(title)) == (1 if title == "A box loss" else 2)
    run_commands(title, train=f"--data {tiny_data(tmp_path, 4, 2)}/tiny.yaml")
    assert Path("runs/exp/weights/best.pt").is_file()


def test_a_data_set():
    write_files("A data set")
    for split in ("train", "val"):
        for name in ("a", "b"):
            makers.image(Path(f"cells/images/{split}/{name}.jpg"))
            label = Path(f"cells/labels/{split}/{name}.txt")
            label.parent.mkdir(parents=True, exist_ok=True)
            label.write_text("0 .5 .5 .2 .2\n1 .3 .3 .2 .2\n")
    run_commands("A data set", train="--cfg yolov8n")
    assert Path("runs/exp/weights/best.pt").is_file()


def test_a_data_set_format(monkeypatch):
    assert write_files("A data set format") == ["data/formats/csv_boxes.py", "plates.yaml"]
    monkeypatch.setattr(data.formats, "__path__", [*data.formats.__path__, "data/formats"])
    monkeypatch.setattr(data.formats, "READERS", ("csv_boxes", *data.formats.READERS))
    for split in ("train", "val"):
        for name in ("a", "b", "empty"):
            makers.image(Path(f"plates/{name}.jpg"))
        with Path(f"plates/{split}.csv").open("w", newline="") as file:
            rows = csv.writer(file)
            rows.writerow(["image", "x1", "y1", "x2", "y2", "class"])
            rows.writerows([["a.jpg", 10, 10, 40, 30, "car"], ["a.jpg", 50, 20, 90, 50, "plate"],
                            ["b.jpg", 5, 5, 25, 35, "car"], ["b.jpg", 5, 5, 25, 35, "boat"],
                            ["empty.jpg", "", "", "", "", ""]])
    index = data.index.load_index("plates.yaml", "train")
    assert (index.report.images, index.report.boxes, index.report.background) == (3, 3, 1)
    assert index.report.count("bad_class") == 1 and index.records[0].boxes.tolist()[0] == [10, 10, 40, 30]
    run_commands("A data set format", train="--cfg yolov8n --tile 48")
