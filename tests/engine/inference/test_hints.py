"""Hints at `--slice`: said once, where objects would be much smaller than in the training."""

from types import SimpleNamespace

import pytest

from engine.inference.hints import SliceHint, tile_hint


def hint(trained, size=(640, 640), sliced=False):
    return SliceHint(SimpleNamespace(path="best.pt", trained=trained), size, sliced)


@pytest.mark.parametrize("trained, image, window", [
    ({}, (3000, 4000), 640), ({"imgsz": [640], "image": 640}, (3000, 4000), 640),
    ({"imgsz": [640], "image": 1280}, (3000, 4000), 1280),
    ({"imgsz": [640], "tile": 800, "image": 800}, (900, 700), 800),
    ({"imgsz": [640], "image": 5000}, (3000, 4000), None), ({}, (1200, 1600), None), ({}, (640, 640), None),
    ({"imgsz": "wide", "image": -1, "tile": "x"}, (3000, 4000), 640), ({"tile": 800}, (800, 800), None)])
def test_a_hint_names_the_window_or_there_is_none(trained, image, window):
    if isinstance(trained.get("imgsz"), str):
        trained = {**trained, "imgsz": []}  # as `Runtime` leaves what is no list
    lines = hint(trained)(*image)
    assert len(lines) == (window is not None) and (not lines or f"--slice {window} " in lines[0])


def test_it_is_said_once_and_not_to_those_who_slice():
    once = hint({})
    assert once(640, 640) == [] and len(once(3000, 4000)) == 1 and once(3000, 4000) == []
    assert hint({}, sliced=True)(3000, 4000) == []


def test_val_says_it_of_windows_alone():
    runtime = SimpleNamespace(path="best.pt", trained={"tile": 64})
    assert "--slice 64" in tile_hint(runtime, 65) and tile_hint(runtime, 64) == ""
    assert tile_hint(SimpleNamespace(path="best.pt", trained={}), 9000) == ""
