"""`load_model(path).predict(source)`: the numbers of detect.py, from every kind of source, and nothing left behind."""

import json
import threading
import warnings
from types import GeneratorType

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

import detect
import export
from engine.inference.model import Model, load_model
from tests.refusals import user_error
from tests.tiny import NAMES, picture, tiny_model, video
from utils.checkpoint import save_checkpoint


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A checkpoint, two pictures of different sizes and a video."""
    folder = tmp_path_factory.mktemp("model")
    save_checkpoint({"config": {**tiny_model().config, "trained": {"imgsz": [96]}}, "names": NAMES,
                     "model": tiny_model().state_dict()}, folder / "tiny.pt")
    picture(folder / "images" / "a.png", 1)
    picture(folder / "images" / "b.png", 2, (128, 96))
    video(folder / "clip.mp4", 3)
    return folder


@pytest.fixture(scope="module")
def model(place):
    return load_model(place / "tiny.pt", "cpu")


def same(one, other) -> bool:
    return all(torch.equal(getattr(one, part), getattr(other, part)) for part in ("boxes", "scores", "labels"))


def by_script(place, tmp_path, *flags: object) -> list[list[dict]]:
    """What detect.py writes of each picture."""
    words = ["--weights", place / "tiny.pt", "--source", place / "images", "--save-json", "--nosave", "--device", "cpu",
             "--project", tmp_path, *flags]
    folder = detect.main(detect.build_parser().parse_args([str(word) for word in words]))
    rows = json.loads((folder / "predictions.json").read_text(encoding="utf-8"))
    return [[row for row in rows if row["image_id"] == stem] for stem in ("a", "b")]


@pytest.mark.parametrize(("settings", "flags"), [
    ({}, ()), ({"conf": 0.1, "iou": 0.7, "max_det": 5}, ("--conf-thres", 0.1, "--iou-thres", 0.7, "--max-det", 5)),
    ({"imgsz": 64, "classes": ["square", 0]}, ("--imgsz", 64, "--classes", "square", 0)),
    ({"slice": 64, "overlap": 0.25, "with_full": True}, ("--slice", 64, "--overlap", 0.25, "--with-full")),
    ({"augment": True, "agnostic": True}, ("--augment", "--agnostic-nms"))])
def test_results_are_those_of_the_script(place, model, tmp_path, settings, flags):
    expected = by_script(place, tmp_path, *flags)
    found = model.predict(place / "images", **settings)
    keys = ("image_id", "category_id", "bbox", "score")
    assert [result.to_coco() for result in found] == [[{k: row[k] for k in keys} for row in rows] for rows in expected]
    assert sum(map(len, found)) > 0


def test_every_form_of_a_picture_gives_the_same(place, model):
    path = place / "images" / "a.png"
    bgr = cv2.imread(str(path))
    rgb = bgr[..., ::-1]  # negative strides
    expected = model.predict(path)[0]
    tensor = torch.from_numpy(rgb.copy()).permute(2, 0, 1)
    alpha = np.dstack((bgr, np.zeros(bgr.shape[:2], np.uint8)))
    pillow = Image.open(path)
    sources = [str(path), bgr, alpha, pillow, pillow.convert("RGBA"), tensor, tensor.float() / 255, bgr / 255]
    for source in sources:
        assert same(model.predict(source)[0], expected), type(source)
    assert all(same(result, expected) for result in model.predict(sources))
    assert same(model.predict(rgb, rgb=True)[0], expected) and not same(model.predict(rgb)[0], expected)
    assert all(same(result, expected) for result in model.predict(torch.stack((tensor, tensor))))
    assert all(same(result, expected) for result in model.predict(np.stack((bgr, bgr))))
    assert model(path)[0].path == str(path) and model.predict(bgr)[0].path == "image0"


def test_grey_pictures_are_repeated_over_the_channels(place, model, tmp_path):
    grey = cv2.imread(str(place / "images" / "a.png"), cv2.IMREAD_GRAYSCALE)
    cv2.imwrite(str(tmp_path / "grey.png"), grey)
    expected = model.predict(tmp_path / "grey.png")[0]
    for source in (grey, grey[..., None], Image.fromarray(grey)):
        assert same(model.predict(source)[0], expected)


def test_a_picture_of_pillow_is_turned_as_its_file_is(place, model, tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.open(place / "images" / "a.png").save(tmp_path / "turned.png", exif=exif)
    expected = model.predict(tmp_path / "turned.png")[0]
    found = model.predict(Image.open(tmp_path / "turned.png"))[0]
    assert expected.image.shape[:2] == (128, 96) and same(found, expected)


def test_lists_and_generators(place, model):
    every = model.predict([place / "images" / "*.png", np.zeros((40, 50, 3), np.uint8)])
    assert [result.path.rsplit("/", 1)[-1] for result in every] == ["a.png", "b.png", "image1"]
    stream = model.predict(place / "images", stream=True)
    assert isinstance(stream, GeneratorType) and [len(r) for r in stream] == [len(r) for r in every[:2]]
    frames = model.predict(place / "clip.mp4", vid_stride=2)
    assert isinstance(frames, GeneratorType) and [result.frame.index for result in frames] == [0, 2]
    assert isinstance(model.predict([place / "images" / "a.png", place / "clip.mp4"]), GeneratorType)


def test_iterators_are_read_as_they_come(place, model):
    path, taken = place / "images" / "a.png", []

    def pictures():
        for k in range(20):
            taken.append(k)
            yield path if k % 2 else cv2.imread(str(path))[..., ::-1]

    found = model.predict(pictures(), rgb=True)
    assert isinstance(found, GeneratorType) and same(next(found), model.predict(path)[0]) and len(taken) < 20
    assert next(found).path == str(path)


def test_objects_are_followed(place, model):
    pytest.importorskip("trackers")
    frame = cv2.imread(str(place / "images" / "a.png"))
    for source in (place / "clip.mp4", [frame] * 3, iter([frame] * 3)):
        found = list(model.predict(source, track="bytetrack"))
        assert found[0].ids.tolist() == [-1] * len(found[0]) and max(found[-1].ids.tolist()) > 0
    assert model.predict(frame, track=True)[0].ids is not None and model.predict(frame, track=False)[0].ids is None


def test_nothing_stays_for_the_next_call(place, model):
    path = place / "images" / "a.png"
    before = model.predict(path)[0]
    for settings in ({"conf": 0.9}, {"classes": 0}, {"max_det": 1}, {"imgsz": 64}, {"slice": 64}, {"augment": True}):
        assert not same(model.predict(path, **settings)[0], before)
        assert same(model.predict(path)[0], before)
    first = model.predict(place / "images", stream=True, conf=0.05)
    assert len(next(first)) > len(model.predict(path, conf=0.6)[0])
    assert same(next(first), model.predict(place / "images" / "b.png", conf=0.05)[0])


def test_threads_get_what_one_gets(place, model):
    pictures = [np.random.default_rng(k).integers(0, 255, (40 + 30 * k, 120, 3), np.uint8) for k in range(4)]
    expected, found = [model.predict(p, conf=0.1 * k) for k, p in enumerate(pictures)], {}

    def work(thread: int) -> None:
        found[thread] = [model.predict(p, conf=0.1 * k) for _ in range(3) for k, p in enumerate(pictures)]

    threads = [threading.Thread(target=work, args=(k,)) for k in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 3
    for results in found.values():
        assert all(same(a[0], b[0]) for a, b in zip(results, expected * 3, strict=True))


@pytest.mark.parametrize(("settings", "code", "said"), [
    ({"conf": 2}, "bad-value", "conf: '2' is not a number between 0"), ({"conf": "high"}, "bad-value", "conf"),
    ({"conf": True}, "bad-value", "conf"), ({"conf_thres": 0.5}, "unknown-setting", "did you mean 'conf'?"),
    ({"max_dte": 5}, "unknown-setting", "did you mean 'max_det'?"),
    ({"overlap": 0.2}, "flag-without-effect", "add slice"),
    ({"classes": "sqare"}, "unknown-class", "'square'"), ({"classes": []}, "bad-value", "classes"),
    ({"classes": 7}, "unknown-class", "classes 7"), ({"imgsz": (1, 2, 3)}, "bad-value", "imgsz"),
    ({"imgsz": 0}, "bad-value", "imgsz"), ({"augment": "yes"}, "bad-value", "True or False"),
    ({"merge": "soft", "slice": 64}, "bad-value", "nmm"), ({"slice": 3}, "bad-value", "32"),
    ({"track": "sort"}, "bad-value", "bytetrack"), ({"reconnect": 5}, "flag-without-effect", "reconnect"),
    ({"rgb": True}, "flag-without-effect", "rgb"), ({"device": "cuda:77"}, "missing-device", "device cuda:77")])
def test_wrong_settings_are_told_by_their_python_names(place, model, settings, code, said):
    with user_error(code, said) as error:
        model.predict(place / "images", stream=True, **settings)  # at once, not with the first picture
    assert "--" not in str(error.value)


@pytest.mark.parametrize(("source", "code", "said"), [
    (None, "bad-source", "cv2.imread"), ("nope.jpg", "missing-file", "nope.jpg"), ([], "missing-argument", "empty"),
    (3.5, "bad-source", "float 3.5"), ([["a.jpg"]], "bad-source", "list"),
    (np.zeros((3, 640, 640), np.uint8), "bad-shape", "an array not"),
    (np.zeros((4, 4, 2), np.uint8), "bad-shape", "(4, 4, 2)"),
    (np.zeros(5, np.uint8), "bad-shape", "(5,)"), (np.full((4, 4, 3), 300.0), "bad-type", "from 300 to 300"),
    (np.full((4, 4, 3), np.nan), "bad-type", "nan"), (np.zeros((4, 4, 3), np.uint16), "bad-type", "uint16"),
    (np.zeros((0, 5, 3), np.uint8), "bad-value", "no pixels"), (torch.zeros(2, 3), "bad-shape", "(3, H, W)"),
    (torch.zeros(4, 4, 3), "bad-shape", "(4, 4, 3)"), (torch.full((3, 4, 4), 2.0), "bad-type", "from 2 to 2")])
def test_wrong_sources(model, source, code, said):
    with user_error(code, said):
        model.predict(source)


def test_small_objects_in_large_pictures_are_hinted_at(model):
    with pytest.warns(UserWarning, match=r"hint: 700 x 500 pixels shrink .*; slice \d+ looks"):
        model.predict(np.zeros((500, 700, 3), np.uint8))


def test_a_stream_is_opened_when_it_is_asked_for(model):
    assert isinstance(model.predict("rtsp://127.0.0.1:9/none"), GeneratorType)
    assert isinstance(model.predict(99), GeneratorType)


def test_too_many_pixels(model):
    with user_error("too-large", "max_pixels"):
        model.predict(np.zeros((20, 20, 3), np.uint8), max_pixels=399)


def test_files_that_cannot_be_read_are_warned_of(place, model, tmp_path):
    picture(tmp_path / "a.png", 1)
    (tmp_path / "broken.png").write_bytes(b"nothing")
    with pytest.warns(UserWarning, match="skipped .*broken.png"):
        assert len(model.predict(tmp_path)) == 1
    with user_error("unreadable-source", "broken.png"):
        model.predict([tmp_path / "a.png", tmp_path / "broken.png"])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model.predict(tmp_path / "a.png")


@pytest.fixture(scope="module")
def onnx_file(place):
    pytest.importorskip("onnx")
    words = ["--weights", place / "tiny.pt", "--include", "onnx", "--dynamic", "--device", "cpu"]
    export.main(export.build_parser().parse_args([str(word) for word in words]))
    return place / "tiny.onnx"


@pytest.mark.filterwarnings("ignore")
def test_an_exported_file_predicts_alike(place, model, onnx_file):
    exported = load_model(onnx_file)
    pairs = zip(*(runner.predict(place / "images", imgsz=64) for runner in (model, exported)), strict=True)
    for one, other in pairs:
        assert one.labels.tolist() == other.labels.tolist() and torch.allclose(one.boxes, other.boxes, atol=0.05)
    with user_error("no-module", "tiny.onnx", ".pt"):
        exported.model  # noqa: B018
    assert exported.names == NAMES


@pytest.mark.filterwarnings("ignore")
def test_an_ensemble(place, onnx_file):
    both = load_model([place / "tiny.pt", onnx_file], "cpu")
    assert len(both.predict(place / "images" / "a.png", merge="nms")[0]) > 0
    with user_error("missing-argument", "load_model"):
        load_model([])


def test_a_model_in_memory_predicts_as_its_file(place, model, tmp_path):
    detector = tiny_model()
    there = Model.of(detector, "cpu")
    found = there.predict(place / "images" / "a.png", imgsz=96)[0]
    assert same(found, model.predict(place / "images" / "a.png")[0])
    assert any("bn" in name for name, _ in detector.named_modules())  # the one that was given is not fused
    raw = there.model(torch.zeros(1, 3, 64, 64))
    assert there.model.decode(raw)[0].shape[-1] == 4


def test_devices(model):
    assert model.to("cpu") is model
    with user_error("missing-device", "device 99"):
        model.to("99")
    assert model.runtimes[0].device.type == "cpu"


def test_what_is_printed(model):
    assert repr(model).endswith("tiny.pt on cpu, 96x96 px, 3 classes: circle, square, traffic light)")


def test_a_missing_file(tmp_path):
    with user_error("missing-file", "no.pt", "nothing is downloaded"):
        load_model(tmp_path / "no.pt")
