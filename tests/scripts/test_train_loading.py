"""Every way of feeding a training: it trains, and resumed from within an epoch it ends with the same weights."""

import pytest
import torch

import train
from tests.scripts.trainings import words
from tests.tiny import tiny_data
from utils.checkpoint import load_checkpoint

WAYS = {
    "multi-scale": {"--multi-scale": ""},
    "rect": {"--rect": ""},
    "on the device": {"--cache": "gpu"},
    "from a file": {"--cache": "disk"},
    "tiles": {"--tile": 48, "--tile-overlap": 0.25},
    "weighted": {"--oversample-small": "", "--rare-classes": 0.9, "--image-weights": ""},
    "anchors": {"--cfg": "yolov3-tiny", "--optimizer": "SGD"},
}


QUICK = ("on the device",)  # the others run with -m slow


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tiny_data(tmp_path_factory.mktemp("ways"), train=18, val=4, size=[48, 64])
    # steps at every batch, so that a run can stop within an epoch
    (folder / "hyp.yaml").write_text("warmup_epochs: 0\nmosaic: 0.7\nmixup: 0.3\ncopy_paste: 0.5\nmosaic9: 0.5\n"
                                     "nominal_batch: 4\n")
    return folder


@pytest.mark.parametrize("way", [pytest.param(way, marks=[] if way in QUICK else pytest.mark.slow) for way in WAYS])
def test_a_run_resumed_within_an_epoch_ends_the_same(place, way, monkeypatch, capsys):
    torch.set_num_threads(1)
    monkeypatch.setenv("XDG_CACHE_HOME", str(place / "cache"))
    name = way.replace(" ", "-")

    def flags(folder: str) -> list[str]:
        changes = {"--batch": 4, "--epochs": 2, "--hyp": place / "hyp.yaml", "--noplots": "", "--device": "cpu",
                   "--amp": "fp32", "--save-every-minutes": 1e-9, **WAYS[way]}
        return words(place, folder, **changes)

    whole = train.main(train.build_parser().parse_args(flags(name)))
    epochs, step = [], train.step  # of the steps that are taken

    def fails(run):
        if (run.epoch, run.batch) == (1, 3):  # the batch is counted before its step
            raise KeyboardInterrupt
        epochs.append(run.epoch)
        step(run)

    monkeypatch.setattr(train, "step", fails)
    with pytest.raises(KeyboardInterrupt):
        train.main(train.build_parser().parse_args(flags(f"{name}-stopped")))
    assert epochs.count(0) > 2 and epochs.count(1) == 2
    monkeypatch.setattr(train, "step", step)
    resumed = train.main(train.build_parser().parse_args(["--resume", str(place / f"{name}-stopped"), "--workers", "0",
                                                          "--device", "cpu"]))
    assert "resuming after epoch 1 and 2 batches" in capsys.readouterr().out
    one, two = (load_checkpoint(folder / "weights/last.pt")["model"] for folder in (whole, resumed))
    assert all(torch.equal(value, two[key]) for key, value in one.items())
