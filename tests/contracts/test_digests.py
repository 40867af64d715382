"""Samples, trainings and evaluations are those that `digests.json` pins, whatever makes and keeps the images."""

from dataclasses import fields, replace
from pathlib import Path

import pytest

from data.augment.policies.ssd import SsdPolicy
from data.augment.policies.yolo import YoloPolicy
from tests.contracts.digests import (
    ALONE,
    CACHES,
    EVALUATIONS,
    SETTINGS,
    SSD_ALONE,
    WORKERS,
    differing,
    digest_of_batches,
    environment,
    evaluation_batches,
    expected,
    make_data,
    run_digests,
    sample_digests,
    training_batches,
)


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    return make_data(tmp_path_factory.mktemp("digests") / "scenes")


@pytest.fixture(scope="module")
def samples(data) -> dict[str, str]:
    return sample_digests(data)


def pinned(part: str, *free: str) -> dict[str, str]:
    """A part of digests.json, where it was made by the same versions on a processor of the same kind; free: what may
    differ of the environment."""
    known, here = expected(), environment()
    other = [f"{name} {here.get(name)} instead of {value}" for name, value in known["environment"].items()
             if here.get(name) != value and name not in free]
    if other:
        pytest.skip(f"digests.json was made in another environment: {', '.join(other)}")
    return known[part]


def assert_same(found: dict[str, str], wanted: dict[str, str]) -> None:
    wrong = differing(found, wanted)
    assert not wrong, f"these differ: {', '.join(wrong)}"  # all of them: pytest would cut the list


def test_samples_are_those_pinned(samples):
    assert_same(samples, pinned("samples", "processor"))


def test_each_setting_gives_samples_of_its_own(samples):
    """Otherwise a digest could not fail when its setting has no effect any more."""
    for policy, alone in ((YoloPolicy, ALONE), (SsdPolicy, SSD_ALONE)):
        assert {f.name for f in fields(policy)} == set(alone)
    assert len(set(samples.values())) == len(samples)


@pytest.mark.parametrize("name, ways", [
    *((name, [(cache, workers) for cache in CACHES for workers in WORKERS][1:]) for name in ("all", "ssd")),
    *((name, [("ram", 1), ("disk", 2)]) for name in ("defaults", "rect", "tiles", "weights", "close_mosaic")),
    *((name, [(None, 1), (None, 2)]) for name in ("device: all", "device: rect", "device: ssd"))])
def test_caches_and_workers_change_no_training_sample(data, samples, name, ways):
    for cache, workers in ways:
        found = digest_of_batches(training_batches(data, SETTINGS[name], cache, workers))
        assert found == samples[f"train: {name}"], (cache, workers)


@pytest.mark.parametrize("name", EVALUATIONS)
def test_caches_and_workers_change_no_evaluation_batch(data, samples, name):
    square = isinstance(EVALUATIONS[name]["imgsz"], int)  # a cache is for square frames: in others it shrinks twice
    for cache, workers in (("ram" if square else None, 1), ("disk" if square else None, 2), (None, 2)):
        found = digest_of_batches(evaluation_batches(data, **EVALUATIONS[name], cache=cache, workers=workers))
        assert found == samples[f"val: {name}"], (cache, workers)


def test_a_gain_changes_its_digest(data, samples):
    setting = SETTINGS["hsv_v"]
    changed = replace(setting, augment={**setting.augment, "hsv_v": 0.85})
    assert digest_of_batches(training_batches(data, changed)) != samples["train: hsv_v"]


@pytest.mark.slow
def test_trainings_and_evaluations_are_those_pinned(data, tmp_path):
    wanted = pinned("runs")
    assert_same(run_digests(tmp_path, data), wanted)
