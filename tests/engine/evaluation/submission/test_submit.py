"""val.py --submit: the files of each server, and an interrupted run that ends in the same bytes."""

import json
import os
import signal
import time
import zipfile
from collections import Counter
from pathlib import Path

import cv2
import pytest

import val
from engine.evaluation import job
from engine.evaluation.submission import submit
from engine.evaluation.submission.coco_check import check_coco
from engine.evaluation.submission.image_info import read_image_info
from tests.data import makers
from tests.refusals import refused
from tests.running import ended, run, start
from tests.tiny import NAMES, picture, tiny_checkpoint
from utils.class_lists import COCO, COCO_IDS
from utils.files import write_bytes

IMAGES, SIDE = 12, 64
CATEGORIES = (1, 3, 90)
STEM = "detections_test-dev2017_{}_results"
SIZES = [(48, 64), (64, 48), (40, 64)]  # height, width


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """A model, twelve images of test-dev under ids from 100 on beside one of another set, and the data YAML."""
    folder = tmp_path_factory.mktemp("submit")
    tiny_checkpoint(folder / "tiny.pt")
    write_data(folder, IMAGES)
    return folder


def write_data(folder: Path, count: int, **words) -> Path:
    images = []
    for k in range(count):
        height, width = SIZES[k % 3]
        name = f"{100 + k:012}.jpg"
        picture(folder / "test2017" / name, k, (height, width))
        images.append({"id": 100 + k, "file_name": name, "height": height, "width": width})
    picture(folder / "test2017" / f"{7:012}.jpg", 7)  # of test2017, not of test-dev
    content = {"images": images, "categories": [{"id": c, "name": n} for c, n in zip(CATEGORIES, NAMES, strict=True)]}
    (folder / "image_info_test-dev2017.json").write_text(json.dumps({**content, **words}))
    (folder / "data.yaml").write_text(f"path: {folder}\ntest: {{images: test2017, annotations: "
                                      f"image_info_test-dev2017.json}}\n")
    return folder / "data.yaml"


def words(folder: Path, name: str, *flags: object, data: str = "data.yaml") -> list[str]:
    """The flags of a submission of `name`; later ones override."""
    return [str(word) for word in (
        "--weights", folder / "tiny.pt", "--data", folder / data, "--task", "test", "--imgsz", SIDE, "--batch-size", 2,
        "--workers", 0, "--device", "cpu", "--project", folder / "runs", "--submit", name, *flags)]


def submitted(folder: Path, name: str, *flags: object, **options: str):
    return val.main(val.build_parser().parse_args(words(folder, name, *flags, **options)))


def files(folder: Path, name: str) -> tuple[bytes, bytes]:
    """The JSON with the name taken out, and the JSON in the zip file likewise."""
    path = folder / "runs" / name / f"{STEM.format(name)}.json"
    with zipfile.ZipFile(path.with_suffix(".zip")) as archive:
        assert archive.namelist() == [path.name]
        return path.read_bytes(), archive.read(path.name)


@pytest.fixture(scope="module")
def whole(place) -> bytes:
    """The results of a run that nothing interrupted."""
    submitted(place, "whole")
    content, packed = files(place, "whole")
    assert content == packed
    return content


def test_the_files_hold_what_was_found_and_no_metric_is_printed(place, whole, capsys):
    submitted(place, "again")
    assert files(place, "again") == (whole, whole)
    said = capsys.readouterr().out
    assert "no metrics: these images have no labels" in said and "AP50" not in said and "no problem found" in said
    assert "at most 100 detections of an image are kept" in said
    rows = json.loads(whole)
    assert {row["image_id"] for row in rows} <= set(range(100, 100 + IMAGES))
    assert {row["category_id"] for row in rows} == set(CATEGORIES)
    info = read_image_info(place / "image_info_test-dev2017.json")
    report = check_coco(place / "runs/again" / f"{STEM.format('again')}.zip", info)
    assert report.is_clean and not (place / "runs/again/metrics.txt").exists()
    assert "no problem found" in (place / "runs/again/submission.txt").read_text()


class Stopped:
    """`JournalCollector.update` that ends with an error before batch `stop`; `calls` counts the batches."""

    def __init__(self, monkeypatch, stop: int | None = None) -> None:
        self.calls, real = 0, submit.JournalCollector.update

        def update(collector, ids, detections) -> None:
            if self.calls == stop:
                raise KeyboardInterrupt
            self.calls += 1
            real(collector, ids, detections)

        monkeypatch.setattr(submit.JournalCollector, "update", update)


@pytest.mark.parametrize(("way", "flags", "known", "left"), [
    ("rect", ["--rect"], 4, 4), pytest.param("square", ["--no-rect"], 4, 4, marks=pytest.mark.slow),
    pytest.param("augmented", ["--augment"], 4, 4, marks=pytest.mark.slow),
    ("sliced", ["--slice", 40, "--max-det", 60], 2, 10)])
def test_an_interrupted_run_goes_on_to_the_same_bytes(place, monkeypatch, capsys, way, flags, known, left):
    name, unhurt = f"stopped-{way}", f"unhurt-{way}"
    submitted(place, unhurt, *flags)
    Stopped(monkeypatch, 2)
    with pytest.raises(KeyboardInterrupt):
        submitted(place, name, *flags)
    monkeypatch.undo()
    assert "the same command goes on" in capsys.readouterr().err
    assert not list((place / "runs" / name).glob("detections*"))
    rest = Stopped(monkeypatch)
    submitted(place, name, *flags)
    assert f"{known} of 12 images are known from an earlier run" in capsys.readouterr().out and rest.calls == left
    assert files(place, name) == files(place, unhurt)
    rest.calls = 0
    submitted(place, name, *flags)  # once more when it is done: nothing is evaluated
    assert rest.calls == 0 and files(place, name) == files(place, unhurt)
    most = max(Counter(row["image_id"] for row in json.loads(files(place, name)[0])).values())
    assert most <= (60 if way == "sliced" else 100)


@pytest.mark.slow
@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGINT])
def test_a_killed_process_goes_on_to_the_same_bytes(place, whole, end):
    name = f"ended{int(end)}"
    journal = place / "runs" / name / "journal/process0.bin"
    process = start("val.py", *words(place, name))
    deadline = time.monotonic() + 120
    while (not journal.is_file() or not journal.stat().st_size) and process.poll() is None:
        assert time.monotonic() < deadline
        time.sleep(0.002)
    os.kill(process.pid, end)
    done = ended(process)
    if done.returncode:  # a fast machine may be done before
        assert done.returncode == (130 if end == signal.SIGINT else -9), done.stderr
        assert end == signal.SIGKILL or "the same command goes on" in done.stderr
    with journal.open("ab") as file:
        file.write(b"DET1 half a record")
    submitted(place, name)
    assert files(place, name) == (whole, whole)


@pytest.mark.slow
def test_two_processes_write_what_one_does_and_go_on_as_one(place, whole, monkeypatch):
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "val.py"]
    done = run(*launch, *words(place, "two"))
    assert done.returncode == 0 and done.stdout.count("no problem found") == 1, done.stderr
    assert files(place, "two") == (whole, whole)
    journals = place / "runs/two/journal"
    kept = (journals / "process1.bin").read_bytes()
    assert kept and (journals / "process0.bin").stat().st_size
    (journals / "process0.bin").unlink()  # the first process died at once, the second in its last batch
    (journals / "process1.bin").write_bytes(kept[:-3])
    rest = Stopped(monkeypatch)
    submitted(place, "two")
    assert rest.calls == 4 and files(place, "two") == (whole, whole)


@pytest.mark.parametrize(("flags", "code", "said"), [
    (("--conf-thres", 0.2), "changed-settings", "conf 0.001, now 0.2"),
    (("--imgsz", 96), "changed-settings", r"imgsz \[64, 64\], now \[96, 96\]"),
    (("--max-det", 50), "changed-settings", "max_det 100, now 50"),
    (("--batch-size", 3), "changed-settings", "batch_size 2, now 3"),
    (("--max-det", 101), "bad-value", "best 100"), (("--single-cls",), "flag-without-effect", "classes apart"),
    (("--exist-ok",), "flag-without-effect", "goes on in its folder")])
def test_other_settings_are_refused_by_reason(place, whole, flags, code, said):
    before = sorted((place / "runs/whole").rglob("*"))
    with refused(code, said):
        submitted(place, "whole", *flags)
    assert sorted((place / "runs/whole").rglob("*")) == before and files(place, "whole")[0] == whole


def test_settings_without_effect_may_change(place, whole, monkeypatch):
    rest = Stopped(monkeypatch)
    submitted(place, "whole", "--noplots", "--save-json", "--workers", 1)
    assert rest.calls == 0 and files(place, "whole")[0] == whole
    assert json.loads((place / "runs/whole/predictions.json").read_text()) == json.loads(whole)


def test_other_weights_are_refused(place, whole, tmp_path):
    tiny_checkpoint(tmp_path / "tiny.pt", {"backbone": [[-1, 1, "Conv", [8, 3, 2]]] * 3, "head": [
        [[-1], 1, "Detect", ["nc"]]]})
    with refused("changed-settings", "weights"):
        submitted(place, "whole", "--weights", tmp_path / "tiny.pt")


@pytest.mark.parametrize("name", ["../x", "a/b", ".hidden", "", "a b", "x" * 65, "ä", "a.", "-"])
def test_names_that_the_server_or_a_folder_cannot_have_are_refused(place, name):
    config = val.build_parser().parse_args([*words(place, "x")[:-2], f"--submit={name}"])
    with refused("flag-without-effect", "--submit"):
        val.main(config)
    assert not (place / "x").exists()


def test_a_folder_of_other_results_is_refused(place):
    write_bytes(place / "runs/exp7/metrics.txt", b"")
    with refused("folder-exists", "exp7"):
        submitted(place, "exp7")
    submitted(place, "exp7", "--name", "elsewhere")
    assert (place / "runs/elsewhere" / f"{STEM.format('exp7')}.zip").is_file()


def test_images_that_are_missing_or_of_another_size_are_refused_before_the_work(place, tmp_path, monkeypatch):
    yaml = write_data(tmp_path, 4)
    monkeypatch.setattr(job, "open_loader", lambda *_: pytest.fail("the images were opened"))
    (tmp_path / "test2017" / f"{101:012}.jpg").unlink()
    with refused("missing-image", "1 of the 4 images", "the id 101", f"{101:012}.jpg"):
        submitted(place, "missing", "--data", yaml)
    picture(tmp_path / "test2017" / f"{101:012}.jpg", 1, (48, 64))  # turned by 90 degrees
    with refused("other-size", "64 x 48 pixels", "says 48 x 64"):
        submitted(place, "turned", "--data", yaml)
    assert not (place / "runs/missing").exists() and not (place / "runs/turned").exists()


def test_a_damaged_image_is_told_and_evaluated_again_when_it_is_restored(place, tmp_path, monkeypatch):
    yaml = write_data(tmp_path, 6)
    damaged = tmp_path / "test2017" / f"{103:012}.jpg"
    content = cv2.imencode(".png", cv2.imread(str(damaged)))[1].tobytes()  # under the name of a JPEG
    damaged.write_bytes(content)
    submitted(place, "sound", "--data", yaml)
    at = content.index(b"IDAT") + 20
    damaged.write_bytes(content[:at] + bytes(40) + content[at + 40:])
    with refused("bad-submission", "damaged-image"):
        submitted(place, "repaired", "--data", yaml)
    monkeypatch.undo()
    damaged.write_bytes(content)
    rest = Stopped(monkeypatch)
    submitted(place, "repaired", "--data", yaml)
    assert rest.calls == 1 and files(place, "repaired") == files(place, "sound")


def test_images_without_detections_count_as_seen(place, capsys):
    submitted(place, "strict", "--conf-thres", 0.98)
    record = json.loads((place / "runs/strict/submission.json").read_text())
    said = capsys.readouterr().out
    assert len(record["images_without_detections"]) == 12 - len({r["image_id"] for r in json.loads(
        files(place, "strict")[0])}) > 0
    assert "looked at" in said and "no problem found" in said
    with refused("bad-submission", "empty"):
        submitted(place, "nothing", "--conf-thres", 1)


def test_a_list_of_cocos_images_is_submitted_under_cocos_ids(place, tmp_path, monkeypatch):
    tiny_checkpoint_of_coco(tmp_path / "coco.pt")
    write_data(tmp_path, 4)
    (tmp_path / "test-dev2017.txt").write_text("".join(f"./test2017/{100 + k:012}.jpg\n" for k in range(4)))
    (tmp_path / "list.yaml").write_text(f"path: {tmp_path}\ntest: test-dev2017.txt\nnames: {json.dumps(COCO)}\n")
    submitted(place, "listed", "--data", tmp_path / "list.yaml", "--weights", tmp_path / "coco.pt")
    rows = json.loads(files(place, "listed")[0])
    assert {row["image_id"] for row in rows} <= {100, 101, 102, 103}
    assert {row["category_id"] for row in rows} <= set(COCO_IDS) and max(row["category_id"] for row in rows) > 80


def tiny_checkpoint_of_coco(path: Path) -> None:
    from tests.tiny import tiny_model
    from utils.checkpoint import save_checkpoint

    model = tiny_model(names=list(COCO))
    save_checkpoint({"config": model.config, "names": list(model.names), "model": model.state_dict()}, path)


def test_data_without_a_server_are_refused(place, tmp_path):
    yaml = makers.yolo(tmp_path, {"a.jpg": "0 .5 .5 .2 .2\n"}, names=NAMES)
    with refused("no-server", "yolo", "--save-json"):
        submitted(place, "yolo", "--data", yaml, "--task", "train")


def test_a_split_with_labels_has_metrics_of_what_is_submitted(place, tmp_path, capsys):
    box = {"id": 1, "image_id": 101, "category_id": 1, "bbox": [1, 2, 30, 20], "area": 600, "iscrowd": 0}
    yaml = write_data(tmp_path, 4, annotations=[box])
    submitted(place, "labelled", "--data", yaml)
    said = capsys.readouterr().out
    assert "AP50" in said and "no problem found" in said and (place / "runs/labelled/metrics.txt").is_file()


def test_voc_and_visdrone_have_their_files(place, tmp_path, capsys):
    root = makers.voc_devkit(tmp_path, {"VOC2012": {"test": {f"2008_{k:06}": None for k in range(3)}}})
    yaml = makers.config(tmp_path, path=str(root), test="VOC2012/ImageSets/Main/test.txt", names=NAMES)
    submitted(place, "voc", "--data", yaml)
    assert (place / "runs/voc/results.tar.gz").is_file() and "no problem found" in capsys.readouterr().out
    drone = tmp_path / "drone"
    for k in range(3):
        picture(drone / "images" / f"{k}.jpg", k)
        write_bytes(drone / "annotations" / f"{k}.txt", b"1,2,30,20,1,4,0,0\n")
    names = ["car", "van", "pedestrian"]
    yaml = drone / "drone.yaml"
    yaml.write_text(f"path: {drone}\nformat: visdrone\ntest: images\nnames: {names}\n")
    from tests.tiny import tiny_model
    from utils.checkpoint import save_checkpoint
    model = tiny_model(names=names)
    save_checkpoint({"config": model.config, "names": names, "model": model.state_dict()}, tmp_path / "drone.pt")
    submitted(place, "drone", "--data", yaml, "--weights", tmp_path / "drone.pt")
    said = capsys.readouterr().out
    assert "VisDrone results" in said and "no problem found" in said and "AP50" in said
    with zipfile.ZipFile(place / "runs/drone/drone.zip") as archive:
        assert archive.namelist() == ["0.txt", "1.txt", "2.txt"]
        rows = [line.split(",") for line in archive.read("1.txt").decode().splitlines()]
    assert rows and {row[5] for row in rows} <= {"1", "4", "5"} and all(row[6:] == ["-1", "-1"] for row in rows)
    scores = [float(row[4]) for row in rows]
    assert scores == sorted(scores, reverse=True) and (place / "runs/drone/drone/0.txt").is_file()


def test_missing_images_of_other_formats_are_refused_too(place, tmp_path):
    root = makers.voc_devkit(tmp_path, {"VOC2012": {"test": {f"2008_{k:06}": None for k in range(3)}}})
    next(root.rglob("2008_000001.*")).unlink()
    yaml = makers.config(tmp_path, path=str(root), test="VOC2012/ImageSets/Main/test.txt", names=NAMES)
    with refused("missing-image", "1 of the 3 images", "2008_000001"):
        submitted(place, "gone", "--data", yaml)


def test_save_visdrone_takes_any_data_with_its_classes(place, tmp_path, capsys):
    yaml = makers.yolo(tmp_path, {"a.jpg": "0 .5 .5 .2 .2\n"}, names=NAMES)
    flags = words(place, "x", "--data", yaml, "--task", "train", "--save-visdrone", "--name", "exp9", "--noplots")
    at = flags.index("--submit")
    with refused("unknown-class", "'circle' is no class of VisDrone"):
        val.main(val.build_parser().parse_args(flags[:at] + flags[at + 2:]))
