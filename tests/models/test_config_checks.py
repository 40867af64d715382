"""Configs that nobody should trust: wrong types, endless bases and models beyond any memory end in one sentence."""

import copy

import pytest
import torch

from models import build_model
from models.layers.extras import ConvBlockAttention
from models.necks.forks import CBAM
from tests.refusals import refused
from utils.errors import UserError

SMALL = {"nc": 5, "width_multiple": 0.25, "backbone": [[-1, 1, "Conv", [64, 3, 2]], [-1, 1, "Conv", [128, 3, 2]],
                                                       [-1, 1, "Conv", [256, 3, 2]]],
         "head": [[[1, 2], 1, "Detect", ["nc"]]]}
WRONG = [5, -1, 1e7, 10**7, float("nan"), "", "x" * 10**5, "\x1b[2J", [], [[]], [None], {"a": 1}, True, b"x", 10**30]


def changed(key: str, value: object) -> dict:
    return {**copy.deepcopy(SMALL), key: value}


@pytest.mark.parametrize("key", ["nc", "names", "anchors", "activation", "depth_multiple", "width_multiple", "scales",
                                 "max_channels", "scale", "neck", "necks", "base", "backbone", "head", "options",
                                 "recipe", "words", "aliases", "replace", "source", "name"])
@pytest.mark.parametrize("value", WRONG, ids=lambda v: type(v).__name__)
def test_any_value_of_any_key_builds_or_is_told_in_a_sentence(key, value):
    try:
        with torch.device("meta"):
            build_model(changed(key, copy.deepcopy(value)))
    except UserError as error:
        assert len(str(error)) < 900 and str(error).isprintable()


@pytest.mark.parametrize("part", range(5))
@pytest.mark.parametrize("value", [*WRONG, None], ids=lambda v: type(v).__name__)
def test_any_value_within_a_row_builds_or_is_told_in_a_sentence(part, value):
    config = copy.deepcopy(SMALL)
    row = [*config["backbone"][1], "stage"]
    row[part] = copy.deepcopy(value)
    config["backbone"][1] = row
    try:
        with torch.device("meta"):
            build_model(config)
    except UserError as error:
        assert len(str(error)) < 900 and str(error).isprintable()


@pytest.mark.parametrize("config, code, names", [
    (changed("nc", 10**7), "bad-value", ["`nc`", "50,000", "10000000"]),
    (changed("nc", 1e7), "bad-value", ["`nc`"]),
    (changed("neck", 7), "bad-value", ["`neck`", "assn", "`type`", "not 7"]),
    (changed("backbone", 3), "bad-value", ["`backbone`", "2000 rows"]),
    (changed("names", {"a": "x", 1: "y"}), "bad-value", ["`names`", "0 to 1"]),
    (changed("backbone", [[-1, 100_000, "Conv", [64, 3, 2]], *SMALL["backbone"]]), "too-large", ["2,000 layers"]),
    (changed("backbone", [[-1, 1, "Conv", [60_000, 9999, 2]], *SMALL["backbone"]]), "too-large", ["4,000,000,000"]),
    (changed("backbone", [[-1, 1, "Conv", [10**9, 3, 2]], *SMALL["backbone"]]), "bad-value", ["1 to 65,536"]),
    (changed("backbone", [[-1, 1, "Conv", [64, 3, 10**6]], *SMALL["backbone"]]), "bad-stride", [r"1e\+06 pixels"]),
    (changed("backbone", [[-1, 1, "nn.Upsample", [None, 64]], *SMALL["backbone"]]), "bad-stride", [r"0\.0156"]),
])
def test_what_is_beyond_the_limits_is_told_with_the_limit(config, code, names):
    with refused(code, *names):
        build_model(config)


def test_null_is_the_same_as_absent():
    model = build_model({**copy.deepcopy(SMALL), "words": None, "neck": None, "necks": None, "options": None,
                         "anchors": None, "replace": None, "scales": None, "names": None})
    assert model.num_classes == 5


def test_a_file_with_a_base_has_its_own_name(tmp_path):
    (tmp_path / "mine.yaml").write_text("base: yolov8n\nnc: 3\n")
    with torch.device("meta"):
        assert build_model(tmp_path / "mine.yaml").config["name"] == "mine"


def test_bases_that_go_in_a_circle_are_told(tmp_path):
    (tmp_path / "a.yaml").write_text("base: b.yaml\n")
    (tmp_path / "b.yaml").write_text("base: a.yaml\n")
    with refused("circular-base", r"a\.yaml"):
        build_model(tmp_path / "a.yaml")


def test_deeply_nested_values_are_told():
    nested: list = []
    for _ in range(100_000):
        nested = [nested]
    with refused("bad-value", "nested"):
        build_model(changed("recipe", nested))
    while nested:  # taken apart by hand: the interpreter's own clean-up would recurse as deeply
        nested = nested.pop()


def test_rows_that_fail_only_when_run_are_told_before_any_work():
    config = copy.deepcopy(SMALL)
    config["backbone"].insert(1, [-1, 1, "Conv", [128, [1, 2, 3], 1]])
    with refused("bad-model", r"model dict row 1 \(Conv\)", "16 x 16 pixels"):
        build_model(config)


def test_trying_a_model_out_changes_nothing():
    torch.manual_seed(0)
    tried = build_model(copy.deepcopy(SMALL))
    after = torch.rand(3)
    torch.manual_seed(0)
    from models.catalogue import resolve
    from models.detector import Detector
    plain = Detector(resolve(copy.deepcopy(SMALL)))
    assert torch.equal(after, torch.rand(3)) and tried.training
    for (name, a), (_, b) in zip(tried.state_dict().items(), plain.state_dict().items(), strict=True):
        assert torch.equal(a, b), name


class TestCBAM:
    """The name stands for the published module where a row reads one map, for a fork's gate where it reads several."""

    @pytest.mark.parametrize("args", [[256], [256, 7], [256, 3], []])
    def test_with_one_map_as_people_write_it(self, args):
        config = copy.deepcopy(SMALL)
        config["backbone"].append([-1, 1, "CBAM", args])
        config["head"] = [[[1, 3], 1, "Detect", ["nc"]]]
        model = build_model(config)
        assert isinstance(model.model[3], ConvBlockAttention) and model.model[3].out_channels == 64

    def test_with_several_maps(self):
        config = copy.deepcopy(SMALL)
        config["backbone"] += [[2, 1, "Conv", [256]], [[2, 3], 1, "CBAM", [256]]]
        config["head"] = [[[1, 4], 1, "Detect", ["nc"]]]
        assert isinstance(build_model(config).model[4], CBAM)

    def test_values(self):
        """Equations 1 to 3 of the paper, written out for one map."""
        torch.manual_seed(0)
        layer, x = ConvBlockAttention(32).double(), torch.randn(2, 32, 5, 7, dtype=torch.float64)
        w1, w2 = (layer.channel[i].weight[:, :, 0, 0] for i in (0, 2))
        pooled = [x.flatten(2).mean(2), x.flatten(2).amax(2)]
        gate = torch.sigmoid(sum(torch.relu(p @ w1.T) @ w2.T for p in pooled))
        y = x * gate[:, :, None, None]
        mask = torch.conv2d(torch.stack((y.mean(1), y.amax(1)), 1), layer.spatial.weight, padding=3).sigmoid()
        torch.testing.assert_close(layer(x), y * mask)

    def test_an_even_kernel_is_refused(self):
        config = copy.deepcopy(SMALL)
        config["backbone"].append([-1, 1, "CBAM", [256, 16]])
        with pytest.raises(UserError, match=r"row 3 \(CBAM\): kernel_size 16 is not odd"):
            build_model(config)


def test_what_can_be_built_can_be_loaded_again():
    """One limit of classes holds for data, models and checkpoints."""
    import data.data_yaml
    import engine.inference.metadata
    import utils.checkpoint
    from utils.config import MAX_CLASSES

    readers = (data.data_yaml, engine.inference.metadata, utils.checkpoint)
    assert all(module.MAX_CLASSES is MAX_CLASSES for module in readers)
    with pytest.raises(UserError, match=r"1 to 50,000"):
        build_model(changed("nc", MAX_CLASSES + 1))
