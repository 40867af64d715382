"""What must not end a run, and what must not stay behind: a stderr without reader, killed workers, killed writers."""

import argparse
import os
import subprocess
import sys
import time
from types import SimpleNamespace

import pytest
import torch
from tqdm import tqdm

import train
from data.loading.config import LoaderConfig
from data.loading.loader import Loader
from data.loading.workers import data_loader, start_pass
from tests.refusals import user_error
from tests.running import ROOT
from utils.errors import LostWorker, UserError, lost_worker, run_script
from utils.files import prefix, replacing, sweep
from utils.signals import StopRequest

KILLED = "DataLoader worker (pid 7) is killed by signal: Killed. "


class Broken:
    """A pipe whose reader has gone."""

    def write(self, text):
        raise BrokenPipeError(32, "Broken pipe")

    flush = isatty = fileno = lambda self, *_: self.write("")


def test_a_stderr_that_nobody_reads_ends_nothing(monkeypatch):
    done = []

    def main(args):
        for number in tqdm(range(3), mininterval=0):
            print("a warning", file=sys.stderr)
            done.append(number)

    monkeypatch.setattr(sys, "argv", ["train.py"])
    monkeypatch.setattr(sys, "stderr", Broken())
    run_script(main, argparse.ArgumentParser())
    assert done == [0, 1, 2] and sys.stderr.broken


@pytest.mark.skipif(os.name != "posix", reason="closes a descriptor in a shell")
@pytest.mark.parametrize("how", ["closed", "without reader"])
def test_a_stderr_that_is_closed_from_the_start_ends_nothing(tmp_path, how):
    """And what is opened first does not get its number, into which signals and C libraries write."""
    code = ("import argparse, os, sys\nfrom tqdm import tqdm\nfrom utils.errors import run_script\n"
            "from utils.signals import StopRequest\n"
            "def main(args):\n    with open('file', 'w') as file, StopRequest() as stop:\n"
            "        for _ in tqdm(range(3)): print('x', file=sys.stderr)\n"
            "        os.kill(os.getpid(), 15)\n        assert stop.number == 15 and file.fileno() != 2\n"
            "    print('done')\n"
            "run_script(main, argparse.ArgumentParser())\n")
    reading, writing = os.pipe()
    os.close(reading)
    command = f'exec "$0" -c "$CODE" {"2>&-" if how == "closed" else ""}'
    done = subprocess.run(["sh", "-c", command, sys.executable], cwd=tmp_path, text=True, stdout=subprocess.PIPE,
                          stderr=writing, env={**os.environ, "CODE": code, "PYTHONPATH": str(ROOT)})
    os.close(writing)
    assert (done.returncode, done.stdout) == (0, "done\n") and (tmp_path / "file").read_bytes() == b""


def test_a_signal_is_noted_where_nobody_can_be_told(monkeypatch):
    monkeypatch.setattr(os, "write", lambda *_: Broken().write(""))
    stop = StopRequest()
    stop._note(15, None)
    assert stop.number == 15


def test_a_killed_worker_is_one_sentence_wherever_torch_tells_of_it(monkeypatch, capsys):
    def main(args):
        raise RuntimeError(KILLED)

    monkeypatch.setattr(sys, "argv", ["val.py"])
    with pytest.raises(SystemExit) as end:
        run_script(main, argparse.ArgumentParser())
    assert end.value.code == 1
    assert capsys.readouterr().err.startswith("error: a loader worker has ended (DataLoader worker (pid 7) is killed")
    assert lost_worker(RuntimeError("shapes disagree")) is None and lost_worker(ValueError(KILLED)) is None


@pytest.mark.parametrize("error", [RuntimeError(KILLED), lost_worker(RuntimeError(KILLED))])
@pytest.mark.parametrize("saved", [True, False])
def test_a_training_that_lost_a_worker_tells_how_to_go_on(tmp_path, monkeypatch, error, saved):
    def fit(*_):
        raise error

    monkeypatch.setattr(train, "fit", fit)
    (tmp_path / "weights").mkdir()
    if saved:
        (tmp_path / "weights/last.pt").touch()
    way = f"to go on: python train.py --resume {tmp_path}" if saved else "then start it again"
    with user_error("lost-worker", "--workers", way):
        train.fit_or_save_on_stop(SimpleNamespace(folder=tmp_path), None)


class Sleepy(torch.utils.data.Dataset):
    """Items that take a while to make."""

    def __getitem__(self, number):
        time.sleep(0.05)
        return number


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")
def test_a_worker_that_is_killed_ends_the_pass_soon():
    loader = Loader.__new__(Loader)
    loader._loader = data_loader(loader, Sleepy(), list(range(1000)), LoaderConfig(1, workers=2))
    items = loader._packed()
    next(items)
    os.kill(loader._loader._iterator._workers[0].pid, 9)
    began = time.monotonic()
    with pytest.raises((LostWorker, RuntimeError)) as error:
        for _ in items:
            time.sleep(0.001)
    assert lost_worker(error.value) and time.monotonic() - began < 20
    loader._loader._iterator._shutdown_workers()


def test_no_room_for_workers_is_told_before_any_is_started(monkeypatch):
    import multiprocessing

    left = [12]

    def lock():
        left[0] -= 1
        if left[0] < 0:
            raise OSError(28, "No space left on device")

    owner = Sleepy()
    loader = data_loader(owner, owner, [0], LoaderConfig(1, workers=2, start_method="fork"))
    monkeypatch.setattr(loader.multiprocessing_context, "Lock", lock)
    with pytest.raises(UserError, match=r"--workers 2: .*\(No space left on device\).*--shm-size"):
        start_pass(loader)
    assert loader._iterator is None and not multiprocessing.active_children()


def dead() -> int:
    """The number of a process that has ended."""
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def test_what_killed_processes_left_is_removed_by_the_next_write(tmp_path):
    own = f"-{os.getpid()}."
    assert own in prefix("last")
    gone, old = prefix("last").replace(own, f"-{dead()}."), ".last.elsewhere-1.abcdefgh.pt"
    kept = [f"{prefix('last')}abcdefgh.pt", ".last.elsewhere-2.abcdefgh.pt", ".hidden", "last.pt", ".a.b-c.pt"]
    for name in (f"{gone}abcdefgh.pt", f"{gone}abcdefgh", old, *kept):
        (tmp_path / name).write_text(name)
    (tmp_path / f"{gone}folder").mkdir()
    (tmp_path / f"{gone}folder/x").touch()
    os.utime(tmp_path / old, (0, 0))
    with replacing(tmp_path / "new.pt") as temporary:
        assert temporary.name.startswith(".new.") and temporary.suffix == ".pt"
        temporary.write_text("new")
    assert {path.name for path in tmp_path.iterdir()} == {*kept, "new.pt"}


def test_folders_are_looked_through_once(tmp_path, monkeypatch):
    looked, scandir = [], os.scandir
    monkeypatch.setattr(os, "scandir", lambda folder: looked.append(folder) or scandir(folder))
    for number in range(5):
        with replacing(tmp_path / f"{'ä' * 80}{number}.txt") as temporary:
            temporary.write_text("x")
    assert looked == [tmp_path] and len(list(tmp_path.iterdir())) == 5
    sweep(tmp_path / "not there")
