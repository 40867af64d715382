"""Command lines: every flag of every program with unusual values, in this process and as real programs."""

import argparse
import importlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import numpy as np

from benchmarks.fuzzing.kind import Kind, Wrong, read_facts, write_facts
from benchmarks.fuzzing.kinds.tiny import FLAGS, write_place
from benchmarks.fuzzing.mutate import few, pick
from utils.errors import UserError, parse_words

ROOT = Path(__file__).resolve().parents[3]
# A command that works in the folder of `write_place`, by the module that runs it; few make heavy work of it.
COMMANDS = {
    "detect": ["--weights", "tiny.pt", "--source", "image.jpg", "--imgsz", "64", "--device", "cpu"],
    "val": [
        "--weights", "tiny.pt", "--data", "data.yaml", "--task", "val", "--imgsz", "64", "--device", "cpu",
        "--workers", "0", "--noplots",
    ],
    "export": ["--weights", "tiny.pt", "--imgsz", "64", "--include", "onnx"],
    "train": FLAGS,
    "data": ["data.yaml", "--noplots"],
    "models": ["tiny.yaml", "--imgsz", "64"],
    "models.convert": ["tiny.pt", "new.pt"],
}
VALUES = (
    "", " ", "0", "1", "2", "-1", "-2", "0.5", "1.5", "nan", "inf", "-inf", "1e309", "9" * 20, "-" + "9" * 20,
    "100000", "40000", "0x10", "1_0", "1,2", "a", "abc def", "../x", "/dev/null", "/dev/zero", "/proc/self/mem", "--",
    "-", "a" * 5000, "%s%d", "\u00e9\u4e2d", "x.yaml", "x.pt", "tiny.pt", "tiny.yaml", "data.yaml", "image.jpg",
    "images", "True", "none", "cpu", "0,1", "cuda:9", "*", "\x5b", "labels", ".", "rtsp://u:secret@h/x", "person",
    "0-3", "image.jpg/x", "\udcff",
)
# Valid requests for hours of work or for missing hardware: not drawn.
LONG = {
    "--epochs": ("100000", "40000"), "--evolve": ("1", "2", "100000", "40000", None), "--compile": (None,),
    "--val-interval": (), "--opset": (), "--save-every-minutes": (), "--resume": ("",),
    "--logger": ("wandb", "mlflow", "clearml"),
}


def parser_of(program: str) -> argparse.ArgumentParser:
    """The flags of a script or package."""
    module = module_of(program)
    makers = (getattr(module, name, None) for name in ("build_parser", "make_parser", "parser"))
    return next(make for make in makers if make)()


def module_of(program: str) -> ModuleType:
    """What `python train.py`, `python -m data` and their like run."""
    return importlib.import_module(f"{program}.__main__" if program in ("data", "models") else program)


def run_inside(program: str, argv: list[str]) -> None:
    """Its `main` with these words."""
    module_of(program).main(parse_words(parser_of(program), argv))


def draw_words(rng: np.random.Generator, program: str) -> list[str]:
    """A command that works, with one to four flags added, changed or dropped."""
    words = list(COMMANDS[program])
    actions = [a for a in parser_of(program)._actions if a.option_strings and a.dest != "help"]
    for _ in range(few(rng, 4)):
        chance = rng.random()
        if chance < 0.15 and words:
            del words[int(rng.integers(len(words)))]
            continue
        if chance < 0.25 and words:
            words[int(rng.integers(len(words)))] = pick(rng, VALUES)
            continue
        words += drawn_flag(rng, pick(rng, actions))
    long = any(word.startswith(("--ev", "--stor", "--stu", "--comp")) for word in words)
    return [*COMMANDS[program], "--imgsz", "x"] if long and rng.random() < 0.9 else words


def drawn_flag(rng: np.random.Generator, action: argparse.Action) -> list[str]:
    """A flag and, mostly, as many values as it takes."""
    flag = pick(rng, action.option_strings)
    takes_none = action.nargs == 0
    count = 0 if takes_none and rng.random() < 0.9 else int(rng.choice([1, 1, 1, 1, 2, 0, 3]))
    values = [
        pick(rng, tuple(action.choices)) if action.choices and rng.random() < 0.6 else pick(rng, VALUES)
        for _ in range(count)
    ]
    banned = LONG.get(action.option_strings[0], ())
    if any(v in banned for v in values) or (not values and None in banned):
        return []
    if len(values) == 1 and rng.random() < 0.3 and flag.startswith("--"):
        return [f"{flag}={values[0]}"]
    return [flag, *map(str, values)]


class Flags(Kind):
    """A program's `main` in this process."""

    name, weight, seconds = "flags", 3.0, 20.0

    def ground(self, folder: Path) -> None:
        write_place(folder)

    def make(self, rng: np.random.Generator, ground: Path, folder: Path) -> None:
        shutil.copytree(ground, folder, dirs_exist_ok=True)
        program = pick(
            rng,
            (
                "detect", "detect", "val", "val", "export", "train", "train", "train", "data", "data", "models",
                "models.convert",
            ),
        )
        write_facts(folder, program=program, argv=draw_words(rng, program))

    def attempt(self, folder: Path) -> None:
        facts = read_facts(folder)
        before = {p.name for p in folder.parent.iterdir()}
        run_inside(facts["program"], facts["argv"])
        if {p.name for p in folder.parent.iterdir()} - before and not any("../" in word for word in facts["argv"]):
            raise Wrong(f"wrote outside of the folders it was given: {facts['argv']}")


class Scripts(Kind):
    """Inputs of the other kinds and command lines, given to the real programs."""

    name, weight, seconds, gigabytes, walls = "scripts", 0.25, 1000.0, 4.0, 240.0
    LIMIT = 90.0  # seconds of the clock that a program may take here, half of them for its imports on a busy machine

    def ground(self, folder: Path) -> None:
        write_place(folder)

    def make(self, rng: np.random.Generator, ground: Path, folder: Path) -> None:
        from benchmarks.fuzzing.kinds import KINDS

        name = pick(rng, ("flags", *AS_PROGRAM))
        place = ground.parent / name
        if not place.is_dir():
            place.mkdir(parents=True, exist_ok=True)
            KINDS[name].ground(place)
        if not (folder / "data.yaml").exists():
            shutil.copytree(ground, folder, dirs_exist_ok=True)
        if name == "flags":
            program = pick(rng, tuple(COMMANDS))
            argv = [w for w in draw_words(rng, program) if "\0" not in w and "\udcff" not in w]
        else:
            for path in ("images", "labels"):
                shutil.rmtree(folder / path, ignore_errors=True)
            KINDS[name].make(rng, place, folder)
            program, argv = AS_PROGRAM[name]
        write_facts(folder, program=program, argv=argv, kind=name)

    def attempt(self, folder: Path) -> None:
        facts = read_facts(folder)
        program, argv = facts["program"], facts["argv"]
        command = ["-m", program] if program.partition(".")[0] in ("data", "models") else [str(ROOT / f"{program}.py")]
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
        try:
            done = subprocess.run(
                [sys.executable, *command, *argv], cwd=folder, env=environment, capture_output=True,
                stdin=subprocess.DEVNULL, timeout=self.LIMIT, text=True, errors="replace",
            )
        except subprocess.TimeoutExpired:
            raise Wrong(f"hang of {program}: it did not end within {self.LIMIT:.0f} s") from None
        except (ValueError, OSError) as error:  # words that the system does not let through
            raise UserError(str(error), code="command-failed") from None
        if "Traceback (most recent call last)" in done.stderr or done.returncode not in (0, 1, 2):
            last = (done.stderr.strip().splitlines() or [""])[-1]
            raise Wrong(
                f"{program} {facts['kind']} exit {done.returncode}: {last[:300]} {json.dumps(argv)[:300]}\n"
                f"{done.stderr[-3000:]}"
            )
        print(done.stdout[-4000:])
        if done.returncode:
            raise UserError((done.stderr.strip().splitlines() or ["no message"])[-1][:1900], code="command-failed")


AS_PROGRAM = {
    "data-yaml": ("data", ["data.yaml", "--noplots", "--no-cache"]), "yolo": ("data", ["data.yaml", "--no-cache"]),
    "voc": ("data", ["data.yaml", "--noplots", "--no-cache"]),
    "coco": ("data", ["data.yaml", "--noplots", "--no-cache"]), "image": ("train", FLAGS),
    "model-yaml": ("models", ["model.yaml", "--imgsz", "64"]),
    "checkpoint": ("detect", ["--weights", "model.pt", "--source", "image.jpg", "--imgsz", "64", "--device", "cpu"]),
    "original": (
        "val",
        ["--weights", "model.pt", "--data", "data.yaml", "--imgsz", "64", "--workers", "0", "--device", "cpu"],
    ),
    "onnx": ("detect", ["--weights", "model.onnx", "--source", "image.jpg"]),
    "video": ("detect", ["--weights", "tiny.pt", "--source", "videos", "--imgsz", "64"]),
    "recipe": ("train", [*FLAGS, "--hyp", "hyp.yaml"]),
}
