"""Models whose frames are stretched, or fit the shorter side of an image: as checkpoints and as exported files."""

import json
from dataclasses import asdict
from pathlib import Path

import cv2
import numpy as np
import onnx
import pytest
import torch

import export as script
from engine.evaluation.config import ValConfig
from engine.evaluation.setup import open_loader
from engine.inference.metadata import METADATA_KEY, ExportMetadata
from engine.inference.runtimes.open import load_runtime
from tests.data.pictures import Index, make_records, smooth
from tests.refusals import refused
from tests.tiny import CAFFE, FITS, ROWS, tiny_checkpoint
from utils.distributed.group import Group
from utils.frame import Frame, Pixels

FILL = [124, 116, 104]


def frames_of(weights: Path, index: Index, **flags) -> set[tuple[int, int]]:
    """(height, width) of the frames that val.py reads."""
    config = ValConfig(data="x", workers=0, **flags)
    loader = open_loader(config, load_runtime(weights, "cpu"), index, Group())
    return {tuple(batch.images.shape[2:]) for batch in loader}


def test_yolo_is_evaluated_in_rectangles_unless_the_file_or_a_flag_says_otherwise(tmp_path) -> None:
    index, square = Index(make_records(tmp_path, [(30, 60), (32, 64)])), {(64, 64)}
    free = tiny_checkpoint(tmp_path / "free.pt", ROWS)
    with_flags = {"imgsz": (64,)}
    files = [free, *_export(free, "onnx", "--imgsz", "64", "--dynamic")]
    for weights in files:
        assert frames_of(weights, index, **with_flags) == {(64, 96)}, weights
        assert frames_of(weights, index, rect=True, **with_flags) == {(64, 96)}
        assert frames_of(weights, index, rect=False, **with_flags) == square
        assert frames_of(weights, index, imgsz=(32, 96)) == {(32, 96)}
    fixed, = _export(free, "onnx", "--imgsz", "64")
    assert frames_of(fixed, index) == frames_of(fixed, index, rect=False) == square
    told = tiny_checkpoint(tmp_path / "told.pt", {**ROWS, "frame": {"eval_rect": False}})
    for weights in (told, *_export(told, "onnx", "--imgsz", "64", "--dynamic")):
        assert frames_of(weights, index, **with_flags) == square
        assert frames_of(weights, index, rect=True, **with_flags) == {(64, 96)}


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> dict[tuple[str, str], Path]:
    """(fit, suffix) -> a file of the same model; those of "shortest" in frames of 64 x 96 pixels, or of any."""
    found = {}
    for fit, content in FITS.items():
        folder = tmp_path_factory.mktemp(fit)
        found[fit, ".pt"] = tiny_checkpoint(folder / "best.pt", {**content, "source": fit})
        flags = ["--imgsz", "64", "96"] if fit == "shortest" else []
        for path in _export(found[fit, ".pt"], "onnx", "torchscript", *flags):
            found[fit, path.suffix] = path
    free = tiny_checkpoint(tmp_path_factory.mktemp("free") / "best.pt", {**FITS["shortest"], "source": "free"})
    found["free", ".onnx"], = _export(free, "onnx", "--dynamic")
    return found


def _export(weights: Path, *words: str) -> list[Path]:
    formats = [word for word in words if word in ("onnx", "torchscript")]
    flags = [word for word in words if word not in formats]
    return script.main(script.build_parser().parse_args(["--weights", str(weights), *flags, "--include", *formats]))


@pytest.mark.parametrize("suffix", [".pt", ".onnx", ".torchscript"])
def test_a_stretched_picture_is_what_opencv_resizes_it_to(files, suffix) -> None:
    runtime, image = load_runtime(files["stretch", suffix], "cpu"), smooth(131, 87)
    assert runtime.choose_size() == runtime.choose_size([60, 100]) == runtime.fixed_size == (60, 100)
    tensor, placed = runtime.prepare(image, runtime.choose_size())
    want = cv2.cvtColor(cv2.resize(image, (100, 60), interpolation=cv2.INTER_LINEAR), cv2.COLOR_BGR2RGB)
    assert np.array_equal(tensor[0].permute(1, 2, 0).numpy(), want)
    assert placed.scale == (100 / 87, 60 / 131) and placed.pad == (0, 0)
    with refused("fixed-size", "--imgsz 640", "60 x 100"):
        runtime.choose_size([640])
    with refused("fixed-size", "60x100"):
        runtime.predict(torch.zeros(1, 3, 64, 64))


@pytest.mark.parametrize(("fit", "suffix"), [("shortest", ".pt"), ("free", ".onnx")])
@pytest.mark.parametrize(("original", "inner", "frame"), [
    ((100, 130), (64, 83), (64, 96)), ((70, 300), (25, 107), (32, 128)), ((200, 100), (107, 54), (128, 64))])
def test_a_picture_alone_gets_its_own_frame(files, fit, suffix, original, inner, frame) -> None:
    runtime, image = load_runtime(files[fit, suffix], "cpu"), smooth(*original)
    assert runtime.choose_size() == (64, 107) and runtime.choose_size([96]) == (96, 160)
    tensor, placed = runtime.prepare(image, runtime.choose_size())
    pixels = tensor[0].permute(1, 2, 0).numpy()
    assert placed.input == frame and placed.pad == (0, 0)
    assert placed.scale == (inner[1] / original[1], inner[0] / original[0])
    assert (pixels[inner[0]:] == FILL).all() and (pixels[:, inner[1]:] == FILL).all()
    how = cv2.INTER_AREA if inner[0] * inner[1] < original[0] * original[1] else cv2.INTER_LINEAR
    want = cv2.cvtColor(cv2.resize(image, inner[::-1], interpolation=how), cv2.COLOR_BGR2RGB)
    assert np.array_equal(pixels[:inner[0], :inner[1]], want)
    assert runtime.predict(tensor)[0].isfinite().all()


@pytest.mark.parametrize("suffix", [".onnx", ".torchscript"])
def test_a_file_of_one_frame_fits_pictures_into_it(files, suffix) -> None:
    runtime, image = load_runtime(files["shortest", suffix], "cpu"), smooth(200, 100)
    assert runtime.fixed_size == (64, 96) == runtime.choose_size() == runtime.choose_size([64, 96])
    tensor, placed = runtime.prepare(image, (64, 96))
    assert tensor.shape == (1, 3, 64, 96) and placed.scale == (0.32, 0.32) and placed.pad == (0, 0)
    assert (tensor[0].permute(1, 2, 0).numpy()[:, 32:] == FILL).all()
    with refused("fixed-size", "exported for 64 96"):
        runtime.choose_size([128])


@pytest.mark.parametrize("fit", FITS)
@pytest.mark.parametrize("suffix", [".onnx", ".torchscript"])
def test_files_answer_as_their_checkpoint(files, fit, suffix) -> None:
    size = (60, 100) if fit == "stretch" else (64, 96)
    images = torch.randint(256, (2, 3, *size), dtype=torch.uint8)
    expected, got = (load_runtime(files[fit, kind], "cpu").predict(images) for kind in (".pt", suffix))
    for a, b in zip(expected, got, strict=True):
        torch.testing.assert_close(a, b, atol=5e-3, rtol=1e-4)


def test_files_say_how_they_want_images(files) -> None:
    stored = {fit: json.loads(next(p.value for p in onnx.load(str(files[fit, ".onnx"])).metadata_props
                                   if p.key == METADATA_KEY)) for fit in FITS}
    assert stored["stretch"]["frame"]["fit"] == "stretch" and stored["stretch"]["frame"]["size"] == [60, 100]
    assert stored["stretch"]["pixels"] == CAFFE and stored["shortest"]["frame"]["fill"] == FILL
    assert "60 and 100" in onnx.load(str(files["stretch", ".onnx"])).doc_string
    for fit, content in stored.items():
        metadata = ExportMetadata.from_json(json.dumps(content), Path("x"))
        assert metadata.frame.to_dict() == content["frame"] and metadata.pixels.to_dict() == content["pixels"], fit


def test_files_of_before_are_letterboxed(files) -> None:
    content = asdict(ExportMetadata(("a",), (8, 64), None, 1, False))
    del content["frame"], content["pixels"]
    metadata = ExportMetadata.from_json(json.dumps(content), Path("x"))
    assert metadata.frame == Frame(multiple=64) and metadata.pixels == Pixels()


@pytest.mark.parametrize(("key", "value", "told"), [
    ("frame", [1], "frame"), ("frame", {"fit": "squeeze"}, "squeeze"), ("frame", {"size": [0, 5]}, "size"),
    ("frame", {"colour": 1}, "colour"), ("pixels", {"std": [0, 1, 1]}, "std"), ("pixels", 3, "pixels"),
])
def test_damaged_entries_are_told(key, value, told) -> None:
    content = {**asdict(ExportMetadata(("a",), (8,), None, 1, False)), key: value}
    with refused("corrupt-metadata", "x.onnx", told):
        ExportMetadata.from_json(json.dumps(content), Path("x.onnx"))


def test_flags_without_a_meaning_are_refused(files, tmp_path) -> None:
    with refused("fixed-size", "--dynamic", "60 x 100"):
        _export(files["stretch", ".pt"], "onnx", "--dynamic")
    with refused("fixed-size", "--imgsz 640", "60 x 100"):
        _export(files["stretch", ".pt"], "onnx", "--imgsz", "640")
    index = Index(make_records(tmp_path, [(40, 60)]))
    for fit, code, told in (("stretch", "fixed-size", "60 x 100"), ("shortest", "flag-without-effect", "in any case")):
        runtime = load_runtime(files[fit, ".pt"], "cpu")
        with refused(code, "--rect", told):
            open_loader(ValConfig(data="x", rect=True, workers=0), runtime, index, Group())
    with refused("flag-without-effect", "--no-rect", "in any case"):
        open_loader(ValConfig(data="x", rect=False, workers=0), load_runtime(files["shortest", ".pt"], "cpu"), index,
                    Group())


def test_the_size_of_a_training_is_where_files_start(tmp_path) -> None:
    for fit, trained, size in (("stretch", [60, 100], (60, 100)), ("shortest", [96], (96, 160)),
                               ("shortest", [64, 80], (80, 134))):
        weights = tiny_checkpoint(tmp_path / "best.pt", {
            **FITS[fit], "source": fit, "trained": {"data": "shapes", "imgsz": trained}})
        runtime = load_runtime(weights, "cpu")
        assert runtime.trained["imgsz"] == trained and runtime.choose_size() == size
