"""The search of hyper-parameters. Most of it needs Optuna, which is optional."""

import csv
import sys

import pytest

from data.augment.policies.yolo import YoloPolicy
from engine.training import evolve as tuning
from engine.training.evolve import evolve, search_space, stop_if_hopeless
from engine.training.recipe import load_recipe
from models.heads.anchor import AnchorDetect
from models.heads.dfl import DFLDetect
from tests.refusals import user_error
from utils.errors import UserError


@pytest.fixture
def optuna():
    return pytest.importorskip("optuna", reason="Optuna is not installed")


@pytest.fixture(autouse=True)
def no_plots(request, monkeypatch):
    """Two dozen scatter plots take seconds: one test has them."""
    if "used_again" not in request.node.name:
        monkeypatch.setattr(tuning, "plot_trials", lambda trials, path: None)


@pytest.fixture
def recipe():
    return load_recipe("yolov5").for_head(AnchorDetect)


def bowl(recipe, trial):
    """Best at lr0 0.02 and no translation, whatever the rest."""
    return 1 - abs(recipe.lr0 - 0.02) * 10 - recipe.augment["translate"]


def rows(folder):
    return list(csv.DictReader((folder / "evolve.csv").open()))


def test_the_space_holds_the_recipe_and_leaves_out_what_has_no_effect():
    space = search_space(load_recipe("yolov5").for_head(AnchorDetect))
    assert {"lr0", "obj", "anchor_t", "mosaic"} <= set(space) and "dfl" not in space
    assert space["box"] == pytest.approx((0.02, 0.2))
    free = search_space(load_recipe("yolov8").for_head(DFLDetect))  # optimizer auto, no anchors
    assert "dfl" in free and not {"lr0", "momentum", "warmup_bias_lr", "anchor_t", "obj_pw"} & set(free)
    for name in ("yolov5", "yolov5-voc", "yolov7-p6", "yolov8"):
        recipe = load_recipe(name)
        assert all(low <= recipe.values()[word] <= high for word, (low, high) in search_space(recipe).items())
        for end in (0, 1):  # the augmentation takes every corner of the space
            corner = recipe.with_values({word: bounds[end] for word, bounds in search_space(recipe).items()})
            YoloPolicy(**corner.augment)


def test_without_optuna_the_cure_is_told(tmp_path, recipe, monkeypatch):
    monkeypatch.setitem(sys.modules, "optuna", None)
    with user_error("missing-package", "pip install optuna"):
        evolve(bowl, recipe, folder=tmp_path)


def test_the_recipe_comes_first_and_the_best_can_be_used_again(tmp_path, recipe, optuna):
    seen = []
    best = evolve(lambda r, trial: seen.append(r) or bowl(r, trial), recipe, folder=tmp_path, trials=6, seed=1)
    assert seen[0] == recipe and len(seen) == 6
    assert bowl(best, None) == max(bowl(r, None) for r in seen)
    read = load_recipe(tmp_path / "hyp_evolve.yaml")
    assert read.lr0 == pytest.approx(best.lr0, rel=1e-4) and read.gains == pytest.approx(best.gains, rel=1e-4)
    assert read.schedule == recipe.schedule and not read.notes
    assert [row["state"] for row in rows(tmp_path)] == ["complete"] * 6
    assert (tmp_path / "evolve.png").stat().st_size > 10_000


def test_a_failed_trial_is_recorded_and_the_search_goes_on(tmp_path, recipe, optuna):
    def objective(recipe, trial):
        if trial.number == 1:
            raise UserError("the loss is not finite")
        return float("nan") if trial.number == 2 else bowl(recipe, trial)

    evolve(objective, recipe, folder=tmp_path, trials=4)
    assert [row["state"] for row in rows(tmp_path)] == ["complete", "fail", "fail", "complete"]
    assert rows(tmp_path)[1]["error"] == "the loss is not finite"


def test_where_nothing_succeeds_the_first_error_is_told(tmp_path, recipe, optuna):
    def objective(recipe, trial):
        raise UserError(f"no data {trial.number}")

    with user_error("no-result", "3 trials", "no data 0"):
        evolve(objective, recipe, folder=tmp_path, trials=3)


def test_ctrl_c_leaves_a_search_that_goes_on_as_if_never_stopped(tmp_path, recipe, optuna):
    def stopping(recipe, trial):
        if trial.number == 3:
            raise KeyboardInterrupt
        return bowl(recipe, trial)

    whole = evolve(bowl, recipe, folder=tmp_path / "whole", trials=6)
    with pytest.raises(KeyboardInterrupt):
        evolve(stopping, recipe, folder=tmp_path / "parts", trials=6)
    evolve(bowl, recipe, folder=tmp_path / "parts", trials=6)
    parts = rows(tmp_path / "parts")
    assert [row["state"] for row in parts].count("complete") == 6 and parts[3]["state"] == "fail"
    assert [row["lr0"] for row in parts[:6]] == [row["lr0"] for row in rows(tmp_path / "whole")]
    assert whole.lr0 in [pytest.approx(float(row["lr0"]), rel=1e-4) for row in parts]


@pytest.mark.parametrize("form", ["sqlite:///{}/shared.db", "{}/shared.journal"])
def test_two_machines_share_a_study(tmp_path, recipe, optuna, form):
    storage = form.format(tmp_path)
    evolve(bowl, recipe, folder=tmp_path / "one", trials=3, storage=storage, study="s")
    counted = []
    evolve(lambda r, trial: counted.append(trial.number) or bowl(r, trial), recipe, folder=tmp_path / "two", trials=5,
           storage=storage, study="s")
    assert counted == [3, 4] and len(rows(tmp_path / "two")) == 5


def test_hopeless_trials_stop_early(tmp_path, recipe, optuna):
    epochs = []

    def objective(recipe, trial):
        for epoch in range(1, 4):
            epochs.append((trial.number, epoch))
            stop_if_hopeless(trial, -float(trial.number), epoch)
        return -float(trial.number)

    evolve(objective, recipe, folder=tmp_path, trials=7)
    assert epochs[-1] == (6, 1) and rows(tmp_path)[-1]["state"] == "pruned"


@pytest.mark.parametrize("storage", ["sqlite:////no/such/folder/x.db", "nonsense://user:secret@host/db"])
def test_a_storage_that_does_not_open_is_told_without_its_password(tmp_path, recipe, optuna, storage):
    with user_error("bad-storage", "--storage") as told:
        evolve(bowl, recipe, folder=tmp_path, storage=storage)
    assert "secret" not in str(told.value)
