"""Copies among images: exact ones by content, near ones by a perceptual hash that a small thumbnail confirms.

Legend: n images of all splits together, in the order of the splits.

Measured on 524 photographs and micrographs (coco-tiny, BCCD): saved again at JPEG quality 10 to 30, with noise, at half
size or stretched, copies stay within 6 of 64 bits for 98 % and correlate by 0.95 or more; of the 137,000 pairs of
different images one is that near, and it is one scene taken twice. Mirrored, turned or cropped copies are not found.
"""

import os
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from data.file_threads import in_threads
from data.images.decode import HARD_LIMIT, decode_as, read_bytes, read_kind
from data.labels.label_cache import file_hash
from data.labels.records import Record

BITS = 6  # of 64 in which the hashes of a near pair may differ; they differ in even numbers, half of the bits are set
LIKENESS = 0.93  # correlation of the thumbnails of a near pair
PLAIN = 2.0  # grey levels: the thumbnail of a nearly empty image varies less, and all such images look alike
SIDE = 16  # of the thumbnails that are kept
STEPS = 1024  # images with which one is compared in each part of the hash
BATCH = 1 << 14  # pairs of thumbnails compared at once
POPULATION = np.array([bin(i).count("1") for i in range(256)], np.uint8)  # np.bitwise_count needs NumPy 2


@dataclass(frozen=True)
class Duplicates:
    """pairs (K, 2): positions of images that are alike, each joined to the rest of its group; exact (K,): whether byte
    for byte; likeness (K,): correlation of their thumbnails; exact_group, group (n,): images with the same number are
    exact copies, or exact and near ones; unreadable: positions of images that cannot be decoded; plain: how many have
    too little in them to be compared."""

    pairs: np.ndarray
    exact: np.ndarray
    likeness: np.ndarray
    exact_group: np.ndarray
    group: np.ndarray
    unreadable: np.ndarray
    plain: int


def find_duplicates(paths: Sequence[str], near: bool = True) -> Duplicates:
    """All groups of like images among `paths`, those that are byte for byte the same always, near ones if `near`."""
    groups = _Groups(len(paths))
    exact = _exact_pairs(paths)
    groups.join(*exact.T)
    exact_group = groups.numbers()
    found, likeness = np.zeros((0, 2), np.int64), np.zeros(0)
    unreadable, plain = np.zeros(0, np.int64), 0
    if near:
        first = np.flatnonzero(exact_group == np.arange(len(paths)))  # one image of each exact group
        hashes, thumbnails, state = _fingerprints([paths[i] for i in first])
        usable = state == 0
        unreadable, plain = first[state == 2], int((state == 1).sum())
        first = first[usable]
        found, likeness = _near_pairs(hashes[usable], thumbnails[usable])
        found = first[found]
        groups.join(*found.T)
    pairs = np.concatenate([exact, found])
    return Duplicates(pairs, np.arange(len(pairs)) < len(exact), np.concatenate([np.ones(len(exact)), likeness]),
                      exact_group, groups.numbers(), unreadable, plain)


def same_labels(a: Record, b: Record, tolerance: float) -> bool:
    """Whether two images have the same objects: each has one of its class within `tolerance` of the image's sides."""
    if len(a) != len(b) or sorted(a.labels.tolist()) != sorted(b.labels.tolist()):
        return False
    left, right = (r.boxes / np.array((r.width, r.height) * 2, np.float32) for r in (a, b))
    near = np.ones((len(a), len(b)), bool)
    for k in range(4):
        near &= np.abs(left[:, None, k] - right[None, :, k]) <= tolerance
    near &= a.labels[:, None] == b.labels[None]
    return bool(near.any(1).all() and near.any(0).all())


def _exact_pairs(paths: Sequence[str]) -> np.ndarray:
    """(K, 2): each image that is a copy, with the first of its kind. Only files of equal size are read."""
    by_size: dict[int, list[int]] = defaultdict(list)
    for i, path in enumerate(paths):
        try:
            by_size[os.stat(path).st_size].append(i)  # noqa: PTH116  Path costs 3x here, and there may be 100k
        except OSError:
            continue
    wanted = sorted(i for group in by_size.values() if len(group) > 1 for i in group)
    seen: dict[bytes, int] = {}
    pairs = []
    for i, content in zip(wanted, in_threads(_content, [paths[i] for i in wanted]), strict=True):
        if content and seen.setdefault(content, i) != i:
            pairs.append((seen[content], i))
    return np.array(pairs, np.int64).reshape(-1, 2)


def _content(path: str) -> bytes:
    try:
        return file_hash(path)
    except OSError:
        return b""


def _fingerprints(paths: Sequence[str]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Hashes (n, 8) uint8, thumbnails (n, SIDE * SIDE) uint8, and state (n,): 0 good, 1 plain, 2 unreadable."""
    hashes = np.zeros((len(paths), 8), np.uint8)
    thumbnails = np.zeros((len(paths), SIDE * SIDE), np.uint8)
    state = np.full(len(paths), 2, np.uint8)
    for i, picture in enumerate(in_threads(_small, paths)):
        if picture is not None:
            hashes[i], thumbnails[i], plain = picture
            state[i] = plain
    return hashes, thumbnails, state


def _small(path: str) -> tuple[np.ndarray, np.ndarray, bool] | None:
    """Hash (which of the 8 x 8 lowest frequencies of 32 x 32 pixels exceed their median), thumbnail, whether plain."""
    try:
        data = read_bytes(path)
        header = read_kind(data)
        jpeg = header is not None and header.kind == "jpeg"
        image = decode_as(data, header, 8 if jpeg and min(header.stored) >= 16 * SIDE else 1, max_pixels=HARD_LIMIT)
    except (OSError, ValueError):
        return None
    small = cv2.resize(cv2.cvtColor(image, cv2.COLOR_BGR2GRAY), (2 * SIDE, 2 * SIDE), interpolation=cv2.INTER_AREA)
    waves = cv2.dct(small.astype(np.float32))[:8, :8].ravel()
    thumbnail = cv2.resize(small, (SIDE, SIDE), interpolation=cv2.INTER_AREA).ravel()
    return np.packbits(waves > np.median(waves[1:])), thumbnail, bool(thumbnail.std() < PLAIN)


def _near_pairs(hashes: np.ndarray, thumbnails: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """((K, 2), (K,)): pairs that join near images to groups, K < n, and their correlation.

    Two hashes that differ in BITS of 64 bits agree in one of BITS + 1 parts. So each part in turn is sorted by, and an
    image is compared with those behind it that share the part: memory stays that of n rows. Where more than STEPS
    share it, as in the frames of a fixed camera, only neighbours in an order that changes from part to part are.
    """
    groups = _Groups(len(hashes))
    bits = np.unpackbits(hashes, axis=1)
    pairs, likeness = [np.zeros((0, 2), np.int64)], [np.zeros(0)]
    for k, part in enumerate(np.array_split(np.arange(64), BITS + 1)):
        key = bits[:, part] @ (1 << np.arange(len(part)))
        order = np.lexsort((*np.roll(hashes, k, 1).T, key))
        for found, alike in _joined(groups, order, key[order], hashes, thumbnails):
            pairs.append(found)
            likeness.append(alike)
    return np.concatenate(pairs), np.concatenate(likeness)


def _joined(groups: "_Groups", order: np.ndarray, key: np.ndarray, hashes: np.ndarray, thumbnails: np.ndarray):
    """Yield the pairs, with their correlation, that compare and join images of equal `key`, which is sorted."""
    starts = np.flatnonzero(np.diff(key, prepend=-1))
    bucket = np.repeat(np.arange(len(starts)), np.diff(starts, append=len(key)))
    room = np.append(starts[1:], len(key))[bucket] - np.arange(len(key))  # how many share the key from here on
    sorted_hashes, number = hashes[order], groups.numbers()[order]
    active = np.arange(len(key))
    for step in range(1, min(len(key), STEPS)):
        if step & (step - 1) == 0:  # 1, 2, 4, ...: where all are of one group by now, there is nothing left to join
            mixed = np.minimum.reduceat(number, starts) != np.maximum.reduceat(number, starts)
            active = active[mixed[bucket[active]]]
        active = active[room[active] > step]
        if not len(active):
            return
        apart = active[number[active] != number[active + step]]
        distance = POPULATION[sorted_hashes[apart] ^ sorted_hashes[apart + step]].sum(1, dtype=np.uint8)
        close = apart[distance <= BITS]
        if len(close):
            found, alike = _confirmed(order[close], order[close + step], thumbnails)
            joins = groups.join(*found.T)
            yield found[joins], alike[joins]
            number = groups.numbers()[order]


def _confirmed(a: np.ndarray, b: np.ndarray, thumbnails: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The pairs whose thumbnails correlate, (K, 2), the smaller position first, and by how much (K,)."""
    alike = np.zeros(len(a))
    for start in range(0, len(a), BATCH):
        span = slice(start, start + BATCH)
        left, right = (thumbnails[side[span]].astype(np.float32) for side in (a, b))
        left, right = (x - x.mean(1, keepdims=True) for x in (left, right))
        lengths = np.sqrt((left ** 2).sum(1) * (right ** 2).sum(1))
        alike[span] = (left * right).sum(1) / np.maximum(lengths, 1e-6)
    good = alike >= LIKENESS
    return np.sort(np.stack([a[good], b[good]], 1), axis=1), alike[good]


class _Groups:
    """Which of n things belong together, as pairs of them are joined (union-find)."""

    def __init__(self, n: int) -> None:
        self.root = np.arange(n)

    def numbers(self) -> np.ndarray:
        """(n,) the number of each thing's group, which is the smallest member."""
        while not np.array_equal(self.root, higher := self.root[self.root]):
            self.root = higher
        return self.root.copy()

    def join(self, a: np.ndarray, b: np.ndarray) -> np.ndarray:
        """Join pairs (K,), (K,); True where a pair was not of one group before."""
        new = np.zeros(len(a), bool)
        for k, (i, j) in enumerate(zip(a.tolist(), b.tolist(), strict=True)):
            i, j = self._top(i), self._top(j)
            new[k] = i != j
            self.root[max(i, j)] = min(i, j)
        return new

    def _top(self, i: int) -> int:
        while (up := int(self.root[i])) != i:
            self.root[i] = i = int(self.root[up])
        return i
