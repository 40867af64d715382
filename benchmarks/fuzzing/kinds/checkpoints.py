"""Checkpoints: the archive, the pickle in it, and every field's type; ours, those of a stopped run, and originals."""

import io
import os
import shutil
import struct
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.fuzzing.kind import Kind, Wrong, read_facts, write_facts
from benchmarks.fuzzing.kinds.commands import run_inside
from benchmarks.fuzzing.kinds.common import NAMES
from benchmarks.fuzzing.kinds.tiny import DETECT, tiny, tiny_model, use, write_place, write_run
from benchmarks.fuzzing.mutate import junk, pick, places, spoil_bytes, spoil_tree
from engine.inference.runtimes.open import load_runtime
from models import load_model
from tests.models.weights import original_files as originals

FILE = "model.pt"


class Checkpoint(Kind):
    """Our own format: rotten bytes, compressed or missing entries, hostile pickles, fields of other types."""

    name, weight = "checkpoint", 3.0

    def ground(self, folder: Path) -> None:
        write_place(folder)
        here = Path.cwd()
        os.chdir(folder)
        try:
            (folder / "last.pt").write_bytes(write_run(folder).read_bytes())
        finally:
            os.chdir(here)
        shutil.rmtree(folder / "run")

    def make(self, rng: np.random.Generator, ground: Path, folder: Path) -> None:
        shutil.copytree(ground, folder, dirs_exist_ok=True)
        resume = bool(rng.random() < 0.25)
        whole = (folder / ("last.pt" if resume else "tiny.pt")).read_bytes()
        way = pick(rng, ("flip", "flip", "bytes", "archive", "pickle", "hostile", "field", "field", "field", "field"))
        data = SPOIL[way](rng, whole)
        place = folder / "runs" / "weights" / "last.pt" if resume else folder / FILE
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(data)
        shutil.copy(folder / "tiny.pt", place.with_name("best.pt"))
        write_facts(folder, resume=resume, way=way, detect=bool(rng.random() < 0.3))

    def attempt(self, folder: Path) -> None:
        facts = read_facts(folder)
        if facts["resume"]:
            import train

            train.main(train.build_parser().parse_args(["--resume", "runs", "--device", "cpu", "--workers", "0"]))
            return
        if facts["way"] == "flip":
            check_equal(load_model(FILE), load_model("tiny.pt"))
        if facts.get("detect"):
            run_inside("detect", ["--weights", FILE, "--imgsz", "64", *DETECT])
        else:
            use(load_runtime(FILE, "cpu"))


def check_equal(found: torch.nn.Module, truth: torch.nn.Module) -> None:
    """A model that loads from a rotten file is the one that was saved."""
    state = truth.state_dict()
    if found.names != truth.names or found.state_dict().keys() != state.keys():
        raise Wrong("rotten file loaded: another model than was saved")
    wrong = [k for k, v in found.state_dict().items() if not torch.equal(v, state[k])]
    if wrong:
        raise Wrong(f"rotten file loaded: other values in {len(wrong)} tensors, the first {wrong[0]}")


def flipped(rng: np.random.Generator, data: bytes) -> bytes:
    """One to four bytes that changed on the disk."""
    out = bytearray(data)
    for at in rng.integers(0, len(out), int(rng.integers(1, 5))):
        out[at] ^= 1 << int(rng.integers(8))
    return bytes(out)


def entries(data: bytes) -> dict[str, bytes]:
    """What a zip archive holds."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def packed(content: dict[str, bytes], method: int = zipfile.ZIP_STORED) -> bytes:
    """A zip archive with right checksums."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", method) as archive:
        for name, data in content.items():
            archive.writestr(zipfile.ZipInfo(name), data, method)
    return out.getvalue()


def spoiled_archive(rng: np.random.Generator, data: bytes) -> bytes:
    """Entries missing, renamed, cut, swapped, compressed, or a zip within limits that unpacks to gigabytes."""
    content = entries(data)
    names, method = list(content), zipfile.ZIP_STORED
    chance = rng.random()
    if chance < 0.15:
        method = zipfile.ZIP_DEFLATED
    elif chance < 0.25:
        method, name = zipfile.ZIP_DEFLATED, pick(rng, names)
        content[name] = content[name] + bytes(100 << 20)
    else:
        for _ in range(int(rng.integers(1, 4))):
            a, b = pick(rng, names), pick(rng, names)
            change = int(rng.integers(5))
            if change == 0:
                content.pop(a, None)
            elif change == 1:
                content[a.replace("data", "date", 1) if rng.random() < 0.5 else f"../{a}"] = content.pop(a, b"")
            elif change == 2:
                content[a], content[b] = content.get(b, b""), content.get(a, b"")
            elif change == 3:
                content[a] = content.get(a, b"")[: int(rng.integers(64))]
            else:
                content[a] = content.get(a, b"") + rng.bytes(int(rng.integers(1, 99)))
    return packed(content, method)


def spoiled_pickle(rng: np.random.Generator, data: bytes) -> bytes:
    """The program in the archive with changed bytes and a right checksum."""
    content = entries(data)
    name = next(n for n in content if n.endswith("data.pkl"))
    content[name] = spoil_bytes(rng, content[name])
    return packed(content)


def hostile_pickle(rng: np.random.Generator, data: bytes) -> bytes:
    """A program that builds what nobody can hold, or asks to run something, under a key of the checkpoint."""
    content = entries(data)
    name = next(n for n in content if n.endswith("data.pkl"))
    key = pick(rng, ("format", "config", "names", "model", "train", "x"))
    content[name] = b"\x80\x02}(" + _text("format") + _text("assn/1") + _text(key) + pick(rng, HOSTILE)(rng) + b"u."
    return packed(content)


def _text(text: str) -> bytes:
    data = text.encode()
    return b"X" + struct.pack("<I", len(data)) + data


def _doubling(opening: bytes) -> bytes:
    """A container that holds the one before it twice, forty times over."""
    return opening + b"".join(b"q%ch%c\x86" % (i, i) for i in range(1, 40))


HOSTILE = (
    lambda rng: _doubling(b")"),
    lambda rng: _doubling(b"K\x01"),
    lambda rng: b"(" * 100_000 + b"t" * 100_000,
    lambda rng: b"]" * 50_000 + b"a" * 49_999,
    lambda rng: b"\x8d" + struct.pack("<Q", 8 << 30),
    lambda rng: b"\x96" + struct.pack("<Q", 8 << 30),
    lambda rng: b"\x8b" + struct.pack("<I", 2**31 - 1),
    lambda rng: b"cbuiltins\nbytearray\n\x8a\x05" + struct.pack("<Q", 8 << 30)[:5] + b"\x85R",
    lambda rng: b"cposix\nsystem\n" + _text("true") + b"\x85R",
    lambda rng: b"cbuiltins\neval\n" + _text("1") + b"\x85R",
    lambda rng: b"ctorch\nzeros\n\x8a\x05" + struct.pack("<Q", 1 << 38)[:5] + b"\x85R",
    lambda rng: b"ctorch._utils\n_rebuild_tensor_v2\n)R",
    lambda rng: b"ccollections\nOrderedDict\n)R}" + _text("a") + b"Nsb",
    lambda rng: b"]q\x01h\x01a",
    lambda rng: (
        b"("
        + _text("storage")
        + b"ctorch\nFloatStorage\n"
        + _text("0")
        + _text("cpu")
        + b"\x8a\x08"
        + struct.pack("<q", 2**62)
        + b"tQ"
    ),
    lambda rng: b"Q",
    lambda rng: b"0" * 9,
    lambda rng: b"r\xff\xff\xff\x7f",
    lambda rng: b"N" + b"j\xff\xff\xff\xff",
    lambda rng: b"I" + b"9" * 100_000 + b"\n",
    lambda rng: rng.bytes(40),
    lambda rng: b"(" + b"".join(_text(f"class{i}") for i in range(200_000)) + b"l",
)


def spoiled_fields(rng: np.random.Generator, data: bytes) -> bytes:
    """The same checkpoint with values of other types, shapes and sizes."""
    content = torch.load(io.BytesIO(data), weights_only=True)
    for _ in range(int(rng.integers(1, 4))):
        part = pick(
            rng,
            (
                content, content, content.get("config"), content.get("model"), content.get("train", content),
                content.get("names"),
            ),
        )
        spoil_part(rng, part if isinstance(part, (dict, list)) and part else content)
    _keep_short(content)
    out = io.BytesIO()
    torch.save(content, out)
    return out.getvalue()


def _keep_short(content: Any) -> None:
    """A run that wants many epochs is no fault, only work."""
    train = content.get("train") if isinstance(content, dict) else None
    args = train.get("args") if isinstance(train, dict) else None
    if isinstance(args, dict) and isinstance(args.get("epochs"), (int, float)) and args["epochs"] > 3:
        args["epochs"] = 3


def spoil_part(rng: np.random.Generator, part: Any) -> None:
    """Change one place at any depth below `part`."""
    node, key = pick(rng, places(part))
    value = node[key]
    if isinstance(value, torch.Tensor) and rng.random() < 0.8:
        node[key] = spoiled_tensor(rng, value)
    elif (
        isinstance(value, (dict, list))
        and rng.random() < 0.3
        and not any(isinstance(n[k], torch.Tensor) for n, k in places(value))
    ):
        node[key] = spoil_tree(rng, value)
    elif isinstance(node, dict) and rng.random() < 0.2:
        del node[key]
    else:
        node[key] = junk(rng)


def spoiled_tensor(rng: np.random.Generator, value: torch.Tensor) -> Any:
    """Of another type, shape, layout, or with values that are no numbers."""
    ways = (
        lambda t: t.double(),
        lambda t: t.half(),
        lambda t: t.long(),
        lambda t: t.bool(),
        lambda t: t.flatten(),
        lambda t: t[..., None],
        lambda t: t[:0],
        lambda t: torch.full_like(t, float("nan")) if t.is_floating_point() else -t,
        lambda t: t.to(torch.complex64),
        lambda t: torch.zeros(1).expand(1 << 33),
        lambda t: t.to_sparse(),
        lambda t: t.tolist(),
        lambda t: torch.nn.Parameter(t.float()),
        lambda t: t.reshape(-1)[:1].reshape(()),
        lambda t: t.float() * 1e38,
        lambda t: torch.zeros(1, dtype=t.dtype).expand(t.shape),
    )
    try:
        return pick(rng, ways)(value)
    except (RuntimeError, IndexError, TypeError, NotImplementedError):
        return junk(rng)


SPOIL = {
    "flip": flipped, "bytes": lambda rng, data: spoil_bytes(rng, data), "archive": spoiled_archive,
    "pickle": spoiled_pickle, "hostile": hostile_pickle, "field": spoiled_fields,
}


class Original(Kind):
    """Checkpoints of other code bases, whose pickles describe classes: never executed, their fields never believed."""

    name, weight = "original", 2.0

    def ground(self, folder: Path) -> None:
        for legacy in (False, True):
            write_original(folder / f"{'old' if legacy else 'new'}.pt", {}, legacy)

    def make(self, rng: np.random.Generator, ground: Path, folder: Path) -> None:
        way = pick(rng, ("flip", "bytes", "archive", "pickle", "hostile", "field", "field", "field"))
        legacy = bool(rng.random() < 0.2)
        whole = (ground / f"{'old' if legacy else 'new'}.pt").read_bytes()
        if way == "field":
            write_original(folder / FILE, original_fields(rng), legacy)
            return
        if way == "hostile":
            data = hostile_pickle(rng, (ground / "new.pt").read_bytes()).replace(b"assn/1", b"mine/1")
            data = packed(entries_unchecked(data))
        else:
            data = (spoil_bytes if legacy else SPOIL[way])(rng, whole)
        (folder / FILE).write_bytes(data)

    def attempt(self, folder: Path) -> None:
        use(load_runtime(FILE, "cpu"))


def entries_unchecked(data: bytes) -> dict[str, bytes]:
    """What an archive of stored entries holds, whatever its checksums say."""
    found = {}
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        for info in archive.infolist():
            at = info.header_offset
            names, extra = struct.unpack_from("<HH", data, at + 26)
            at += 30 + names + extra
            found[info.filename] = data[at : at + info.file_size]
    return found


def write_original(path: Path, fields: dict[str, Any], legacy: bool) -> None:
    """As YOLOv5 pickles a model; `fields` stand in place of the model's own attributes."""
    model, classes = originals.original(
        tiny_model(anchors=True).state_dict(), tiny(anchors=True), originals.V5, names=list(NAMES), nc=3,
        stride=torch.tensor([8.0, 16.0, 32.0]),
    )
    for word, value in fields.items():
        setattr(model, word, value)
    originals.write(path, model, classes, legacy=legacy)


def original_fields(rng: np.random.Generator) -> dict[str, Any]:
    """One to three attributes of a model that are not what they should be."""
    yaml = spoil_tree(rng, tiny(anchors=True))
    choices = {
        "yaml": yaml, "names": pick(rng, (junk(rng), {0: "a", 5: "b"}, ["x"] * 100_000, {"a": 1}, [junk(rng)] * 3)),
        "nc": junk(rng),
        "stride": pick(rng, (junk(rng), torch.zeros(3), torch.ones(2, 2), torch.tensor(float("nan")))),
        "args": pick(rng, (junk(rng), {"imgsz": junk(rng)})), "yaml_file": junk(rng), "task": junk(rng),
        "anchors": torch.zeros(0), "training": junk(rng), "inplace": junk(rng),
    }
    words = [w for w in choices if rng.random() < 0.2] or ["yaml"]
    return {word: choices[word] for word in words}
