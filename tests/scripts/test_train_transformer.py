"""train.py on a transformer: a run that is resumed draws the denoising that it would have drawn."""

import pytest
import torch
import yaml

import train
from tests.scripts.trainings import assert_same_end
from tests.tiny import tiny_data

HEAD = {"queries": 20, "layer_ratios": [1.0], "decoder_layers": 1, "hidden": 32, "heads": 4, "denoising": 10}
MODEL = {"frame": {"fit": "shortest", "short": 64, "long": 107, "multiple": 32, "pad": "corner"},
         "backbone": [[-1, 1, "Conv", [16, 3, 8]], *([-1, 1, "Conv", [16, 3, 2]] for _ in range(3))],
         "head": [*([k, 1, "GroupConv", [32, 1, 1, 8]] for k in range(4)),
                  {"from": [4, 5, 6, 7], "module": "SalienceDETR", "args": ["nc"], "name": "detect", "options": HEAD}]}
RECIPE = {"base": "salience-detr", "lr0": 0.001, "groups": [{"match": "sampling_offsets", "lr": 0.1}]}


@pytest.mark.slow
def test_a_resumed_run_ends_where_the_whole_one_does(tmp_path, monkeypatch):
    """Bit for bit, interrupted in its second epoch of two; more draws of others come between."""
    place = tiny_data(tmp_path, train=8, val=4, test=2)
    (tmp_path / "model.yaml").write_text(yaml.safe_dump(MODEL))
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(RECIPE))

    def run(*words):
        extra = ["--device", "cpu", "--workers", "0", "--noplots"]
        train.main(train.build_parser().parse_args([*map(str, words), *extra]))

    start = ["--data", place / "tiny.yaml", "--cfg", tmp_path / "model.yaml", "--hyp", tmp_path / "recipe.yaml",
             "--batch", 4, "--epochs", 2, "--amp", "fp32", "--project", place]
    run(*start, "--name", "whole")

    def ends(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(train, "train_epoch", lambda job, run, own=train.train_epoch: (ends if run.epoch else own)(
            job, run))
        run(*start, "--name", "parts")
    torch.rand(7)
    run("--resume", place / "parts")
    assert_same_end(place / "whole", place / "parts")
