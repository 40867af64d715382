"""train.py and val.py as users run them, on a handful of tiny scenes."""

import signal
import time
from pathlib import Path

import cv2
import pytest
import torch
import yaml

import train
import val
from engine.inference.runtimes.open import load_runtime
from tests.running import script, start, wait_for
from tests.scripts.trainings import words
from tests.tiny import NAMES, picture, tiny_checkpoint, tiny_data
from utils.boxes import xyxy_to_cxcywh
from utils.checkpoint import load_checkpoint
from utils.errors import UserError
from utils.reporting.run_log import read_csv
from utils.select import EVALUATION


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """A folder with a tiny data set of 24 + 8 scenes."""
    return tiny_data(tmp_path_factory.mktemp("train"), train=24, val=8, test=4)


@pytest.fixture(scope="module")
def run(place) -> Path:
    """An uninterrupted run of three epochs."""
    script("train", *words(place, "whole"))
    return place / "whole"


def test_a_run_leaves_what_yolo_users_expect(run):
    expected = ["args.yaml", "results.csv", "results.png", "labels.jpg", "confusion_matrix.png", "PR_curve.png",
                "F1_curve.png", "train_batch0.jpg", "val_batch0.jpg", "weights/best.pt", "weights/last.pt"]
    assert [name for name in expected if not (run / name).is_file()] == []
    assert list(run.glob("events.out.tfevents*"))
    rows = read_csv(run / "results.csv")
    assert [row["epoch"] for row in rows] == ["1", "2", "3"]
    assert {"train/box", "val/box", "metrics/AP", "metrics/AP_S", "lr"} <= set(rows[0])
    assert yaml.safe_load((run / "args.yaml").read_text())["recipe"]["optimizer"] == "auto"


def test_val_gives_the_same_numbers_as_the_end_of_training(run, place):
    told = script("val", "--weights", run / "weights/best.pt", "--project", place, "--name", "val", "--workers", 0,
                  "--save-json", "--save-txt", "--save-conf", "--iou-thres", 0.7, "--imgsz", 64).stdout
    tables = [(folder / "metrics.txt").read_text().partition("Class")[2] for folder in (place / "val", run)]
    assert tables[0] == tables[1] and "circle" in tables[0]  # what val.py says before, of file and settings, is its own
    assert (place / "val/predictions.json").is_file() and list((place / "val/labels").glob("*.txt"))
    assert "AP_S" in told and "nms" in told


def answered_scenes(folder: Path, weights: Path, count: int = 6) -> Path:
    """The YAML of wide scenes labelled with what a model finds in them, whose AP is above 0 without a training."""
    runtime = load_runtime(weights, "cpu")
    (folder / "labels").mkdir(parents=True)
    for number in range(count):
        image = cv2.imread(str(picture(folder / f"images/{number}.png", number, (80, 128))))
        pixels, placed = runtime.prepare(image, (128, 128))
        found = runtime.select(*runtime.predict(pixels), EVALUATION)[0].to_original(placed)
        boxes = xyxy_to_cxcywh(found.boxes[:6].double()) / torch.tensor([128, 80, 128, 80])
        rows = zip(found.labels.tolist(), boxes.tolist(), strict=False)
        (folder / f"labels/{number}.txt").write_text("".join(f"{k} {' '.join(map(str, box))}\n" for k, box in rows))
    content = {"path": str(folder), "train": "images", "val": "images", "names": NAMES}
    (folder / "own.yaml").write_text(yaml.safe_dump(content))
    return folder / "own.yaml"


def test_val_of_the_last_weights_gives_the_last_row_of_the_results(tmp_path):
    """On wide images, whose rectangular frames differ from square ones, at another batch size than in training."""
    weights = tiny_checkpoint(tmp_path / "tiny.pt")
    (tmp_path / "still.yaml").write_text("{lr0: 1.0e-6, warmup_bias_lr: 0}")
    script("train", *words(tmp_path, "run", **{
        "--data": answered_scenes(tmp_path / "own", weights), "--weights": weights, "--imgsz": 128, "--epochs": 1,
        "--noplots": "", "--hyp": tmp_path / "still.yaml", "--batch": 3}))
    row = read_csv(tmp_path / "run/results.csv")[-1]
    flags = ["--weights", tmp_path / "run/weights/last.pt", "--workers", 0, "--project", tmp_path, "--noplots",
             "--batch-size", 2]
    found = {name: val.main(val.build_parser().parse_args([str(word) for word in (*flags, *more)])).metrics
             for name, more in (("default", []), ("square", ["--no-rect"]))}
    own = {name: {**m.values, "precision": m.precision, "recall": m.recall} for name, m in found.items()}
    for name in ("AP", "AP50", "precision", "recall"):
        assert own["default"][name] == pytest.approx(float(row[f"metrics/{name}"]), abs=1e-4), name
    assert own["default"]["recall"] > 0.1 and abs(own["square"]["recall"] - own["default"]["recall"]) > 0.01


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="this system has no SIGKILL")
def test_a_killed_run_resumes_to_the_same_weights(run, place):
    process = start("train.py", *words(place, "killed", **{"--workers": 1, "--noplots": ""}))
    last = place / "killed/weights/last.pt"
    wait_for(last, process)
    time.sleep(0.1)  # into the next epoch
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert "train" in load_checkpoint(last), "the run was over before it was killed"
    done = load_checkpoint(last)["train"]["epoch"]
    assert done < 3
    assert f"resuming after epoch {done}" in script("train", "--resume", place / "killed").stdout
    whole, resumed = load_checkpoint(run / "weights/last.pt"), load_checkpoint(last)
    assert all(torch.equal(value, resumed["model"][key]) for key, value in whole["model"].items())
    assert [row["epoch"] for row in read_csv(place / "killed/results.csv")] == ["1", "2", "3"]
    assert "nothing to resume" in script("train", "--resume", last, ok=False).stderr


@pytest.mark.slow
def test_weights_start_a_run_of_another_model_and_class_count(run, place):
    told = script("train", *words(place, "tuned", **{"--cfg": "yolov8n-assn", "--weights": run / "weights/best.pt",
                                                     "--epochs": 1, "--freeze": 10, "--single-cls": "", "--noplots": "",
                                                     "--optimizer": "SGD", "--box-loss": "sca"})).stdout
    assert "tensors transferred" in told and "nothing to transfer" in told and "--freeze" in told
    before, after = load_checkpoint(run / "weights/best.pt"), load_checkpoint(place / "tuned/weights/last.pt")
    assert torch.equal(before["model"]["model.0.conv.weight"], after["model"]["model.0.conv.weight"])
    assert after["names"] == ["item"]


WRONG = {
    "an unknown model": (["--cfg", "yolov8q-asn"], "no such model"),
    "an unknown optimiser": (["--optimizer", "SGDD"], "invalid choice"),
    "an unknown data set": (["--data", "cocoo"], "did you mean 'coco'"),
    "a batch of none": (["--batch", "0"], "--batch"),
    "a word that is not supported": (["--adam"], "use --optimizer Adam"),
    "two schedules": (["--cos-lr", "--linear-lr"], "choose one"),
    "nothing to resume": (["--resume", "nowhere.pt"], "nowhere.pt: no such checkpoint"),
    "a device that is not there": (["--device", "7"], "--device 7"),
    "anchors' assignment on a head without": (["--assign", "ota"], "--assign ota: "),
    "an assigner of points on a head with anchors": (["--cfg", "yolov5n", "--assign", "stal"], "--assign stal: "),
    "an assigner for a head that has its own": (["--cfg", "ssd300-r18", "--assign", "rfla"],
                                                "(SSDDetect): this head has no assign"),
    "a box loss for a head that has its own": (["--cfg", "retinanet-r18", "--box-loss", "nwd"],
                                               "(RetinaDetect): this head has no box_loss"),
    "an unknown box loss": (["--box-loss", "ciuo"], "--box-loss ciuo: "),
    "an unknown neck": (["--neck", "asn"], "--neck asn: "),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_words_are_told_in_one_sentence(place, case, capsys):
    extra, message = WRONG[case]
    with pytest.raises((UserError, SystemExit)) as told:
        train.main(train.build_parser().parse_args([*words(place, "wrong"), *extra]))
    assert message in f"{told.value} {capsys.readouterr().err}"
    assert not (place / "wrong").exists()


def test_a_torn_checkpoint_is_told(run, place):
    torn = place / "torn.pt"
    torn.write_bytes((run / "weights/best.pt").read_bytes()[:20_000])
    for name in ("train", "val"):
        assert "truncated" in script(name, "--weights", torn, "--data", place / "tiny.yaml", ok=False).stderr
