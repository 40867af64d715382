"""Classes of a model and of a dataset are matched by name; where that cannot be done it is told or refused."""

import re

import pytest

from tests.refusals import refused
from utils.class_names import count_classes, match_classes, plural, spelling


def matched(model, data):
    return match_classes(model, data, "best.pt", "set.yaml")


def test_equal_lists_need_no_word():
    assert matched(["cat", "dog"], ["cat", "dog"]) == (None, "")
    assert matched(["a", "a"], ["a", "a"]) == (None, "")


def test_another_order_is_mapped_and_told():
    order, said = matched(["circle", "square", "star"], ["star", "circle", "square"])
    assert order == [1, 2, 0]
    assert "another order" in said and "'circle' is class 0 of the model and class 1 of the data" in said
    assert matched(["0", "1", "2"], ["1", "2", "0"])[0] == [2, 0, 1]
    assert matched(["Traffic_Light", "Dogs"], ["dog", "traffic light"])[0] == [1, 0]


@pytest.mark.parametrize(("model", "data"), [
    (["Person", "CAR"], ["person", "car"]), (["traffic light"], ["traffic_light"]), (["cars", "buses"], ["car", "bus"]),
    (["aeroplane", "tvmonitor"], ["airplane", "tv"]), (["hair drier", "cup"], ["hair dryer", "cup"]),
    (["glass", "bus"], ["Glasses", "buses"]), (["categories"], ["category"]), (["Ａ車"], ["a車"]),
])
def test_other_spellings_at_the_same_places_warn(model, data):
    order, said = matched(model, data)
    assert order is None and said.startswith("warning: ") and repr(model[0]) in said and "by position" in said


@pytest.mark.parametrize("data", [["class0", "class1"], ["0", "1"], ["item", "object"]])
def test_names_that_say_nothing_are_taken_by_position(data):
    for pair in ((["cat", "dog"], data), (data, ["cat", "dog"])):
        order, said = matched(*pair)
        assert order is None and "placeholders" in said and data[0] in said


@pytest.mark.parametrize(("model", "data"), [
    (["cat", "dog"], ["cat", "cow"]), (["pothole"], ["crack"]), (["part1", "part2"], ["part1", "part3"]),
    (["cat", "dog"], ["dog", "cow"]), (["a", "a", "b"], ["a", "b", "b"]), (["person1"], ["person2"]),
])
def test_another_set_is_refused_with_both_lists(model, data):
    with refused("other-classes", re.escape(", ".join(model)), re.escape(", ".join(data))):
        matched(model, data)


def test_another_number_is_refused_and_long_lists_are_cut():
    with refused("other-classes", "--single-cls", "5000 classes") as error:
        matched([f"name {k}" * 9 for k in range(5000)], ["cat"])
    assert len(str(error.value)) < 1500


@pytest.mark.parametrize("one, many", [
    ("person", "persons"), ("cross", "crosses"), ("bus", "buses"), ("box", "boxes"), ("bench", "benches"),
    ("toothbrush", "toothbrushes"), ("battery", "batteries"), ("toy", "toys"), ("scissors", "scissors"), ("y", "ys")])
def test_counts_use_the_english_plural(one, many):
    assert count_classes([1, 0, 1, 1], ["dog", one]) == f"1 dog, 3 {many}"
    assert count_classes([1], ["dog", one]) == f"1 {one}" and spelling(many) == spelling(one)


@pytest.mark.parametrize("one, many", [
    ("sheep", "sheep"), ("Mouse", "mice"), ("table knife", "table knives"), ("汽车", "汽车"), ("class0", "class0"),
    ("RBC", "RBCs"), ("small-vehicle", "small-vehicles"), ("people", "people"),
    ("spurious_copper", "spurious_coppers")])
def test_irregular_and_foreign_names(one, many):
    assert plural(one) == many
