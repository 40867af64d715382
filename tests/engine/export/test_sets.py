"""Exported files of a model that answers with a set: as many boxes as it finds, in no order that matters."""

import json

import onnx
import pytest
import torch

import detect
import export as script
import val
from engine.export.config import ExportConfig
from engine.export.export import export
from engine.export.gate import compare_all
from engine.export.pictures import Input
from engine.export.program import Program
from engine.inference.runtimes.open import load_runtime
from models import build_model
from tests.refusals import refused
from tests.tiny import picture, tiny_data
from utils.checkpoint import save_checkpoint
from utils.select import best_scores

SIZE, SHAPES = (128, 192), ["circle", "square", "triangle", "star", "cross"]
SUFFIXES = [".onnx", ".torchscript"]


def small_detr() -> torch.nn.Module:
    """A transformer of 32 channels on two convolutions, its scores spread as a trained one's are."""
    torch.manual_seed(0)
    rows = [[-1, 1, "Conv", [16, 3, 8]], [-1, 1, "Conv", [16, 3, 2]]]
    maps = [[k, 1, "GroupConv", [32, 1, 1, 8]] for k in range(2)]
    options = {"queries": 400, "level_ratios": [0.4, 1.0], "layer_ratios": [1.0, 0.6], "decoder_layers": 2,
               "hidden": 64, "heads": 4}
    frame = {"fit": "shortest", "short": 128, "long": 192, "pad": "corner", "fill": [124, 116, 104]}
    model = build_model({"source": "small.yaml", "nc": len(SHAPES), "backbone": rows, "frame": frame, "head": [
        *maps, [[2, 3], 1, "SalienceDETR", ["nc"], "detect", options]]}, names=SHAPES).eval()
    with torch.no_grad():
        for head in (*model.head.decoder.class_head, model.head.encoder_class_head):
            head.weight.normal_(std=0.6)
        for head in (*model.head.decoder.bbox_head, model.head.encoder_bbox_head):
            head.layers[-1].weight.normal_(std=0.1)
    return model


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """best.pt, .onnx and .torchscript of one model, and tiny.yaml, whose images fill their frames."""
    folder = tiny_data(tmp_path_factory.mktemp("sets"), train=2, val=2, size=list(SIZE))
    model = small_detr()
    model.config["trained"] = {"imgsz": [128]}
    content = {"config": model.config, "names": list(model.names), "model": model.state_dict()}
    save_checkpoint(content, folder / "best.pt")
    words = ["--weights", str(folder / "best.pt"), "--include", "onnx", "torchscript", "--imgsz", *map(str, SIZE)]
    script.main(script.build_parser().parse_args(words))
    return folder


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_file_answers_as_the_checkpoint(folder, suffix) -> None:
    reference, runtime = (load_runtime(folder / f"best{s}", "cpu") for s in (".pt", suffix))
    assert runtime.thresholds == reference.thresholds and runtime.fixed_size == SIZE
    counts = set()
    for seed in range(3):
        images = torch.rand(1, 3, *SIZE, generator=torch.Generator().manual_seed(seed)) * (seed + 1) / 3
        expected, got = reference.predict(images), runtime.predict(images)
        for a, b in zip(expected, got, strict=True):
            torch.testing.assert_close(a, b, atol=5e-3, rtol=1e-4)
        counts.add(got[0].shape[1])
        found, = runtime.select(*got)
        assert len(found) == 300 and torch.allclose(found.scores, reference.select(*expected)[0].scores, atol=1e-4)
    assert len(counts) > 1 and max(counts) < 400  # how many there are depends on what is seen


def test_a_file_says_that_its_best_are_taken(folder) -> None:
    graph = onnx.load(str(folder / "best.onnx"))
    assert json.loads(next(p.value for p in graph.metadata_props if p.key == "assn"))["select"] == "topk"
    assert "without NMS" in graph.doc_string
    assert not any(o.type.tensor_type.shape.dim[1].dim_value for o in graph.graph.output)


def test_a_size_that_is_free_is_refused(folder, tmp_path) -> None:
    with refused("fixed-size", "--dynamic", "SalienceDETR", "--imgsz"):
        script.main(script.build_parser().parse_args(["--weights", str(folder / "best.pt"), "--dynamic"]))


def test_a_model_that_is_fused_answers_the_same() -> None:
    model, images = small_detr(), torch.rand(2, 3, *SIZE)
    for norm in (m for m in model.modules() if isinstance(m, torch.nn.BatchNorm2d)):
        norm.running_mean.uniform_(-0.1, 0.1), norm.running_var.uniform_(0.8, 1.2)
    before = model.decode(model(images))
    after = model.fuse().decode(model(images))
    assert isinstance(model.head.neck.layer_blocks[0].bottlenecks[0].conv2, torch.nn.Identity)
    for a, b in zip(before, after, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-2)


@pytest.mark.parametrize("run", [val, detect])
def test_the_scripts_find_the_same_in_each(folder, run) -> None:
    shot = picture(folder / "shots" / "1.jpg", size=SIZE)
    found = {}
    for suffix in (".pt", *SUFFIXES):
        words = ["--weights", str(folder / f"best{suffix}"), "--save-json", "--project", str(folder), "--name",
                 f"{run.__name__}{suffix}", "--device", "cpu", "--conf-thres", "0.05"]
        words += ["--data", str(folder / "tiny.yaml"), "--noplots", "--workers", "0", "--batch-size", "1"] \
            if run is val else ["--source", str(shot), "--nosave"]
        run.main(run.build_parser().parse_args(words))
        rows = json.loads((folder / f"{run.__name__}{suffix}" / "predictions.json").read_text())
        found[suffix] = torch.tensor([(100 * row["score"], 1e3 * row["category_id"], 1e4 * row["image_id"],
                                       *row["bbox"]) for row in rows])
    assert len(found[".pt"]) > 5
    for suffix in SUFFIXES:  # rows of nearly equal scores stand in any order
        apart = (found[suffix][:, None] - found[".pt"]).abs().amax(-1)
        assert len(apart) == len(apart[0]) and max(apart.amin(0).max(), apart.amin(1).max()) < 0.05


@pytest.mark.parametrize("suffix", [".pt", ".onnx"])
def test_flags_of_suppression_are_refused(folder, suffix) -> None:
    words = ["--weights", str(folder / f"best{suffix}"), "--device", "cpu"]
    with refused("flag-without-effect", "--iou-thres:.*a set"):
        val.main(val.build_parser().parse_args([*words, "--data", str(folder / "tiny.yaml"), "--iou-thres", "0.6"]))
    with refused("flag-without-effect", "--iou-thres --agnostic-nms: .*drop them"):
        detect.main(detect.build_parser().parse_args([*words, "--source", str(folder), "--iou-thres", "0.45",
                                                      "--agnostic-nms"]))


class Answers:
    """A runtime that knows its answer."""

    precision, selection, finds_sets, names, path = "float32", None, True, ["a", "b", "c"], "x.onnx"

    def __init__(self, boxes, scores) -> None:
        self.answer = boxes, scores

    def predict(self, images):
        return self.answer

    def select(self, boxes, scores, config):
        return best_scores(boxes, scores, config)


def answers(count=40):
    generator = torch.Generator().manual_seed(0)
    corner = torch.rand(1, count, 2, generator=generator) * 100
    scores = torch.linspace(0.3, 0.9, count)[None, :, None] * torch.eye(3)[torch.arange(count) % 3][None]
    return torch.cat((corner, corner + 20), -1), scores


def agrees(changed, folder) -> None:
    pictures = [Input("pictures", torch.zeros(1, 3, 128, 128))]
    compare_all(pictures, Answers(*answers()), Answers(*changed), folder / "x.onnx")


def test_answers_that_change_place_are_no_difference(tmp_path) -> None:
    boxes, scores = answers()
    order = [1, 0, *range(39, 1, -1)]
    agrees((boxes[:, order] + 0.05, scores[:, order] + 5e-4), tmp_path)
    agrees((torch.cat((boxes, boxes[:, :1]), 1), torch.cat((scores, scores[:, :1] * 0), 1)), tmp_path)  # one more


@pytest.mark.parametrize("change", [
    lambda b, s: (b + 0.3, s), lambda b, s: (b + 30, s), lambda b, s: (b, s * 0.99), lambda b, s: (b, s.roll(1, -1)),
    lambda b, s: (b[:, :36], s[:, :36]), lambda b, s: (b[:, :4].repeat(1, 10, 1), s), lambda b, s: (b / 0, s),
    lambda b, s: (b.roll(1, 1), s), lambda b, s: (b[:, :0], s[:, :0])],
    ids=["moved", "far", "unsure", "other class", "fewer", "collapsed", "nan", "other boxes", "none"])
def test_a_really_different_file_is_refused(change, tmp_path) -> None:
    with refused("export-differs", "x.onnx"):
        agrees(change(*answers()), tmp_path)


def test_a_file_that_differs_is_not_written(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(Program, "forward",
                        lambda self, images: tuple(x * 0.97 for x in self.model.decode(self.model(images))))
    with refused("export-differs", "best.torchscript"):
        export(small_detr(), tmp_path / "best.torchscript", ExportConfig(imgsz=SIZE))
    assert [path.name for path in tmp_path.iterdir()] == ["best_torchscript_worst.jpg"]


def test_a_frame_that_tall_images_do_not_fill_is_told(folder, tmp_path, capsys) -> None:
    words = ["--weights", str(folder / "best.pt"), "--nms", "--output", str(tmp_path / "a"), "--conf-thres", "0.1"]
    path, = script.main(script.build_parser().parse_args(words))
    assert "this file has one, 128 x 192, in which tall images get smaller: --imgsz H W" in capsys.readouterr().out
    runtime, reference = load_runtime(path, "cpu"), load_runtime(folder / "best.pt", "cpu")
    images = torch.rand(1, 3, *SIZE)
    found, = runtime.select(*runtime.predict(images))
    wanted, = reference.select(*reference.predict(images), runtime.selection)
    assert len(found) == len(wanted) > 5 and torch.allclose(found.scores, wanted.scores, atol=1e-4)
    with refused("flag-without-effect", "--iou-thres, --agnostic-nms: SalienceDETR answers with a set"):
        script.main(script.build_parser().parse_args([*words, "--iou-thres", "0.5"]))
