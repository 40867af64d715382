"""Checkpoints of ours: bit rot is told wherever it strikes, and a hostile file costs neither memory nor time."""

import pickle
import struct
import time
import zipfile

import pytest
import torch

from engine.training.checkpoints import open_run, restore_run, save_run
from models import load_model
from tests.scripts.test_train_device import a_run
from tests.tiny import tiny_checkpoint, tiny_model
from utils import pickles
from utils.checkpoint import load_checkpoint, save_checkpoint
from utils.errors import UserError


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return tiny_checkpoint(tmp_path_factory.mktemp("whole") / "best.pt")


def rewritten(path, target, entry, change, compression=zipfile.ZIP_STORED):
    """A copy of a checkpoint with one entry's bytes changed, and the right checksums."""
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(target, "w", compression) as new:
        for info in old.infolist():
            data = old.read(info)
            new.writestr(info.filename, change(data) if info.filename.endswith(entry) else data)
    return target


def with_pickle(tmp_path, body):
    """A file that says it is ours, whose pickle goes on with `body`: one value under the key "x"."""
    save_checkpoint({"config": {}, "model": {"w": torch.ones(2)}}, tmp_path / "base.pt")
    program = b"\x80\x02}(X\x06\x00\x00\x00formatX\x06\x00\x00\x00assn/1X\x01\x00\x00\x00x" + body + b"u."
    return rewritten(tmp_path / "base.pt", tmp_path / "bad.pt", "data.pkl", lambda _: program)


def quickly(run, seconds=10):
    start = time.perf_counter()
    with pytest.raises(UserError) as error:
        run()
    assert time.perf_counter() - start < seconds and len(str(error.value)) < 700 and "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize("share", [0.1, 0.35, 0.6, 0.85])
def test_one_flipped_bit_among_the_weights_is_told(whole, tmp_path, share):
    data = bytearray(whole.read_bytes())
    data[int(len(data) * share)] ^= 0x40
    (tmp_path / "rotten.pt").write_bytes(data)
    with pytest.raises(UserError, match=r"rotten\.pt: damaged: the bytes of .* do not agree with their checksum"):
        load_model(tmp_path / "rotten.pt")


def test_resuming_falls_back_to_the_checkpoint_before(tmp_path, capsys):
    weights = tmp_path / "exp" / "weights"
    for epoch in (1, 2):
        save_checkpoint({"epoch": epoch, "train": {}, "model": {"w": torch.rand(10_000)}}, weights / "last.pt",
                        keep=weights / "previous.pt")
    data = bytearray((weights / "last.pt").read_bytes())
    data[len(data) // 2] ^= 1
    (weights / "last.pt").write_bytes(data)
    path, content = open_run(True, str(tmp_path))
    assert path.name == "previous.pt" and content["epoch"] == 1
    assert "damaged" in capsys.readouterr().out


def test_what_is_saved_comes_back_as_it_was(tmp_path):
    content = {"a": [1, 2.5, None, True, "x", (1, (2,))], "b": {3: {"c": []}}, "big": 1 << 70,
               "t": {"nhwc": torch.rand(2, 3, 4, 5).contiguous(memory_format=torch.channels_last),
                     "part": torch.arange(10)[2:5], "turned": torch.rand(3, 4).T, "scalar": torch.tensor(3),
                     "half": torch.rand(3).half(), "bytes": torch.arange(5, dtype=torch.uint8),
                     "none": torch.zeros(0, 2)}}
    save_checkpoint(content, tmp_path / "a.pt")
    loaded = load_checkpoint(tmp_path / "a.pt")
    assert {k: loaded[k] for k in ("a", "b", "big")} == {k: content[k] for k in ("a", "b", "big")}
    for name, value in content["t"].items():
        again = loaded["t"][name]
        assert torch.equal(again, value) and again.dtype == value.dtype
    assert loaded["t"]["nhwc"].is_contiguous(memory_format=torch.channels_last)
    assert loaded["t"]["turned"].stride() == (1, 4)
    loaded["t"]["part"].add_(1)  # memory of its own, which may be written to


NESTED = b"X\x01\x00\x00\x00a" + b"q\x01" + b"h\x01h\x01\x86q\x01" * 60  # ((((a, a), (a, a)), ...
LISTS = b"]q\x01" + b"0](h\x01h\x01eq\x01" * 60


@pytest.mark.parametrize("body, told", [
    (NESTED, "a tuple of more than"), (b"}" + NESTED + b"K\x01s", "a tuple of more than"),
    (LISTS, "holds more than 2,000,000 objects"), (b"](" * 90 + b"e" * 90, "inside each other"),
    (b"cbuiltins\nbytearray\nJ\xff\xff\xff\x7f\x85R", "asks to run builtins.bytearray"),
    (b"ctorch\nSize\n]q\x01(h\x01h\x01e\x85R", "a size of something else"),
    (b"](" + b"}" * 110_000 + b"e", "more than 100,000 steps"),
    (b"}(" + b"".join(b"\x8a\x0a" + ((2**61 - 1) * (i + 2)).to_bytes(10, "little") + b"K\x01" for i in range(20_000))
     + b"u", "numbers beyond 61 bits"),
    (b"cbuiltins\nset\nq\x01]\x85R", "holds Python objects (set)"),
    (b"cos\nsystem\n", "holds Python objects (os.system)"),
], ids=["tuples", "key", "lists", "deep", "bytearray", "size", "steps", "collisions", "set", "class"])
def test_a_hostile_pickle_ends_in_one_sentence(monkeypatch, tmp_path, body, told):
    monkeypatch.setattr(pickles, "MAX_OPCODES", 100_000)
    assert told in quickly(lambda: load_model(with_pickle(tmp_path, body)))


def test_copies_of_a_copy_are_bounded(tmp_path):
    text = b"X" + struct.pack("<I", 1 << 20) + b"a" * (1 << 20) + b"q\x01"
    body = text + b"0](" + b"c_codecs\nencode\nh\x01X\x06\x00\x00\x00latin1\x86R" * 5000 + b"e"
    assert "calls that copy" in quickly(lambda: load_model(with_pickle(tmp_path, body)))


def test_compressed_entries_are_refused_before_they_are_read(tmp_path, whole):
    path = rewritten(whole, tmp_path / "bomb.pt", "data/0", lambda _: bytes(1 << 26), zipfile.ZIP_DEFLATED)
    assert path.stat().st_size < 20 << 20
    assert "compressed or encrypted" in quickly(lambda: load_model(path))


@pytest.mark.parametrize("key, value", [
    ("config", 7), ("config", [1]), ("config", {"head": 3, "backbone": "x"}), ("config", {1: 2}), ("names", "abc"),
    ("names", [1, 2, 3]), ("names", {"a": 1}), ("names", None), ("model", []), ("model", {"a": 1}), ("model", {3: 4}),
    ("config", {"base": ["yolov8"]}), ("names", ["a"] * 60_000)])
def test_a_field_of_another_kind_is_one_sentence(tmp_path, whole, key, value):
    content = {k: v for k, v in load_checkpoint(whole).items() if k != "format"}
    save_checkpoint({**content, key: value}, tmp_path / "odd.pt")
    assert "odd.pt" in quickly(lambda: load_model(tmp_path / "odd.pt"))


def test_a_model_that_the_file_does_not_hold_takes_no_memory(tmp_path, whole):
    content = {k: v for k, v in load_checkpoint(whole).items() if k != "format"}
    wide = {**content["config"], "width_multiple": 8}  # some 13 GB
    save_checkpoint({**content, "config": wide}, tmp_path / "wide.pt")
    told = quickly(lambda: load_model(tmp_path / "wide.pt"))
    assert "weights do not fit the model that it describes: model.0.conv.weight is [16, 3, 3, 3] in the file" in told
    del content["model"]["model.22.cv3.0.2.bias"]
    save_checkpoint(content, tmp_path / "less.pt")
    assert "model.22.cv3.0.2.bias is not in the file, [3] in the model" in quickly(
        lambda: load_model(tmp_path / "less.pt"))


def test_weights_that_are_no_numbers_are_told(tmp_path, capsys):
    model = tiny_model()
    with torch.no_grad():
        model.model[0].bn.weight[0] = float("nan")
        model.model[3].conv.weight[0] = float("inf")
    content = {"config": model.config, "names": ["a\x1b[2J", "b\r", "c"], "model": model.state_dict()}
    save_checkpoint(content, tmp_path / "nan.pt")
    loaded = load_model(tmp_path / "nan.pt")
    told = capsys.readouterr().err
    assert "nan.pt: 2 of 355 tensors hold values that are not finite" in told
    assert "model.0.bn.weight, model.3.conv.weight; what" in told
    assert loaded.names == ["a\\x1b[2J", "b\\r", "c"] == loaded.config["names"]
    torch.save(model.state_dict(), tmp_path / "theirs.pt")
    load_model(tmp_path / "theirs.pt")
    assert "theirs.pt: 2 of 355 tensors" in capsys.readouterr().err


def test_tensors_that_lie_about_their_storage(tmp_path):
    """A storage said to be larger than its bytes, and one storage read over and over."""
    save_checkpoint({"model": {"w": torch.ones(1000)}}, tmp_path / "a.pt")
    big = lambda data: data.replace(b"M\xe8\x03", b"J\xe8\x03\x00\x7f")  # noqa: E731
    path = rewritten(tmp_path / "a.pt", tmp_path / "big.pt", "data.pkl", big)
    assert "storage 0 should hold" in quickly(lambda: load_checkpoint(path))
    one = torch.ones(100_000)
    save_checkpoint({"model": [one.view(-1) for _ in range(1000)]}, tmp_path / "views.pt")
    assert "repeat the stored numbers" in quickly(lambda: load_checkpoint(tmp_path / "views.pt"))


@pytest.mark.parametrize("change", [
    lambda s: s.update(epoch="yes"), lambda s: s.update(epoch=-3), lambda s: s.update(best=[]),
    lambda s: s.update(optimizer=7), lambda s: s.update(ema_updates="a"),
    lambda s: s["rng"].update(python=[1, "x", None]),
    lambda s: s["rng"].update(numpy=["MT19937", [[1], 2], 3, 0, 0.0]), lambda s: s["rng"].update(torch=torch.ones(3)),
    lambda s: s.update(model={}), lambda s: s.update(meter=3), lambda s: s.pop("rng"),
    lambda s: s["optimizer"]["state"][0].update(momentum_buffer=0.5),
    lambda s: s["optimizer"]["state"][0].update(momentum_buffer=torch.tensor(1.0))])
def test_a_damaged_state_of_training_is_one_sentence(tmp_path, change):
    save_run(a_run(name="SGD"), {}, tmp_path)
    stored = load_checkpoint(tmp_path / "weights/last.pt")
    change(stored["train"])
    with pytest.raises(UserError, match=r"--resume: .* damaged") as error:
        restore_run(a_run(name="SGD"), stored)
    assert error.value.code == "corrupt-checkpoint"


def test_names_of_entries_that_are_no_text_are_told(tmp_path, whole):
    data = bytearray(whole.read_bytes())
    at = data.rfind(b"archive/version")
    data[at] = 0xEB
    directory = data.rfind(b"PK\x01\x02", 0, at)
    data[directory + 9] |= 0x08  # "this name is UTF-8"
    (tmp_path / "name.pt").write_bytes(data)
    assert "name.pt: " in quickly(lambda: load_model(tmp_path / "name.pt"))


def test_an_ordinary_pickle_is_no_checkpoint(tmp_path):
    (tmp_path / "p.pt").write_bytes(pickle.dumps({"format": "assn/1"}))
    with pytest.raises(UserError, match=r"p\.pt: a pickle that torch\.save did not write"):
        load_checkpoint(tmp_path / "p.pt")
