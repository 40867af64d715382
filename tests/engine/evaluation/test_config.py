"""Thresholds of an evaluation are the model's own unless flags say otherwise."""

import val
from engine.evaluation.config import ValConfig
from utils.select import EVALUATION, SelectConfig


def config(*flags: str) -> ValConfig:
    return ValConfig.from_args(val.build_parser().parse_args(["--weights", "best.pt", *flags]))


def test_thresholds_are_those_of_the_model_but_for_given_flags():
    own = SelectConfig(0.01, 1.0, 100, agnostic=True)
    assert config().thresholds(own) == own
    assert config("--conf-thres", "0.2", "--max-det", "5").thresholds(own) == SelectConfig(0.2, 1.0, 5, agnostic=True)


def test_the_models_of_this_project_declare_those_of_the_published_tables():
    assert (EVALUATION.conf, EVALUATION.iou, EVALUATION.max_det, EVALUATION.multi_label) == (0.001, 0.65, 300, True)
