"""VOC's years together, as cfg/data/voc0712.yaml and voc07++12.yaml name them, on a small development kit."""

from pathlib import Path

import numpy as np
import pytest
import yaml

from data.data_yaml import read_source
from data.index import Index, load_index
from engine.training.config import TrainConfig
from engine.training.inputs import open_train
from tests.conftest import ROOT
from tests.data import makers
from tests.refusals import refused

DOG, HARD_CAT = makers.xml_object("dog", 1, 1, 50, 40), makers.xml_object("cat", 11, 21, 30, 40, difficult=1)
BOTH, EMPTY = makers.xml(DOG + HARD_CAT), makers.xml("")
KIT = {"VOC2007": {"trainval": {"000005": BOTH, "000007": EMPTY, "2008_000002": makers.xml(HARD_CAT)},
                   "test": {"000001": BOTH, "000002": BOTH}},
       "VOC2012": {"trainval": {"2008_000002": BOTH, "2008_000003": BOTH}, "val": {"2008_000003": BOTH},
                   "test": {"2008_000001": None, "2008_000004": None}}}  # a stem of both years; test without labels


def config(folder: Path, name: str, **words) -> Path:
    """The data YAML of this project, over the small kit."""
    content = yaml.safe_load((ROOT / "cfg/data" / f"{name}.yaml").read_text(encoding="utf-8"))
    path = folder / f"{name}.yaml"
    path.write_text(yaml.safe_dump({**content, "path": str(makers.voc_devkit(folder, KIT)), **words}))
    return path


def names_of(index: Index) -> list[str]:
    return ["/".join(Path(r.path).parts[-3::2]) for r in index.records]


def test_years_are_read_as_one_split_and_a_stem_of_both_stays_two_images(tmp_path):
    index = load_index(config(tmp_path, "voc0712"), "train")
    assert names_of(index) == ["VOC2007/000005.jpg", "VOC2007/000007.jpg", "VOC2007/2008_000002.jpg",
                               "VOC2012/2008_000002.jpg", "VOC2012/2008_000003.jpg"]
    assert len({r.image_id for r in index.records}) == 5 and not index.report.findings
    assert [len(r) for r in index.records] == [2, 0, 1, 2, 2]
    assert [index.names[k] for k in index.records[0].labels] == ["dog", "cat"]
    val = load_index(config(tmp_path, "voc0712"), "val")
    assert names_of(val) == ["VOC2007/000001.jpg", "VOC2007/000002.jpg"] and val.report.ignored == 2


def test_07_plus_plus_12_trains_on_all_of_07_and_its_test_has_no_labels(tmp_path):
    path = config(tmp_path, "voc07++12")
    assert len(load_index(path, "train")) == 7 and len(load_index(path, "val")) == 1
    test = load_index(path, "test")
    assert names_of(test) == ["VOC2012/2008_000001.jpg", "VOC2012/2008_000004.jpg"]
    assert test.report.count("missing_label") == 2 and len(test.truth.image) == 0


@pytest.mark.parametrize("name", ["voc", "voc0712", "voc07++12"])
def test_the_yaml_names_the_published_lists_and_the_twenty_classes(name):
    content = yaml.safe_load((ROOT / "cfg/data" / f"{name}.yaml").read_text(encoding="utf-8"))
    assert len(content["names"]) == 20 and content["names"] == sorted(content["names"])
    entries = [e for split in ("train", "val", "test") for e in np.atleast_1d(content[split]).tolist()]
    sets = ("trainval", "val", "test")
    assert set(entries) <= {f"VOC{year}/ImageSets/Main/{image_set}.txt" for year in (2007, 2012) for image_set in sets}


def test_a_file_listed_in_two_lists_is_taken_once(tmp_path):
    lists = [f"VOC2012/ImageSets/Main/{name}.txt" for name in ("trainval", "val")]
    index = load_index(config(tmp_path, "voc0712", train=lists), "train")
    assert len(index) == 2 and index.report.count("repeated_image") == 1


@pytest.mark.parametrize(("word", "objects", "ignored"), [("ignore", 3, 4), ("drop", 3, 0), ("keep", 7, 0)])
def test_difficult_objects_in_training(tmp_path, word, objects, ignored):
    index = open_train(TrainConfig(data=str(config(tmp_path, "voc0712", difficult=word))))
    table = index.records
    assert (int((~table.ignore).sum()), int(table.ignore.sum())) == (objects, ignored)
    assert (index.report.boxes, index.report.ignored) == (objects, ignored)
    assert index.report.background == (2 if word == "drop" else 1)
    assert ("4 difficult objects are background in training" in index.report.format()) == (word == "drop")
    assert len(index) == 5 and [len(r) for r in table] == ([1, 0, 0, 1, 1] if word == "drop" else [2, 0, 1, 2, 2])
    assert table[0].boxes[0].tolist() == table[3].boxes[0].tolist() == table[4].boxes[0].tolist() == [0, 0, 50, 40]


def test_difficult_objects_are_ignore_regions_in_evaluation_with_drop_and_ignore(tmp_path):
    for word, ignored in (("ignore", 2), ("drop", 2), ("keep", 0)):
        val = load_index(config(tmp_path, "voc0712", difficult=word), "val")
        assert val.report.ignored == ignored and val.truth.crowd.sum() == ignored


def test_difficult_is_told_to_be_unused_where_files_have_no_such_flag(tmp_path):
    path = makers.yolo(tmp_path, {"a.jpg": "0 0.5 0.5 0.2 0.2\n"}, difficult="drop")
    assert read_source(path, "train").difficult == "ignore"
    assert "`difficult:` is not used here: only voc and dota files" in load_index(path, "train").report.format()
    with refused("unknown-value", "difficult: dropped", "drop"):
        load_index(config(tmp_path, "voc0712", difficult="dropped"), "train")
