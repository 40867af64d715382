"""Where a setting comes from, and what is told of a recipe that asks for what is not here."""


import pytest
import torch
import yaml

from data.augment.policies.ssd import SsdPolicy
from engine.training.config import TrainConfig, resolve_settings
from engine.training.nonfinite import read_losses
from engine.training.recipe import load_recipe
from engine.training.state import Training, UnreadLosses
from tests.refusals import user_error
from utils.config import CFG_ROOT
from utils.errors import UserError


def parse(*words):
    return TrainConfig.from_args(TrainConfig.parser("").parse_args(list(words)))


@pytest.mark.parametrize("name", sorted(path.stem for path in (CFG_ROOT / "train").glob("*.yaml")))
def test_every_recipe_reads(name):
    recipe = load_recipe(name)
    assert recipe.make_policy() and not recipe.notes


def test_words_of_the_policy_ssd_reach_it_as_the_file_says(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("policy: ssd\nfill: [1, 2, 3]\niou_crop: code\nhue: 9\n")
    recipe = load_recipe(path)
    assert recipe.make_policy() == SsdPolicy(fill=(1, 2, 3), iou_crop="code", hue=9.0)
    path.write_text(yaml.safe_dump(recipe.values()))  # as a run writes it down
    assert load_recipe(path).make_policy() == recipe.make_policy()
    path.write_text("policy: ssd\nfill: 114\n")
    with user_error("bad-value", path, "fill", 114):
        load_recipe(path)


def test_a_file_changes_its_base_and_flags_change_both(tmp_path):
    (tmp_path / "mine.yaml").write_text("lr0: 0.5\nmosaic: 0.0\nepochs: 7\n")
    recipe = load_recipe(tmp_path / "mine.yaml", base=load_recipe("yolov7"))
    config, recipe = resolve_settings(parse("--batch", "4", "--linear-lr", "--close-mosaic", "3"), recipe)
    assert (recipe.lr0, recipe.augment["mosaic"], recipe.gains["obj"], recipe.schedule) == (0.5, 0.0, 0.7, "linear")
    assert (config.epochs, config.batch_size, config.imgsz, config.close_mosaic) == (7, 4, (640,), 3)
    assert config.optimizer == "SGD"


def test_copies_by_flag_reach_the_policy_and_are_refused_where_there_are_none():
    flag = ("--copy-paste-small", "0.4")
    _, recipe = resolve_settings(parse(*flag, "--epochs", "11"), load_recipe("yolov8"))
    assert recipe.make_policy().copy_paste_small == 0.4
    with user_error("flag-without-effect", "--copy-paste-small 0.4", "policy ssd"):
        resolve_settings(parse(*flag), load_recipe("ssd"))
    with user_error("flag-without-effect", "of 10 epochs the last 10 paste none", "--close-mosaic 1"):
        resolve_settings(parse(*flag, "--epochs", "10"), load_recipe("yolov8"))
    resolve_settings(parse("--copy-paste-small", "0", "--epochs", "10"), load_recipe("yolov8"))


def test_hyp_files_of_yolov7_read_and_what_has_no_effect_is_told(tmp_path):
    hyp = {"lr0": 0.01, "iou_t": 0.2, "anchor_t": 4.0, "fl_gamma": 0.0, "paste_in": 0.15, "loss_ota": 1}
    (tmp_path / "hyp.yaml").write_text(yaml.safe_dump(hyp))
    assert [note.partition(": ")[2] for note in load_recipe(tmp_path / "hyp.yaml").notes] == [
        "paste_in: 0.15 is not supported and has no effect"]


@pytest.mark.parametrize("text, message", [
    ("lr00: 0.1", "did you mean 'lr0'"), ("lr0: fast", "expected a float, got 'fast'"),
    ("schedule: step", "'step' is none of cosine"), ("- 1", "key: value"), ("a: [", "not valid YAML"),
    ("mosaic: true", "expected a float")])
def test_wrong_recipes_are_told(tmp_path, text, message):
    (tmp_path / "bad.yaml").write_text(text)
    with pytest.raises(UserError, match="bad.yaml") as told:
        load_recipe(tmp_path / "bad.yaml")
    assert message in str(told.value)


def test_losses_are_counted_until_one_is_not_finite():
    def step(cls, batch, size=0):
        return UnreadLosses(["box", "cls"], torch.tensor([1.0, cls]), 2, batch, size)

    run = Training(*[None] * 8, unread=[step(2.0, 0), step(2.0, 1)])
    assert read_losses(run) is None and run.unread == []
    assert run.meter.means() == {"box": 0.5, "cls": 1.0}
    run.unread = [step(4.0, 2), step(float("nan"), 3, 96), step(2.0, 4, 64)]
    bad = read_losses(run)
    assert (bad.batch, bad.size) == (3, 96) and bad.terms["box"] == 1 and bad.terms["cls"] != bad.terms["cls"]
    assert run.meter.images == 6 and run.unread == []
