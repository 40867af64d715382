"""--slice, --augment and ensembles in val.py and detect.py: both find the same boxes, and flags in vain are refused."""

import json
from pathlib import Path

import numpy as np
import pytest

import detect
import export
import val
from tests.tiny import tiny_data, tiny_model
from utils.checkpoint import save_checkpoint
from utils.errors import UserError


def checkpoint(path: Path, names: list[str], seed: int = 0) -> Path:
    """An untrained model whose scores spread; others for other seeds."""
    model = tiny_model("yolov8n", names)
    if seed:
        for name, parameter in model.named_parameters():
            if name.endswith("bias"):
                parameter.data.mul_(1 + 0.05 * seed)
    save_checkpoint({"config": model.config, "names": list(model.names), "model": model.state_dict()}, path)
    return path


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """tiny.yaml with three images of 150 x 200 px, and models a and b of one class."""
    folder = tiny_data(tmp_path_factory.mktemp("views"), 1, 3, size=[150, 200])
    checkpoint(folder / "a.pt", ["item"])
    checkpoint(folder / "b.pt", ["item"], 1)
    return folder


def evaluate(place: Path, out: Path, *flags: object, name: str = "val"):
    """(the evaluation, predictions by image) of val.py on tiny.yaml as one class."""
    words = ["--weights", place / "a.pt", "--data", place / "tiny.yaml", "--single-cls", "--project", out, "--name",
             name, "--device", "cpu", "--conf-thres", 0.3, "--iou-thres", 0.5, "--max-det", 1000, "--save-json",
             "--noplots", *flags]
    words += ["--img", 64] * ("--img" not in flags)
    result = val.main(val.build_parser().parse_args([str(word) for word in words]))
    return result, rows(out / name / "predictions.json")


def look(place: Path, out: Path, *flags: object) -> dict:
    """Predictions of detect.py on the same images, by image."""
    words = ["--weights", place / "a.pt", "--source", place / "shapes/val/images", "--project", out, "--name", "detect",
             "--device", "cpu", "--conf-thres", 0.3, "--iou-thres", 0.5, "--max-det", 1000, "--save-json", "--nosave",
             *flags]
    words += ["--img", 64] * ("--img" not in flags)
    folder = detect.main(detect.build_parser().parse_args([str(word) for word in words]))
    return rows(folder / "predictions.json")


def rows(file: Path) -> dict[int, np.ndarray]:
    """x, y, width, height, score of each image, sorted."""
    found: dict[int, list] = {}
    for row in json.loads(file.read_text()):
        found.setdefault(int(row["image_id"]), []).append([*row["bbox"], row["score"]])
    return {image: np.array(sorted(table, key=lambda row: (-round(row[4], 3), row[:4]))) for image, table in
            found.items()}


def same(one: dict, other: dict) -> None:
    assert one.keys() == other.keys() and len(one) == 3
    for image, table in one.items():
        assert table.shape == other[image].shape and len(table) > 3
        far = np.abs(table[:, None] - other[image][None]).max(2)
        assert far.min(0).max() < 0.02 and far.min(1).max() < 0.02


@pytest.mark.parametrize("flags", [["--slice", 64], ["--slice", 100, "--overlap", 0.4, "--with-full", "--merge", "wbf"],
                                   ["--slice", 96, "--merge", "nms", "--augment"]])
def test_val_and_detect_find_the_same(place, tmp_path, flags, capsys):
    result, found = evaluate(place, tmp_path, *flags)
    told = capsys.readouterr().out
    assert all(f"\n{row} " in told for row in ("full", "sliced", "merged")) and "duplicates" in told
    assert result.comparison in (tmp_path / "val/metrics.txt").read_text()
    assert f"windows of {flags[1]} px" in told and ("--augment" in told) == ("--augment" in flags)
    same(found, look(place, tmp_path, *flags))
    assert "windows of" in capsys.readouterr().out


def test_the_rows_are_what_they_say(place, tmp_path):
    """`full` is what whole images give, `merged` what the table above and the files hold."""
    result, found = evaluate(place, tmp_path, "--slice", 64)
    row = dict(zip(("name", *(s.name for s in result.metrics.protocol.stats if s.kind == "AP"), "found", "duplicates"),
                   next(line for line in result.comparison.splitlines() if line.startswith("merged")).split(),
                   strict=False))
    assert int(row["found"]) == sum(map(len, found.values())) == len(result.found)
    assert float(row["AP"]) == pytest.approx(result.metrics["AP"], abs=5e-4)
    whole = look(place, tmp_path)
    full = next(line for line in result.comparison.splitlines() if line.startswith("full")).split()
    assert int(full[-3]) == sum(map(len, whole.values()))


def test_augment_changes_what_is_found(place, tmp_path):
    (_, one), (_, more) = evaluate(place, tmp_path), evaluate(place, tmp_path, "--augment", name="more")
    for plain, found in ((one, more), (look(place, tmp_path), look(place, tmp_path, "--augment"))):
        assert found.keys() == plain.keys()
        assert any(found[k].shape != plain[k].shape or (found[k] != plain[k]).any() for k in found)


@pytest.mark.parametrize("method", ["nms", "wbf"])
def test_an_ensemble(place, tmp_path, method, capsys):
    models = "--weights", place / "a.pt", place / "b.pt"
    alone = look(place, tmp_path / "alone")
    result, _ = evaluate(place, tmp_path, *models, "--merge", method)
    assert f"ensemble of 2 models, merged by {method}" in capsys.readouterr().out
    table = rows(tmp_path / "val-ensemble/predictions.json")
    assert len(result.found) == sum(map(len, table.values()))
    assert (tmp_path / "val-ensemble/metrics.txt").is_file() and {p.name for p in tmp_path.iterdir()} == {
        "alone", "val", "val2", "val-ensemble", "val-table"}
    assert "\nensemble " in (tmp_path / "val-table/table.txt").read_text()
    found = look(place, tmp_path, *models, *(["--merge", "nms"] if method == "nms" else []))
    assert found.keys() == alone.keys() and any(len(found[k]) != len(alone[k]) for k in found)


def test_an_exported_file_in_an_ensemble(place, tmp_path):
    words = ["--weights", str(place / "a.pt"), "--include", "onnx", "--img", "64"]
    export.main(export.build_parser().parse_args(words))
    twice = look(place, tmp_path, "--weights", place / "a.pt", place / "a.onnx", "--merge", "nms")
    assert len(twice) == 3
    with pytest.raises(UserError, match="pixels alone"):
        look(place, tmp_path, "--weights", place / "a.onnx", "--augment")


@pytest.mark.parametrize("flags, message", [
    (["--overlap", "0.3"], "add --slice"), (["--with-full"], "add --slice"), (["--merge", "wbf"], "add --slice"),
    (["--weights", "a.pt", "b.pt", "--merge", "nmm"], "no parts to put together")])
def test_flags_in_vain(flags, message):
    for program, rest in ((val, []), (detect, ["--source", "x"])):
        words = ["--weights", "a.pt", *rest, *flags]
        with pytest.raises(UserError, match=message):
            program.main(program.build_parser().parse_args(words))


def test_rect_says_nothing_about_windows():
    with pytest.raises(UserError, match="frames of their own"):
        val.main(val.build_parser().parse_args(["--weights", "a.pt", "--slice", "64", "--rect"]))


@pytest.mark.parametrize("flags", [["--slice", "8"], ["--overlap", "0.95"], ["--merge", "soft"]])
def test_values_out_of_range(flags, capsys):
    for program, rest in ((val, []), (detect, ["--source", "x"])):
        with pytest.raises(SystemExit):
            program.build_parser().parse_args(["--weights", "a.pt", *rest, *flags])
        assert "Traceback" not in capsys.readouterr().err
