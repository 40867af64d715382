"""Every form of file gives the detections of the checkpoint it was made from, in val.py and detect.py alike."""

import json
import shutil

import pytest
import torch
import yaml

import detect
import val
from engine.inference.runtimes.open import load_runtime
from tests.engine.export.conftest import NAMES, SELECTING, SIZE, VARIANTS
from tests.refusals import refused
from tests.tiny import picture
from utils.select import SelectConfig

TOLERANCE = {"openvino-half": 8.0}  # bf16 where the CPU has it


def images(count=2):
    return torch.randint(256, (count, 3, *SIZE), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("name", [n for n in VARIANTS if n not in SELECTING])
def test_a_file_answers_as_the_checkpoint(made, name):
    reference, runtime = load_runtime(made("pt"), "cpu"), load_runtime(made(name), "cpu")
    assert runtime.names == NAMES and runtime.fixed_size == SIZE and runtime.strides == [8, 16, 32]
    expected, got = reference.predict(images()), runtime.predict(images())
    assert got[0].dtype == got[1].dtype == torch.float32 and got[1].shape == expected[1].shape
    torch.testing.assert_close(got[0], expected[0], atol=TOLERANCE.get(name, 5e-3), rtol=1e-4)
    torch.testing.assert_close(got[1], expected[1], atol=0.1 if "half" in name else 5e-4, rtol=1e-4)


@pytest.mark.parametrize("name", SELECTING)
def test_a_file_that_selects_gives_the_detections_of_the_checkpoint(made, name):
    reference, runtime = load_runtime(made("pt"), "cpu"), load_runtime(made(name), "cpu")
    assert runtime.selection == SelectConfig(0.25, 0.45, 300, agnostic="openvino" in name) == runtime.thresholds
    seen = images() / 255
    wanted = reference.select(*reference.predict(seen), runtime.selection)
    found = runtime.select(*runtime.predict(seen))
    assert sum(map(len, wanted)) > 5
    for a, b in zip(found, wanted, strict=True):
        torch.testing.assert_close(a.boxes, b.boxes, atol=5e-3, rtol=1e-4)
        assert a.labels.tolist() == b.labels.tolist()
    one = runtime.select(*runtime.predict(seen), SelectConfig(0.5, max_det=2, classes=(1,)))
    assert all(len(d) <= 2 and set(d.labels.tolist()) <= {1} and (d.scores > 0.5).all() for d in one)


def rows_of(run, weights, folder, *words):
    """(N, 7) score, class, image and box of predictions.json, as numbers of like weight."""
    words = ["--weights", str(weights), "--save-json", "--project", str(folder), "--name", "run", "--device", "cpu",
             "--conf-thres", "0.25", *words]
    run.main(run.build_parser().parse_args(words))
    rows = json.loads((folder / "run" / "predictions.json").read_text())
    return torch.tensor([(100 * r["score"], 1e3 * r["category_id"], 1e4 * hash(str(r["image_id"])) % 1e6, *r["bbox"])
                         for r in rows])


def close(found, wanted):
    apart = (found[:, None] - wanted).abs().amax(-1)
    assert len(found) == len(wanted) > 0 and max(apart.amin(0).max(), apart.amin(1).max()) < 0.1


@pytest.mark.parametrize("name", ["peer", "nms", "openvino", "pt2"])
def test_detect_finds_the_same(made, tmp_path, name):
    shot = picture(tmp_path / "shots" / "1.jpg", size=SIZE)
    words = ["--source", str(shot), "--nosave", "--imgsz", *map(str, SIZE)]
    close(*(rows_of(detect, made(kind), tmp_path / kind, *words) for kind in (name, "pt")))


@pytest.mark.parametrize("name", ["peer", "openvino"])
def test_val_finds_the_same(made, tmp_path, name):
    words = ["--data", str(made("pt").parent / "tiny.yaml"), "--noplots", "--workers", "0", "--imgsz", *map(str, SIZE)]
    close(*(rows_of(val, made(kind), tmp_path / kind, *words) for kind in (name, "pt")))


def test_val_says_how_a_file_selects(made, tmp_path, capsys):
    words = ["--data", str(made("pt").parent / "tiny.yaml"), "--noplots", "--workers", "0"]
    assert len(rows_of(val, made("nms"), tmp_path, *words))
    said = "".join(capsys.readouterr())
    assert "selects detections itself: confidence 0.25, NMS at IoU 0.45, at most 300 of an image" in said
    assert "warning: detections below a confidence of 0.25 are left out" in said


@pytest.mark.parametrize("run, words, told", [
    (detect, ["--conf-thres", "0.1"], "--conf-thres 0.1: .*confidence 0.25.*--nms --conf-thres 0.1"),
    (detect, ["--max-det", "301"], "--max-det 301"), (detect, ["--iou-thres", "0.5"], "--iou-thres: .*without --nms"),
    (val, ["--conf-thres", "0.001"], "--conf-thres 0.001"), (val, ["--iou-thres", "0.5"], "--iou-thres: ")])
def test_flags_that_cannot_widen_a_selection_are_refused(made, tmp_path, run, words, told):
    rest = ["--data", str(made("pt").parent / "tiny.yaml")] if run is val else ["--source", str(tmp_path)]
    picture(tmp_path / "1.jpg", size=SIZE)
    with refused("flag-without-effect", told):
        run.main(run.build_parser().parse_args(["--weights", str(made("nms")), "--project", str(tmp_path), "--device",
                                                "cpu", *rest, *words]))


def test_a_folder_of_openvino_is_what_others_read_too(made, tmp_path):
    folder = made("openvino")
    assert sorted(path.name for path in folder.iterdir()) == ["metadata.yaml", "openvino.bin", "openvino.xml"]
    content = yaml.safe_load((folder / "metadata.yaml").read_text())
    assert content["names"] == dict(enumerate(NAMES)) and content["stride"] == 32 and content["imgsz"] == list(SIZE)
    assert load_runtime(folder / "openvino.xml", "cpu").names == NAMES
    with refused("wrong-device", "--device 0"):
        load_runtime(folder, "0")
    for change, code, told in (
            (lambda p: (p / "openvino.bin").unlink(), "corrupt-file", r"no openvino\.bin"),
            (lambda p: (p / "openvino.xml").write_text("<net>"), "corrupt-file", "truncated or not of OpenVINO"),
            (lambda p: (p / "metadata.yaml").unlink(), "foreign-file", "no metadata"),
            (lambda p: (p / "metadata.yaml").write_text("a: [b"), "corrupt-metadata", "metadata.yaml"),
            (lambda p: (p / "metadata.yaml").write_text("!!python/object/apply:os.getcwd []"), "corrupt-metadata", "")):
        broken = tmp_path / "broken_openvino_model"
        shutil.rmtree(broken, ignore_errors=True)
        shutil.copytree(folder, broken)
        change(broken)
        with refused(code, "broken_openvino_model", told):
            load_runtime(broken, "cpu")
    with refused("missing-file", "no such folder"):
        load_runtime(tmp_path / "none_openvino_model")


def test_a_program_of_torch_export_needs_trust_and_names_its_damage(made, tmp_path):
    copy = tmp_path / "other.pt2"
    copy.write_bytes(made("pt2").read_bytes() + b"x")
    with refused("untrusted-file", r"other\.pt2", "--trust"):
        load_runtime(copy, "cpu")
    copy.write_bytes(made("pt2").read_bytes()[:1000])
    with refused("corrupt-file", r"other\.pt2"):
        load_runtime(copy, "cpu", trust=True)
