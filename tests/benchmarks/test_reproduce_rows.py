"""The files of cfg/reproduce: valid, of models with the published size, of recipes and flags that exist."""

import pytest
import torch
import yaml

from benchmarks.reproduce.commands import SERVERS
from benchmarks.reproduce.rows import known_rows, parse_flags, read_row, words_of
from data.data_yaml import KEYS
from engine.evaluation.config import ValConfig
from engine.training.config import TrainConfig
from engine.training.recipe import load_recipe
from models import build_model
from models.catalogue import head_type, resolve
from tests.refusals import refused
from utils.config import find_config, read_yaml

ROWS = {name: read_row(name) for name in known_rows()}
MODELS = {(row.cfg, row.classes): row for row in ROWS.values()}
GOOD = {"title": "T", "table": "t", "row": "r", "reason": "assumed", "tolerance": {"AP": 0.3}, "published": {"AP": 50},
        "train": [{"cfg": "yolov8n", "data": "coco", "epochs": 3, "imgsz": 64, "batch_size": 4}],
        "evaluate": {"task": "val", "conf_thres": 0.001}}


def written(folder, **changes):
    path = folder / "mine.yaml"
    path.write_text(yaml.safe_dump({key: value for key, value in {**GOOD, **changes}.items() if value is not None}))
    return path


@pytest.mark.parametrize("name", ROWS)
def test_every_row_says_what_it_is_and_judges_only_what_it_can(name):
    row = ROWS[name]
    assert row.repository.startswith("https://") and row.server in ("", *SERVERS)
    assert row.evaluate.get("task", "val") == ("test" if row.server or "voc07" in name or "ablation" in name else "val")
    assert row.comparable or row.missing, "without a target it has to say why"
    assert all(not text.endswith(".") for text in row.missing) and all(text.endswith(".") for text in row.notes)
    for stage in row.stages:
        assert read_yaml(find_config(stage["data"], "data")).keys() <= set(KEYS)
        head = head_type(resolve(stage["cfg"])).cls
        assert load_recipe(stage["hyp"]).for_head(head)
        asked = load_recipe(stage["hyp"]).run
        same = {**asked, **{key: stage[key] for key in asked if key in stage}} == asked
        assert same or not row.comparable, "a target that is trained otherwise than its recipe says"


@pytest.mark.parametrize("cfg, classes", MODELS)
def test_models_have_the_published_number_of_parameters(cfg, classes):
    row = MODELS[cfg, classes]
    with torch.device("meta"):
        model = build_model(cfg, classes)
    assert row.parameters in (None, sum(p.numel() for p in model.parameters()))


def test_the_rows_that_were_promised_are_there():
    count = {start: sum(name.startswith(start) for name in ROWS) for start in ("assn", "ssfpn", "scaloss", "assd",
                                                                               "salience", "scale-focused")}
    assert count == {"assn": 24, "ssfpn": 13, "scaloss": 10, "assd": 11, "salience": 2, "scale-focused": 2}
    assert ROWS["assn-yolov7"].published == {"AP": 51.5, "AP50": 70.0, "AP75": 56.1, "AP_S": 35.7, "AP_M": 56.3,
                                             "AP_L": 65.8}
    assert ROWS["scaloss-yolov3-tiny-sca"].published["AP90"] == 2.7
    assert not ROWS["scale-focused-detr-12"].comparable and not ROWS["assn-yolov8l"].comparable
    # val and test-dev are judged of one training, other losses are not
    assert ROWS["assn-yolov7"].key == ROWS["assn-yolov7-test-dev"].key
    assert ROWS["scaloss-yolov3-iou"].key != ROWS["scaloss-yolov3-giou"].key


def test_a_file_begins_with_its_base_and_adds_remarks(tmp_path):
    (tmp_path / "base.yaml").write_text(yaml.safe_dump({**GOOD, "notes": ["One."]}))
    (tmp_path / "mine.yaml").write_text("base: base.yaml\nnotes: [Two.]\npublished: {AP: 51}\n")
    row = read_row(tmp_path / "mine.yaml")
    assert (row.name, row.notes, row.published, row.cfg, row.data) == ("mine", ("One.", "Two."), {"AP": 51.0},
                                                                       "yolov8n", "coco")


@pytest.mark.parametrize("changes, code, names", [
    ({"title": None}, "missing-key", ["mine.yaml", "title"]),
    ({"published_numbers": {}}, "unknown-key", ["published_numbers"]),
    ({"published": {"AP_small": 3}}, "unknown-key", ["AP_small", "AP_S"]),
    ({"published": {"AP": 151}}, "bad-value", ["AP", "151"]),
    ({"published": {"AP50": 51}}, "missing-key", ["AP50", "tolerance"]),
    ({"reason": None}, "missing-key", ["reason"]),
    ({"train": [{"cfg": "yolov8n", "data": "coco", "epochs": 3}]}, "missing-key", ["batch_size"]),
    ({"train": [{**GOOD["train"][0], "epoch": 3}]}, "unknown-key", ["--epoch", "epochs"]),
    ({"train": [{**GOOD["train"][0], "epochs": "many"}]}, "bad-value", ["--epochs", "many"]),
    ({"train": [{**GOOD["train"][0], "device": "0"}]}, "bad-value", ["device", "where the row is run"]),
    ({"train": [GOOD["train"][0], {**GOOD["train"][0], "cfg": "yolov8s"}]}, "key-conflict", ["several models"]),
    ({"train": [{**GOOD["train"][0], "cos_lr": True, "linear_lr": True}]}, "flag-without-effect", ["linear-lr"]),
    ({"evaluate": {"iou": 0.6, "tasks": "val"}}, "unknown-key", ["--iou"]),
    ({"needs": {"weights": "yolov5s.pt"}}, "bad-value", ["needs"]),
    ({"needs": {"weights": {"file": "../a.pt", "from": "there"}}}, "bad-value", ["needs"]),
    ({"checkpoint": "first"}, "bad-value", ["first"]),
    ({"processes": 0}, "bad-value", ["processes"]),
    ({"notes": "one"}, "bad-value", ["notes"]),
])
def test_mistakes_are_named(tmp_path, changes, code, names):
    path = written(tmp_path, **changes)
    with refused(code, *names):
        read_row(path)


def test_an_unknown_row_is_told_the_nearest():
    with refused("unknown-row", "assn-yolov7"):
        read_row("asn-yolov7")


def test_flags_by_name_become_the_words_of_a_command_line():
    flags = {"batch_size": 4, "imgsz": [640, 320], "sync_bn": True}
    assert words_of(flags) == ["--batch-size", "4", "--imgsz", "640", "320", "--sync-bn"]
    config = parse_flags(TrainConfig, flags, "here")
    assert (config.batch_size, config.imgsz, config.sync_bn) == (4, (640, 320), True)
    assert words_of({"rect": False}) == ["--no-rect"]
    assert parse_flags(ValConfig, {"weights": ["a.pt"], "rect": False}, "here").rect is False
