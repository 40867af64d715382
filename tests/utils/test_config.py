"""YAML as people and tools write it, and as nobody should."""

import time

import pytest

from engine.inference.writing.names import UniqueStems
from engine.training.recipe import load_recipe
from utils.config import MAX_BYTES, find_config, read_yaml
from utils.errors import LONGEST, UserError, short


def write(folder, content):
    file = folder / "x.yaml"
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    return file


@pytest.mark.parametrize("text, names", [
    ("names: [yes, no, on, 007, 1e3, ~, null, 3.10, 2024-01-01, 0x1F]",
     ["yes", "no", "on", "007", "1e3", "~", "null", "3.10", "2024-01-01", "0x1F"]),
    ("names:\n  - off\n  - 0123\n", ["off", "0123"]),
    ("names: {0: y, 1: no, '2': 1_000}", {0: "y", 1: "no", "2": "1_000"}),
    ("all: &n [yes, no]\nnames: *n", ["yes", "no"]),
    ("names:", None), ("names: 7", 7)])
def test_names_are_what_is_written(tmp_path, text, names):
    assert read_yaml(write(tmp_path, text))["names"] == names


def test_only_names_are_kept_as_text(tmp_path):
    assert read_yaml(write(tmp_path, "mosaic: 1.0\nflag: yes\nnc: 07\n")) == {"mosaic": 1.0, "flag": True, "nc": 7}


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_byte_order_marks(tmp_path, encoding):
    assert read_yaml(write(tmp_path, "names: [Größe]\n".encode(encoding))) == {"names": ["Größe"]}


NESTED = "a: " + "[" * 5000
BOMB = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{b}: &{b} [{', '.join(['*' + a] * 9)}]\n" for a, b in zip("abcdefghi", "bcdefghij"))
MERGES = "a: &a {x: 1}\n" + "".join(
    f"{b}: &{b} {{<<: [{', '.join(['*' + a] * 9)}]}}\n" for a, b in zip("abcdefghi", "bcdefghij"))


@pytest.mark.parametrize("content, said", [
    ("names: [Größe]\n".encode("cp1252"), "not UTF-8 (byte 0xf6 at line 1); save it as UTF-8"),
    ("names: [Größe]\n".encode("utf-16-le"), "not UTF-8"),
    ("names: [a]\n".encode("utf-16-be"), "save it as UTF-8"), ("names: [a]\n".encode("utf-32"), "save it as UTF-8"),
    ('path: "D:\\data\\set"\n', "write paths with / or in single quotes"),
    ('path: "C:\\x\\set"\n', "write paths with / or in single quotes"),
    ("names:\n\t0: a\n", "line 2: found character '\\t' that cannot start any token; indent with spaces"),
    ("nc: 1\nnc: 2\n", "line 2: 'nc' is given twice"),
    ("names:\n  0: a\n  0: b\n", "line 3: '0' is given twice"),
    (NESTED, "nested more than 50 deep"), (BOMB, "more than 100,000 values"), (MERGES, "more than 100,000 values"),
    ("a: &a [*a]", "a value that contains itself"), ("a: &a {b: *a}", "a value that contains itself"),
    ("a: 2024-99-99", "'2024-99-99' is no timestamp"), ("a: !!int x", "'x' is no int"), ("a: !!int", "is no int"),
    ("a: " + "9" * 5000, "no int"),
    ("a: !!bool maybe", "'maybe' is no bool"), ("a: !!python/object/apply:os.system [x]", "could not determine a"),
    ("? [a]\n: b", "found unhashable key"), ("a: *b", "undefined alias"), (b"a: \x00", "special characters"),
    ("a: *" + "b" * 5000, "undefined alias"), ("# " * MAX_BYTES, "a YAML file may have at most"),
    ("- a", "found list"), ("", "found NoneType"), ("a: [1", "line 1"), ("--- {a: 1}\n--- {a: 2}", "document")])
def test_what_cannot_be_read_is_one_short_sentence(tmp_path, content, said):
    file = write(tmp_path, content)
    before = time.process_time()
    with pytest.raises(UserError) as error:
        read_yaml(file)
    text = str(error.value)
    assert said in text and text.startswith(str(file)) and "\n" not in text
    assert error.value.code in ("invalid-yaml", "not-utf8", "too-large")
    assert len(text) < len(str(file)) + 2 * LONGEST and time.process_time() - before < 5


def test_the_same_key_twice_with_one_value_is_fine(tmp_path):
    assert read_yaml(write(tmp_path, "nc: 2\nnc: 2\n")) == {"nc": 2}


def test_files_that_are_no_yaml_files(tmp_path):
    (tmp_path / "obj.data").write_text("classes = 1\ntrain = data/train.txt\n")
    for call, code, named in ((lambda: find_config(tmp_path / "obj.data", "data"), "not-a-config", "`train:`"),
                              (lambda: find_config("x" * 5000, "data"), "unknown-config", "data config"),
                              (lambda: read_yaml(tmp_path), "not-a-file", str(tmp_path)),
                              (lambda: read_yaml(tmp_path / "none.yaml"), "missing-file", "none.yaml")):
        with pytest.raises(UserError) as error:
            call()
        assert error.value.code == code and named in str(error.value)


def test_short_is_short_and_quick():
    deep = "x"
    for _ in range(60):
        deep = [deep] * 9  # 9 ** 60 texts if it were spelled out
    wide = dict.fromkeys(range(100000), deep)
    before = time.process_time()
    for value in (deep, wide, "y" * 10_000_000, 10 ** 6000, b"z" * 1000, {"a": deep}, object(), None, 1.5):
        assert len(short(value)) <= LONGEST and "\n" not in short(value)
    assert time.process_time() - before < 2
    assert (short("a b"), short("a\n\x1b[2J"), short(7)) == ("a b", "'a\\n\\x1b[2J'", "7")


def test_unique_stems_of_very_many_files():
    stem_of = UniqueStems()
    assert [stem_of(p) for p in ("a/1.jpg", "b/1.jpg", "b/1_2.jpg", "a/1.jpg", "a/1.png", "b/1_2.png")] == [
        "1", "1_2", "1_2_2", "1", "1_3", "1_2_3"]
    before = time.process_time()
    stems = {stem_of(f"{k}/same.jpg") for k in range(60_000)} | {stem_of(f"x/{k:08d}.jpg") for k in range(60_000)}
    assert len(stems) == 120_000
    assert time.process_time() - before < 2


@pytest.mark.parametrize("line", ["lr0: 1" + "0" * 400, "epochs: " + "9" * 20, "epochs: " + "x" * 5000,
                                  "schedule: [" + "a, " * 1000 + "a]", "k" * 900 + ": 1",
                                  "base: {a: " + "b" * 5000 + "}"])
def test_huge_values_of_a_recipe_are_one_short_sentence(tmp_path, line):
    with pytest.raises(UserError) as error:
        load_recipe(write(tmp_path, line + "\n"))
    assert len(str(error.value)) < len(str(tmp_path)) + 3 * LONGEST and "\n" not in str(error.value)
