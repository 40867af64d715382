"""detect.py: every flag changes something, nothing is lost, and mistakes are told in one sentence."""

import csv
import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

import detect
import export
from engine.inference.runtimes.base import Runtime
from tests.engine.inference.sources.server import camera_server
from tests.refusals import refused
from tests.running import ended, start
from tests.tiny import NAMES, picture, tiny_checkpoint, video
from utils.errors import UserError

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    return tiny_checkpoint(tmp_path_factory.mktemp("weights") / "best.pt")


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """A folder with two pictures, a text file and a picture that is not one."""
    folder = tmp_path_factory.mktemp("source")
    picture(folder / "a.jpg", 0)
    picture(folder / "000123.png", 1, (64, 64))
    (folder / "notes.md").write_text("not a picture")
    (folder / "broken.jpg").write_bytes((folder / "a.jpg").read_bytes()[:100])
    return folder


@pytest.fixture
def run(weights, tmp_path):
    """run(source, *flags) -> results folder; 64 px, everything below `tmp_path`."""

    def go(source, *flags, weights=weights):
        words = ["--weights", weights, "--source", source, "--project", tmp_path / "out", "--device", "cpu", *flags]
        words += ["--img", 64] * ("--img" not in flags)
        return detect.main(detect.build_parser().parse_args([str(word) for word in words]))

    return go


def rows(folder: Path, name: str = "a") -> np.ndarray:
    return np.loadtxt(folder / "labels" / f"{name}.txt", ndmin=2)


def test_a_folder(run, source, capsys):
    folder = run(source, "--save-txt", "--save-conf", "--save-crop", "--save-json")
    told = capsys.readouterr().out
    assert "2 images, 1 skipped" in told and f"skipped {source / 'broken.jpg'}" in told and f"results: {folder}" in told
    assert all(stage in told for stage in ("ms pre-process", "ms inference", "ms NMS"))
    assert f"image {source / 'a.jpg'}: 64x64 " in told or f"image {source / 'a.jpg'}: 48x64 " in told
    assert {p.name for p in folder.iterdir()} == {"a.jpg", "000123.png", "labels", "crops", "predictions.json"}
    assert cv2.imread(str(folder / "a.jpg")).shape == (96, 128, 3)
    assert (cv2.imread(str(folder / "000123.png")) != cv2.imread(str(source / "000123.png"))).any()
    table, answers = rows(folder), json.loads((folder / "predictions.json").read_text())
    mine = [row for row in answers if row["image_id"] == "a"]
    assert len(table) == len(mine) > 0 and table.shape[1] == 6
    assert {row["image_id"] for row in answers} <= {"a", 123}
    for line, row in zip(table, mine, strict=True):
        left, top, width, height = row["bbox"]
        box = [(left + width / 2) / 128, (top + height / 2) / 96, width / 128, height / 96]
        np.testing.assert_allclose(line, [row["category_id"], *box, row["score"]], atol=1e-4)
        assert row["category"] == NAMES[row["category_id"]] and row["file_name"] == str(source / "a.jpg")
    crops = list((folder / "crops").rglob("*.jpg"))
    assert len(crops) == len(answers) and {p.parent.name for p in crops} <= set(NAMES)


def test_flags_that_choose_detections(run, source):
    def found(*flags):
        return rows(run(source / "a.jpg", "--save-txt", "--save-conf", "--nosave", *flags))

    plain = found()
    assert not np.array_equal(plain, found("--half"))
    assert not np.array_equal(plain, found("--img", 128, 96))
    scores = np.sort(plain[:, 5])
    middle = (scores[0] + scores[-1]) / 2
    assert 0 < len(found("--conf", middle)) < len(plain)
    assert len(found("--iou", 0.05)) < len(plain) < len(found("--iou", 0.95))
    assert len(found("--max-det", 1)) == 1
    assert len(found("--agnostic-nms", "--iou", 0.1)) < len(found("--iou", 0.1))
    label = int(plain[0, 0])
    np.testing.assert_array_equal(found("--classes", label), found("--classes", NAMES[label]))
    assert set(found("--classes", label)[:, 0]) == {label} and len(set(plain[:, 0])) > 1


def test_flags_that_choose_looks(run, tmp_path):
    wide = picture(tmp_path / "wide.png", size=(256, 320))  # room for captions

    def drawn(*flags):
        return cv2.imread(str(run(wide, "--max-det", 3, *flags) / "wide.png"))

    pictures = [drawn(), drawn("--line-thickness", 5), drawn("--hide-labels"), drawn("--hide-conf")]
    assert all((a != b).any() for i, a in enumerate(pictures) for b in pictures[:i])


def test_where_results_go(run, source):
    one = source / "a.jpg"
    assert [run(one).name, run(one).name, run(one, "--name", "mine").name] == ["exp", "exp2", "mine"]
    assert run(one, "--exist-ok").name == "exp"
    before = set(source.parent.rglob("*"))
    assert run(one, "--nosave") is None and set(source.parent.rglob("*")) == before
    quiet = run(one, "--conf", 1.0, "--save-txt", "--nosave")
    assert (quiet / "labels" / "a.txt").read_text() == "" and not (quiet / "a.jpg").exists()


def test_same_names_in_two_folders_are_both_kept(run, tmp_path):
    listed = [picture(tmp_path / name, number) for number, name in enumerate(["l/1.jpg", "r/1.jpg", "r/1.png"])]
    (tmp_path / "list.txt").write_text("\n".join(map(str, listed)))
    folder = run(tmp_path / "list.txt", "--save-txt")
    assert {p.name for p in folder.glob("*.*")} == {"1.jpg", "1_2.jpg", "1_3.png"}
    assert len(list((folder / "labels").iterdir())) == 3
    assert len(list(run(tmp_path / "*" / "*.jpg").glob("*.jpg"))) == 2


def test_video(run, tmp_path):
    clip = video(tmp_path / "clip.mp4", frames=5)
    folder = run(clip, "--save-txt", "--save-json")
    stream = cv2.VideoCapture(str(folder / "clip.mp4"))
    assert stream.get(cv2.CAP_PROP_FRAME_COUNT) == 5 and stream.get(cv2.CAP_PROP_FPS) == 10
    assert stream.read()[1].shape == (64, 96, 3)
    assert len(list((folder / "labels").iterdir())) == 5
    assert {row["frame"] for row in json.loads((folder / "predictions.json").read_text())} <= set(range(5))
    sparse = run(clip, "--vid-stride", 2)
    stream = cv2.VideoCapture(str(sparse / "clip.mp4"))
    assert stream.get(cv2.CAP_PROP_FRAME_COUNT) == 3 and stream.get(cv2.CAP_PROP_FPS) == 5
    assert not list(tmp_path.rglob("*.part*"))


def test_an_error_midway_leaves_no_half_video(run, tmp_path, monkeypatch):
    clip = video(tmp_path / "clip.mp4")
    old = run(clip) / "clip.mp4"
    whole = old.read_bytes()
    add = detect.ResultWriter.add

    def fail_at_two(self, found, maps=None):
        if found.frame.index == 2:
            raise UserError("disk full")
        add(self, found)

    monkeypatch.setattr(detect.ResultWriter, "add", fail_at_two)
    with pytest.raises(UserError, match="disk full"):
        run(clip, "--exist-ok")
    assert old.read_bytes() == whole and [p.name for p in old.parent.iterdir()] == ["clip.mp4"]


@pytest.mark.parametrize("flags", [["--include", "onnx"], ["--include", "torchscript", "--dynamic"]])
def test_exported_files_find_the_same(run, weights, source, tmp_path, flags):
    copy = tmp_path / "best.pt"
    copy.write_bytes(weights.read_bytes())
    words = ["--weights", str(copy), "--img", "64", *flags]
    path = export.main(export.build_parser().parse_args(words))[0]
    square = source / "000123.png"
    expected, got = (rows(run(square, "--save-txt", "--save-conf", weights=w), "000123") for w in (weights, path))
    np.testing.assert_allclose(got, expected, atol=1e-3)
    if "--dynamic" not in flags:
        with refused("fixed-size", path.name, "64 64"):
            run(square, "--img", 96, weights=path)


def test_wrong_inputs_are_told(run, weights, source, tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "film.mp4").write_bytes(b"not a film")
    (tmp_path / "half.pt").write_bytes(weights.read_bytes()[:1000])
    (tmp_path / "broken.jpg").write_bytes(b"\xff\xd8nothing")
    for given, words, code, named in [
        (tmp_path / "empty", (), "no-images", "empty"), (tmp_path / "film.mp4", (), "unreadable-source", "film.mp4"),
        (tmp_path / "absent.jpg", (), "missing-file", "absent.jpg"),
        (tmp_path / "broken.jpg", (), "unreadable-source", "broken.jpg"),
        (source, ("--classes", "7"), "unknown-class", "--classes 7: .* 0 to 2"),
        (source, ("--classes", "cirle"), "unknown-class", "'circle'"),
        (source, ("--save-conf",), "flag-without-effect", "--save-txt"),
        (source, ("--device", "7"), "missing-device", "--device 7"),
    ]:
        with refused(code, named):
            run(given, *words)
    for path, code in [("half.pt", "corrupt-checkpoint"), ("absent.pt", "missing-file"),
                       ("best.weights", "unknown-format")]:
        with refused(code, path):
            run(source, weights=tmp_path / path)
    assert not (tmp_path / "out").exists()


def test_csv_has_what_the_json_has(run, source, tmp_path):
    clip = video(tmp_path / "clip.mp4", frames=2)
    for place, frames in ((source / "a.jpg", {""}), (clip, {"0", "1"})):
        folder = run(place, "--save-csv", "--save-json", "--nosave")
        table = list(csv.DictReader((folder / "predictions.csv").open()))
        answers = json.loads((folder / "predictions.json").read_text())
        assert len(table) == len(answers) > 0 and {row["frame"] for row in table} == frames
        for row, answer in zip(table, answers, strict=True):
            assert (row["image"], row["name"], row["id"]) == (str(place), answer["category"], "")
            left, top, width, height = answer["bbox"]
            corners = [float(row[key]) for key in ("x1", "y1", "x2", "y2")]
            np.testing.assert_allclose(corners, [left, top, left + width, top + height], atol=0.01)
            assert float(row["confidence"]) == pytest.approx(answer["score"], abs=1e-5)


def test_ids_are_in_every_output(run, tmp_path, capsys):
    pytest.importorskip("trackers")
    scene = cv2.imread(str(picture(tmp_path / "scene.png")))
    folder = tmp_path / "frames"
    folder.mkdir()
    for k in range(4):
        cv2.imwrite(str(folder / f"{k}.png"), scene)  # the same four times: each detection is the same object
    flags = ["--track", "--max-det", 5, "--save-txt", "--save-conf", "--save-json", "--save-csv", "--save-crop"]
    found, plain = run(folder, *flags), run(folder, "--max-det", 5, "--save-txt")
    assert "followed " in capsys.readouterr().out
    table, answers = rows(found, "3"), json.loads((found / "predictions.json").read_text())
    last = [row for row in answers if row["image_id"] == 3]
    assert table.shape[1] == 7 and rows(plain, "3").shape[1] == 5 and (rows(found, "0")[:, 6] == -1).all()
    assert table[:, 6].tolist() == [row["track_id"] for row in last] and min(table[:, 6]) >= 1
    assert len(set(table[:, 6])) == len(table)
    assert {row["track_id"] for row in answers if row["image_id"] == 0} == {None}
    ids = [row["id"] for row in csv.DictReader((found / "predictions.csv").open()) if row["image"].endswith("3.png")]
    assert ids == [str(row["track_id"]) for row in last]
    assert {p.stem for p in (found / "crops").rglob("3_*.jpg")} == {f"3_id{number}" for number in ids}
    assert (cv2.imread(str(found / "3.png")) != cv2.imread(str(plain / "3.png"))).any()


def test_a_signal_keeps_the_work(run, tmp_path, monkeypatch, capsys):
    """The video that is finished can be played and the JSON read; the exit code is that of the signal."""
    clip = video(tmp_path / "clip.mp4", frames=9)
    add = detect.ResultWriter.add

    def press(self, found, maps=None):
        if found.frame.index == 3:
            os.kill(os.getpid(), signal.SIGINT)
        add(self, found)

    monkeypatch.setattr(detect.ResultWriter, "add", press)
    with pytest.raises(SystemExit) as stop:
        run(clip, "--save-json", "--save-csv")
    assert stop.value.code == 130 and "interrupted after 4 images" in capsys.readouterr().out
    folder = tmp_path / "out" / "exp"
    assert cv2.VideoCapture(str(folder / "clip.mp4")).get(cv2.CAP_PROP_FRAME_COUNT) == 4
    assert {row["frame"] for row in json.loads((folder / "predictions.json").read_text())} == set(range(4))
    assert {p.name for p in folder.iterdir()} == {"clip.mp4", "predictions.json", "predictions.csv"}


@pytest.mark.slow
@pytest.mark.parametrize("number, code", [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_ctrl_c_as_users_press_it(weights, tmp_path, number, code):
    """While a stream waits for its next frame, which never comes."""
    with camera_server(lambda path, n: [*range(10), 60.0]) as server:
        process = start("detect.py", "--weights", weights, "--source", server.url("cam"), "--img", 64, "--save-json",
                        "--project", tmp_path / "out")
        for line in process.stdout:
            if line.startswith("stream http"):
                break
        process.send_signal(number)
        done = ended(process)
    assert done.returncode == code and "Traceback" not in done.stderr, done.stderr
    assert "interrupted after" in done.stdout and "once more stops at once" in done.stderr
    video, = (tmp_path / "out" / "exp").glob("*.mp4")
    assert cv2.VideoCapture(str(video)).get(cv2.CAP_PROP_FRAME_COUNT) >= 1
    assert json.loads((tmp_path / "out" / "exp" / "predictions.json").read_text())


def test_a_second_signal_ends_at_once_and_leaves_old_results(run, tmp_path, monkeypatch):
    clip = video(tmp_path / "clip.mp4", frames=3)
    folder = run(clip, "--save-json")
    before = {p.name: p.read_bytes() for p in folder.iterdir()}

    def press_twice(self, found, maps=None):
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(detect.ResultWriter, "add", press_twice)
    with pytest.raises(KeyboardInterrupt):
        run(clip, "--save-json", "--exist-ok")
    assert {p.name: p.read_bytes() for p in folder.iterdir()} == before


def test_lines_of_a_video_in_a_log(run, tmp_path, capsys):
    run(video(tmp_path / "clip.mp4", frames=20), "--nosave")
    assert len(re.findall("^video", capsys.readouterr().out, re.M)) == 10


def test_a_stream_and_its_results(run, tmp_path, capsys):
    with camera_server(lambda path, n: range(0, 200, 8) if n == 1 else None) as server:
        folder = run(server.url("cam"), "--save-txt", "--save-json", "--save-csv", "--reconnect", 0)
    stem = f"127.0.0.1_{server.server_port}_cam"
    text = capsys.readouterr().out + (folder / "predictions.json").read_text() + (
        folder / "predictions.csv").read_text() + " ".join(p.name for p in folder.rglob("*"))
    assert "pw" not in text and "frames received" in text and "incomplete: http://***@" in text
    assert (folder / f"{stem}_0001.mp4").is_file() and [*(folder / "labels").glob(f"{stem}_*.txt")]
    with refused("flag-without-effect", "--reconnect"):
        run(tmp_path, "--reconnect", 3)


def test_a_window_needs_a_display(run, source, monkeypatch):
    monkeypatch.delenv("DISPLAY", raising=False)
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    with refused("no-display", "--view-img"):
        run(source, "--view-img")
    monkeypatch.setenv("DISPLAY", ":0")
    monkeypatch.setattr(cv2, "namedWindow", lambda *_: raise_(cv2.error("no windows")))
    with refused("no-display", "opencv-python"):
        run(source, "--view-img")


def raise_(error):
    raise error


def test_q_in_the_window_ends(run, tmp_path, monkeypatch, capsys):
    seen, keys = [], iter([-1, -1, ord("q")])
    monkeypatch.setenv("DISPLAY", ":0")
    for name in ("namedWindow", "destroyWindow", "destroyAllWindows"):
        monkeypatch.setattr(cv2, name, lambda *_: None)
    monkeypatch.setattr(cv2, "imshow", lambda name, image: seen.append(image))
    monkeypatch.setattr(cv2, "waitKey", lambda ms: next(keys))
    run(video(tmp_path / "clip.mp4", frames=9), "--view-img", "--nosave")
    assert len(seen) == 3 and "3 images" in capsys.readouterr().out


def test_wrong_flags_end_with_code_2(run, source, capsys):
    for words, told in [(["--save-frames"], "--vid-stride"), (["--conf", "2"], "between"),
                        (["--vid-stride", "x"], "1 or more"),
                        (["--img", "1", "2", "3"], "one or two"), (["--typo"], "--typo")]:
        with pytest.raises(SystemExit) as stop:
            run(source, *words)
        assert stop.value.code == 2 and told in capsys.readouterr().err


def test_the_command_line(weights, source, tmp_path):
    """One good and one bad run as a user types them: exit code, one line, no traceback."""
    def call(*words):
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        command = [sys.executable, ROOT / "detect.py", "--weight", weights, "--img-size", "64", *map(str, words)]
        return subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=60)

    good = call("--source", source, "--conf", 0.3, "--iou", 0.5)
    assert good.returncode == 0 and (tmp_path / "runs/detect/exp/a.jpg").is_file(), good.stderr
    bad = call("--source", tmp_path / "nowhere")
    assert bad.returncode == 1 and bad.stderr.startswith("error: ") and bad.stderr.count("\n") == 1


def test_boxes_that_are_not_finite_are_one_sentence(run, source, monkeypatch):
    class Broken(Runtime):
        def __init__(self, real) -> None:
            self.__dict__.update(vars(real))

        def predict(self, images, content=None):
            return torch.full((1, 5, 4), float("nan")), torch.ones(1, 5, 3)

    real = detect.load_runtime
    monkeypatch.setattr(detect, "load_runtime", lambda *args: Broken(real(*args)))
    with refused("not-finite", r"best\.pt", r"000123\.png"):
        run(source)


@pytest.mark.parametrize("flags, named", [
    (["--nosave", "--line-thickness", "3"], "--line-thickness: "), (["--nosave", "--hide-conf"], "--hide-conf: "),
    (["--hide-labels", "--hide-conf"], "--hide-conf: "), (["--save-conf"], "--save-txt"),
    (["--nosave", "--hide-labels", "--project", ""], "--project: .*--hide-labels: "), (["--name", ""], "--name"),
    (["--name", "../x", "--save-conf"], "--name: .*--save-conf: ")])
def test_flags_without_effect_are_refused_all_at_once(flags, named):
    with refused("flag-without-effect", named):
        detect.main(detect.build_parser().parse_args(["--weights", "x.pt", "--source", "y", *flags]))


@pytest.mark.parametrize("words", [["--line-thickness", "40000"], ["--max-det", "99999999"],
                                   ["--vid-stride", "99999999"], ["--imgsz", "100000"]])
def test_huge_numbers_are_refused_with_the_range(words, capsys):
    with pytest.raises(SystemExit):
        detect.build_parser().parse_args(["--weights", "x", "--source", "y", *words])
    assert {"at most", "between"} & set(re.findall("at most|between", capsys.readouterr().err.splitlines()[-1]))
