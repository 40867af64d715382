"""The dataset doctor finds what was planted, keeps quiet where nothing was, and ends with a verdict."""

import json
import shutil
import subprocess
import sys

import cv2
import numpy as np
import pytest

from data.__main__ import build_parser, main
from data.doctor.checks import VERDICTS, examine
from data.doctor.duplicates import BITS, _near_pairs, find_duplicates, same_labels
from data.doctor.suspicious_labels import suspects
from data.index import load_index
from data.labels.records import Record, RecordTable
from tests.data import makers
from tests.data.pictures import random_boxes
from utils.config import CFG_ROOT


def record(boxes, labels=None, path="a.jpg", size=(400, 600), ignore=None) -> Record:
    boxes = np.array(boxes, np.float32).reshape(-1, 4)
    labels = np.zeros(len(boxes), np.int64) if labels is None else np.array(labels)
    return Record(path, 1, *size, boxes, labels, ignore)


def found(*records):
    return {k: v.tolist() for k, v in suspects(RecordTable.from_records(list(records))).labels.items()}


@pytest.mark.parametrize(("boxes", "labels", "kind"), [
    ([[10, 10, 12.5, 60]], [0], "thin"),
    ([[0, 0, 600, 395]], [0], "whole"),
    ([[0, 0, 500, 20]], [0], "stretched"),
    ([[100, 100, 200, 200], [101, 100, 201, 201]], [0, 1], "contested"),
    ([[100, 100, 200, 200], [101, 100, 201, 201]], [1, 1], "twice"),
])
def test_each_suspicion_is_found_and_only_it(boxes, labels, kind):
    plain = record([[50, 50, 90, 80], [60, 60, 120, 100]], [0, 1])
    hits = found(plain, record(boxes, labels), plain)
    assert set(hits) == {kind} and set(hits[kind]) <= set(range(2, 2 + len(boxes)))
    assert found(plain) == {}
    assert found(record(boxes, labels, ignore=np.ones(len(boxes), bool))) == {}


def test_like_places_agree_with_all_pairs():
    rng = np.random.default_rng(0)
    records = []
    for n in (0, 1, 40, 60):
        boxes = random_boxes(rng, n, 400, 600)
        shifted = boxes[::3] + rng.normal(0, 1.5, (len(boxes[::3]), 4)).astype(np.float32)
        boxes = np.concatenate([boxes, shifted])
        records.append(record(boxes, rng.integers(0, 2, len(boxes))))
    want = {"contested": set(), "twice": set()}
    start = 0
    for r in records:
        for i in range(len(r)):
            for j in range(len(r)):
                a, b = r.boxes[i].astype(float), r.boxes[j].astype(float)
                inside = np.clip(np.minimum(a[2:], b[2:]) - np.maximum(a[:2], b[:2]), 0, None).prod()
                iou = inside / ((a[2:] - a[:2]).prod() + (b[2:] - b[:2]).prod() - inside)
                if i != j and iou >= 0.9:
                    if r.labels[i] != r.labels[j]:
                        want["contested"].add(start + i)
                    elif (a[0], i) > (b[0], j):
                        want["twice"].add(start + i)
        start += len(r)
    hits = found(*records)
    assert len(want["contested"]) > 4 and len(want["twice"]) > 4
    assert {kind: set(hits[kind]) for kind in want} == want


def test_the_worst_comes_first_and_full_images_are_told():
    few = [record([[10 * k, 10, 10 * k + 8, 18] for k in range(8)]) for _ in range(40)]
    full = record([[5 * k, 7 * j, 5 * k + 4, 7 * j + 6] for k in range(10) for j in range(9)])
    table = RecordTable.from_records([*few, full, record([[0, 0, 2, 9], [0, 0, 1, 9]])])
    result = suspects(table)
    assert result.crowded.tolist() == [40] and result.labels["thin"].tolist() == [411, 410]
    assert suspects(RecordTable.from_records([record([])])).labels == {}


def picture(path, seed, height=200, width=300, **how):
    path.parent.mkdir(parents=True, exist_ok=True)
    image = np.random.default_rng(seed).integers(0, 256, (6, 9, 3), dtype=np.uint8)
    image = cv2.resize(image, (300, 200), interpolation=cv2.INTER_CUBIC)
    image = cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA)
    cv2.imwrite(str(path), image, [cv2.IMWRITE_JPEG_QUALITY, how.get("quality", 95)])
    return str(path)


def test_exact_and_near_copies_are_joined_and_others_not(tmp_path):
    paths = [picture(tmp_path / f"{k}.jpg", k) for k in range(40)]
    paths.append(shutil.copy(paths[3], tmp_path / "copy.jpg"))  # 40
    paths.append(picture(tmp_path / "worse.jpg", 5, quality=20))  # 41
    paths.append(picture(tmp_path / "smaller.png", 7, 100, 150))  # 42
    paths.append(shutil.copy(paths[41], tmp_path / "worse2.jpg"))  # 43: a copy of the near one
    (tmp_path / "no.jpg").write_bytes(b"nothing")
    cv2.imwrite(str(tmp_path / "grey.jpg"), np.full((90, 90, 3), 80, np.uint8))
    paths += [str(tmp_path / "no.jpg"), str(tmp_path / "grey.jpg"), str(tmp_path / "absent.jpg")]
    result = find_duplicates(paths)
    pairs = {tuple(p) for p in result.pairs.tolist()}
    assert pairs == {(3, 40), (41, 43), (5, 41), (7, 42)}
    assert {tuple(p) for p in result.pairs[result.exact].tolist()} == {(3, 40), (41, 43)}
    assert result.group[[3, 40, 5, 41, 43, 7, 42]].tolist() == [3, 3, 5, 5, 5, 7, 7]
    assert result.exact_group[[5, 41, 43]].tolist() == [5, 41, 41]
    assert result.unreadable.tolist() == [44, 46] and result.plain == 1
    only = find_duplicates(paths, near=False)
    assert {tuple(p) for p in only.pairs.tolist()} == {(3, 40), (41, 43)}


def test_no_image_at_all():
    assert len(find_duplicates([]).pairs) == 0


@pytest.mark.parametrize("n", [2, 300])
def test_search_in_parts_agrees_with_all_pairs(n):
    rng = np.random.default_rng(n)
    bits = rng.random((n, 64)) < 0.5
    for k in range(1, n, 2):  # every second is another with 0 to 9 bits changed
        bits[k] = bits[k - 1]
        bits[k, rng.choice(64, k % 10, replace=False)] ^= True
    hashes = np.packbits(bits, axis=1)
    thumbnails = np.repeat(rng.integers(0, 256, (-(-n // 2), 256), dtype=np.uint8), 2, axis=0)[:n]
    distance = (bits[:, None] != bits[None]).sum(2)
    want = {(i, j) for i in range(n) for j in range(i + 1, n) if distance[i, j] <= BITS and i // 2 == j // 2}
    got, likeness = _near_pairs(hashes, thumbnails)
    assert {tuple(p) for p in got.tolist()} == want and len(got) == len(want) and (likeness > 0.99).all()
    other = rng.integers(0, 256, (n, 256), dtype=np.uint8)  # hashes alike, pictures not
    assert len(_near_pairs(hashes, other)[0]) == 0


def test_thousands_of_frames_of_one_camera_are_one_group():
    rng = np.random.default_rng(0)
    frame = rng.random(64) < 0.5
    hashes = np.packbits(frame ^ (rng.random((20000, 64)) < 0.02), axis=1)
    thumbnails = np.tile(rng.integers(0, 256, 256, dtype=np.uint8), (20000, 1))
    pairs, _ = _near_pairs(hashes, thumbnails)
    assert len(pairs) >= 19990  # all pairs would be 200 million


def test_labels_of_copies_are_compared_in_shares_of_the_image():
    a = record([[60, 40, 120, 80], [0, 0, 300, 200]], [1, 0])
    half = record([[0, 0, 150, 100], [30, 20, 60, 40]], [0, 1], size=(200, 300))
    assert same_labels(a, half, 0.001)
    assert not same_labels(a, record([[60, 40, 120, 80], [0, 0, 300, 200]], [0, 1]), 0.001)
    assert not same_labels(a, record([[60, 40, 120, 80]], [1]), 0.5)
    assert same_labels(record([]), record([]), 0)


def dataset(folder, train: dict, held: dict, **words):
    """name -> (seed of the picture, text of its labels)."""
    for split, content in (("train", train), ("val", held)):
        for name, (seed, text) in content.items():
            picture(folder / "images" / split / name, seed)
            label = (folder / "labels" / split / name).with_suffix(".txt")
            label.parent.mkdir(parents=True, exist_ok=True)
            label.write_text(text)
    return makers.config(folder, **{"train": "images/train", "val": "images/val", "names": ["cat", "dog"], **words})


SOUND = {f"{k}.jpg": (k, "0 .5 .5 .2 .3\n1 .2 .2 .2 .2\n") for k in range(12)}
HELD = {f"{k}.jpg": (k, "0 .5 .5 .2 .3\n1 .2 .2 .2 .2\n") for k in range(100, 130)}


def diagnose(yaml, tmp_path, capsys, *words) -> tuple[str, dict]:
    main(build_parser().parse_args([str(yaml), "--project", str(tmp_path / "out"), "--name", "x", "--exist-ok",
                                    "--no-cache", *words]))
    return capsys.readouterr().out, json.loads((tmp_path / "out" / "x" / "report.json").read_text())


def kinds(report) -> set[tuple[str, str]]:
    return {(f["split"], f["kind"]) for f in report["findings"] if f["level"] != "note"}


def test_a_sound_dataset_is_healthy(tmp_path, capsys):
    out, report = diagnose(dataset(tmp_path, SOUND, HELD), tmp_path, capsys, "--strict")
    assert out.splitlines()[-1] == "verdict: healthy" and report["verdict"] == "healthy" and not kinds(report)
    assert report["splits"]["train"]["counts"] == {"cat": [0, 12, 0], "dog": [0, 12, 0]}
    sheet = cv2.imread(str(tmp_path / "out" / "x" / "sheet.jpg"))
    assert sheet.shape[1] == 1920 and sheet.std() > 20


@pytest.mark.parametrize(("copies", "word"), [(1, "look at this"), (6, "broken")])
def test_leakage_is_told_with_both_paths(tmp_path, capsys, copies, word):
    yaml = dataset(tmp_path, SOUND, HELD)
    for k in range(copies):
        shutil.copy(tmp_path / f"images/train/{k}.jpg", tmp_path / f"images/val/{100 + k}.jpg")
    (tmp_path / "labels/val/100.txt").write_text("1 .5 .5 .2 .3\n")
    out, report = diagnose(yaml, tmp_path, capsys, "--noplots")
    assert report["verdict"] == word
    assert f"verdict: {word}\n  {word}: val: {copies} of 30 images are in train too" in out
    assert f"{tmp_path}/images/train/0.jpg (train) = {tmp_path}/images/val/100.jpg (val): exact" in out
    assert "1 pairs of like images have different labels" in out and "2 and 1 labels, not the same" in out
    assert len(report["duplicates"]) == copies and not (tmp_path / "out/x/sheet.jpg").exists()
    with pytest.raises(SystemExit) as end:
        diagnose(yaml, tmp_path, capsys, "--noplots", "--strict")
    assert end.value.code == 1
    assert not diagnose(yaml, tmp_path, capsys, "--noplots", "--duplicates", "off")[1]["duplicates"]


def test_pairs_across_splits_come_first(tmp_path, capsys):
    yaml = dataset(tmp_path, SOUND, HELD)
    shutil.copy(tmp_path / "images/train/0.jpg", tmp_path / "images/train/1.jpg")
    picture(tmp_path / "images/val/100.jpg", 7, quality=30)
    report = diagnose(yaml, tmp_path, capsys, "--noplots")[1]
    assert [d["splits"] for d in report["duplicates"]] == [["train", "val"], ["train", "train"]]
    assert [d["exact"] for d in report["duplicates"]] == [False, True]


def test_validation_on_the_training_images_is_broken(tmp_path, capsys):
    yaml = dataset(tmp_path, SOUND, {}, val="images/train")
    out, report = diagnose(yaml, tmp_path, capsys)
    assert report["verdict"] == "broken" and "12 of 12 images are in train too" in out


def test_val_and_test_may_be_the_same(tmp_path, capsys):
    out, report = diagnose(dataset(tmp_path, SOUND, HELD, test="images/val"), tmp_path, capsys, "--noplots")
    assert report["verdict"] == "healthy" and "test: the images are those of val" in out


def test_classes_are_compared_across_splits(tmp_path, capsys):
    held = {"100.jpg": (100, "0 .5 .5 .2 .2\n2 .2 .2 .2 .2\n"), "101.jpg": (101, "0 .5 .5 .2 .2\n")}
    many = "".join(f"0 {x / 20 + .03} {y / 20 + .03} .04 .04\n" for x in range(19) for y in range(19))  # 361
    train = {**{f"{k}.jpg": (k, many) for k in range(3)}, "3.jpg": (3, "1 .5 .5 .2 .2\n")}
    out, report = diagnose(dataset(tmp_path, train, held, names=["cat", "dog", "cow", "bee"]), tmp_path, capsys,
                           "--noplots")
    assert {("", "absent"), ("val", "unseen"), ("train", "rare"), ("train", "imbalance")} <= kinds(report)
    assert "cow: 1" in out and "bee" in out and "cat has 1083 times as many objects as dog" in out


@pytest.mark.parametrize(("train", "held", "kind", "level"), [
    ({"0.jpg": (0, "")}, HELD, "no_objects", "broken"),
    (SOUND, {"100.jpg": (100, "")}, "no_objects", "broken"),
    ({**SOUND, **{f"{k}.jpg": (k, "") for k in range(20, 40)}}, HELD, "background", "look"),
    ({**SOUND, "50.jpg": (50, "7 .5 .5 .1 .1\n" * 9)}, HELD, "bad_class", "broken"),
    ({**SOUND, "50.jpg": (50, "7 .5 .5 .1 .1\n")}, HELD, "bad_class", "look"),
])
def test_levels(tmp_path, capsys, train, held, kind, level):
    report = diagnose(dataset(tmp_path, train, held), tmp_path, capsys, "--noplots")[1]
    assert level in {f["level"] for f in report["findings"] if f["kind"] == kind}
    assert report["verdict"] == VERDICTS[level]


def test_small_objects_get_advice_with_numbers(tmp_path, capsys):
    makers.image(tmp_path / "images/train/a.jpg", 1000, 2000)
    (tmp_path / "labels/train").mkdir(parents=True)
    rows = "".join(f"0 .{k}5 .5 .006 .012\n" for k in range(8)) + "0 .5 .2 .1 .2\n"  # of 12 px, and one of 200
    (tmp_path / "labels/train/a.txt").write_text(rows)
    yaml = makers.config(tmp_path, train="images/train", names=["cat"])
    out, report = diagnose(yaml, tmp_path, capsys, "--noplots", "--imgsz", "640")
    assert report["splits"]["train"]["below"] == {"8": 8, "16": 8, "32": 8}  # 12 px * 0.32 = 3.8 px; 200 * 0.32 = 64
    assert "--tile 640, windows of the full images: 0.0% instead of 88.9% of the objects are below 8 px" in out
    assert "--imgsz 1280" not in out and "-p2" in out  # 7.7 px there: no help
    assert "--imgsz 1600: 0.0% instead of 88.9%" in diagnose(yaml, tmp_path, capsys, "--noplots", "--imgsz", "800")[0]
    out, report = diagnose(yaml, tmp_path, capsys, "--noplots", "--imgsz", "2000")
    assert report["splits"]["train"]["below"]["8"] == 0 and "--tile" not in out


def test_the_choice_of_pictures_is_seeded_and_names_may_be_of_any_script(tmp_path, capsys):
    yaml = dataset(tmp_path, {f"é {k}.jpg": v for k, v in enumerate(SOUND.values())} | SOUND, HELD,
                   names=["кошка", "dög $1"])
    sheets = []
    for seed in (0, 0, 1):
        diagnose(yaml, tmp_path, capsys, "--seed", str(seed))
        sheets.append((tmp_path / "out/x/sheet.jpg").read_bytes())
    assert sheets[0] == sheets[1] != sheets[2]


def test_sheet_of_damaged_and_suspicious_images(tmp_path, capsys):
    rows = "0 .5 .5 1 1\n0 .1 .1 .005 .2\n1 .5 .5 .3 .3\n0 .5 .5 .3 .3\n"
    yaml = dataset(tmp_path, {**SOUND, "50.jpg": (50, rows)}, HELD)
    whole = (tmp_path / "images/train/50.jpg").read_bytes()
    (tmp_path / "images/train/50.jpg").write_bytes(whole[:len(whole) // 3] + b"\0" * 2000 + b"\xff\xd9")
    out, report = diagnose(yaml, tmp_path, capsys)
    assert {("train", "thin"), ("train", "contested")} <= kinds(report) and (tmp_path / "out/x/sheet.jpg").is_file()


def test_folders_count_up_and_one_split_may_be_asked_for(tmp_path, capsys):
    yaml = dataset(tmp_path, SOUND, HELD)
    for _ in range(2):
        main(build_parser().parse_args([str(yaml), "--project", str(tmp_path / "out"), "--split", "val", "--noplots"]))
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["set", "set2"]
    assert "set train" not in capsys.readouterr().out


def test_the_command_on_real_blood_cells(real_data, tmp_path):
    """BloodImage_00037 (val) and 00038 (train) are one field of view, labelled twice."""
    command = [sys.executable, "-m", "data", str(real_data("bccd")), "--project", str(tmp_path), "--noplots"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=CFG_ROOT.parent)
    assert done.returncode == 0, done.stderr
    assert "val: 1 of 87 images are in train too (0 exact, 1 near copies)" in done.stdout
    assert "BloodImage_00038.jpg (train) = " in done.stdout and "verdict: look at this" in done.stdout


def test_records_that_are_no_table_are_examined_too(tmp_path):
    index = load_index(dataset(tmp_path, SOUND, HELD), "train", cache=False)
    index.records = list(index.records)
    assert examine(index, "train", 640)[1]["boxes"] == 24
