"""Tables of runs: which are one row, what tells rows apart, and files of all digits."""

import csv
import json
import statistics

import pytest
import yaml

from benchmarks.table import build_parser, main
from tests.refusals import user_error

AP = {"AP": 0.5, "AP50": 0.8, "AP75": 0.55, "AP_S": None, "AP_M": 0.4, "AP_L": 0.6, "AR1": 0.1}


def run(folder, seed=0, ap=0.5, protocol="coco", **settings):
    """A folder as train.py leaves it."""
    folder.mkdir()
    args = {"command": f"python train.py --seed {seed}", "cfg": "yolov8n", "data": "bccd", "seed": seed, "epochs": 60,
            "name": folder.name, "recipe": {"lr0": 0.01, "gains": {"box": 7.5}}, **settings}
    (folder / "args.yaml").write_text(yaml.safe_dump(args))
    facts = {"command": args["command"], "commit": "abc", "parameters": 3_011_823, "epochs": 60,
             "seconds": 100.0 + seed}
    content = {"protocols": [{"protocol": protocol, "values": {**AP, "AP": ap}}], "run": facts}
    (folder / "metrics.json").write_text(json.dumps(content))
    return folder


def table(*folders, **flags):
    words = [str(folder) for folder in folders] + [str(w) for flag in flags.items() for w in (f"--{flag[0]}", flag[1])]
    return main(build_parser().parse_args(words))


def test_runs_that_differ_in_the_seed_alone_are_one_row(tmp_path, capsys):
    ours = [run(tmp_path / f"a{seed}", seed, 0.5 + seed / 100, workers=seed) for seed in range(3)]
    other = run(tmp_path / "b", cfg="yolov8n-assn")
    first, second = table(*ours, other)
    assert first["seeds"] == "0 1 2" and first["runs"] == 3 and second["runs"] == 1
    assert first["AP"] == pytest.approx((0.51, statistics.stdev([0.5, 0.51, 0.52])))
    assert first["setting"] == "cfg yolov8n" and second["setting"] == "cfg yolov8n-assn" and first["AP_S"] is None
    said = capsys.readouterr().out
    assert "0.510 ± 0.010" in said and "3.01 M" in said and "101" in said and "±" not in said.splitlines()[2]


@pytest.mark.parametrize("change, label", [
    ({"recipe": {"lr0": 0.02, "gains": {"box": 7.5}}}, "recipe.lr0 0.02"), ({"epochs": 30}, "epochs 30"),
    ({"box_loss": "sca"}, "box_loss sca"), ({"protocol": "aitod"}, "by aitod")])
def test_any_other_setting_is_another_row_that_says_so(tmp_path, change, label):
    rows = table(run(tmp_path / "a"), run(tmp_path / "b", 1, **change))
    assert len(rows) == 2 and label in rows[1]["setting"]


def test_files_hold_all_digits(tmp_path):
    ours = [run(tmp_path / f"a{seed}", seed, 1 / (3 + seed)) for seed in range(2)]
    table(*ours, csv=tmp_path / "t.csv", latex=tmp_path / "t.tex", runs=tmp_path / "runs.csv")
    row, = csv.DictReader((tmp_path / "t.csv").open())
    assert float(row["AP"]) == statistics.fmean([1 / 3, 1 / 4]) and row["AP_S"] == row["AP_S sd"] == ""
    rows = list(csv.DictReader((tmp_path / "runs.csv").open()))
    assert [float(one["AP"]) for one in rows] == [1 / 3, 1 / 4] and rows[1]["command"] == "python train.py --seed 1"
    assert rows[0]["commit"] == "abc" and rows[0]["parameters"] == "3011823" and rows[0]["AP_S"] == ""
    latex = (tmp_path / "t.tex").read_text()
    assert r"0.292 $\pm$ 0.059" in latex and r"AP\_S" in latex and " -- " in latex


def test_folders_that_are_no_runs_are_told(tmp_path, capsys):
    good, cut, torn = (run(tmp_path / name) for name in ("good", "cut", "torn"))
    (cut / "metrics.json").unlink()
    (torn / "metrics.json").write_text('{"protocols": [{}]}')
    assert len(table(good, cut, torn, tmp_path / "none")) == 1
    said = capsys.readouterr().err
    assert "cut: no metrics.json; it has not ended" in said and "torn" in said and "none: is no folder" in said
    with user_error("not-a-run", "none", "cut"):
        table(tmp_path / "none", cut)


def test_a_validation_is_of_the_training_that_made_its_weights(tmp_path):
    rows = []
    for seed in range(2):
        trained = run(tmp_path / f"a{seed}", seed)
        folder = run(tmp_path / f"val{seed}", ap=0.3)
        (folder / "args.yaml").unlink()
        content = json.loads((folder / "metrics.json").read_text())
        content["run"] |= {"weights": str(trained / "weights/best.pt"), "data": "bccd", "task": "test"}
        (folder / "metrics.json").write_text(json.dumps(content))
        rows.append(folder)
    row, = table(*rows)
    both = table(tmp_path / "a0", *rows)
    assert both[0]["setting"] == "cfg yolov8n, data bccd" and "val.task test" in both[1]["setting"]
    assert row["seeds"] == "0 1" and row["AP"] == pytest.approx((0.3, 0.0))
