"""The files for VOC's server: complete, in its form, and the kit finds in them the AP that val.py prints."""

import tarfile
import xml.etree.ElementTree as ET
from pathlib import Path

import numpy as np
import pytest
import torch

import val
from data.index import Index, load_index
from engine.evaluation import job
from engine.evaluation.collector import Collector
from engine.evaluation.evaluate import Evaluation
from engine.evaluation.metrics.found import Found
from engine.evaluation.submission.voc import voc_names, write_voc_files
from tests.data import makers
from tests.engine.evaluation.voc_kit import kit_ap
from tests.refusals import refused
from tests.tiny import NAMES, tiny_checkpoint
from utils.structures import Detections

SIDE = 96


def annotation(random: np.random.Generator) -> str:
    """XML of some objects of `NAMES`, a third of them difficult."""
    objects = []
    for _ in range(random.integers(1, 6)):
        x, y, w, h = (*random.integers(1, 60, 2).tolist(), *random.integers(8, 40, 2).tolist())
        objects.append(makers.xml_object(NAMES[random.integers(3)], x, y, min(x + w, makers.WIDTH),
                                         min(y + h, makers.HEIGHT), difficult=int(random.random() < 0.33)))
    return makers.xml("".join(objects))


@pytest.fixture(scope="module")
def kit(tmp_path_factory) -> Path:
    """A small kit: 2007 test with labels, 2012 test without; returns the data YAML."""
    random = np.random.default_rng(1)
    folder = tmp_path_factory.mktemp("voc")
    tiny_checkpoint(folder / "tiny.pt")
    root = makers.voc_devkit(folder, {
        "VOC2007": {"test": {f"{k:06}": annotation(random) for k in range(6)}},
        "VOC2012": {"test": {f"2008_{k:06}": None for k in range(3)}}})
    return makers.config(folder, path=str(root), val="VOC2007/ImageSets/Main/test.txt",
                         test="VOC2012/ImageSets/Main/test.txt", names=NAMES)


def evaluated(kit: Path, *flags: str, weights: Path | None = None) -> Evaluation:
    words = ["--weights", weights or kit.parent / "tiny.pt", "--data", kit, "--imgsz", SIDE, "--workers", 0, "--device",
             "cpu", "--project", kit.parent / "runs", "--exist-ok", *flags]
    return val.main(val.build_parser().parse_args([str(word) for word in words]))


def rows_of(path: Path) -> list[tuple[str, float, tuple[float, ...]]]:
    rows = [line.split() for line in path.read_text().splitlines()]
    assert all(len(row) == 6 for row in rows)
    return [(row[0], float(row[1]), tuple(map(float, row[2:]))) for row in rows]


def by_kit(files: Path, annotations: Path, name: str, rule: str) -> float:
    """AP of a class as the kit has it: from the result file and the XML files alone."""
    objects = {}
    for file in annotations.glob("*.xml"):
        found = [(tuple(float(o.findtext(f"bndbox/{c}")) for c in ("xmin", "ymin", "xmax", "ymax")),
                  o.findtext("difficult") == "1") for o in ET.parse(file).getroot().iter("object")
                 if o.findtext("name") == name]
        objects[file.stem] = found
    return kit_ap(objects, rows_of(files / f"comp4_det_test_{name}.txt"), rule)


@pytest.mark.parametrize("rule", ["voc07", "voc"])
def test_the_kit_finds_in_the_files_what_val_prints(kit, rule, capsys):
    result = evaluated(kit, "--save-voc", "--metric", rule, "--name", rule)
    folder = kit.parent / "runs" / rule
    for row, name in zip(result.own.voc.per_class, NAMES, strict=True):
        ap = by_kit(folder / "results/VOC2007/Main", kit.parent / "VOCdevkit/VOC2007/Annotations", name, rule)
        assert pytest.approx(ap, abs=1e-9) == row.AP and row.labels
    assert 0 < result.own.voc.AP < 1 and sum(row.difficult for row in result.own.voc.per_class)
    printed, stored = capsys.readouterr().out, (folder / "metrics.txt").read_text()
    table = stored[stored.rindex("VOC 20"):]
    assert table in printed and stored.endswith(table) and "AP50" in stored and f"{result.own.voc.AP:.4f}" in table
    assert (folder / f"{rule}_PR_curve.png").is_file()


def test_coco_alone_by_default_and_its_numbers_are_the_same_with_vocs_beside(kit):
    plain, both = evaluated(kit, "--noplots"), evaluated(kit, "--noplots", "--metric", "voc07", "--name", "both")
    assert plain.own is None and plain.metrics.values == both.metrics.values
    texts = [(kit.parent / "runs" / name / "metrics.txt").read_text() for name in ("exp", "both")]
    assert "VOC 2007" not in texts[0] and texts[0].splitlines()[1] in texts[1]
    assert not list((kit.parent / "runs" / "both").glob("*.png"))


def test_a_split_without_labels_gives_a_whole_archive(kit, capsys):
    evaluated(kit, "--task", "test", "--save-voc", "--metric", "voc", "--name", "server", "--conf-thres", "0.05")
    folder = kit.parent / "runs" / "server"
    expected = [f"results/VOC2012/Main/comp4_det_test_{name}.txt" for name in NAMES]
    with tarfile.open(folder / "results.tar.gz") as tar:
        assert tar.getnames() == expected
        for member in tar.getmembers():
            assert tar.extractfile(member).read() == (folder / member.name).read_bytes()
    rows = [row for name in expected for row in rows_of(folder / name)]
    assert {row[0] for row in rows} == {f"2008_{k:06}" for k in range(3)}
    assert all(1 <= x1 <= x2 + 1 and y1 <= y2 + 1 for _, _, (x1, y1, x2, y2) in rows)
    assert str(folder / "results.tar.gz") in capsys.readouterr().out


def judged(index: Index) -> Found:
    collector = Collector(index.truth)
    found = Detections(torch.tensor([[0.0, 0.0, 10.5, 20.0], [1.0, 2.0, 3.0, 4.0]]), torch.tensor([0.75, 0.5]),
                       torch.tensor([1, 1]))
    collector.update([index.records[0].image_id], [found])
    return collector.found()


def test_rows_count_pixels_from_one_and_classes_without_detections_have_a_file(kit, tmp_path):
    index = load_index(kit, "test", cache=False)
    archive = write_voc_files(judged(index), index, tmp_path / "a")
    main = tmp_path / "a" / "results/VOC2012/Main"
    assert (main / f"comp4_det_test_{NAMES[1]}.txt").read_text() == (
        "2008_000000 0.75000 1.000 1.000 10.500 20.000\n2008_000000 0.50000 2.000 3.000 3.000 4.000\n")
    assert (main / f"comp4_det_test_{NAMES[0]}.txt").read_text() == ""
    again = write_voc_files(judged(index), index, tmp_path / "b")
    assert archive.read_bytes() == again.read_bytes()


def test_other_data_get_the_last_year_and_the_name_of_the_split(tmp_path):
    index = load_index(makers.yolo(tmp_path, {"a.jpg": "0 0.5 0.5 0.2 0.2\n"}), "train", cache=False)
    names = voc_names(index)
    assert (names.year, names.image_set, list(names.stems.values())) == ("VOC2012", "train", ["a"])


@pytest.mark.parametrize(("images", "words", "code", "said"), [
    ({"a b.jpg": ""}, {}, "bad-name", "a b.jpg"), ({"a.jpg": "", "a.png": ""}, {}, "repeated-name", "'a'"),
    ({"a.jpg": ""}, {"names": ["cat", "dog/cow"]}, "bad-name", "dog/cow")])
def test_what_the_files_cannot_name_is_refused(tmp_path, images, words, code, said):
    index = load_index(makers.yolo(tmp_path, images, **words), "train", cache=False)
    with refused(code, "--save-voc", said):
        voc_names(index)


def test_two_years_at_once_are_refused_before_the_work(kit, tmp_path, monkeypatch):
    both = makers.config(tmp_path, path=str(kit.parent / "VOCdevkit"), names=NAMES,
                         val=[f"VOC{year}/ImageSets/Main/test.txt" for year in (2007, 2012)])
    monkeypatch.setattr(job, "open_loader", lambda *_: pytest.fail("the images were opened"))
    with refused("several-years", "VOC2007 and VOC2012"):
        evaluated(both, "--save-voc", weights=kit.parent / "tiny.pt")
