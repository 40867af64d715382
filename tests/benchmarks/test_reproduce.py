"""Running published rows: prerequisites, commands, resuming, comparing, the page, and (slow) one row in full."""

import json
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml

from benchmarks.record import PROJECT, Section
from benchmarks.reproduce import __main__ as program
from benchmarks.reproduce.check import as_checked, look, write_part
from benchmarks.reproduce.commands import Place, obstacles, processes_for, run_command, train_command, val_command
from benchmarks.reproduce.compare import CONTRADICTED, NO_TARGET, REPRODUCED, at_more_overlaps, measured_in, verdict
from benchmarks.reproduce.page import status_of, write_page
from benchmarks.reproduce.rows import known_rows, read_row
from data import load_index
from engine.evaluation.metrics.protocol import COCO
from tests.refusals import refused
from tests.tiny import picture
from utils.checkpoint import save_checkpoint
from utils.errors import UserError

ASSN, TEST_DEV, TWO = (read_row(name) for name in ("assn-yolov7", "assn-yolov7-test-dev", "ssfpn-yolov4-p6"))
PAGE = "before\n<!-- rows -->\n\n<!-- end of rows -->\nafter\n"
EXACT = dict(ASSN.published)


def coco(folder: Path, images: int = 6) -> Path:
    """A data root with a `coco` of some images, each with one object of one of two classes."""
    root = folder / "coco"
    for split in ("train2017", "val2017", "test2017"):
        for number in range(1, images + 1):
            picture(root / split / f"{number}.jpg", number, (48, 64))
    (root / "annotations").mkdir()
    rows = [{"id": i, "file_name": f"{i}.jpg", "width": 64, "height": 48} for i in range(1, images + 1)]
    boxes = [{"id": i, "image_id": i, "category_id": 1 + i % 2, "bbox": [4, 4, 20, 20], "area": 400, "iscrowd": 0}
             for i in range(1, images + 1)]
    content = {"images": rows, "annotations": boxes, "categories": [{"id": 1, "name": "a"}, {"id": 2, "name": "b"}]}
    for name in ("instances_train2017", "instances_val2017", "image_info_test-dev2017"):
        (root / "annotations" / f"{name}.json").write_text(json.dumps(content))
    return folder


@pytest.mark.parametrize("changes, status, outside", [
    ({}, REPRODUCED, []),
    ({"AP": EXACT["AP"] + 0.3, "AP_S": EXACT["AP_S"] - 1.0}, REPRODUCED, []),  # the limit itself is inside
    ({"AP": EXACT["AP"] + 0.31}, CONTRADICTED, ["AP"]),  # better is no reproduction either
    ({"AP": EXACT["AP"] - 0.31, "AP_L": EXACT["AP_L"] - 1.01}, CONTRADICTED, ["AP", "AP_L"]),
    ({"AR100": 3.0}, REPRODUCED, []),  # not published, so nothing is said of it
])
def test_a_row_is_judged_by_every_published_number(changes, status, outside):
    found = verdict(ASSN, {**EXACT, **changes})
    assert (found["status"], found["outside"]) == (status, outside)
    assert found["differences"]["AP"] == pytest.approx(changes.get("AP", EXACT["AP"]) - EXACT["AP"], abs=1e-3)


def test_a_number_that_was_not_measured_is_no_verdict_and_no_target_is_never_met():
    with refused("missing-number", "AP75"):
        verdict(ASSN, {name: value for name, value in EXACT.items() if name != "AP75"})
    none = read_row("scale-focused-detr-12")
    assert verdict(none, dict(none.published))["status"] == NO_TARGET


def test_all_that_is_missing_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    place = Place(tmp_path / "work", tmp_path, tmp_path / "weights")
    data, weights, gpu = obstacles(read_row("assd-513-coco"), place)
    assert str(tmp_path / "coco") in data and "--data-root" in data
    assert "resnet101-5d3b4d8f.pth" in weights and "https://download.pytorch.org/models/" in weights
    assert "--device cpu" in gpu
    coco(tmp_path)
    assert len(obstacles(read_row("assd-513-coco"), place)) == 2
    (tmp_path / "weights").mkdir()
    (tmp_path / "weights/resnet101-5d3b4d8f.pth").touch()
    assert obstacles(read_row("assd-513-coco"), replace(place, device="cpu")) == []
    shutil.rmtree(tmp_path / "coco/test2017")
    (tmp_path / "coco/annotations/image_info_test-dev2017.json").unlink()
    assert obstacles(ASSN, replace(place, device="cpu")) == [], "val needs no test images"
    assert len(obstacles(TEST_DEV, replace(place, device="cpu"))) == 1


def test_processes_share_the_batch(tmp_path, monkeypatch):
    place = Place(tmp_path)
    for gpus, expected in ((0, 1), (1, 1), (2, 1), (3, 3), (8, 3)):  # 21 images on 3 GPUs as published
        monkeypatch.setattr(torch.cuda, "device_count", lambda gpus=gpus: gpus)
        assert processes_for(TWO, place) == expected
    assert processes_for(ASSN, place) == 4
    assert processes_for(TWO, replace(place, device="0,1,2")) == 3
    assert processes_for(TWO, replace(place, device="cpu")) == 1
    with refused("bad-value", "--device 0,1", "21", "published with 3"):
        processes_for(TWO, replace(place, device="0,1"))


def test_commands_are_lists_of_words(tmp_path):
    place = Place(tmp_path / "my work", tmp_path, device="2,3")
    words = train_command(ASSN, 0, place)
    assert words[:6] == [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    assert words[6] == "train.py" and words[-2:] == ["--device", "2,3"]
    flags = dict(zip(words[7:], words[8:], strict=False))
    assert flags["--cfg"] == "yolov7-assn" and flags["--batch-size"] == "128" and flags["--hyp"] == "yolov7"
    assert flags["--data"] == str(tmp_path / "my work/data/coco.yaml")  # one word, whatever its spaces
    assert Path(flags["--project"]) / flags["--name"] == place.training(ASSN, 0)
    words = val_command(ASSN, place)
    assert words[:3] == [sys.executable, "val.py", "--weights"] and words[3].endswith("train1/weights/best.pt")
    assert words[-2:] == ["--device", "2"] and "--save-json" in words and "--exist-ok" in words
    words = val_command(TEST_DEV, place)
    assert words[words.index("--submit") + 1] == "assn-yolov7-test-dev" and "--exist-ok" not in words
    assert words[words.index("--task") + 1] == "test" and words[3] == val_command(ASSN, place)[3]
    words = val_command(read_row("assd-513-voc12"), place)
    assert "--save-voc" in words and words[3].endswith("train1/weights/last.pt")


def test_an_interrupted_training_goes_on_and_an_ended_one_is_left_alone(tmp_path):
    place = Place(tmp_path, device="cpu")
    last = place.training(TWO, 0) / "weights" / "last.pt"
    assert "--resume" not in train_command(TWO, 0, place)
    last.parent.mkdir(parents=True)
    save_checkpoint({"model": {}, "train": {"epoch": 3}}, last)
    resumed = [sys.executable, "train.py", "--resume", str(place.training(TWO, 0)), "--device", "cpu"]
    assert train_command(TWO, 0, place) == resumed
    last.write_bytes(b"torn")  # train.py goes back to previous.pt, or says what is wrong
    assert "--resume" in train_command(TWO, 0, place)
    save_checkpoint({"model": {}}, last)
    assert train_command(TWO, 0, place) is None
    words = train_command(TWO, 1, place)
    assert words[words.index("--weights") + 1] == str(last) and words[words.index("--epochs") + 1] == "152"


def test_a_failed_command_is_an_error(capfd):
    with refused("command-failed", "train.py", "code 3", "goes on"):
        run_command([sys.executable, "-c", "raise SystemExit(3)", "train.py"])
    assert capfd.readouterr().out == "$ python -c 'raise SystemExit(3)' train.py\n"


def test_numbers_are_read_in_percent_and_at_more_overlaps(tmp_path):
    """Of three objects two are found, one at IoU 1, one at 0.85, which counts below 0.9."""
    coco(tmp_path, images=3)
    place = Place(tmp_path / "work", tmp_path)
    row = read_row("scaloss-yolov3-tiny-sca")
    place.write_data(row)
    data = place.data(row)
    rows = [{"image_id": 1, "category_id": 2, "bbox": [4, 4, 20, 20], "score": 0.9},
            {"image_id": 2, "category_id": 1, "bbox": [4, 4, 20, 17], "score": 0.8}]  # IoU 0.85
    (tmp_path / "predictions.json").write_text(json.dumps(rows))
    values = at_more_overlaps(tmp_path / "predictions.json", data, "val")
    half = sum(recall <= 0.5 for recall in torch.linspace(0, 1, 101).tolist()) / 101  # class 2: one of two, at rank 1
    assert values == {"AP65": pytest.approx((half + 1) / 2), "AP80": pytest.approx((half + 1) / 2),
                      "AP90": pytest.approx(half / 2)}
    protocols = [{"values": {"AP_voc07": 0.75}}, {"values": {"AP": 0.199, "AP50": None}}]
    (tmp_path / "metrics.json").write_text(json.dumps({"protocols": protocols}))
    measured = measured_in(tmp_path, row, data)
    assert measured["AP"] == pytest.approx(19.9) and measured["AP_voc07"] == 75 and "AP50" not in measured
    assert measured["AP90"] == pytest.approx(50 * half) and COCO.ious[3] == pytest.approx(0.65)
    (tmp_path / "metrics.json").write_text("{}")
    with refused("corrupt-file", "metrics.json"):
        measured_in(tmp_path, row, data)


def test_the_part_of_a_data_set_lies_where_it_lay(tmp_path):
    coco(tmp_path, images=8)
    whole = {"path": str(tmp_path / "coco"), **{
        split: {"images": f"{split}2017", "annotations": f"annotations/instances_{split}2017.json"}
        for split in ("train", "val")}}
    (tmp_path / "whole.yaml").write_text(yaml.safe_dump(whole))
    content = yaml.safe_load(write_part(str(tmp_path / "whole.yaml"), tmp_path / "part", 6).read_text())
    assert content["train"]["images"] == str(tmp_path / "coco/train2017")
    assert len(json.loads(Path(content["train"]["annotations"]).read_text())["images"]) == 6
    with refused("too-few-images", "8 images", "20"):
        write_part(str(tmp_path / "whole.yaml"), tmp_path / "part", 20)


def test_rows_of_one_training_are_checked_once_and_a_check_wants_finite_losses(tmp_path):
    own = {as_checked(read_row(name)).key for name in ("assd-513-voc07", "assd-513-voc12")}
    assert len(own) == 1 and as_checked(ASSN).data == "coco-tiny" and as_checked(ASSN, "mine").data == "mine"
    (tmp_path / "weights").mkdir()
    with refused("missing-output", "best.pt"):
        look(tmp_path)
    (tmp_path / "weights/best.pt").touch()
    content = {"run": {"parameters": 7}, "protocols": [{"values": {"AP": 0.0}}]}
    (tmp_path / "metrics.json").write_text(json.dumps(content))
    for losses, wrong in (("0.5,nan,0", "cls"), ("0.5,0.5,2", "2 steps skipped"), ("0.5,0.5,0", "")):
        (tmp_path / "results.csv").write_text(f"epoch,train/box,train/cls,skipped_steps\n1,{losses}\n")
        if wrong:
            with refused("not-finite", wrong):
                look(tmp_path)
    assert look(tmp_path) == {"losses": {"box": 0.5, "cls": 0.5}, "parameters": 7, "AP": 0.0}


def test_the_page_says_not_run_until_it_was_run():
    rows = [ASSN, read_row("assn-yolov8l")]
    empty = write_page(PAGE, rows, {}, {})
    assert empty.startswith("before") and empty.endswith("after\n") and "2 rows: 2 not run." in empty
    assert "| not run | " in empty and "| not run; no target | " in empty
    assert "**" not in empty.replace("**Missing:**", ""), "nothing was measured"
    piece = {**verdict(ASSN, {**EXACT, "AP": 50.0}), "key": ASSN.key, "date": "2026-01-02T03:04", "device": "a GPU"}
    full = write_page(PAGE, rows, {ASSN.name: piece}, {ASSN.name: {"train_seconds": 12.3}})
    assert "| 51.5, **50.00** |" in full and "| contradicted (AP), 2026-01-02, a GPU | 12 s |" in full
    assert status_of(ASSN, {ASSN.name: {**piece, "key": "another training"}}) == "not run"
    with pytest.raises(UserError, match="reproduce.md: no lines"):
        write_page("nothing", rows, {}, {})


def test_the_page_of_the_project_is_that_of_its_results():
    page = program.PAGE.read_text(encoding="utf-8")
    results, checks = (Section(program.RESULTS, name, False, torch.device("cpu")).pieces
                       for name in ("reproduce", "reproduce_check"))
    assert write_page(page, [read_row(name) for name in known_rows()], results, checks) == page


def call(tmp_path: Path, *words: str) -> None:
    page = tmp_path / "page.md"
    if not page.is_file():
        page.write_text(PAGE)
    program.main(program.build_parser().parse_args([*words, "--work", str(tmp_path / "work"), "--out", str(tmp_path),
                                                    "--page", str(page)]))


def test_a_row_that_cannot_run_is_told_and_leaves_no_result(tmp_path, capsys):
    with refused("check-failed", "1 of 1", "assn-yolov7"):
        call(tmp_path, "assn-yolov7", "--data-root", str(tmp_path), "--device", "cpu")
    assert "assn-yolov7: not run. data: " in capsys.readouterr().out
    assert not (tmp_path / "reproduce.json").exists()
    call(tmp_path, "assn-yolov7", "--data-root", str(tmp_path), "--device", "cpu", "--dry-run")
    told = capsys.readouterr().out
    assert all(text in told for text in ("lacks data: ", "4 as published", "tolerance: AP 0.3, AP50 0.5",
                                         "python train.py --cfg yolov7-assn", "python val.py"))
    call(tmp_path, "--list")
    assert len(capsys.readouterr().out.splitlines()) == len(known_rows())
    with refused("missing-row", "--list"):
        call(tmp_path)


@pytest.mark.slow
def test_a_row_from_end_to_end(tmp_path, capfd):
    """On a part of COCO at 64 px: two trainings of one epoch, an evaluation, a verdict, and nothing done twice."""
    write_part("coco-tiny", tmp_path / "part", 8)
    flags = {"cfg": "yolov8n-assn", "data": str(tmp_path / "part/data.yaml"), "epochs": 1, "imgsz": 64, "batch_size": 4}
    row = {"base": "_scaloss", "table": "none", "row": "tiny", "train": [flags, {**flags, "hyp": "yolov8"}],
           "evaluate": {"task": "val", "imgsz": 64}, "published": {"AP": 99.0, "AP80": 0.0}}
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(row))
    call(tmp_path, str(tmp_path / "tiny.yaml"), "--device", "cpu")
    piece = json.loads((tmp_path / "reproduce.json").read_text())["pieces"]["tiny"]
    assert piece["status"] == CONTRADICTED and piece["outside"] == ["AP"] and len(piece["commands"]) == 3
    assert piece["measured"]["AP80"] >= 0 and piece["versions"]["project"] and piece["processes"] == 1
    assert str(PROJECT) not in json.dumps(piece["commands"])
    capfd.readouterr()
    call(tmp_path, str(tmp_path / "tiny.yaml"), "--device", "cpu")
    assert "tiny: contradicted on " in capfd.readouterr().out
    call(tmp_path, str(tmp_path / "tiny.yaml"), "--device", "cpu", "--retry")
    assert "train.py" not in capfd.readouterr().out  # both trainings have ended; the evaluation is done again
    assert load_index(str(tmp_path / "part/data.yaml"), "train").names[0] == "person"


@pytest.mark.slow
def test_ten_steps_of_a_row(tmp_path, capfd):
    call(tmp_path, "assn-yolov8n", "--check", "--imgsz", "64", "--device", "cpu")
    piece = json.loads((tmp_path / "reproduce_check.json").read_text())["pieces"]["assn-yolov8n"]
    trained, = piece["trainings"]
    assert trained["parameters"] == 3_270_392 and set(trained["losses"]) == {"box", "cls", "dfl"}
    assert piece["imgsz"] == 64 and "| `assn-yolov8n` |" in (tmp_path / "page.md").read_text()
    log = next((tmp_path / "work/check").rglob("train1.log")).read_text()
    assert not list((tmp_path / "work").rglob("*.pt")), "weights of a check are of no use"
    assert "10/10 batch" in log
