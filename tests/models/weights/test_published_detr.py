"""Weights of Salience DETR and its fork as their code saves them, without that code."""

import pytest
import torch

from models import build_model
from models.heads.published_detr import adapt, read_names
from models.loading import load_model
from models.weights import import_original, load_backbone
from tests.golden_rule import filled_state_dict
from tests.refusals import user_error
from utils.class_lists import COCO, COCO_IDS

RATIOS = {"level_filter_ratio": [0.4, 0.8, 1.0, 1.0], "layer_filter_ratio": [1.0, 0.8, 0.6, 0.6, 0.4, 0.2]}
LEFT = {"position_embedding.dim_tx", "position_embedding.dim_ty", "transformer.level_filter_ratio",
        "transformer.layer_filter_ratio", "transformer.encoder.enhance_mcsp.weight",
        "transformer.encoder.enhance_mcsp.bias"}


def codes(*names: str) -> torch.Tensor:
    return torch.tensor([code for name in names for code in (*map(ord, name), -1)])


def save(folder, state):
    torch.save(dict(state), folder / "original.pth")
    return folder / "original.pth"


def published(classes: int, queries: int = 7) -> dict[str, torch.Tensor]:
    """`salience-detr-tiny` under the names of the original, with what the original keeps beside."""
    torch.manual_seed(0)
    model = build_model("salience-detr-tiny", classes, queries=queries)
    state = {}
    for node, layer in zip(model.model.nodes, model.model, strict=True):
        for key, value in layer.state_dict().items():
            if node.index == len(model.model) - 1:
                name = f"{'denoising_generator' if key.startswith('label') else 'transformer'}.{key}"
            elif node.module == "GroupConv":
                name = f"neck.convs.{node.name[-1]}.{'0' if key.startswith('conv') else '1'}.{key.rpartition('.')[2]}"
            else:
                name = f"backbone.{key}" if node.name == "stem" else f"backbone.{node.name}.{key}"
            state[name] = torch.randn_like(value) if value.is_floating_point() else value
    for name in ("weight", "bias"):
        state[f"transformer.encoder.enhance_mcsp.{name}"] = state[f"transformer.encoder_class_head.{name}"]
    return state | {"position_embedding.dim_tx": torch.ones(64), "position_embedding.dim_ty": torch.ones(64),
                    "transformer.level_filter_ratio": torch.tensor([0.5, 0.7, 1, 1]),
                    "transformer.layer_filter_ratio": torch.tensor([1, 0.55])}


def class_layers(model) -> dict[str, torch.Tensor]:
    head = model.head
    return {"transformer.encoder_class_head.weight": head.encoder_class_head.weight,
            "transformer.encoder_class_head.bias": head.encoder_class_head.bias,
            "transformer.decoder.class_head.1.weight": head.decoder.class_head[1].weight,
            "denoising_generator.label_encoder.weight": head.label_encoder.weight}


def test_names_in_the_file_choose_the_rows(tmp_path) -> None:
    state = published(6)
    state["_classes_"] = codes("none", "swimmer", "none", "boat")  # the last two ids have no name at all
    model, report = import_original(save(tmp_path, {f"module.{key}": value for key, value in state.items()}))
    assert model.names == ["swimmer", "boat"] and model.head.width == 128
    for key, ours in class_layers(model).items():
        assert torch.equal(ours, state[key][[1, 3]]), key
    assert report.left.keys() == {*LEFT, "_classes_"} and not report.kept
    assert ("transformer.alpha", f"model.{len(model.model) - 1}.alpha") in report.transferred
    assert torch.equal(model.head.tgt_embed.weight, state["transformer.tgt_embed.weight"])
    assert model.head.queries == 7 and model.head.level_ratios == (0.5, 0.7, 1, 1)
    assert model.head.encoder.layer_ratios == (1, 0.55)


def test_ids_of_coco_and_classes_of_ones_own(tmp_path) -> None:
    state = published(91)
    model = load_model(save(tmp_path, state), cfg="salience-detr-tiny")
    assert model.names == list(COCO)
    for key, ours in class_layers(model).items():
        assert torch.equal(ours, state[key][list(COCO_IDS)]), key
    state, implied = adapt(published(4))
    assert implied.keys() == {"options"} and len(state["transformer.encoder_class_head.bias"]) == 4


def test_a_file_that_contradicts_itself_is_told(tmp_path) -> None:
    state = published(2)
    with user_error("weights-do-not-fit", "original.pth", "3 names", "2 rows", "'c'"):
        import_original(save(tmp_path, {**state, "_classes_": codes("a", "b", "c")}))
    with user_error("unknown-model", "original.pth"):
        import_original(save(tmp_path, {**state, "transformer.more.weight": torch.zeros(1)}))
    assert read_names(codes("a", "bc")) == ["a", "bc"] and read_names(torch.tensor([97])) == ["a"]


@pytest.mark.slow
@pytest.mark.parametrize(("name", "zoo", "count"), [
    ("salience-detr-r50-q100", "salience-detr-r50", 1025),
    ("scale-focus-detr-r50-4level-q100", "scale-focused-detr-r50", 1033)])
def test_the_key_lists_of_both_repositories(golden, tmp_path, name, zoo, count) -> None:
    meta, _ = golden(name)
    state = filled_state_dict(meta)
    for key, shape, _ in meta["state_dict"]:
        if key in meta["kept"]:
            state[key] = torch.tensor(RATIOS.get(key.rpartition(".")[2], [1.0] * shape[0]))
    assert len(state) == count
    model, report = import_original(save(tmp_path, state))
    assert model.config["source"].endswith(f"{zoo}.yaml") and model.names == list(COCO) and model.head.queries == 100
    assert report.left.keys() == LEFT and not report.kept and len(report.transferred) == count - len(LEFT)
    ours, narrow = model.state_dict(), 0
    for their, own in report.transferred:
        same = ours[own].shape == state[their].shape
        narrow += not same
        assert torch.equal(ours[own], state[their] if same else state[their][list(COCO_IDS)]), their
    assert narrow == 2 * 7 + 1


def test_a_classifiers_weights_reach_its_frozen_backbone(tmp_path) -> None:
    import torchvision

    torch.manual_seed(0)
    classifier = torchvision.models.resnet18(weights=None).eval()
    for norm in (m for m in classifier.modules() if isinstance(m, torch.nn.BatchNorm2d)):
        for tensor in (norm.weight, norm.bias, norm.running_mean, norm.running_var):
            torch.nn.init.uniform_(tensor, 0.5, 1.5)
    model = build_model("salience-detr-r18", 3).eval()
    report = load_backbone(model, save(tmp_path, classifier.state_dict()))
    state = classifier.state_dict()
    counters = {key for key in state if key.endswith("num_batches_tracked")}
    assert report.left.keys() == {"fc.weight", "fc.bias", *counters} and not report.kept
    images = torch.rand(1, 3, 64, 64)
    theirs = classifier.layer1(classifier.maxpool(classifier.relu(classifier.bn1(classifier.conv1(images)))))
    ours = images
    for row in range(2):
        ours = model.model[row](ours)
    for row in (2, 3, 4):
        theirs, ours = getattr(classifier, f"layer{row}")(theirs), model.model[row](ours)
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)
