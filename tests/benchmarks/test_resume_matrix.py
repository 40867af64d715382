"""The resume matrix: its moments, its comparison, its page, and (slow) a few interrupted trainings."""

import time
from pathlib import Path

import pytest
import torch

from benchmarks import resume
from benchmarks.steps import interrupt
from benchmarks.steps.resume_page import write_page
from tests.running import run
from utils.checkpoint import save_checkpoint
from utils.errors import UserError

STAMP = {"command": "python -m benchmarks.resume", "versions": {"torch": "2"}, "date": "2026-01-01T00:00:00"}


def arguments(*words: str):
    return resume.build_parser().parse_args(list(words))


def ended(folder: Path, weight: float, box: str = "0.5", time_taken: str = "1") -> Path:
    """What a training leaves behind, as far as it is compared."""
    (folder / "weights").mkdir(parents=True)
    for name in ("last.pt", "best.pt"):
        save_checkpoint({"model": {"w": torch.tensor([1.0, weight])}}, folder / "weights" / name)
    (folder / "results.csv").write_text(f"epoch,time,train/box,images_per_s,memory_gb\n1,{time_taken},{box},9,1\n")
    return folder


def test_every_case_has_its_moments_and_the_same_seed_the_same_ones():
    trials = resume.make_trials(arguments())
    count = {case: sum(t.case == case for t in trials) for case in interrupt.CASES}
    assert count["kill"] == 20 and min(count.values()) >= 3
    assert {t.optimizer for t in trials if t.case == "optimizers"} == {"SGD", "Adam", "AdamW"}
    assert len({t.draws for t in trials}) == len({t.key for t in trials}) == len(trials)
    assert resume.make_trials(arguments()) == trials
    assert resume.make_trials(arguments("--seed", "1"))[0].draws != trials[0].draws
    small = resume.make_trials(arguments("--small", "--cases", "kill", "optimizers"))
    assert [t.key for t in small] == ["kill 0", "optimizers 0", "optimizers 1", "optimizers 2"]


def test_equal_means_bit_for_bit_and_leaves_time_out(tmp_path):
    whole = ended(tmp_path / "whole", 2.0)
    assert all(interrupt.compare(ended(tmp_path / "same", 2.0, time_taken="7"), whole).values())
    other = torch.nextafter(torch.tensor(2.0), torch.tensor(3.0)).item()
    found = interrupt.compare(ended(tmp_path / "other", other, box="0.500001"), whole)
    assert found == {"last.pt": False, "best.pt": False, "results.csv": False}


def test_the_page_counts_what_was_equal():
    equal = {"interrupted": "SIGKILL", "resumed": "after epoch 1", "ok": True, "note": "all equal", "last.pt": True,
             "best.pt": True, "results.csv": True, **STAMP}
    wrong = {**equal, "ok": False, "last.pt": False, "note": "last.pt differ"}
    page = write_page({"kill 0": equal, "kill 1": wrong, "disk 0": {**equal, "skipped": True}})
    assert "| `kill` | SIGKILL at a random moment of the whole training | 1 of 2 |" in page
    assert "not possible there" in page and "**last.pt differ**" in page and "| **no** | yes | yes |" in page


@pytest.mark.parametrize("code, seconds, told", [("import time; print('results in x'); time.sleep(60)", 1, ""),
                                                 ("raise SystemExit('error: no such data')", 1, "no such data"),
                                                 ("print('results in x')", 1000, "over 6 times")])
def test_a_training_is_killed_at_its_moment_or_its_failure_told(tmp_path, monkeypatch, code, seconds, told):
    monkeypatch.setattr(interrupt, "PROJECT", tmp_path)
    (tmp_path / "train.py").write_text(code)
    place = interrupt.Place(tmp_path, tmp_path / "x.yaml", 3, {"SGD": interrupt.Whole(tmp_path, 0.0, seconds)})
    trial, since = interrupt.Trial("kill", 0, "SGD", (0.5,) * 8), time.monotonic()
    if told:
        with pytest.raises(UserError, match=told):
            interrupt.kill(trial, place, tmp_path / "run")
    else:
        assert interrupt.kill(trial, place, tmp_path / "run").startswith("SIGKILL ")
    assert time.monotonic() - since < 30


def test_a_folder_without_a_checkpoint_is_started_anew(tmp_path, monkeypatch):
    monkeypatch.setattr(interrupt, "PROJECT", tmp_path)
    (tmp_path / "train.py").write_text("import sys; print(sys.argv); sys.exit('--resume' in sys.argv)")
    place = interrupt.Place(tmp_path, tmp_path / "x.yaml", 3)
    trial = interrupt.Trial("kill", 0, "SGD", (0.5,) * 8)
    assert interrupt.resume(trial, place, tmp_path / "run") == "no checkpoint yet: started anew"
    ended(tmp_path / "run", 1.0)
    assert interrupt.resume(trial, place, tmp_path / "run") == "it had ended"
    save_checkpoint({"model": {}, "train": {}}, tmp_path / "run/weights/last.pt")
    with pytest.raises(UserError, match="resuming failed with code 1"):
        interrupt.resume(trial, place, tmp_path / "run")


@pytest.mark.slow
def test_interrupted_trainings_end_as_the_uninterrupted_one(tmp_path):
    done = run("-m", "benchmarks.resume", "--small", "--cases", "kill", "term", "torn", "limit", "--work", tmp_path,
               limit=900)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "4 of 4 interrupted trainings ended as the uninterrupted one" in done.stdout
    assert "| `torn` |" in (tmp_path / "resume.md").read_text()
