"""The settings of a training: frozen, made from flags, stored as plain data, and read back the same."""

from dataclasses import FrozenInstanceError, fields

import pytest

import train
from engine.training.checkpoints import save_run
from engine.training.config import TrainConfig
from engine.training.resume import merge_resume_args, stored_settings
from tests.scripts.test_train_device import a_run
from utils.checkpoint import load_checkpoint

WORDS = ["--imgsz", "64", "96", "--freeze", "3", "--logger", "wandb", "--epochs", "7", "--cache", "--seed", "0"]


def configured(*words):
    return TrainConfig.from_args(train.build_parser().parse_args(list(words)))


def test_a_config_is_made_from_flags_and_is_frozen():
    config = configured(*WORDS)
    assert (config.imgsz, config.freeze, config.epochs, config.cache) == ((64, 96), (3,), 7, "ram")
    assert config.given["seed"] == 0 and "patience" not in config.given
    with pytest.raises(FrozenInstanceError):
        config.epochs = 8
    assert config.replace(batch_size=5).batch_size == 5 and config.batch_size is None
    assert configured() == TrainConfig()


def test_stored_settings_are_plain_data_and_give_the_same_config_back(tmp_path):
    config = configured(*WORDS)
    save_run(a_run(), stored_settings(config), tmp_path)
    stored = load_checkpoint(tmp_path / "weights/last.pt")
    saved = stored["train"]["args"]
    assert saved["imgsz"] == [64, 96] and saved["given"]["imgsz"] == [64, 96]
    assert saved.keys() == {flag.name for flag in fields(TrainConfig)} - {"resume"}
    again = merge_resume_args(configured("--resume", "--workers", "3"), stored, tmp_path)
    assert again == config.replace(resume=True, workers=3) and again.given == config.given


def test_the_training_state_in_a_checkpoint_keeps_its_keys(tmp_path):
    """Earlier versions have written these, and later ones must read them."""
    save_run(a_run(), {}, tmp_path)
    state = load_checkpoint(tmp_path / "weights/last.pt")["train"]
    assert state.keys() == {
        "args", "recipe", "job", "ema_updates", "meter", "model", "optimizer", "scaler", "rng", "data", "epoch",
        "batch", "score", "best", "best_epoch", "ended", "split", "split_left", "split_wait", "skipped", "left_out",
        "class_ap"}
