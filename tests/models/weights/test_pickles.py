"""Reading pickles without running them: what is refused, what is told of broken files."""

import os
import pickle
import random
import subprocess
import sys
import zipfile

import numpy as np
import pytest
import torch
from torch import nn

from models import load_model
from models.weights import read_original
from utils.archive import open_archive
from utils.checkpoint import is_ours, load_checkpoint
from utils.errors import UserError
from utils.pickles import Record, Storage, StoredTensor


class Runs:
    """Asks to call something when it is unpickled."""

    def __init__(self, function, *args, state=None):
        self.asked = (function, args) if state is None else (function, args, state)

    def __reduce__(self):
        return self.asked


def read(path):
    with open_archive(path) as content:
        return content


def saved(path, content, legacy=False):
    torch.save(content, path, _use_new_zipfile_serialization=not legacy)
    return path


def rewritten(path, entry, data, compression=zipfile.ZIP_STORED):
    """The zip checkpoint with one entry's bytes replaced."""
    with zipfile.ZipFile(path) as old:
        entries = {info.filename: old.read(info) for info in old.infolist()}
    name = next(n for n in entries if n.endswith(entry))
    entries[name] = data(entries[name])
    with zipfile.ZipFile(path, "w", compression) as new:
        for key, value in entries.items():
            if value is not None:
                new.writestr(key, value)
    return path


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "stream"])
@pytest.mark.parametrize("wrap", [lambda evil, model: {"model": model, "opt": {"deep": [evil]}},
                                  lambda evil, model: {"epoch": evil, "model": model},
                                  lambda evil, model: evil], ids=["deep", "first", "alone"])
def test_a_file_that_runs_a_command_is_refused_by_name(tmp_path, legacy, wrap):
    proof = tmp_path / "proof"
    path = saved(tmp_path / "bad.pt", wrap(Runs(os.system, f"touch {proof}"), nn.Linear(2, 2).state_dict()), legacy)
    with pytest.raises(UserError, match=r"bad\.pt: asks to run os\.system"):
        load_model(path)
    assert not proof.exists()
    torch.load(path, weights_only=False)  # it would have
    assert proof.exists()


@pytest.mark.parametrize("function, args, name", [
    (eval, ("1",), "builtins.eval"), (exec, ("1",), "builtins.exec"), (subprocess.Popen, (["ls"],), "subprocess.Popen"),
    (__import__, ("this",), "builtins.__import__"), (getattr, ("text", "upper"), "builtins.getattr"),
    (torch.load, ("x",), "torch.serialization.load"), (nn.Linear, (1, 1), "torch.nn.modules.linear.Linear")])
def test_calls_are_refused(tmp_path, function, args, name):
    with pytest.raises(UserError, match=f"asks to run {name}"):
        read(saved(tmp_path / "a.pt", {"x": Runs(function, *args)}))


def test_a_file_that_poses_as_ours_runs_nothing_either(tmp_path):
    proof = tmp_path / "proof"
    path = saved(tmp_path / "ours.pt", {"format": "assn/1", "config": Runs(os.system, f"touch {proof}")})
    assert is_ours(path)
    with pytest.raises(UserError, match=r"ours\.pt: .*system"):
        load_model(path)
    assert not proof.exists()


def test_nothing_that_a_file_names_is_imported(tmp_path, monkeypatch):
    (tmp_path / "trap.py").write_text("open('proof', 'w').close()\nclass Thing: pass\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    # protocol 2: GLOBAL, EMPTY_TUPLE, NEWOBJ, {'a': 1}, BUILD
    body = b"\x80\x02ctrap\nThing\n)\x81}X\x01\x00\x00\x00aK\x01sb."
    thing = read(rewritten(saved(tmp_path / "a.pt", {}), "data.pkl", lambda _: body))
    assert isinstance(thing, Record) and thing.path == "trap.Thing" and thing.attributes == {"a": 1}
    assert "trap" not in sys.modules and not (tmp_path / "proof").exists()


@pytest.mark.parametrize("body", [
    b"\x80\x02ccollections\nOrderedDict\n}X\x04\x00\x00\x00nameK\x01sb.",  # state set on a callable
    b"\x80\x02cmodels.common\nConv\n}X\x04\x00\x00\x00pathK\x01sb.",  # state set on a class
    b"\x80\x02X\x01\x00\x00\x00x)R.", b"\x80\x02)Q.", b"\x80\x02K\x01K\x02\x86Q.", b"\x80\x02}}b.",
    b"\x80\x02}r\xff\xff\xff\xff.", b"\x80\x02\xff."])
def test_odd_programs_are_told_as_corrupt(tmp_path, body):
    path = rewritten(saved(tmp_path / "a.pt", {}), "data.pkl", lambda _: body)
    with pytest.raises(UserError, match=r"a\.pt: corrupt checkpoint"):
        read(path)


def test_plain_values_and_numpy_numbers_come_as_they_are(tmp_path):
    from collections import OrderedDict, deque
    from pathlib import PurePosixPath, PureWindowsPath

    content = {"a": [1, 2.5, "x", None, True, b"bytes"], "b": OrderedDict(k=(1, 2)), "c": {1, 2}, "d": deque([1]),
               "n": [np.float64(0.5), np.int64(-3), np.float32(0.25), np.bool_(True)],
               "p": [PurePosixPath("a/b"), PureWindowsPath("a\\b")], "s": torch.Size([2, 3])}
    found = read(saved(tmp_path / "a.pt", content))
    assert {k: found[k] for k in "abc"} == {"a": content["a"], "b": {"k": (1, 2)}, "c": {1, 2}}
    assert found["d"] == [1] and found["n"] == [0.5, -3, 0.25, True] and found["s"] == (2, 3)
    assert found["p"] == ["a/b", "a/b"]


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "stream"])
def test_tensors_of_every_layout(tmp_path, legacy):
    base = torch.arange(24.0).reshape(2, 3, 4)
    tensors = {"view": base[1, :, ::2], "turned": base.permute(2, 0, 1), "empty": torch.zeros(0, 3), "whole": base,
               "scalar": torch.tensor(7), "flags": torch.tensor([True, False]),
               "b": torch.ones(2, dtype=torch.bfloat16), "parameter": nn.Parameter(torch.ones(2, 2))}
    with open_archive(saved(tmp_path / "a.pt", tensors, legacy)) as found:
        for name, expected in tensors.items():
            loaded = found[name].load()
            assert loaded.dtype == expected.dtype and torch.equal(loaded, expected) and loaded.is_contiguous()


def test_every_truncation_is_told(tmp_path):
    for legacy in (False, True):
        path = saved(tmp_path / "whole.pt", {"model": nn.Linear(20, 20).state_dict()}, legacy)
        data = path.read_bytes()
        for cut in sorted({0, 3, 30, 200, len(data) // 3, len(data) // 2, len(data) - 1}):
            short = tmp_path / "short.pt"
            short.write_bytes(data[:cut])
            with pytest.raises(UserError, match=r"short\.pt: truncated"):
                load_model(short)
    with pytest.raises(UserError, match="no such file"):
        load_model(tmp_path / "absent.pt")
    (tmp_path / "page.pt").write_text("<html>not found</html>")
    with pytest.raises(UserError, match=r"page\.pt: not a PyTorch checkpoint .*<html>"):
        load_model(tmp_path / "page.pt")


def test_storages_must_hold_what_is_declared(tmp_path):
    path = saved(tmp_path / "a.pt", {"w": torch.zeros(10)})
    with pytest.raises(UserError, match="storage 0 should hold 10 numbers of 4 bytes and holds 39 bytes"):
        read(rewritten(path, "data/0", lambda data: data[:-1]))
    with pytest.raises(UserError, match="and is missing"):
        read(rewritten(path, "data/0", lambda _: None))
    saved(path, {"w": torch.zeros(10)})
    with pytest.raises(UserError, match="reaches beyond its 10 stored numbers"):
        read(rewritten(path, "data.pkl", lambda data: data.replace(b"K\n\x85", b"K\x0b\x85")))


@pytest.mark.parametrize("shape, stride, offset", [
    ((4,), (1,), 1), ((2, 3), (3, 1), 0), ((-1,), (1,), 0), ((2,), (1, 1), 0), ((2,), (-1,), 1), ((2,), (10,), 0)])
def test_tensors_stay_inside_their_storage(shape, stride, offset):
    with pytest.raises(ValueError, match="tensor of shape"):
        StoredTensor(Storage(torch.float32, 4, lambda: bytes(16)), offset, shape, stride)


def test_a_tensor_does_not_grow_from_a_few_numbers():
    huge = StoredTensor(Storage(torch.float32, 1, lambda: bytes(4)), 0, (1 << 40,), (0,))
    with pytest.raises(ValueError, match="repeats"):
        huge.load()


def test_other_zip_files(tmp_path):
    path = rewritten(saved(tmp_path / "a.pt", {"w": torch.zeros(3)}), "data.pkl", bytes, zipfile.ZIP_DEFLATED)
    with pytest.raises(UserError, match="compressed or encrypted"):
        load_model(path)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("readme.txt", "hello")
    with pytest.raises(UserError, match=r"holds no data\.pkl"):
        load_model(path)
    torch.jit.script(nn.Linear(2, 2)).save(path)
    with pytest.raises(UserError, match="TorchScript"):
        load_model(path)
    path.write_bytes(pickle.dumps({"a": 1}))
    with pytest.raises(UserError, match=r"torch\.save did not write"):
        load_model(path)


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "stream"])
def test_damage_never_ends_in_another_error(tmp_path, legacy):
    chance = random.Random(0)
    path = saved(tmp_path / "a.pt", {"model": nn.Linear(2, 2), "ema": None, "n": np.float64(1)}, legacy)
    with zipfile.ZipFile(path) if not legacy else path.open("rb") as file:
        whole = file.read() if legacy else file.read("a/data.pkl")
    for _ in range(200):
        data = bytearray(whole)
        for _ in range(chance.randint(1, 3)):
            data[chance.randrange(2, len(data))] = chance.choice([*b".Rb\x81QrqKMJ(tl0u", chance.randrange(256)])
        if legacy:
            path.write_bytes(data)
        else:
            rewritten(path, "data.pkl", lambda _, new=bytes(data): new)
        try:
            read_original(path)
        except UserError:
            continue


def test_callers_that_need_ours_say_so(tmp_path):
    path = saved(tmp_path / "theirs.pt", {"model": nn.Linear(2, 2)})
    with pytest.raises(UserError, match=r"theirs\.pt: holds Python objects \(torch\.nn\S+\), not plain data"):
        load_checkpoint(path)
    with pytest.raises(UserError, match=r"theirs\.pt: holds the keys note and no model"):
        load_model(saved(path, {"note": 1}))
