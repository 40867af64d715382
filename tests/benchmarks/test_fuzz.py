"""The battery of spoiled inputs: 300 of them, and that its watch sees what it is there to see."""

import os
import signal
import sys
import time
from pathlib import Path

import pytest

from benchmarks import fuzz
from benchmarks.fuzzing import corpus
from benchmarks.fuzzing.kind import Kind, Outcome, Wrong
from benchmarks.fuzzing.kinds import KINDS
from benchmarks.fuzzing.pool import Pool
from benchmarks.fuzzing.report import Report
from benchmarks.fuzzing.worker import ROOT, Task, place_of, prepare
from utils.errors import UserError


class Fake(Kind):
    """A kind whose input is a file that says what its attempt does."""

    name, seconds, gigabytes, walls = "fake", 0.5, 0.2, 3.0
    ways = ("pass", "refuse", "raise", "spin", "sleep", "eat", "die", "lose", "escape", "shout", "exit")

    def make(self, rng, ground: Path, folder: Path) -> None:
        (folder / "way").write_text(self.ways[int(rng.integers(len(self.ways)))])

    def attempt(self, folder: Path) -> None:
        way = (folder / "way").read_text()
        print("trying")
        if way == "refuse":
            raise UserError("no; do yes")
        if way == "raise":
            {}["missing"]
        while way == "spin":
            pass
        if way == "sleep":
            time.sleep(60)
        if way == "eat":
            held = bytearray(1 << 30)
            time.sleep(60 + len(held) * 0)
        if way == "die":
            os.kill(os.getpid(), signal.SIGSEGV)
        if way == "lose":
            raise Wrong("rows lost: 3 of 5")
        if way == "escape":
            print("\x1b[31mred")
        if way == "shout":
            print("x" * 10_000, file=sys.stderr)
            raise UserError("no")
        if way == "exit":
            os._exit(3)


class Only(Fake):
    """All inputs are of one way."""

    def __init__(self, way: str) -> None:
        self.ways = (way,)


def arguments(*words: object):
    return fuzz.build_parser().parse_args(list(map(str, words)))


def run(kinds: dict[str, Kind], tmp_path: Path, *words: object) -> Report:
    return fuzz.run(arguments("--jobs", 1, "--out", tmp_path, *words), kinds, float("inf"))


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


@pytest.mark.parametrize("cases", [100, pytest.param(300, marks=pytest.mark.slow)])
def test_spoiled_inputs_end_in_success_or_in_one_sentence(tmp_path, cases):
    kinds = {name: kind for name, kind in KINDS.items() if name != "scripts"}  # each takes the seconds of an import
    report = run(kinds, tmp_path, "--cases", cases)
    assert not report.failures, report.table() + "\n" + report.places()
    refused = [name for name, inputs, ok, *_ in report.rows() if inputs >= 15 and not ok]
    assert not refused, "not one input of these kinds got through"


@pytest.mark.parametrize("way, result", [
    ("pass", "ok"), ("refuse", "refused"), ("raise", "traceback"), ("spin", "hang"), ("sleep", "hang"),
    ("eat", "bomb"), ("die", "crash"), ("exit", "crash"), ("lose", "wrong"), ("escape", "wrong"), ("shout", "wrong")])
def test_the_watch_sees(way, result, tmp_path):
    told = []
    Pool({"fake": Only(way)}, tmp_path, 1).run(iter([Task("fake", 0, 0), Task("fake", 0, 1)]),
                                               lambda outcome, folder: told.append(outcome))
    assert [(o.result, o.number) for o in told] == [(result, 0), (result, 1)]  # another process took its place
    if way == "raise":
        assert told[0].place == "tests/benchmarks/test_fuzz.py:attempt" and "KeyError: 'missing'" in told[0].text
    if way == "spin":
        assert told[0].place == "tests/benchmarks/test_fuzz.py:attempt" and 0.5 <= told[0].seconds < 2
    if way == "eat":
        assert told[0].megabytes > 200
    if way == "die":
        assert "SIGSEGV" in told[0].text


def test_failures_are_kept_and_tried_first(tmp_path, capsys):
    report = run({"fake": Only("lose")}, tmp_path, "--cases", 2, "--seed", 7)
    assert [o.case for o in report.failures] == ["fake-7-0", "fake-7-1"]
    assert "fake-7-0: wrong in rows lost" in capsys.readouterr().out
    assert [c[:3] for c in corpus.cases(tmp_path / "corpus")] == [("fake", 7, 0), ("fake", 7, 1)]
    again = run({"fake": Only("pass")}, tmp_path, "--cases", 1)  # what makes inputs has changed: the files decide
    assert [(o.case, o.corpus, o.result) for o in again.outcomes] == [
        ("fake-7-0", "fake-7-0.zip", "wrong"), ("fake-7-1", "fake-7-1.zip", "wrong"), ("fake-0-0", "", "ok")]
    other = run({"another": Only("pass")}, tmp_path, "--cases", 1)
    assert len(other.outcomes) == 1
    (tmp_path / "corpus" / "x.zip").touch()
    with pytest.raises(UserError, match="x.zip: expected KIND-SEED-NUMBER.zip"):
        run({"fake": Only("pass")}, tmp_path)


@pytest.mark.parametrize("name", [name for name in KINDS if name != "scripts"])
def test_a_case_is_always_the_same(name, tmp_path):
    kind, made = KINDS[name], []
    for turn in ("a", "b"):
        for number in range(3):
            folder = tmp_path / turn / str(number)
            prepare(Task(name, 5, number), kind, folder, tmp_path / "ground")
            made.append(contents(folder))
    assert made[:3] == made[3:]
    assert made[0] != made[1] or made[1] != made[2]
    prepare(Task(name, 6, 0), kind, tmp_path / "c", tmp_path / "ground")
    assert contents(tmp_path / "c") != made[0]


def test_a_name_that_no_zip_can_hold_is_left_out(tmp_path):
    (tmp_path / "results-\udcff").mkdir()
    for name in ("input", "result-\udcff", "results-\udcff/a"):
        (tmp_path / name).write_text("x")
    outcome = Outcome("fake", 1, 2, "wrong")
    corpus.unpack(corpus.keep(outcome, tmp_path, tmp_path / "corpus"), tmp_path / "back")
    assert list(contents(tmp_path / "back")) == ["input"]


def test_kinds_take_turns_by_their_weights(tmp_path):
    args = arguments("--cases", 400, "--seed", 3)
    drawn = [task.kind for task in fuzz.tasks(args, KINDS, tmp_path)]
    assert len(drawn) == 400 and set(drawn) == set(KINDS)
    assert drawn.count("image") == pytest.approx(5 * drawn.count("list"), abs=3)
    alone = list(fuzz.tasks(args, {"list": KINDS["list"]}, tmp_path))
    assert [(task.seed, task.number) for task in alone] == [(3, number) for number in range(400)]


def test_the_report_groups_by_place(tmp_path):
    report = Report()
    for number in range(3):
        report.add(Outcome("voc", 0, number, "traceback", "data/x.py:read", f"KeyError: {number}|", seconds=number))
    report.add(Outcome("voc", 0, 3, "refused", text="error: a.txt line 3: no"))
    report.add(Outcome("coco", 0, 0, "ok", megabytes=12))
    assert "| voc | 4 | 0 | 1 | 3 | 0 | 0 | 0 | 0 | 2.0 | 0 |" in report.table()
    assert "| all | 5 | 1 | 1 | 3 |" in report.table() and report.places().count("data/x.py:read") == 1
    report.write(tmp_path, 60)
    page = (tmp_path / "fuzz.md").read_text()
    assert "python -m benchmarks.fuzz" in page and "| 3 | voc | traceback | `data/x.py:read` |" in page


def test_the_place_is_the_innermost_line_of_ours():
    outward = [f'File "{ROOT}/models/a.py", line 3, in f', 'File "/lib/torch/b.py", line 4, in g',
               f'File "{ROOT}/benchmarks/c.py", line 1, in h']
    assert place_of("\n".join(outward)) == "models/a.py:f"
    assert place_of('File "/lib/x.py", line 1, in y') == "outside"
    inward = ["(most recent call first)", f'File "{ROOT}/data/a.py", line 3 in f', f'File "{ROOT}/val.py", line 9 in g']
    assert place_of("\n".join(inward)) == "data/a.py:f"


def test_failures_make_the_exit_code(tmp_path, monkeypatch):
    for way, code in (("pass", None), ("lose", 1)):
        monkeypatch.setattr(fuzz, "KINDS", {"fake": Only(way)})
        args = arguments("--cases", 1, "--jobs", 1, "--out", tmp_path / way)
        if code is None:
            assert len(fuzz.main(args).outcomes) == 1
        else:
            with pytest.raises(SystemExit) as end:
                fuzz.main(args)
            assert end.value.code == code
        assert (tmp_path / way / "fuzz.json").is_file() and not (tmp_path / way / "work").exists()
