"""Pascal VOC as tools write it: XML in any encoding, lists in many forms, corners that count from 0."""

import os
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data.formats.parsing.voc_xml import parse_xml
from data.index import load_index
from tests.data import makers
from tests.refusals import refused

CAT = makers.xml_object("cat", 11, 21, 30, 40)


def load(yaml, split="train", **options):
    return load_index(yaml, split, cache=False, **options)


def named(folder, name: str, encoding: str, declared: str | None, **words):
    """A dataset of one image whose class is `name`; its XML in an encoding, with a declaration of one or none."""
    yaml = makers.voc(folder, {"a": None}, **words)
    head = f'<?xml version="1.0" encoding="{declared}"?>\n' if declared else ""
    text = head + makers.xml(makers.xml_object(name, 11, 21, 30, 40))
    (folder / "Annotations" / "a.xml").write_bytes(text.encode(encoding))
    return yaml


@pytest.mark.parametrize(("name", "encoding", "declared"), [
    ("汽车", "gb2312", "gb2312"), ("汽车", "gbk", "GBK"), ("汽車", "big5", "Big5"), ("車両", "shift_jis", "Shift_JIS"),
    ("車両", "euc-jp", "EUC-JP"), ("Größe", "latin-1", "ISO-8859-1"), ("Größe €", "cp1252", "ISO-8859-1"),
    ("Größe", "cp1252", "windows-1252"), ("кот", "koi8-r", "KOI8-R"), ("汽车", "utf-16", "UTF-16"),
    ("汽车", "utf-16-le", "utf-16"), ("汽车", "utf-16-be", None), ("汽车", "utf-32", "utf-32"),
    ("汽车", "utf-8-sig", "utf-8"), ("汽车", "utf-8-sig", None), ("汽车", "utf-8", "utf-16"),
    ("cat", "ascii", "gb2312"),
])
def test_xml_is_read_in_its_encoding(tmp_path, name, encoding, declared):
    index = load(named(tmp_path, name, encoding, declared, names=["dog", name]))
    assert index.records[0].labels.tolist() == [1] and index.records[0].boxes.tolist() == [[10, 20, 30, 40]]
    assert not index.report.findings


@pytest.mark.parametrize(("name", "encoding", "declared", "said"), [
    ("汽车", "gbk", "utf-8", "declares utf-8, read as gb18030; save it as UTF-8"),
    ("汽车", "gbk", None, "declares no encoding, read as gb18030"),
    ("Größe", "cp1252", "utf-8", "read as cp1252"),
    ("汽车", "utf-8", "ISO-8859-1", "declares ISO-8859-1, read as utf-8"),
    ("Größe", "utf-8", "gb2312", "declares gb2312, read as utf-8"),
])
def test_another_encoding_than_declared_is_told_with_its_cure(tmp_path, name, encoding, declared, said):
    yaml = named(tmp_path, name, encoding, declared, names=[name])
    index = load(yaml)
    assert index.report.boxes == 1 and index.report.count("wrong_encoding") == 1 and said in index.report.format()
    with refused("strict-finding"):
        load(yaml, strict=True)


def test_names_are_suggested_in_the_right_letters(tmp_path):
    with refused("no-classes", "汽车"):
        load(named(tmp_path, "汽车", "gb2312", "gb2312", names=None))


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16", "utf-16-le", "utf-32"])
def test_document_types_are_refused_in_every_encoding(tmp_path, encoding):
    bomb = '<!DOCTYPE x [<!ENTITY a "cat">]>' + makers.xml(CAT.replace(">cat<", ">&a;<"))
    yaml = makers.voc(tmp_path, {"a": makers.xml(CAT), "b": None})
    (tmp_path / "Annotations" / "b.xml").write_bytes(bomb.encode(encoding))
    report = load(yaml).report
    assert report.boxes == 1 and "b.xml (has a document type" in report.findings["corrupt_label"][1]


@given(st.binary(max_size=60), st.sampled_from(["", "utf-8", "gb2312", "hex", "idna", "utf-16", "undefined", "cp037"]))
def test_any_bytes_are_an_xml_or_a_parse_error(content, declared):
    head = f'<?xml version="1.0" encoding="{declared}"?><a>'.encode() if declared else b""
    for tail in (b"", b"</a>"):
        try:
            root, told = parse_xml(head + content + tail, ["cat"])
        except ET.ParseError as error:
            assert str(error)
        else:
            assert isinstance(root.tag, str) and isinstance(told, str)


@pytest.mark.parametrize("line", ["{}", "{}.jpg", "JPEGImages/{}.jpg", "/data/VOC2007/JPEGImages/{}.jpg",
                                  "JPEGImages\\{}.jpg", "{}  1", "{} -1", "{}\t0", "{}.jpg 1", "{}.xml",
                                  "./JPEGImages/{}.jpg ./Annotations/{}.xml"])
def test_lists_name_images_in_many_ways(tmp_path, line):
    yaml = makers.voc(tmp_path, {"a b.1": makers.xml(CAT), "2008_01": makers.xml(CAT), "gone": makers.xml(CAT)})
    (tmp_path / "JPEGImages" / "gone.jpg").unlink()
    stems = ["a b.1", "2008_01", "gone"]
    (tmp_path / "ImageSets/Main/train.txt").write_text("".join(line.replace("{}", s) + "\n" for s in stems))
    report = load(yaml).report
    assert (report.images, report.boxes, report.count("missing_image")) == (2, 2, 1)
    assert report.findings["missing_image"][1].endswith("gone.jpg")


@pytest.mark.parametrize("place", ["ImageSets/train.txt", "ImageSets/Segmentation/train.txt", "train.txt"])
def test_lists_lie_in_many_places(tmp_path, place):
    makers.voc(tmp_path, {"a": makers.xml(CAT)})
    (tmp_path / place).parent.mkdir(exist_ok=True)
    (tmp_path / place).write_text("JPEGImages/a.jpg\n")
    index = load(makers.config(tmp_path, train=place, names=["cat"]))
    assert index.source.format == "voc" and index.report.boxes == 1


@pytest.mark.parametrize("side", ["100.0", "1e300", "-5", "nan", "wide", ""])
def test_sizes_as_tools_write_them(tmp_path, side):
    size = f"<size><width>{side}</width><height>60</height></size>"
    report = load(makers.voc(tmp_path, {"a": makers.xml(CAT, size)})).report
    assert report.boxes == 1 and report.count("wrong_size") == (side != "100.0")


def test_pipes_are_no_label_files(tmp_path):
    yaml = makers.voc(tmp_path, {"a": makers.xml(CAT), "b": None})
    os.mkfifo(tmp_path / "Annotations/b.xml")
    assert load(yaml).report.count("corrupt_label") == 1


def test_suffixes_in_capitals(tmp_path):
    yaml = makers.voc(tmp_path, {"a": makers.xml(CAT)})
    (tmp_path / "Annotations/a.xml").rename(tmp_path / "Annotations/a.XML")
    assert load(yaml).report.boxes == 1


def test_images_may_lie_in_other_folders(tmp_path):
    yaml = makers.voc(tmp_path, {"a": makers.xml(CAT)})
    (tmp_path / "JPEGImages").rename(tmp_path / "images")
    for train in ("ImageSets/Main/train.txt", ".", "Annotations", "images"):
        index = load(makers.config(tmp_path, train=train, names=["cat"], format="voc"))
        assert (index.report.images, index.report.boxes) == (1, 1)
    (tmp_path / "images").rename(tmp_path / "pictures")
    words = {"images": "pictures", "annotations": "Annotations"}
    assert load(makers.config(tmp_path, train=words, names=["cat"])).report.boxes == 1
    assert yaml.exists()


def test_objects_without_name_or_box_are_counted_with_the_reason(tmp_path):
    bare = "<object><bndbox><xmin>1</xmin><ymin>1</ymin><xmax>9</xmax><ymax>9</ymax></bndbox></object>"
    index = load(makers.voc(tmp_path, {
        "a": makers.xml(bare + CAT + "<object><name>cat</name></object>" + bare.replace("1<", "1e999<")),
        "b": makers.xml(makers.xml_object(" traffic light\n", "10.5", "21.0", " 30 ", "40"))},
        names=["cat", "traffic light"]))
    count, example = index.report.findings["corrupt_row"]
    assert count == 3 and "object 1 has no `name`" in example
    assert index.report.boxes == 2 and index.records[1].boxes.tolist() == [[9.5, 20, 30, 40]]
    assert index.records[1].labels.tolist() == [1]


@pytest.mark.parametrize(("flag", "ignored"), [("1", 1), ("0", 0), ("1.0", 1), ("true", 1), ("False", 0), ("", 0),
                                               ("Unspecified", 0)])
def test_difficult_flags_of_tools(tmp_path, flag, ignored):
    yaml = makers.voc(tmp_path, {"a": makers.xml(makers.xml_object("cat", 11, 21, 30, 40, difficult=flag))})
    assert load(yaml).report.ignored == ignored


SIZE = f"<size><width>{makers.WIDTH}</width><height>{makers.HEIGHT}</height></size>"


@pytest.mark.parametrize(("corners", "boxes", "told"), [
    # from 0, the last pixel included: the image is 100 x 60
    ([(0, 0, 99, 59), (0, 5, 9, 20), (99, 30, 90, 59)],
     [[0, 0, 100, 60], [0, 5, 10, 21], [90, 30, 100, 60]], "included"),
    # from 0, continuous
    ([(0, 0, 100, 60), (0, 5, 9, 20)], [[0, 0, 100, 60], [0, 5, 9, 20]], "not included"),
    # from 1, as VOC
    ([(1, 1, 100, 60), (1, 5, 9, 20), (12, 3, 4, 20)], [[0, 0, 100, 60], [0, 4, 9, 20], [3, 2, 12, 20]], None),
    # slips: one side at 0 among those at 1
    ([(1, 1, 100, 60), (0, 5, 9, 20)], [[0, 0, 100, 60], [0, 4, 9, 20]], None),
])
def test_corners_that_count_from_zero(tmp_path, corners, boxes, told):
    objects = "".join(makers.xml_object("cat", *c) for c in corners)
    index = load(makers.voc(tmp_path, {"a": makers.xml(objects, SIZE)}))
    assert index.records[0].boxes.tolist() == boxes
    notes = [n for n in index.report.notes if "counted from 0" in n]
    assert notes == [] if told is None else f"the last pixel {told} (" in notes[0]


@pytest.mark.parametrize(("name", "encoding"), [("自動車", "shift_jis"), ("자동차", "euc-kr"), ("кот", "cp1251")])
def test_an_undeclared_encoding_is_found_by_the_class_names(tmp_path, name, encoding):
    index = load(named(tmp_path, name, encoding, None, names=["dog", name]))
    assert index.records[0].labels.tolist() == [1] and index.report.count("wrong_encoding") == 1


def test_a_list_with_suffixes_means_these_files(tmp_path):
    yaml = makers.voc(tmp_path, {"a": makers.xml(CAT)})
    makers.image(tmp_path / "JPEGImages" / "a.png")
    for line, want in (("a.png", "a.png"), ("JPEGImages/a.jpg", "a.jpg"), ("a", "a.jpg"), ("a.JPG", "a.jpg")):
        (tmp_path / "ImageSets" / "Main" / "train.txt").write_text(line + "\n")
        assert [Path(r.path).name for r in load(yaml).records] == [want]


def test_corners_in_fractions_are_refused(tmp_path):
    objects = makers.xml_object("cat", 0.1, 0.2, 0.5, 0.75)
    with refused("wrong-units", "a.xml object 1", "`bndbox`"):
        load(makers.voc(tmp_path, {"a": makers.xml(objects)}))
