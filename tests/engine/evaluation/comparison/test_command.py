"""`python -m engine.evaluation`: the numbers are those of pycocotools, and torch stays unloaded."""

import csv
import json

import pytest

from engine.evaluation.__main__ import build_parser, main
from engine.evaluation.metrics.reference import pycocotools_stats
from engine.evaluation.metrics.results_file import result_rows
from tests.engine.evaluation.comparison.kit import random_found, random_truth, write_json
from tests.refusals import user_error
from tests.running import run

PROBE = """
import runpy, sys
sys.argv = ["evaluation", *sys.argv[1:]]
runpy.run_module("engine.evaluation", run_name="__main__")
print([name for name in ("torch", "cv2", "matplotlib", "pandas", "scipy") if name in sys.modules])
"""


@pytest.fixture
def files(tmp_path):
    truth = random_truth(2)
    write_json(tmp_path / "truth.json", truth.to_coco())
    for name, seed in (("a", 3), ("b", 4)):
        write_json(tmp_path / f"{name}.json", result_rows(truth, random_found(truth, seed)))
    return tmp_path


def judge(*words: object) -> None:
    main(build_parser().parse_args([*map(str, words)]))


def test_one_file_is_judged_without_torch(files):
    done = run("-c", PROBE, files / "a.json", files / "truth.json")
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[-1] == "[]" and lines[-2].endswith(f"confirmed by pycocotools on {files / 'truth.json'}")
    own = pycocotools_stats(json.loads((files / "truth.json").read_text()), json.loads((files / "a.json").read_text()))
    whole = next(line for line in lines if line.startswith("all "))
    assert whole.split()[5:] == [f"{value:.3f}" for value in own.values()]


def test_several_files_give_a_table_and_differences(files, capsys):
    words = (files / "a.json", files / "b.json", files / "truth.json", "--csv", files / "out/t.csv", "--latex",
             files / "t.tex", "--bootstrap", 20)
    judge(*words)
    first = capsys.readouterr().out
    assert "b minus a, coco: 95 % interval, 20 resamples of 8 images, the same for both, seed 0" in first
    assert first.count("confirmed by pycocotools") == 2
    table = list(csv.DictReader((files / "out/t.csv").open()))
    own = pycocotools_stats(json.loads((files / "truth.json").read_text()), json.loads((files / "b.json").read_text()))
    assert table[1]["model"] == "b" and float(table[1]["coco AP"]) == own["AP"]
    assert (files / "t.tex").read_text().count(r"\\") == 3
    judge(*words)
    assert capsys.readouterr().out == first


def test_other_sizes_and_overlaps_are_titled_and_confirmed(files, capsys):
    judge(files / "a.json", files / "truth.json", "--size-bins", "8,16", "--eval-iou", "0.25:0.5")
    text = capsys.readouterr().out
    assert text.startswith("NOT the numbers of coco") and "AP_8-16" in text and "(objects in brackets)" in text
    assert "gives the same" in text.splitlines()[-1]
    for words in (("--protocol", "voc07", "--size-bins", "8"), ("--protocol", "coco", "aitod", "--eval-iou", "0.5")):
        with user_error("flag-without-effect", words[-2]):
            judge(files / "a.json", files / "truth.json", *words)


def test_every_protocol_has_its_table(files, capsys):
    names = ["voc07", "voc", "visdrone", "aitod", "tinyperson", "sodad"]
    judge(files / "a.json", files / "truth.json", "--protocol", *names)
    text = capsys.readouterr().out
    for title in ("VOC 2007", "VOC 2010", "VisDrone-DET", "AI-TOD", "TinyPerson", "SODA-D"):
        assert title in text
    assert text.count("gives the same") == 3
    judge(files / "a.json", files / "b.json", files / "truth.json", "--bootstrap", 10, "--protocol", *names)


def test_a_data_set_is_a_truth_too(tmp_path, capsys):
    from tests.tiny import tiny_data

    tiny_data(tmp_path, 2, 3)
    write_json(tmp_path / "r.json", [])
    judge(tmp_path / "r.json", tmp_path / "tiny.yaml", "--task", "val")
    out = capsys.readouterr().out
    assert "r.json: 3 of 3 images have no detection" in out
    assert next(line for line in out.splitlines() if line.startswith("all ")).split()[1] == "3"


@pytest.mark.parametrize(("words", "code"), [
    (["{0}/a.json"], "missing-argument"), ([], "missing-argument"),
    (["{0}/a.json", "{0}/truth.json", "--bootstrap", "5"], "flag-without-effect"),
    (["{0}/a.json", "{0}/truth.json", "--task", "test"], "flag-without-effect"),
    (["{0}/a.json", "{0}/b.json", "{0}/truth.json", "--csv", ""], "flag-without-effect"),
    (["{0}/truth.json", "{0}/a.json"], "invalid-json"),
    (["--check", "{0}/a.json", "--seed", "3"], "key-conflict")])
def test_what_makes_no_sense_is_refused(files, words, code):
    with user_error(code):
        judge(*(word.format(files) for word in words))
