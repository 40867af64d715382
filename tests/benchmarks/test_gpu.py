"""The program for a GPU, rehearsed on the CPU: its schedule, what it makes of pieces that fail or hang, its page."""

import json
import os
import signal
import sys
import time
from pathlib import Path

import pytest
import torch

from benchmarks import record as records
from benchmarks.gpu import __main__ as gpu
from benchmarks.gpu import pack, page, schedule, steps, trainings, worker
from benchmarks.gpu.plan import SECTIONS, Task, choose, make_plan
from benchmarks.record import Section
from tests.running import run
from utils.checkpoint import save_checkpoint
from utils.errors import UserError

CPU = torch.device("cpu")
FAULTS = "tests.benchmarks.gpu_faults"


def call(place: Path, *words: str) -> None:
    here = ["--work", str(place / "work"), "--out", str(place / "out")]
    gpu.main(gpu.build_parser().parse_args(["--small", "--device", "cpu", "--peer", "none", *here, *words]))


def pieces_in(place: Path) -> dict:
    return json.loads((place / "out" / "gpu.json").read_text())["pieces"]


# The schedule, by a clock that pieces move.


class Clock:
    """Tasks last `spans` seconds, or as long as they are estimated; trainings until they are told to end."""

    def __init__(self, **spans: float) -> None:
        self.now, self.spans, self.done, self.trained = 0.0, spans, [], []

    def run(self, task: Task, until: float) -> None:
        self.done.append(task.key)
        self.now = min(self.now + self.spans.get(task.key, task.seconds), until)

    def train(self, until: float) -> None:
        self.trained.append((self.now, until))
        self.now = until

    def go(self, tasks: list[Task], deadline: float, train: bool = True) -> "Clock":
        schedule.work_through(tasks, self.run, self.train if train else None, deadline, lambda: self.now)
        return self


def task(section: str, key: str, seconds: float, limit: float = 100.0) -> Task:
    return Task(section, key, "", (), seconds, limit)


def test_each_section_has_its_share_and_trainings_have_the_rest():
    tasks = [task("correct", f"c{i}", 30) for i in range(6)] + [task("speed", f"s{i}", 50) for i in range(2)]
    clock = Clock().go(tasks, 720)
    shares = SECTIONS["correct"] + SECTIONS["speed"] + SECTIONS["necks"]
    end = 720 * SECTIONS["correct"] / shares
    first = int(end / 30 - 1e-9)  # so many fit
    assert clock.done[:first + 2] == [f"c{i}" for i in range(first)] + ["s0", "s1"]
    (began, until), = clock.trained
    assert began == 30 * first + 100 and until < 720
    assert until >= 720 - schedule.PUT_OFF * (720 - began) and set(clock.done) == {t.key for t in tasks}


def test_nothing_is_begun_that_does_not_fit_and_nothing_lasts_beyond_the_deadline():
    clock = Clock(hangs=1e9).go([task("correct", "hangs", 5, limit=40), task("correct", "long", 80),
                                 task("latency", "short", 5)], 100, train=False)
    assert clock.done == ["hangs", "short"] and clock.now == 45  # `long` does not fit into 60 - 5
    assert Clock().go([task("correct", "a", 5)], 0).done == []


def test_time_that_nobody_needs_goes_to_what_was_put_off():
    clock = Clock(a=1).go([task("correct", "a", 40), task("correct", "b", 60), task("speed", "c", 10)], 120, False)
    assert clock.done == ["a", "c", "b"]


def test_names_choose_sections_and_pieces():
    plan, runs = make_plan(False), ["deeppcb yolov8n seed 0"]
    keys = {t.key for t in plan}
    assert len(keys) == len(plan)
    assert {t.key for t in choose(plan, runs, ["golden"])[0]} == {k for k in keys if k.startswith("golden ")}
    tasks, chosen = choose(plan, runs, ["necks", "nms", "latency nms"])
    assert [t.key for t in tasks] == ["nms", "latency nms"] and chosen == runs
    assert all(t.section == "speed" for t in choose(plan, runs, ["speed"])[0])
    with pytest.raises(UserError, match="did you mean 'roofline'"):
        choose(plan, runs, ["rofline"])


def test_every_kind_of_piece_has_a_small_form():
    def kinds(small: bool) -> set[str]:
        return {t.function for t in make_plan(small)}

    assert kinds(True) == kinds(False)


def test_list_names_everything_and_does_nothing(tmp_path, capsys):
    call(tmp_path, "--list")
    out = capsys.readouterr().out
    assert "correct: 2 of 12 minutes" in out and "resume gpu to gpu" in out and "seed 0: 1 epochs" in out
    assert not list(tmp_path.iterdir())


# Pieces that go well, fail, hang, or take the device with them, in a real worker.


@pytest.fixture
def plan(monkeypatch):
    """What the worker is asked for: [(key, code that it runs)]."""

    def asked(*pieces: tuple[str, str], limit: float = 60.0) -> None:
        tasks = [Task("correct", key, code, (), 0.0, limit) for key, code in pieces]
        monkeypatch.setattr(gpu, "make_plan", lambda small: tasks)
        monkeypatch.setattr(gpu.trainings, "plan", lambda *_, **__: [])

    return asked


@pytest.mark.slow
def test_pieces_that_fail_are_results_and_a_second_call_goes_on(tmp_path, plan, capsys):
    plan(("wrong", f"{FAULTS}.fail"), ("right", f"{FAULTS}.measure"))
    with pytest.raises(UserError, match="wrong: ValueError: no such thing"):
        call(tmp_path)
    found = pieces_in(tmp_path)
    assert [row["what"] for row in found["wrong"]["rows"]] == ["before"] and "gpu_faults.py:" in found["wrong"]["error"]
    assert found["right"]["rows"] == [{"what": "a", "error": 1e-9, "limit": 1e-6, "ok": True, "note": ""}]
    text = (tmp_path / "out" / "gpu.md").read_text()
    assert "| wrong | ValueError: no such thing" in text and "says nothing about a GPU" in text
    assert found["right"]["command"].startswith("python ") and found["right"]["device"].startswith("cpu")

    with pytest.raises(UserError, match="--retry"):
        call(tmp_path)  # nothing is left, and what failed still has
    assert pieces_in(tmp_path) == found and "everything asked for is done" in capsys.readouterr().out
    plan(("wrong", f"{FAULTS}.measure"), ("right", f"{FAULTS}.fail"))
    call(tmp_path, "--retry")
    again = pieces_in(tmp_path)
    assert "error" not in again["wrong"] and again["right"] == found["right"]


@pytest.mark.slow
def test_a_piece_that_hangs_costs_its_own_time_alone(tmp_path, plan):
    """And what it has started ends with it."""
    plan(("hangs", f"{FAULTS}.start_and_hang"), ("right", f"{FAULTS}.measure"), limit=2.0)
    with pytest.raises(UserError, match="hangs: not done within 2 s"):
        call(tmp_path)
    found = pieces_in(tmp_path)
    assert "rows" in found["right"] and found["hangs"]["rows"][0]["what"] == "child"
    assert has_ended(int(found["hangs"]["rows"][0]["note"]))


def has_ended(child: int) -> bool:
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        try:
            os.kill(child, 0)
            if Path(f"/proc/{child}/stat").read_text().rpartition(")")[2].split()[0] == "Z":
                return True
        except OSError:
            return True
        time.sleep(0.1)
    return False


@pytest.mark.slow
def test_a_minute_is_a_minute(tmp_path, plan):
    """All of it, in small: a piece hangs, and the program ends in its time with a page; the piece is not lost."""
    plan(("hangs", f"{FAULTS}.hang"), ("right", f"{FAULTS}.measure"))
    since = time.monotonic()
    call(tmp_path, "--minutes", "0.3")
    assert time.monotonic() - since < 0.36 * 60
    assert all(piece.get("unfinished") for piece in Section(tmp_path / "out", "gpu", True, CPU).pieces.values())
    assert "0 of 2 pieces" in (tmp_path / "out" / "gpu.md").read_text()


@pytest.mark.slow
def test_the_time_that_loading_took_is_over(tmp_path, plan):
    code = ("import time; began = time.monotonic(); from benchmarks.gpu.__main__ import process_age; "
            "print(process_age() - time.monotonic() + began)")
    done = run("-c", code)
    assert 0 <= float(done.stdout) < 2, done.stderr  # what Python itself took to start
    plan(("right", f"{FAULTS}.measure"))
    arguments = ["--small", "--device", "cpu", "--peer", "none", "--work", str(tmp_path), "--out", str(tmp_path)]
    gpu.main(gpu.build_parser().parse_args([*arguments, "--minutes", "1"]), age=55.0)  # the reserve is all that is left
    assert not (tmp_path / "gpu.json").exists() and (tmp_path / "gpu.md").is_file()


def test_a_program_that_waits_itself_ends_and_leaves_a_page(tmp_path, plan, monkeypatch):
    plan(("right", f"{FAULTS}.measure"))
    monkeypatch.setattr(gpu, "work_through", lambda *_: time.sleep(60))
    monkeypatch.setattr(gpu, "GRACE", 0.5)
    since = time.monotonic()
    with pytest.raises(SystemExit):
        call(tmp_path, "--minutes", "0.01")
    assert time.monotonic() - since < 10 and (tmp_path / "out" / "gpu.md").is_file()
    assert signal.getsignal(signal.SIGALRM) == signal.SIG_DFL


def test_a_broken_device_has_its_worker_replaced():
    told = []
    context = worker.Context(torch.device("cuda", 0), True, Path(), Path(), told.append)
    assert worker.answer_to({"function": f"{FAULTS}.break_device", "args": []}, context)["end"] == "broken"
    assert worker.answer_to({"function": f"{FAULTS}.end", "args": []}, context)["error"].startswith("SystemExit: 3")
    assert worker.answer_to({"function": "nowhere.measure", "args": []}, context)["end"] == "done"


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_without_a_gpu_it_says_so(tmp_path):
    with pytest.raises(UserError, match="no CUDA device is visible"):
        gpu.main(gpu.build_parser().parse_args(["--work", str(tmp_path)]))


def test_small_and_full_results_do_not_mix(tmp_path):
    Section(tmp_path, "gpu", True, CPU).add("a", {"rows": []}, 1.0)
    with pytest.raises(UserError, match="made with --small"):
        Section(tmp_path, "gpu", False, CPU)
    (tmp_path / "gpu.json").write_text("[]")
    with pytest.raises(UserError, match="not a result of this program"):
        Section(tmp_path, "gpu", True, CPU)


@pytest.mark.parametrize("script, told", [("benchmarks/gpu/__main__.py", "-m benchmarks.gpu"),
                                          ("benchmarks/loader.py", "-m benchmarks.loader")])
def test_results_hold_the_command(monkeypatch, script, told):
    monkeypatch.setattr(sys, "argv", [str(records.PROJECT / script), "--small"])
    assert records.stamp(CPU)["command"] == f"python {told} --small"


# The page.


def test_the_page_says_what_limits_a_step_and_what_a_neck_costs(tmp_path):
    section = Section(tmp_path, "gpu", False, CPU)
    section.add("roofline", {"rows": [{"what": "bf16", "tflops": 500.0}, {"what": "copy", "gb_per_s": 4000.0},
                                      {"what": "one", "us": 5.0}]}, 1.0)
    step = {"variant": "yolov8n", "batch": 64, "imgsz": 640, "compiled": False, "ms": 40.0, "fastest_ms": 39.0,
            "slowest_ms": 41.0, "images_per_s": 1600.0, "memory_gb": 9.0, "flops": 2e12, "traffic_gb": 80.0,
            "floor_ms": 15.0}
    section.add("train step yolov8n batch 64", {"rows": [step]}, 1.0)
    call_ = {"type": "fp16", "batch": 1, "mode": "CUDA graph", "flops": 8e9, "ms": 1.0}
    section.add("latency yolov8n", {"rows": [{"variant": "yolov8n", **call_}]}, 1.0)
    neck = {"variant": "yolov8n --neck assn", **call_, "flops": 10e9, "ms": 1.4}
    section.add("latency yolov8n --neck assn", {"rows": [neck]}, 1.0)
    text = page.write_page(section, {"speed": ["roofline", "train step yolov8n batch 64"],
                                     "latency": ["latency yolov8n", "latency yolov8n --neck assn"]})
    assert "| 4.0 | 20.0 | 15.0 | memory, 50 % |" in text
    assert "| yolov8n --neck assn | fp16 | 1 | CUDA graph | +0.40 | +40 % | +25 % |" in text


def test_means_over_seeds():
    numbers = {"AP": 0.5, "AP50": 0.8, "AP_S": -1.0, "AP_M": 0.4, "AP_L": 0.6}
    same = {"model": "yolov8n", "val": numbers, "images_per_s": 99.0, "memory_gb": 4.0, "data": "shapes", "epochs": 20,
            "imgsz": 320, "batch": 32, "split": "test", "jobs": 3}
    pieces = {str(seed): {**same, "seed": seed, "test": {**numbers, "AP": 0.5 + seed / 10}} for seed in (0, 1, 2)}
    text = "\n".join(page.SECTION_TEXTS["necks"](pieces))
    assert "| yolov8n | 0, 1, 2 | 60.0 ± 10.0 | 80.0 ± 0.0 | - | 40.0 ± 0.0 |" in text


# Trainings side by side.


def runs_in(place: Path) -> list[trainings.Run]:
    return trainings.plan(True, None, place, place)


def test_a_training_goes_on_where_it_was(tmp_path):
    run = runs_in(tmp_path)[1]
    assert {"--neck", "assn", "--box-loss", "sca", "--cache", "gpu"} < set(run.command(CPU, 0))
    last = run.folder / "weights" / "last.pt"
    last.parent.mkdir(parents=True)
    save_checkpoint({"model": {}, "train": {"epoch": 1}}, last)
    assert run.command(CPU, 2)[:5] == ["train.py", "--resume", str(last), "--device", "cpu"]
    save_checkpoint({"model": {}}, last)
    assert run.command(CPU, 2) is None


def test_data_that_are_not_here_are_left_out(tmp_path):
    runs = trainings.plan(False, 3, tmp_path, tmp_path / "work")
    assert {(run.scale.data, bool(run.data), run.scale.epochs) for run in runs} == {("deeppcb", False, 3),
                                                                                  ("shapes", True, 3)}
    assert [run.seed for run in runs[:5]] == [0, 0, 0, 0, 1]


@pytest.mark.parametrize("code", ["import time; time.sleep(60)",
                                  "import signal, time; signal.signal(2, signal.SIG_IGN); time.sleep(60)"])
def test_the_deadline_stops_trainings(tmp_path, monkeypatch, code):
    """Those that listen to an interrupt, and those that do not."""
    monkeypatch.setattr(trainings.Run, "command", lambda *_: ["-c", code])
    monkeypatch.setattr(trainings, "GRACE", 1.0)
    section, since = Section(tmp_path, "gpu", True, CPU), time.monotonic()
    assert trainings.measure(runs_in(tmp_path), section, CPU, since + 2.5, 2, 0) == []
    assert time.monotonic() - since < 15 and section.pieces == {}


def test_a_training_that_fails_is_told(tmp_path, monkeypatch):
    monkeypatch.setattr(trainings.Run, "command", lambda *_: ["-c", "raise SystemExit('error: no such data')"])
    section = Section(tmp_path, "gpu", True, CPU)
    (told,) = trainings.measure(runs_in(tmp_path)[:1], section, CPU, time.monotonic() + 60, 1, 0)
    assert "yolov8n seed 0: train.py ended with code 1: error: no such data" in told
    assert "no such data" in section.pieces["shapes yolov8n seed 0"]["error"]


def test_epoch_seconds_leave_validation_and_restarts_out():
    rows = [{"time": "10"}, {"time": "12", "metrics/AP": "0.1"}, {"time": "30"}, {"time": "5"}, {"time": "7"}]
    assert trainings.epoch_seconds(rows) == 2.0
    assert trainings.epoch_seconds(rows[:1]) == 10.0


def test_where_a_step_waits_is_told(monkeypatch):
    modes = []
    monkeypatch.setattr(torch.cuda, "set_sync_debug_mode", modes.append)

    def step() -> None:
        if modes[-1] == "error":
            raise RuntimeError("called a synchronizing CUDA operation")

    note = steps.waits(step)
    assert "tests/benchmarks/test_gpu.py:" in note and "synchronizing" in note
    assert modes == ["error", "default", "warn", "default"]
    assert steps.waits(lambda: None) == ""


def test_what_is_packed_for_a_machine_is_a_part_as_it_was(tmp_path):
    source = tmp_path / "deeppcb"
    (source / "annotations").mkdir(parents=True)
    (source / "deeppcb.yaml").write_text("test: {images: test, annotations: annotations/test.json}\n")
    (source / "test").mkdir()
    images = [{"id": 7 + i, "file_name": f"{i}.jpg"} for i in range(7)]
    for image in images:
        (source / "test" / image["file_name"]).write_bytes(bytes([image["id"]]))
    labels = [{"id": k, "image_id": 7 + k % 7} for k in range(14)]
    content = {"images": images, "annotations": labels, "categories": [1]}
    (source / "annotations/test.json").write_text(json.dumps(content))
    assert pack.pack_data(source, tmp_path / "packed", {"test": 5}) == {"test": 2}
    packed = json.loads((tmp_path / "packed/annotations/test.json").read_text())
    assert [i["id"] for i in packed["images"]] == [7, 12] and packed["categories"] == [1]
    assert [a["id"] for a in packed["annotations"]] == [0, 5, 7, 12]
    assert {p.name: p.read_bytes() for p in (tmp_path / "packed/test").iterdir()} == {"0.jpg": b"\7", "5.jpg": b"\x0c"}
    assert (tmp_path / "packed/deeppcb.yaml").is_file()
