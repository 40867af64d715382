"""Images and videos: mutated bytes, absurd sizes in headers, cut files, every container and depth, EXIF."""

import io
import shutil
import struct
import warnings
import zlib
from pathlib import Path

import cv2
import numpy as np
import PIL.Image

from benchmarks.fuzzing.kind import Kind, Wrong, read_facts, write_facts
from benchmarks.fuzzing.kinds.common import check_sound, picture, write_yaml, write_yolo
from benchmarks.fuzzing.mutate import pick, spoil_bytes
from data import load_index

SUFFIXES = (".jpg", ".jpg", ".png", ".png", ".webp", ".tif", ".tif", ".bmp", ".gif", ".ppm", ".jp2", ".avif", ".mpo")
MODES = ("RGB", "RGB", "L", "RGBA", "P", "CMYK", "1", "I;16", "F", "LA", "I")
SIDES = ((48, 64), (64, 48), (33, 31), (1, 64), (64, 1), (1, 1), (7, 300))


class Image(Kind):
    """One spoiled image beside a whole one: it is counted or read, the same pixels everywhere, and the run goes on."""

    name, weight = "image", 5.0

    def ground(self, folder: Path) -> None:
        write_yaml(folder, write_yolo(folder, np.random.default_rng(0)))

    def make(self, rng: np.random.Generator, ground: Path, folder: Path) -> None:
        shutil.copytree(ground, folder, dirs_exist_ok=True)
        (folder / "images" / "train" / "0.jpg").unlink()
        suffix = pick(rng, SUFFIXES)
        data = written(rng, suffix)
        chance = rng.random()
        if chance < 0.5:
            data = spoil_bytes(rng, data)
        elif chance < 0.7:
            data = absurd_size(rng, data)
        if rng.random() < 0.1:
            suffix = pick(rng, SUFFIXES)  # a name that does not say what it is
        (folder / "images" / "train" / f"0{suffix}").write_bytes(data)
        write_facts(folder, file=f"images/train/0{suffix}")

    def attempt(self, folder: Path) -> None:
        """The scan, a training sample, an evaluation sample and `detect`'s reader."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                index = load_index("data.yaml", "train", cache=False)
            except Exception as error:
                raise Wrong(f"one bad image ends the run: {type(error).__name__}: {str(error)[:300]}") from error
            check_sound(index)
            known = [i for i, record in enumerate(index.records) if Path(record.path).stem == "0"]
            drawn = [_drawn(index, i) for i in known]
            file = read_facts(folder)["file"]
            seen = _detected(file)
        if not known or drawn[0] is None:
            return
        record = index.records[known[0]]
        if seen is None:
            raise Wrong(f"training reads {file}, detect does not")
        if seen.shape[:2] != (record.height, record.width):
            raise Wrong(f"another frame in detect {seen.shape[:2]} than in training {record.height, record.width}")
        if drawn[0].shape != seen.shape or np.abs(drawn[0].astype(int) - seen).max() > 0:
            raise Wrong(f"other pixels in detect {seen.shape} than in evaluation {drawn[0].shape}")


def _drawn(index, number: int) -> np.ndarray | None:
    """The whole image as evaluation reads it, None where it is counted as damaged; a training sample is drawn too."""
    from data.augment.policies.yolo import YoloPolicy
    from data.loading.dataset import DetectionDataset

    training = DetectionDataset(index.records, 64, YoloPolicy(), seed=0)
    _ = training[0, 0]
    evaluation = DetectionDataset(index.records, 64)
    _ = evaluation[number]
    image = evaluation.store.load_whole(number)
    if image is None and not evaluation.store.damaged:
        raise Wrong("image lost uncounted: not decoded, and not among the damaged")
    return image


def _detected(file: str) -> np.ndarray | None:
    from engine.inference.sources import open_source
    from utils.errors import UserError

    try:
        return next(iter(open_source(file))).image
    except UserError:
        return None


def written(rng: np.random.Generator, suffix: str) -> bytes:
    """A whole file of one of many sizes and pixel forms, sometimes with an orientation."""
    height, width = pick(rng, SIDES)
    pixels = picture(int(rng.integers(9)), height, width)
    if suffix in (".jp2", ".ppm", ".bmp") or rng.random() < 0.2:
        known = (".jp2", ".ppm", ".bmp", ".png", ".tif", ".webp")
        done, data = cv2.imencode(suffix if suffix in known else ".jpg", pixels)
        return (data if done else cv2.imencode(".png", pixels)[1]).tobytes()  # JPEG 2000 has no picture of one pixel
    image = PIL.Image.fromarray(pixels)
    mode = pick(rng, MODES)
    try:
        image = (
            PIL.Image.fromarray(pixels[..., 0].astype(np.uint16) * int(rng.choice([1, 16, 257])))
            if mode == "I;16"
            else image.convert(mode)
        )
    except (ValueError, OSError):
        mode = "RGB"
    kinds = {
        ".jpg": "JPEG", ".png": "PNG", ".webp": "WEBP", ".tif": "TIFF", ".gif": "GIF", ".avif": "AVIF", ".mpo": "MPO",
    }
    options = {}
    if rng.random() < 0.35:
        exif = PIL.Image.Exif()
        exif[0x0112] = int(rng.integers(0, 11))
        options["exif"] = exif
    if suffix == ".tif":
        options["compression"] = pick(rng, (None, "tiff_lzw", "tiff_adobe_deflate", "packbits"))
    if suffix == ".jpg":
        options["progressive"] = bool(rng.random() < 0.3)
    out = io.BytesIO()
    try:
        image.save(out, kinds[suffix], **options)
    except (OSError, ValueError, KeyError, TypeError, RuntimeError):  # a mode that this container has not
        out = io.BytesIO()
        image.convert("RGB").save(out, "PNG" if suffix == ".avif" else kinds[suffix])
    return out.getvalue()


def absurd_size(rng: np.random.Generator, data: bytes) -> bytes:
    """A header that claims another width and height; checksums are right."""
    width, height = (int(rng.choice([0, 1, 2, 65, 30_000, 65_535, 2**31 - 1, 2**32 - 1])) for _ in range(2))
    if data[:4] == b"\x89PNG":
        chunk = b"IHDR" + struct.pack(">II", width, height) + data[24:29]
        return data[:12] + chunk + struct.pack(">I", zlib.crc32(chunk)) + data[33:]
    if data[:2] == b"\xff\xd8":
        at = next((i for i in range(len(data) - 9) if data[i] == 255 and data[i + 1] in (0xC0, 0xC2)), None)
        small = struct.pack(">HH", height & 0xFFFF, width & 0xFFFF)
        return data if at is None else data[: at + 5] + small + data[at + 9 :]
    if data[:2] in (b"II", b"MM"):
        return _absurd_tiff(rng, data, width, height)
    places = {b"BM": (18, "<ii"), b"GI": (6, "<HH"), b"RI": (26, "<HH")}
    at, form = places.get(data[:2], (16, ">II"))
    bits = 0x7FFFFFFF if "i" in form else 0xFFFF if "H" in form else 0xFFFFFFFF
    return data[:at] + struct.pack(form, width & bits, height & bits) + data[at + struct.calcsize(form) :]


def _absurd_tiff(rng: np.random.Generator, data: bytes, width: int, height: int) -> bytes:
    order = "<" if data[:2] == b"II" else ">"
    out = bytearray(data)
    (first,) = struct.unpack_from(order + "I", data, 4)
    (count,) = struct.unpack_from(order + "H", data, first)
    for at in range(first + 2, first + 2 + 12 * count, 12):
        (tag,) = struct.unpack_from(order + "H", data, at)
        if tag in (256, 257) or rng.random() < 0.05:
            struct.pack_into(order + "HII", out, at + 2, 4, 1, width if tag == 256 else height)
    return bytes(out)


class Video(Kind):
    """Videos as `detect` reads them."""

    name, weight = "video", 1.0

    def ground(self, folder: Path) -> None:
        for suffix, code in ((".mp4", "mp4v"), (".avi", "MJPG"), (".mkv", "mp4v")):
            writer = cv2.VideoWriter(str(folder / f"video{suffix}"), cv2.VideoWriter.fourcc(*code), 10, (64, 48))
            for number in range(5):
                writer.write(picture(number, 48, 64))
            writer.release()
        frames = [PIL.Image.fromarray(picture(i, 48, 64)) for i in range(3)]
        frames[0].save(folder / "video.gif", save_all=True, append_images=frames[1:])

    def make(self, rng: np.random.Generator, ground: Path, folder: Path) -> None:
        file = pick(rng, sorted(ground.glob("video.*")))
        data = spoil_bytes(rng, file.read_bytes())
        place = folder / "videos"
        place.mkdir()
        (place / f"bad{file.suffix}").write_bytes(data)
        (place / "good.jpg").write_bytes(cv2.imencode(".jpg", picture(0))[1].tobytes())
        write_facts(
            folder, source=pick(rng, ("videos", "videos", f"videos/bad{file.suffix}")),
            vid_stride=int(rng.choice([1, 1, 2, 1000])),
        )

    def attempt(self, folder: Path) -> None:
        from engine.inference.sources import open_source

        facts = read_facts(folder)
        seen = []
        for frame in open_source(facts["source"], vid_stride=facts["vid_stride"]):
            seen.append(frame.path)
            if len(seen) > 10_000:
                raise Wrong("10,000 frames of a video of 5")
        if facts["source"] == "videos" and not any(path.endswith("good.jpg") for path in seen):
            raise Wrong("the whole image beside a bad video was not read")
