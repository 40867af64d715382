"""A classifier's weights in the backbone of a detector."""

import pytest
import torch
import torchvision
import yaml

from engine.training.config import TrainConfig
from engine.training.setup import start_model
from models import build_model
from models.convert import build_parser
from models.convert import main as convert
from models.loading import load_model
from models.weights import load_backbone, pixels_note
from models.weights.backbone import _classifier
from tests.refusals import user_error
from utils.checkpoint import save_checkpoint

PIXELS = {"mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}


def resnet(norm="bn", blocks=(2, 2, 2, 2), block="basic", **keys):
    """A detector on a ResNet."""
    stages = [[-1, count, "ResNetStage", [64 * 2**i, 2 if i else 1, block, norm], f"layer{i + 1}"]
              for i, count in enumerate(blocks)]
    return {"nc": 2, "backbone": [[-1, 1, "ResNetStem", [64, norm], "stem"], *stages],
            "head": [[["layer2", "layer3", "layer4"], 1, "DFLDetect", ["nc"]]], "pixels": PIXELS, **keys}


@pytest.fixture(scope="module")
def classifier():
    torch.manual_seed(0)
    model = torchvision.models.resnet18(weights=None, num_classes=3).eval()
    for norm in (m for m in model.modules() if isinstance(m, torch.nn.BatchNorm2d)):
        for tensor in (norm.weight, norm.bias, norm.running_mean, norm.running_var):
            torch.nn.init.uniform_(tensor, 0.5, 1.5)
    return model


@pytest.fixture(scope="module")
def file(classifier, tmp_path_factory):
    path = tmp_path_factory.mktemp("classifier") / "resnet18.pth"
    torch.save({f"module.{key}": value for key, value in classifier.state_dict().items()}, path)
    return path


@pytest.mark.parametrize("norm", ["bn", "frozen"])
def test_its_maps_are_those_of_the_classifier(classifier, file, norm):
    model = build_model(resnet(norm)).eval()
    report = load_backbone(model, file)
    images = torch.rand(1, 3, 64, 64)
    theirs = classifier.maxpool(classifier.relu(classifier.bn1(classifier.conv1(model._normalised(images)))))
    ours = model.model[0](model._normalised(images))
    for row in range(1, 5):
        theirs, ours = getattr(classifier, f"layer{row}")(theirs), model.model[row](ours)
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)
    counters = [key for key in classifier.state_dict() if key.endswith("num_batches_tracked")]
    left = {"fc.weight", "fc.bias", *(counters if norm == "frozen" else ())}
    assert report.left.keys() == left and not report.kept
    assert len(report.transferred) == len(classifier.state_dict()) - len(left)
    assert not pixels_note(model, report)
    assert "2 left (the classifier's own layer" in str(report)


def test_other_pixels_are_told(file):
    model = build_model(resnet(pixels={"scale": 255, "mean": [123, 117, 104]}))
    assert "'mean': [0.485, 0.456, 0.406]" in pixels_note(model, load_backbone(model, file))


def reduced(state):
    """The names of reduced VGG-16 as amdegroot/ssd.pytorch has them."""
    return {key.removeprefix("features."): value for key, value in state.items()}


def test_a_vgg_by_its_numbers_and_a_reduced_one_by_them_alone(tmp_path):
    torch.manual_seed(0)
    vgg = torchvision.models.vgg16(weights=None).features.eval()
    state = {f"features.{key}": value for key, value in vgg.state_dict().items()}
    torch.save(state, tmp_path / "features.pth")
    model = build_model("ssd300", 2).eval()
    report = load_backbone(model, tmp_path / "features.pth")
    assert set(report.kept) == {f"model.1.{n}.{part}" for n in (31, 33) for part in ("weight", "bias")}
    x = torch.rand(1, 3, 64, 64)
    torch.testing.assert_close(model.model[0](x), vgg[:23](x), rtol=1e-4, atol=1e-4)
    second = dict(model.model[1].named_children())
    torch.testing.assert_close(second["24"](second["23"](vgg[:23](x))), vgg[:25](x), rtol=1e-4, atol=1e-4)
    assert "'scale': 1" in pixels_note(model, report)
    whole = {**state, "features.31.weight": torch.rand(1024, 512, 3, 3), "features.31.bias": torch.rand(1024),
             "features.33.weight": torch.rand(1024, 1024, 1, 1), "features.33.bias": torch.rand(1024)}
    torch.save(reduced(whole), tmp_path / "vgg16_reducedfc.pth")
    report = load_backbone(model, tmp_path / "vgg16_reducedfc.pth")
    assert not report.left and not report.kept and not pixels_note(model, report)
    assert torch.equal(model.state_dict()["model.1.31.weight"], whole["features.31.weight"])


def test_the_classifier_of_a_vgg_becomes_two_convolutions():
    outputs, inputs = torch.arange(4096.0)[:, None], torch.arange(25088.0)[None]
    for first, second in ((outputs.expand(4096, 25088), outputs.expand(4096, 4096)),
                          (inputs.expand(4096, 25088), torch.arange(4096.0)[None].expand(4096, 4096))):
        state = _classifier({"features.0.weight": torch.zeros(1), "classifier.0.weight": first,
                             "classifier.0.bias": torch.arange(4096.0), "classifier.3.weight": second,
                             "classifier.3.bias": torch.arange(4096.0), "classifier.6.bias": torch.zeros(1)})
        assert sorted(state) == ["classifier.6.bias", "features.0.weight", *(
            f"features.{n}.{part}" for n in (31, 33) for part in ("bias", "weight"))]
        assert torch.equal(state["features.31.bias"], torch.arange(0.0, 4096, 4))
        fc6, fc7 = state["features.31.weight"], state["features.33.weight"]
        assert fc6.shape == (1024, 512, 3, 3) and fc7.shape == (1024, 1024, 1, 1)
        channel, row, column, out = 5, 2, 1, 7
        assert fc6[out, channel, row, column] == first[4 * out, channel * 49 + 3 * row * 7 + 3 * column]
        assert fc7[out, channel, 0, 0] == second[4 * out, 4 * channel]


def test_what_does_not_fit_is_refused_before_anything_is_written(file, tmp_path, classifier):
    def saved(state):
        torch.save(state, tmp_path / "other.pth")
        return tmp_path / "other.pth"

    with user_error("no-such-rows", file, "rows for a ResNet-18"):
        load_backbone(build_model("yolov8n", 2), file)
    with torch.device("meta"):
        deep, vgg = torchvision.models.resnet50(weights=None), torchvision.models.vgg16_bn(weights=None)
    model = build_model(resnet())
    before = {key: value.clone() for key, value in model.state_dict().items()}
    with user_error("weights-do-not-fit", "holds a ResNet-50, and the backbone of", "is a ResNet-18"):
        load_backbone(model, saved({key: torch.zeros(1) for key in deep.state_dict()}))
    short = {key: value for key, value in classifier.state_dict().items() if not key.startswith("layer2.1.")}
    with user_error("weights-do-not-fit", "a ResNet of 2, 1, 2, 2 blocks", "it lacks layer2.1.conv1.weight"):
        load_backbone(model, saved(short))
    with user_error("no-such-rows", "VGG-16 with batch norm"):
        load_backbone(model, saved({key: torch.zeros(1) for key in vgg.state_dict()}))
    with user_error("weights-do-not-fit", "holds none of the names"):
        load_backbone(model, saved({"a.weight": torch.zeros(1)}))
    with user_error("weights-do-not-fit", "conv1.weight has the shape [64, 3, 7, 7], and [32, 3, 7, 7]"):
        load_backbone(build_model(resnet(width_multiple=0.5)), file)
    save_checkpoint({"config": {}, "names": [], "model": {}}, tmp_path / "ours.pt")
    with user_error("bad-value", tmp_path / "ours.pt", "--weights"):
        load_backbone(model, tmp_path / "ours.pt")
    with user_error("missing-file", tmp_path / "none.pth"):
        load_backbone(model, tmp_path / "none.pth")
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


def test_models_convert_writes_a_detector_to_train(file, tmp_path, classifier, capsys):
    (tmp_path / "r18.yaml").write_text(yaml.safe_dump(resnet()))
    words = [str(file), str(tmp_path / "new.pt"), "--backbone"]
    with user_error("missing-flag", "--backbone", "--cfg"):
        convert(build_parser().parse_args(words))
    convert(build_parser().parse_args([*words, "--cfg", str(tmp_path / "r18.yaml")]))
    assert "train.py --weights" in capsys.readouterr().out
    model = load_model(tmp_path / "new.pt")
    assert torch.equal(model.model[4][1].conv2.weight, classifier.layer4[1].conv2.weight)


def test_a_training_starts_from_it(file, tmp_path, classifier, capsys):
    (tmp_path / "r18.yaml").write_text(yaml.safe_dump(resnet(recipe="yolov8")))
    config = TrainConfig(cfg=str(tmp_path / "r18.yaml"), data="some", backbone=str(file))
    model, *_ = start_model(config, ["a", "b"], lambda size: None)
    assert torch.equal(model.model[4][1].conv2.weight, classifier.layer4[1].conv2.weight)
    assert f"--backbone {file}: 120 tensors transferred; 2 left" in capsys.readouterr().out
    for extra in (["--weights", "a.pt"], ["--resume"]):
        args = TrainConfig.parser("").parse_args(["--backbone", str(file), *extra])
        with user_error("flag-without-effect", "--backbone: --weights and --resume bring"):
            TrainConfig.from_args(args).check(1)
    with user_error("no-such-rows", "cfg/models/yolov8.yaml"):
        start_model(config.replace(cfg=""), ["a", "b"], lambda size: None)
