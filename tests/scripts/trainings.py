"""Trainings on the tiny data of a folder (`tests.tiny.tiny_data`): their words, and how they compare at the end."""

import argparse
from pathlib import Path

import torch

import train
from utils.checkpoint import load_checkpoint
from utils.reporting.run_log import read_csv

MACHINE_COLUMNS = ("time", "images_per_s", "memory_gb")  # columns of results.csv


def words(place: Path, name: str, **changes: object) -> list[str]:
    """Words of train.py for a run `name` on the tiny data of `place`; a flag without a value is given ''."""
    flags = {"--data": place / "tiny.yaml", "--cfg": "yolov8n", "--imgsz": 64, "--epochs": 3, "--batch": 8,
             "--workers": 0, "--project": place, "--name": name, "--close-mosaic": 1, **changes}
    return [str(part) for flag, value in flags.items() for part in ((flag, value) if value != "" else (flag,))]


def parsed(place: Path, name: str, *extra: object) -> argparse.Namespace:
    """What `train.main` is told for an epoch within the test's own process, without pictures."""
    changes = {"--epochs": 1, "--batch": 4, "--noplots": "", "--device": "cpu", "--amp": "fp32"}
    return train.build_parser().parse_args([*words(place, name, **changes), *map(str, extra)])


def rows(folder: Path) -> list[dict[str, str]]:
    """What results.csv tells of the training, and not of the machine."""
    return [{k: v for k, v in row.items() if k not in MACHINE_COLUMNS} for row in read_csv(folder / "results.csv")]


def assert_same_end(whole: Path, other: Path) -> None:
    """Two runs ended with the same weights, bit for bit, and the same numbers on the way."""
    for name in ("last", "best"):
        a, b = (load_checkpoint(folder / f"weights/{name}.pt")["model"] for folder in (whole, other))
        assert all(torch.equal(value, b[key]) for key, value in a.items())
    assert rows(whole) == rows(other)
    assert not (other / "weights/previous.pt").exists()
