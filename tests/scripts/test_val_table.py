"""val.py with several --weights and --protocol: one table for a paper, by one command."""

import csv
import json

import pytest
import torch

import val
from data import load_index
from engine.evaluation import job
from engine.evaluation.metrics.judge import judge
from engine.evaluation.metrics.protocol import PROTOCOLS
from engine.evaluation.metrics.results_file import result_rows
from tests.refusals import user_error
from tests.tiny import tiny_data, tiny_model
from utils.checkpoint import save_checkpoint


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Four images, and three checkpoints whose heads differ."""
    folder = tiny_data(tmp_path_factory.mktemp("table"), train=1, val=4, size=96)
    names = load_index(folder / "tiny.yaml", "val").names
    model = tiny_model("yolov8n", names=names)
    for number in range(3):
        state = {key: value.clone() for key, value in model.state_dict().items()}
        torch.manual_seed(number)
        for key in state:
            if number and ".cv" in key and key.endswith("weight"):
                state[key] += 0.05 * number * torch.randn_like(state[key])
        save_checkpoint({"config": model.config, "names": names, "model": state, "epoch": number},
                        folder / f"model_{number}.pt")
    return folder


def evaluated(place, *flags):
    words = ["--data", place / "tiny.yaml"] + ["--imgsz", 96, "--workers", 0, "--noplots", *flags]
    return val.main(val.build_parser().parse_args([str(word) for word in words]))


def rows(folder) -> list[dict[str, str]]:
    with (folder / "table.csv").open(encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_a_papers_table_of_three_checkpoints_by_two_protocols(place, tmp_path, capsys):
    weights = [place / f"model_{k}.pt" for k in range(3)]
    last = evaluated(place, "--weights", *weights, "--protocol", "coco", "aitod", "--bootstrap", 20, "--project",
                     tmp_path)
    folder = tmp_path / "exp-table"
    text, table = (folder / "table.txt").read_text(encoding="utf-8"), rows(folder)
    assert [row["model"] for row in table] == ["model_0", "model_1", "model_2"]
    assert all(int(row["parameters"]) > 10 ** 6 and float(row["flops"]) > 10 ** 7 and row["size"] == "96 x 96 rect"
               and float(row["ms_per_image"]) > 0 for row in table)
    for name in ("coco", "aitod"):
        own = judge(last.truth, last.found, protocol=PROTOCOLS[name]).values
        assert {key: float(table[2][f"{name} {key}"]) for key, value in own.items() if value >= 0} == {
            key: value for key, value in own.items() if value >= 0}
    assert "model_1 minus model_0, coco: 95 % interval, 20 resamples of 4 images" in text
    assert "model_2 minus model_0, aitod" in text and text in capsys.readouterr().out
    latex = (folder / "table.tex").read_text(encoding="utf-8").splitlines()
    assert r"  &   &   &   &   & \multicolumn{6}{c}{COCO} & \multicolumn{7}{c}{AI-TOD} \\" in latex
    assert [line.split(" & ")[0] for line in latex[7:10]] == [r"model\_0", r"model\_1", r"model\_2"]
    assert all(line.replace(r"\&", "").count("&") == 17 for line in [latex[5], *latex[7:10]])
    assert all((tmp_path / name / "metrics.txt").is_file() for name in ("exp", "exp2", "exp3"))
    assert evaluated(place, "--weights", weights[0], "--project", tmp_path / "alone").max_det == 300
    assert last.max_det == 1500 and not (tmp_path / "alone/exp-table").exists()


def test_results_of_other_programs_stand_beside_models(place, tmp_path, capsys):
    result = evaluated(place, "--weights", place / "model_0.pt", "--project", tmp_path)
    found = result_rows(result.truth, result.found)
    (tmp_path / "other.json").write_text(json.dumps(found[::2]), encoding="utf-8")
    flags = ("--project", tmp_path, "--bootstrap", 0)
    evaluated(place, "--weights", tmp_path / "other.json", place / "model_0.pt", *flags, "--exist-ok", "--name",
              "mixed")
    table = rows(tmp_path / "mixed-table")
    assert [row["model"] for row in table] == ["other", "model_0"] and table[0]["parameters"] == ""
    assert float(table[1]["coco AP"]) == result.metrics["AP"] != float(table[0]["coco AP"])
    assert "interval" not in capsys.readouterr().out
    words = ["--weights", tmp_path / "other.json", "--data", place / "tiny.yaml", "--project", tmp_path / "b"]
    alone = val.main(val.build_parser().parse_args([*map(str, words), "--protocol", "coco", "voc"]))
    assert f"{alone.rows[0].values['coco']['AP']}" == table[0]["coco AP"] and "AP_voc" in alone.text


def test_results_of_no_use_are_refused_before_a_model_runs(place, tmp_path, monkeypatch):
    monkeypatch.setattr(job, "load_runtime", lambda *_, **__: pytest.fail("a model was opened"))
    bad = tmp_path / "bad.json"
    bad.write_text(json.dumps([{"image_id": 10 ** 6, "category_id": 1, "bbox": [0, 0, 1, 1], "score": 1}]))
    with user_error("unknown-id", bad):
        evaluated(place, "--weights", place / "model_0.pt", bad, "--project", tmp_path)
    with user_error("no-data", bad):
        val.main(val.build_parser().parse_args(["--weights", str(bad)]))


@pytest.mark.parametrize(("flags", "said"), [
    (["--bootstrap", 5], "--bootstrap"), (["--protocol", "coco", "aitod", "--size-bins", "8,16"], "--size-bins"),
    (["--protocol", "coco", "voc", "--eval-iou", "0.5"], "--eval-iou")])
def test_flags_without_an_effect_are_refused(place, flags, said):
    with user_error("flag-without-effect", said):
        evaluated(place, "--weights", place / "model_0.pt", *flags)


def test_flags_of_models_are_refused_for_results(place):
    with user_error("flag-without-effect", "--imgsz", "--noplots", "--workers"):
        evaluated(place, "--weights", "r.json")
