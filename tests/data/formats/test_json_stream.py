"""A file read piece by piece gives what `json.loads` gives, wherever the pieces are cut."""

import json
import tracemalloc

import pytest

from data.formats.parsing import json_stream
from data.formats.parsing.json_stream import read_lists

CONTENT = {"info": {"a": [1, {"annotations": [9]}]},
           "images": [{"id": 1, "name": "zö\"]},\n☃𝄞"}, 2.5, -1e-7, "x", None], "flag": True,
           "annotations": [], "number": 12.75, "more": [[1, [2]], False, 1234567, 8]}


def collected(path, keys=("images", "annotations", "more")):
    found = {key: [] for key in keys}
    lists = read_lists(path, {key: found[key].append for key in keys})
    return found, lists


@pytest.mark.parametrize("chunk", [1, 2, 3, 7, 64, 1 << 20])
@pytest.mark.parametrize("form", [{}, {"indent": 1}, {"ensure_ascii": False}, {"separators": (",", ":")}])
def test_pieces_of_any_size(tmp_path, monkeypatch, chunk, form):
    monkeypatch.setattr(json_stream, "CHUNK", chunk)
    path = tmp_path / "a.json"
    for mark in ("", "\ufeff"):
        path.write_text(mark + json.dumps(CONTENT, **form) + " \n", encoding="utf-8")
        found, lists = collected(path)
        assert found == {key: CONTENT[key] for key in found} and lists == found.keys()


@pytest.mark.parametrize("chunk", [1, 5, 1 << 20])
@pytest.mark.parametrize("text", [
    "", " ", '{"images"', '{"images": [', '{"images": [1', '{"images": [1,', '{"images": [1,]}',
    '{"images": [1]', '{"images": [1}}', '{"images": [1 2]}', '{"images": [1.x]}', '{"images": [nul]}', '{"a": "b}',
    '{1: 2}', '{"a" 1}', '{"a": 1} 2', '{"a": 1,}', '{"images": [{"a": 1, ]}'])
def test_broken_files_are_told(tmp_path, monkeypatch, chunk, text):
    monkeypatch.setattr(json_stream, "CHUNK", chunk)
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(ValueError):
        json.loads(text)
    with pytest.raises(ValueError):
        collected(tmp_path / "a.json")


@pytest.mark.parametrize("text", ["[]", "1", '"a"'])
def test_other_values_are_told(tmp_path, text):
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(ValueError, match="an object was expected"):
        collected(tmp_path / "a.json")


def test_other_encodings_are_told(tmp_path):
    (tmp_path / "a.json").write_bytes(b'{"images": ["\xff\xfe"]}')
    with pytest.raises(ValueError):
        collected(tmp_path / "a.json")


def test_a_key_that_is_no_list_is_told_apart(tmp_path):
    (tmp_path / "a.json").write_text('{"images": {"a": 1}, "annotations": [1]}')
    assert collected(tmp_path / "a.json") == ({"images": [], "annotations": [1], "more": []}, {"annotations"})
    (tmp_path / "a.json").write_text("{}")
    assert collected(tmp_path / "a.json")[1] == set()


def test_memory_is_that_of_the_buffer(tmp_path, monkeypatch):
    monkeypatch.setattr(json_stream, "CHUNK", 1 << 16)
    path = tmp_path / "a.json"
    row = {"id": 1, "segmentation": [[k / 7 for k in range(40)]]}
    path.write_text(json.dumps({"annotations": [row] * 10000}))  # 7 MB of text, some 17 MB as objects
    seen = 0

    def count(item):
        nonlocal seen
        seen += 1

    tracemalloc.start()
    try:
        read_lists(path, {"annotations": count})
        assert tracemalloc.get_traced_memory()[1] < 1e6 and seen == 10000
    finally:
        tracemalloc.stop()
