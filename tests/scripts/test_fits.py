"""The four scripts with models whose frames are stretched, or fit the shorter side of their images."""

import json
from pathlib import Path

import numpy as np
import pytest
import yaml

import detect
import export
import train
import val
from tests.refusals import refused
from tests.running import script
from tests.scripts.trainings import assert_same_end, parsed, words
from tests.tiny import FITS, picture, tiny_data
from utils.checkpoint import load_checkpoint


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """A folder with tiny data of 80 x 110 pixels, and a model file for each fit."""
    folder = tiny_data(tmp_path_factory.mktemp("fits"), train=6, val=3, size=[80, 110])
    for fit, content in FITS.items():
        (folder / f"{fit}.yaml").write_text(yaml.safe_dump(content), encoding="utf-8")
    return folder


def _train(place: Path, fit: str, name: str, *flags: object) -> Path:
    args = parsed(place, name, "--cfg", place / f"{fit}.yaml", *flags)
    return train.main(args)


def _flags(place: Path, name: str, fit: str) -> list[str]:
    changes = {"--cfg": place / f"{fit}.yaml", "--epochs": 1, "--batch": 4, "--noplots": "", "--device": "cpu"}
    flags = words(place, name, **changes)
    at = flags.index("--imgsz")
    return flags[:at] + flags[at + 2:]


@pytest.mark.slow
def test_the_scripts_as_processes_with_a_stretched_model(place) -> None:
    told = script("train", *_flags(place, "stretch", "stretch")).stdout
    assert "mosaic: off" in told
    weights = place / "stretch" / "weights" / "best.pt"
    assert load_checkpoint(weights)["config"]["trained"]["imgsz"] == [60, 100]
    shot = picture(place / "shots" / "a.jpg", size=(90, 70))
    file = place / "stretch" / "weights" / "best.onnx"
    assert "1 x 3 x 60 x 100" in script("export", "--weights", weights, "--include", "onnx").stdout
    found = {}
    for path in (weights, file):
        out = script("detect", "--weights", path, "--source", shot, "--save-json", "--nosave", "--conf-thres", 0.001,
                     "--project", place, "--name", f"seen{path.suffix}", "--device", "cpu").stdout
        assert "60x100" in out
        found[path.suffix] = json.loads((place / f"seen{path.suffix}" / "predictions.json").read_text())
        name = f"val{path.suffix}"
        script("val", "--weights", path, "--data", place / "tiny.yaml", "--noplots", "--project", place, "--name", name,
               "--device", "cpu", "--save-json", "--workers", 0)
        found[name] = json.loads((place / name / "predictions.json").read_text())
    for a, b in ((".pt", ".onnx"), ("val.pt", "val.onnx")):
        assert len(found[a]) > 0 and len(found[a]) == pytest.approx(len(found[b]), abs=2)
    x, y, width, height = np.array([row["bbox"] for row in found[".pt"]]).T
    assert x.min() >= 0 and y.min() >= 0 and (x + width).max() <= 70.01 and (y + height).max() <= 90.01


def test_a_training_with_frames_of_the_images(place, capsys) -> None:
    folder = _train(place, "shortest", "shortest", "--imgsz", 48)
    trained = load_checkpoint(folder / "weights/best.pt")["config"]["trained"]["imgsz"]
    assert trained == [48] and "mosaic: off" in capsys.readouterr().out
    weights = folder / "weights" / "best.pt"
    result = val.main(val.build_parser().parse_args([
        "--weights", str(weights), "--noplots", "--project", str(place), "--name", "v", "--workers", "0"]))
    frames = {tuple(batch.images.shape[2:]) for batch, _ in result.plot_batches}
    assert frames == {(64, 96)}  # 48 x 66, rounded up
    shot = picture(place / "shots" / "tall.jpg", size=(110, 40))
    detect.main(detect.build_parser().parse_args([
        "--weights", str(weights), "--source", str(shot), "--project", str(place), "--name", "d"]))
    assert "96x32" in capsys.readouterr().out  # 80 x 29, the longer side being 48 * 107 / 64


def test_the_shorter_side_of_the_model_is_the_default(place) -> None:
    flags = [*_flags(place, "default", "shortest"), "--nosave"]
    folder = train.main(train.build_parser().parse_args(flags))
    assert yaml.safe_load((folder / "args.yaml").read_text())["imgsz"] == [64]


@pytest.mark.parametrize(("fit", "flags"), [("stretch", ["--imgsz", 60, 100]),
                                            ("shortest", ["--imgsz", 48, "--multi-scale"])])
def test_a_resumed_training_ends_as_one_that_was_not_interrupted(place, fit, flags, monkeypatch) -> None:
    flags = ["--epochs", 2, "--save-period", 1, *flags]
    whole = _train(place, fit, f"whole {fit}", *flags)

    def ends(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(train, "train_epoch", lambda job, run, epoch=train.train_epoch: (ends if run.epoch else epoch)(
            job, run))
        _train(place, fit, f"part {fit}", *flags)
    part = train.main(train.build_parser().parse_args(["--resume", str(place / f"part {fit}"), "--device", "cpu",
                                                       "--workers", "2"]))
    assert_same_end(whole, part)


def test_an_image_alone_in_its_batch_is_told_where_batch_norm_sees_one_value_of_it(place) -> None:
    content = {**FITS["stretch"], "frame": {"fit": "stretch", "size": [24, 32]}}
    (place / "small.yaml").write_text(yaml.safe_dump(content), encoding="utf-8")
    with refused("bad-value", "--batch-size 5: of 6 images one is left alone"):
        _train(place, "small", "alone", "--imgsz", 24, 32, "--batch-size", 5)
    _train(place, "stretch", "together", "--imgsz", 60, 100, "--batch-size", 5, "--nosave")  # its coarsest map is 2 x 4


def test_two_sizes_are_those_of_training_and_validation(place) -> None:
    folder = _train(place, "shortest", "two", "--imgsz", 32, 48, "--multi-scale")
    assert load_checkpoint(folder / "weights/last.pt")["config"]["trained"]["imgsz"] == [32, 48]


@pytest.mark.parametrize(("fit", "flags", "code", "told"), [
    ("stretch", ["--multi-scale"], "flag-without-effect", "--multi-scale"),
    ("stretch", ["--rect"], "flag-without-effect", "--rect"),
    ("shortest", ["--rect"], "flag-without-effect", "--rect"),
    ("stretch", ["--imgsz", 640], "fixed-size", "--imgsz 640.*60 x 100"),
])
def test_flags_that_the_frame_gives_no_meaning_are_refused(place, fit, flags, code, told) -> None:
    size = [] if "--imgsz" in flags else ["--imgsz", *((60, 100) if fit == "stretch" else (48,))]
    with refused(code, told):
        _train(place, fit, "refused", *size, *flags)


@pytest.mark.slow
def test_a_batch_that_fits_is_measured_in_the_frames_of_the_model(place, capsys, monkeypatch) -> None:
    import engine.training.setup

    seen = []
    monkeypatch.setattr(engine.training.setup, "find_batch", lambda probe, *_, **__: seen.append(probe) or 2)
    probed = engine.training.setup.probe_step
    sizes = []
    monkeypatch.setattr(engine.training.setup, "probe_step",
                        lambda model, device, size, amp: sizes.append(size) or probed(model, device, size, amp))
    _train(place, "stretch", "fit", "--imgsz", 60, 100, "--batch-size", -1, "--nosave")
    _train(place, "shortest", "fit2", "--imgsz", 48, "--batch-size", -1, "--nosave", "--multi-scale")
    assert sizes == [(60, 100), (96, 128)]
    seen[0](1)


def test_exports_of_either_kind(place) -> None:
    from tests.tiny import tiny_checkpoint

    weights = tiny_checkpoint(place / "free.pt", {**FITS["shortest"], "source": "x"})
    flags = ["--weights", str(weights), "--include", "onnx"]
    for more, size in (([], (64, 128)), (["--imgsz", "96"], (96, 160)), (["--imgsz", "96", "50"], (96, 64))):
        file, = export.main(export.build_parser().parse_args([*flags, *more]))
        assert detect.load_runtime(file, "cpu").fixed_size == size
