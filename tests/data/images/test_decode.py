"""The same picture gives the same pixels, whatever file it lies in and whoever reads it."""

import io
import os
import struct
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from PIL import Image, ImageOps

from data import load_index
from data.images.decode import decode, to_bytes
from data.images.header_parsers import parse
from data.images.headers import read_header
from data.images.store import ImageStore, read_image
from data.loading.dataset import DetectionDataset
from data.loading.device_loader import DeviceImages
from engine.inference.sources import open_source
from tests.data import makers
from utils.errors import UserError

H, W = 48, 80


def picture() -> np.ndarray:
    """(H, W, 3) RGB with four colours that no rotation or mirror leaves in place."""
    image = np.full((H, W, 3), (90, 91, 92), np.uint8)
    image[4:20, 6:30], image[30:44, 6:20], image[30:40, 60:74] = (200, 60, 40), (10, 250, 130), (0, 30, 255)
    return image


def saved(path: Path, image: Image.Image | np.ndarray, **options) -> Path:
    image = image if isinstance(image, Image.Image) else Image.fromarray(image)
    image.save(path, **options)
    return path


def by_opencv(path: Path, values: np.ndarray) -> Path:
    path.write_bytes(cv2.imencode(path.suffix, values, [cv2.IMWRITE_TIFF_COMPRESSION, 1])[1].tobytes())
    return path


def colour_files(folder: Path) -> list[Path]:
    """The picture in lossless files of many kinds."""
    rgb = picture()
    image = Image.fromarray(rgb)
    alpha = np.dstack((rgb, np.where(np.arange(W) > 40, 0, 255).astype(np.uint8)[None].repeat(H, 0)))
    bgr = rgb[..., ::-1]
    spread = (bgr.astype(np.uint16) << 8) | bgr
    return [
        saved(folder / "plain.png", image), saved(folder / "rgba.png", alpha), saved(folder / "plain.bmp", image),
        saved(folder / "palette.png", image.quantize(16)), saved(folder / "w.webp", image, lossless=True),
        saved(folder / "palette_alpha.png", image.quantize(16), transparency=0), saved(folder / "g.gif", image),
        saved(folder / "bare.dib", image), saved(folder / "plain.tif", image), saved(folder / "rgba.tif", alpha),
        saved(folder / "p.ppm", image),
        saved(folder / "rgbalzw.tif", alpha, compression="tiff_lzw"),
        by_opencv(folder / "alpha16.tif", np.dstack((spread, np.full((H, W), 20000, np.uint16)))),
        saved(folder / "lzw.tiff", image, compression="tiff_lzw"), saved(folder / "cmyk.tif", image.convert("CMYK")),
        saved(folder / "a.jp2", image, irreversible=False), by_opencv(folder / "deep.png", spread),
        by_opencv(folder / "deep.tif", spread), by_opencv(folder / "bits12.png", bgr.astype(np.uint16) << 4),
        by_opencv(folder / "shares.tiff", bgr.astype(np.float32) / 255),
        by_opencv(folder / "alpha16.png", np.dstack((spread, np.full((H, W), 20000, np.uint16)))),
    ]


def gray_files(folder: Path) -> list[Path]:
    gray = picture()[..., 0]
    image = Image.fromarray(gray)
    return [saved(folder / "g.png", image), saved(folder / "la.png", image.convert("LA")),
            saved(folder / "g.tif", image), by_opencv(folder / "g12.png", gray.astype(np.uint16) << 4),
            by_opencv(folder / "g10.tif", gray.astype(np.uint16) << 2), saved(folder / "g.gif", image),
            by_opencv(folder / "f.tif", gray.astype(np.float32) / 255), saved(folder / "g.pgm", image),
            saved(folder / "i32.tif", image.convert("I")), saved(folder / "f255.tif", gray.astype(np.float32))]


@pytest.mark.parametrize("files", [colour_files, gray_files])
def test_every_encoding_gives_the_same_pixels(tmp_path, files):
    paths = files(tmp_path)
    want = picture()[..., ::-1] if files is colour_files else picture()[..., [0, 0, 0]]
    for path in paths:
        image = read_image(str(path))
        assert image is not None, path.name
        off = np.abs(image.astype(int) - want).max()
        assert off <= ("cmyk" in path.name), (path.name, off)
        assert image.dtype == np.uint8 and image.flags["C_CONTIGUOUS"]
        header = read_header(str(path))
        assert (header.height, header.width) == (H, W), path.name


def test_one_bit_is_black_and_white(tmp_path):
    mask = picture()[..., 0] > 100
    for name in ("a.png", "a.bmp", "a.tif", "a.gif"):
        image = read_image(str(saved(tmp_path / name, Image.fromarray(mask))))
        assert np.array_equal(image, np.where(mask, 255, 0)[..., None].repeat(3, 2)), name


def ways(yaml: Path, size: tuple[int, int]) -> dict[str, np.ndarray]:
    """The BGR pixels of a data set's only image as each reader sees them, at its own size."""
    records = load_index(yaml, "train", cache=False).records
    side = max(size)
    found = {f"cache {c}": ImageStore(records, side, c).load(0)[0] for c in (None, "ram", "disk")}
    found["evaluation"] = ImageStore(records, side, exact=True).load_whole(0)
    sample = DetectionDataset(records, side)[0]
    top, left = sample.letterbox.pad[::-1]
    found["val loader"] = sample.image[top:top + size[0], left:left + size[1], ::-1]
    held = DeviceImages(ImageStore(records, side), torch.device("cpu"))
    at = int(held.layout.starts[0, 0])
    found["cache gpu"] = held.block[at:at + size[0] * size[1]].numpy().reshape(*size, 3)
    found["detect"] = next(iter(open_source(records[0].path))).image
    return found


@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.webp", "a.tif", "deep.png", "rgba.png", "la.png", "bits12.tif"])
@pytest.mark.parametrize("orientation", [1, 6])
def test_training_validation_caches_and_detection_see_the_same(tmp_path, name, orientation):
    folder = tmp_path / "images" / "train"
    folder.mkdir(parents=True)
    path, gray = folder / name, picture()[..., 0]
    exif = Image.Exif()
    exif[0x0112] = orientation
    if name in ("deep.png", "bits12.tif"):
        by_opencv(path, gray.astype(np.uint16) << (8 if name == "deep.png" else 4))
        if orientation != 1:
            path.write_bytes(with_orientation(path.read_bytes(), orientation))
    else:
        image = Image.fromarray(picture()).convert({"rgba.png": "RGBA", "la.png": "LA"}.get(name, "RGB"))
        options = {"quality": 95} if name == "a.jpg" else {"lossless": True} if name == "a.webp" else {}
        saved(path, image, exif=exif, **options)
    (tmp_path / "labels" / "train").mkdir(parents=True)
    (tmp_path / "labels" / "train" / f"{path.stem}.txt").write_text("0 0.5 0.5 0.2 0.2\n")
    yaml = makers.config(tmp_path, train="images/train", names=["box"])
    seen = ways(yaml, (W, H) if orientation == 6 else (H, W))
    want = np.rot90(picture(), -1) if orientation == 6 else picture()
    gray_of_red = name.startswith(("deep", "bits"))
    want = want[..., [0, 0, 0]] if gray_of_red else want[..., ::-1]
    for way, image in seen.items():
        assert np.array_equal(image, seen["detect"]), way
    if name != "la.png":
        assert np.abs(seen["detect"].astype(int) - want).mean() <= (5 if name == "a.jpg" else 0)
    report = load_index(yaml, "train", cache=False).report
    assert report.count("turned_image") == (orientation == 6)
    assert report.count("deep_image") == gray_of_red


def with_orientation(data: bytes, orientation: int, order: str = ">") -> bytes:
    """A PNG with an eXIf chunk behind its pixels, or a TIFF with the tag added to its first directory."""
    if data[:4] == b"\x89PNG":
        mark = b"MM\0*" if order == ">" else b"II*\0"
        block = mark + struct.pack(f"{order}IHHHIHHI", 8, 1, 0x0112, 3, 1, orientation, 0, 0)
        chunk = b"eXIf" + block
        return data[:-12] + struct.pack(">I", len(block)) + chunk + struct.pack(">I", zlib.crc32(chunk)) + data[-12:]
    order = "<" if data[:2] == b"II" else ">"
    (start,) = struct.unpack_from(f"{order}I", data, 4)
    (count,) = struct.unpack_from(f"{order}H", data, start)
    entries = [data[start + 2 + 12 * k:start + 14 + 12 * k] for k in range(count)]
    entries = [e for e in entries if struct.unpack_from(f"{order}H", e)[0] != 0x0112]
    entries.append(struct.pack(f"{order}HHIHH", 0x0112, 3, 1, orientation, 0))
    entries.sort(key=lambda e: struct.unpack_from(f"{order}H", e)[0])
    directory = struct.pack(f"{order}H", len(entries)) + b"".join(entries) + b"\0\0\0\0"
    return data[:4] + struct.pack(f"{order}I", len(data)) + data[8:] + directory


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp", ".tif", ".avif"])
@pytest.mark.parametrize("orientation", [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 255])
def test_every_orientation_is_what_pillow_makes_of_it(tmp_path, suffix, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / f"a{suffix}"
    lossless = {".webp": {"lossless": True}, ".jpg": {"quality": 95}}.get(suffix, {})
    try:
        saved(path, picture(), exif=exif, **lossless)
    except (KeyError, OSError):
        pytest.skip(f"this Pillow cannot write {suffix}")
    with Image.open(path) as image:
        want = np.asarray(ImageOps.exif_transpose(image).convert("RGB"))[..., ::-1]
    image, header = read_image(str(path)), read_header(str(path))
    assert image.shape == want.shape and (header.height, header.width) == want.shape[:2]
    assert np.abs(image.astype(int) - want).max() <= (4 if suffix == ".jpg" else 0)


@pytest.mark.parametrize("order", [">", "<"])
@pytest.mark.parametrize("orientation", [1, 3, 6, 9])
def test_an_orientation_behind_the_pixels_of_a_png_counts(tmp_path, orientation, order):
    path = saved(tmp_path / "a.png", picture())
    path.write_bytes(with_orientation(path.read_bytes(), orientation, order))
    header = read_header(str(path))
    assert header.orientation == (orientation if orientation != 9 else 1)
    assert header == parse(memoryview(path.read_bytes()))
    assert read_image(str(path)).shape[:2] == (header.height, header.width)


@pytest.mark.parametrize(("values", "want"), [
    (np.array([[0, 1000, 3900]], np.uint16), [0, 62, 243]),  # 12 bits
    (np.array([[0, 1000, 1023]], np.uint16), [0, 250, 255]),  # 10
    (np.array([[0, 8000, 16383]], np.uint16), [0, 125, 255]),  # 14
    (np.array([[0, 128 << 8, 65535]], np.uint16), [0, 128, 255]),
    (np.array([[0, 7, 200]], np.uint16), [0, 7, 200]),  # bytes in words
    (np.array([[0, 1000, 3900]], np.int32), [0, 62, 243]),
    (np.array([[-100, 2, 100]], np.int16), [0, 130, 255]),
    (np.array([[0, 0.5, 1.0000001]], np.float32), [0, 128, 255]),
    (np.array([[0, 100, 255]], np.float64), [0, 100, 255]),
    (np.array([[0, 2048, 4095]], np.float32), [0, 128, 255]),
    (np.array([[np.nan, 0.2, np.inf]], np.float32), [0, 51, 0]),
    (np.array([[-1.0, 0, 1.0]], np.float32), [0, 128, 255]),
    (np.array([[5e8, 6e8, 7e8]], np.float64), [0, 128, 255]),
    (np.zeros((1, 3), np.float32), [0, 0, 0]), (np.full((1, 3), -5, np.int16), [0, 0, 0]),
])
def test_deep_values_come_to_bytes_by_the_range_they_use(values, want):
    assert to_bytes(values).ravel().tolist() == want


def test_the_scan_tells_the_depth_that_is_used(tmp_path):
    boxes = {f"{i}.png": "0 0.5 0.5 0.2 0.2\n" for i in range(4)}
    yaml = makers.yolo(tmp_path, boxes)
    for i in range(4):
        by_opencv(tmp_path / "images" / "train" / f"{i}.png", np.array([[0, 3900 if i else 900]] * 2, np.uint16))
    text = load_index(yaml, "train", cache=False).report.format()
    assert "4 images of more than 8 bits per value" in text and "brightest value 900" in text
    assert "1 as 10 bits, 3 as 12 bits" in text


def png(width: int, height: int, pixels: bytes = b"\0") -> bytes:
    def chunk(name: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(pixels)) + chunk(b"IEND", b"")


def claims(data: bytes, width: int, height: int) -> bytes:
    """A JPEG whose header says another size."""
    at = data.index(b"\xff\xc0")
    return data[:at + 5] + struct.pack(">HH", height, width) + data[at + 9:]


def longer(data: bytes) -> bytes:
    """A PNG whose pixels claim to be four gigabytes."""
    at = data.index(b"IDAT")
    return data[:at - 4] + b"\xff\xff\xff\xf0" + data[at:]


def hostile() -> dict[str, bytes]:
    jpeg = cv2.imencode(".jpg", picture())[1].tobytes()
    tiff = io.BytesIO()
    Image.fromarray(picture()).save(tiff, "TIFF")
    tiff = tiff.getvalue()
    (start,) = struct.unpack_from("<I", tiff, 4)
    wide = tiff[:start + 2] + struct.pack("<HHII", 256, 4, 1, 2**32 - 1) + tiff[start + 14:]
    return {"bomb.jpg": claims(jpeg, 30000, 30000), "wide.png": png(2**31 - 1, 2**31 - 1), "empty.png": png(0, 5),
            "flat.png": png(5, 0), "long.png": longer(png(3, 3)),
            "thin.png": png(160, 2_097_272), "riff.webp": b"RIFF\x10\0\0\0WEBPVP8L\1\0\0\0", "none.jpg": b"",
            "word.jpg": b"hello", "wide.tif": wide, "cut.tif": tiff[:-3000],
            "short.tif": b"II*\0\xff\xff\xff\xff", "cut.webp": b"RIFF\x10\0\0\0WEBPVP8 ", "cut.bmp": b"BM" + b"\1" * 30,
            "head.png": png(3, 3)[:20], "a.heic": b"\0\0\0\x18ftypheic" + b"\0" * 40, "cut.gif": b"GIF89a\1\0\1\0",
            "large.jpg": claims(jpeg, 9000, 8000),
            "long.bmp": b"BM" + struct.pack("<IIIIii", 0, 0, 54, 40, 2**31 - 1, 1)}


def test_what_no_decoder_takes_is_counted_and_the_rest_goes_on(tmp_path):
    bad = hostile()
    yaml = makers.yolo(tmp_path, {"good.png": "0 0.5 0.5 0.2 0.2\n"})
    folder = tmp_path / "images" / "train"
    for name, data in bad.items():
        (folder / name).write_bytes(data)
    index = load_index(yaml, "train", cache=False)
    paths = [index.records[i].path for i in range(len(index))]
    assert [Path(p).name for p in paths] == ["good.png"]
    source = open_source(str(folder))
    assert [Path(f.path).name for f in source] == ["good.png"]
    for line in source.skipped:
        assert "Traceback" not in line and len(line) < 300
    assert any("--max-pixels" in line for line in source.skipped)


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".bmp", ".tif", ".webp", ".gif", ".jp2"])
@pytest.mark.parametrize("cut", [500, 1500])
def test_what_is_cut_short_is_refused_alike_by_scan_and_decoder(tmp_path, suffix, cut):
    noise = np.random.default_rng(0).integers(0, 255, (H, W, 3)).astype(np.uint8)
    path = saved(tmp_path / f"a{suffix}", noise)
    path.write_bytes(path.read_bytes()[:-cut])
    with pytest.raises(ValueError):
        read_header(str(path))
    with pytest.raises(ValueError):
        decode(np.fromfile(path, np.uint8))


def test_the_limit_on_pixels_is_named_and_can_be_raised(tmp_path):
    yaml = makers.yolo(tmp_path, {"a.png": "0 0.5 0.5 0.2 0.2\n"})
    path = saved(tmp_path / "images" / "train" / "a.png", picture())
    assert len(load_index(yaml, "train", max_pixels=H * W)) == 1
    with pytest.raises(UserError, match=f"{W}x{H} is more than {H * W - 1} pixels; --max-pixels raises the limit"):
        load_index(yaml, "train", max_pixels=H * W - 1)
    with pytest.raises(UserError):
        list(open_source(str(path), max_pixels=H * W - 1))
    with pytest.raises(ValueError, match="30000x30000 is more than 400000000 pixels"):
        decode(np.frombuffer(hostile()["bomb.jpg"], np.uint8))


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes on this system")
def test_a_pipe_is_no_image_and_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "a.jpg")
    with pytest.raises(OSError, match="pipe or device"):
        read_header(str(tmp_path / "a.jpg"))
    assert read_image(str(tmp_path / "a.jpg")) is None and read_image("/dev/zero") is None
