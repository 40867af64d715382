"""Which image stands where in an epoch, and which other images it meets in a mosaic.

Legend: n images, and as many positions in an epoch. What a sample shows depends on (seed, epoch, position, weights).
"""

from collections.abc import Sequence

import numpy as np

from data.shared_array import SharedArray

STRIDE = 16  # images of a mosaic stand so far apart that each of 1, 2, 4, 8 or 16 processes decoded them itself
WINDOW = 64  # and at most this many strides back
ORDER, TIES = 0, 1  # random streams


class EpochOrder:
    """The image at each position of an epoch, decided by (seed, epoch, weights) alone.

    Without weights each image occurs once; with weights (n,) image i occurs n * w_i / sum(w) times, rounded down or up
    by systematic resampling. Lives in shared memory: workers that were started before `set_epoch` see what it chose.
    """

    def __init__(self, n: int, seed: int, weights: np.ndarray | None = None) -> None:
        self.n, self.seed = n, seed
        self._pending: tuple[np.ndarray | None] | None = None
        self._own: dict[tuple[int, int], np.ndarray] = {}
        self._state = SharedArray(3, np.int64)  # epoch, whether there are weights, how many there were
        self._images = SharedArray(n, np.int64)
        self._weights = SharedArray(n, np.float64)
        self.set_weights(weights)
        self.set_epoch(0)

    def __len__(self) -> int:
        return self.n

    def __getitem__(self, position: int) -> int:
        """The image at a position of the epoch that was set."""
        return int(self._images.array[position])

    @property
    def epoch(self) -> int:
        """The epoch that was set last."""
        return int(self._state.array[0])

    @property
    def weights(self) -> np.ndarray | None:
        """The weights (n,) of the epoch that was set last, None where all images weigh the same."""
        return self._weights.array.copy() if self._state.array[1] else None

    def at(self, epoch: int, positions: Sequence[int] | np.ndarray) -> list[int]:
        """The images at some positions of any epoch, drawn with the present weights."""
        if epoch == self._state.array[0]:
            return self._images.array[positions].tolist()
        key = (epoch, int(self._state.array[2]))
        if key not in self._own:
            self._own = dict(list(self._own.items())[-1:])  # an epoch and the one before are asked for in turn
            self._own[key] = self._arrange(epoch, self.weights)
        return self._own[key][positions].tolist()

    def set_weights(self, weights: np.ndarray | None) -> None:
        """How often images occur relative to each other, (n,) of 0 or more; from the next `set_epoch` on."""
        if weights is not None:
            weights = np.asarray(weights, np.float64)
            if weights.shape != (self.n,) or not np.isfinite(weights).all() or (weights < 0).any() or (
                    self.n and weights.sum() <= 0):
                raise ValueError(f"weights should be ({self.n},) finite numbers of 0 or more, not all 0")
        self._pending = (weights,)

    def set_epoch(self, epoch: int) -> None:
        """Choose the order of an epoch."""
        if self._pending is not None:
            (weights,), self._pending = self._pending, None
            self._state.array[:] = -1, weights is not None, self._state.array[2] + 1
            self._weights.array[:] = 0 if weights is None else weights
        self._state.array[0] = -1  # a worker that looks meanwhile works on a batch that nobody will fetch
        self._images.array[:] = self._arrange(epoch, self.weights)
        self._state.array[0] = epoch

    def mosaic_indices(self, rng: np.random.Generator, epoch: int, position: int, count: int) -> list[int]:
        """`count` images to go with that at a position: any of a small dataset, otherwise some seen lately.

        Before the start of an epoch lies the end of the one before; before the first, its own.
        """
        if self.n <= STRIDE * WINDOW:
            return self.at(epoch, rng.integers(0, self.n, count))
        positions = position - STRIDE * rng.integers(1, WINDOW + 1, count)
        if position >= STRIDE * WINDOW or epoch == 0:
            return self.at(epoch, positions % self.n)
        return [self.at(epoch if p >= 0 else epoch - 1, [p])[0] for p in positions.tolist()]  # -1 is the last one

    def _arrange(self, epoch: int, weights: np.ndarray | None) -> np.ndarray:
        """(n,) the images of an epoch in their order."""
        rng = np.random.default_rng([self.seed, epoch, self.n, ORDER])
        return rng.permutation(self.n if weights is None else resample(weights, rng.random()))


class AspectOrder(EpochOrder):
    """An order in which every `group` positions from 0 on hold images of like aspect; the groups are shuffled.

    sizes (n, 2): the height and width of each image. A last group that is not full is cut out at a random aspect.
    """

    def __init__(self, sizes: np.ndarray, group: int, seed: int, weights: np.ndarray | None = None) -> None:
        self.sizes, self.group = sizes, group
        self._aspects = sizes[:, 0] / sizes[:, 1]
        super().__init__(len(sizes), seed, weights)

    def batch_group(self, epoch: int, position: int) -> list[int]:
        """The images of the batch (of all processes together) that a position belongs to."""
        start = position // self.group * self.group
        return self.at(epoch, range(start, min(start + self.group, self.n)))

    def _arrange(self, epoch: int, weights: np.ndarray | None) -> np.ndarray:
        images = super()._arrange(epoch, weights)  # shuffled, so that images of one aspect meet in new groups
        images = images[np.argsort(self._aspects[images], kind="stable")]
        rng = np.random.default_rng([self.seed, epoch, self.n, TIES])
        whole, rest = divmod(self.n, self.group)
        cut = int(rng.integers(0, whole + 1)) * self.group
        last = images[cut:cut + rest]
        full = np.delete(images, slice(cut, cut + rest)).reshape(whole, self.group)
        return np.concatenate((full[rng.permutation(whole)].reshape(-1), last))


def resample(weights: np.ndarray, start: float) -> np.ndarray:
    """(n,) weights -> (n,) indices, i standing floor or ceil of n * w_i / sum(w) times: systematic resampling.

    start in [0, 1) decides how the roundings fall.
    """
    n = len(weights)
    ends = np.cumsum(weights) * (n / weights.sum())
    ends[np.flatnonzero(weights)[-1]:] = n  # not a rounding short of it
    return np.searchsorted(ends, np.arange(n) + start, side="right")
