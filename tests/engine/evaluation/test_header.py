"""What stands above the numbers, on the screen and in metrics.txt."""

import pytest

import val
from tests.tiny import tiny_checkpoint, tiny_data
from utils.checkpoint import load_checkpoint, save_checkpoint


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tiny_data(tmp_path_factory.mktemp("data"), train=1, val=3)
    tiny_checkpoint(folder / "tiny.pt")
    save_checkpoint({**load_checkpoint(folder / "tiny.pt"), "epoch": 12}, folder / "tiny.pt")
    return folder


def evaluated(place, *flags):
    words = ["--weights", place / "tiny.pt", "--data", place / "tiny.yaml", "--imgsz", 60, "--workers", 0, "--project",
             place / "val", "--noplots", "--single-cls", "--exist-ok", *flags]
    val.main(val.build_parser().parse_args([str(word) for word in words]))
    return (place / "val/exp/metrics.txt").read_text(encoding="utf-8")


def test_the_header_says_how_it_was_evaluated(place, capsys):
    text = evaluated(place)
    lines = dict(line.split(maxsplit=1) for line in text.splitlines()[:6])
    out = capsys.readouterr().out
    assert out[out.index("weights "):].startswith(text[:text.index("\n\n")]) and out.count("rounded up") == 1
    assert lines["weights"].startswith(f"{place / 'tiny.pt'} (epoch 12, written 20")
    assert " parameters, " in lines["weights"] and lines["weights"].endswith(" GFLOPs")
    assert lines["data"].startswith(f"{place / 'tiny.yaml'}, val: 3 images, ") and "taken as one" in lines["data"]
    assert lines["images"] == "64 x 64 px, rectangles of like aspect, 32 at a time"
    assert lines["detections"] == "confidence 0.001 or more, NMS at IoU 0.65, at most 300 an image"
    assert lines["protocol"].startswith("COCO: IoU 0.50 to 0.95")
    assert lines["runtime"].startswith("Torch in float32 on cpu (")
    assert "warning" not in text and "\nClass " in text


def test_a_high_confidence_is_warned_of(place):
    assert "warning: detections below a confidence of 0.25 are left out, which cuts AP" in evaluated(
        place, "--conf-thres", "0.25", "--no-rect")
    text = evaluated(place, "--conf-thres", "0.01", "--max-det", "7")
    assert "warning" not in text and "confidence 0.01 or more" in text and "at most 7 an image" in text


def test_images_that_cannot_be_opened_are_in_the_header_and_in_the_table(place):
    before = evaluated(place)
    (next((place / "shapes").rglob("val/**/*.png"), None) or sorted((place / "shapes").rglob("*.jpg"))[0]).unlink()
    text = evaluated(place)
    assert "(1 of them cannot be opened)" in text and "1 of 3 images were not evaluated" in text
    assert text.split(" objects, ")[0].split()[-1] == before.split(" objects, ")[0].split()[-1]


def test_images_that_cannot_be_decoded_are_told_in_the_file_and_in_the_table(place, capsys):
    evaluated(place)
    images = sorted((place / "shapes").rglob("val/**/*.png")) or sorted((place / "shapes/val").rglob("*.jpg"))
    content = images[-1].read_bytes()
    images[-1].write_bytes(content[:200] + bytes(len(content) - 200))  # as long as before, its header whole
    try:
        text = evaluated(place, "--protocol", "coco", "voc")
    finally:
        images[-1].write_bytes(content)
    assert f"1 images could not be decoded: their objects count as missed, the first: {images[-1]}" in text
    table = (place / "val/exp-table/table.txt").read_text(encoding="utf-8")
    assert "tiny: 2 images were not evaluated" in table or "tiny: 1 images were not evaluated" in table
