"""`--cache gpu`: the whole dataset in device memory, and a loader that draws its batches there.

Workers draw plans and labels only, no pixels, so no step waits for a decode. In distributed training each
process holds the whole dataset on its own device, since any image may stand beside any other in a mosaic.

Legend: n images, S longest side of an image as it is held, P pixels of all of them together.
"""

import sys
from collections import deque
from collections.abc import Iterator
from functools import partial

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from data.augment.plan_batch import Layout, PlanBatch, pack_plans
from data.augment.policies.policy import Policy
from data.augment.render_device import distort_colours, draw_layers, jitter_colours, render
from data.file_threads import in_threads
from data.images.letterbox import FILL
from data.images.store import ImageStore, shrink
from data.loading.batches import Batches
from data.loading.config import LoaderConfig
from data.loading.dataset import DetectionDataset, Key
from data.loading.loader import Loader
from data.loading.workers import data_loader, start_pass
from utils.errors import UserError
from utils.structures import Batch

SHARE = 0.6  # of the free memory that images may take; the rest is for the model
STAGING = 1 << 24  # pixels that are decoded before they go to the device together


class DeviceImages:
    """All images of a store in one block of device memory, uint8 BGR, each with as many halved copies as are asked for.

    copies: 1 for the image alone, 2 with one of half its size, and so on. fill: the colour beside images, BGR. An image
    that cannot be decoded is counted by the store and drawn as fill. `UserError` where the images do not fit.
    """

    def __init__(self, store: ImageStore, device: torch.device, copies: int = 1,
                 fill: tuple[int, int, int] = (FILL, FILL, FILL)) -> None:
        self.layout = Layout.of(store.sizes, store.canonical, copies)
        check_memory(self.layout, store.side, device)
        self.block = torch.empty((self.layout.pixels, 3), dtype=torch.uint8, device=device)  # (P, 3)
        self.block[0] = torch.tensor(fill, dtype=torch.uint8)
        self._load(store)

    def _load(self, store: ImageStore) -> None:
        """Decode all images, some at a time, into memory that the device can fetch from, and send them there."""
        starts = self.layout.starts[:, 0]
        groups = np.flatnonzero(np.diff((starts - 1) // STAGING, prepend=-1))  # first image of each
        ends = np.append(starts, self.layout.pixels)[[*groups[1:], len(starts)]]
        staging = torch.empty((int((ends - starts[groups]).max()), 3), dtype=torch.uint8,
                              pin_memory=self.block.is_cuda)
        for first, last in zip(groups, [*groups[1:], len(starts)], strict=True):
            start = starts[first]
            read = partial(self._read, store, staging.numpy(), start)
            count = max(in_threads(read, range(first, last))) - start
            self.block[start:start + count].copy_(staging[:count])

    def _read(self, store: ImageStore, staging: np.ndarray, start: int, index: int) -> int:
        """Put an image and its copies at their place in `staging`, whose first pixel is number `start`; their end."""
        loaded = store.load_own(index)
        self.layout.damaged[index] = loaded is None
        for copy, (place, size) in enumerate(zip(self.layout.starts[index], self.layout.sizes[index], strict=True)):
            end = place + size.prod()
            if loaded is not None:
                staging[place - start:end - start] = shrink(loaded[0], 2**copy)[0].reshape(-1, 3)
        return int(end)


def check_memory(layout: Layout, side: int, device: torch.device) -> None:
    """`UserError` where the images would take more of a GPU's memory than is left beside a training."""
    if device.type != "cuda":
        return
    need, (free, _) = 3 * layout.pixels, torch.cuda.mem_get_info(device)
    if need > SHARE * free:
        raise UserError(f"--cache gpu needs {need / 2**30:.1f} GiB for {len(layout.sizes)} images at {side} px, more "
                        f"than {SHARE:.0%} of the {free / 2**30:.1f} GiB that are free on {device}: use --cache ram, "
                        f"or lower --imgsz", "no-memory")


def copies_needed(policy: Policy) -> int:
    """How many copies of an image, each half the size of that before, the strongest zoom out can ask for.

    Down to exactly half the size of a copy, linear interpolation misses none of its pixels.
    """
    return 1 + sum(policy.smallest_zoom * 2**k < 1 for k in range(1, 7))


class PlannedBatches(Dataset):
    """`planned[keys]` is a whole batch without its pixels: what workers prepare."""

    def __init__(self, dataset: DetectionDataset, layout: Layout) -> None:
        self.dataset, self.layout = dataset, layout

    def __getitem__(self, keys: list[Key]) -> PlanBatch:
        plans = pack_plans([self.dataset.plan(key) for key in keys], self.dataset.frame(keys[0]), self.layout)
        content = self.dataset.content(plans.letterboxes)
        if content is not None:
            plans.targets.content = torch.from_numpy(content)
        return plans


class DeviceLoader(Loader):
    """A training `Loader` whose images are held and drawn on `config.device` (None: the GPU where there is one).

    Yields `Batch`es with uint8 images on the device and targets where workers left them (page-locked for a GPU). On a
    GPU the next batch is drawn while the step before it computes.
    """

    def __init__(self, dataset: DetectionDataset, batches: Batches, config: LoaderConfig) -> None:
        self.dataset, self.batches = dataset, batches
        self.device = torch.device(config.device or ("cuda" if torch.cuda.is_available() else "cpu"))
        self.images = DeviceImages(dataset.store, self.device, copies_needed(dataset.augment), dataset.augment.fill_bgr)
        cuda = self.device.type == "cuda"
        self._stream = torch.cuda.Stream(self.device) if cuda else None
        self._render = render
        self._planned = PlannedBatches(dataset, self.images.layout)
        self._loader = data_loader(self, self._planned, batches, config, pin_memory=cuda)

    def __iter__(self) -> Iterator[Batch]:
        if self._stream is None:
            yield from map(self._draw, start_pass(self._loader))
            return
        waiting: deque[tuple[Batch, torch.cuda.Event]] = deque()
        try:
            for plans in start_pass(self._loader):
                waiting.append(self._start(plans))
                if len(waiting) > 1:
                    yield self._finish(*waiting.popleft())
            while waiting:
                yield self._finish(*waiting.popleft())
        finally:  # memory of a batch that nobody fetched must not be reused while it is still drawn on
            while waiting:
                self._finish(*waiting.popleft())

    def batch(self, number: int) -> Batch:
        """Batch `number` of the epoch that was set, once more."""
        return self._draw(self._planned[self.batches[number]])

    def compile(self) -> None:
        """Draw with kernels that torch.compile makes: seconds at first, then one pass over the pixels where plain
        operations take about a hundred."""
        self._render = partial(render, draw=torch.compile(draw_layers, dynamic=True),
                               jitter=torch.compile(jitter_colours, dynamic=True),
                               distort=torch.compile(distort_colours, dynamic=True), pixels=sys.maxsize)

    def _draw(self, plans: PlanBatch) -> Batch:
        return self._batch(self._render(plans.to(self.device), self.images.block, self._new_images(plans)), plans)

    def _new_images(self, plans: PlanBatch) -> Tensor:
        return torch.empty((len(plans), *plans.frame, 3), dtype=torch.uint8, device=self.device)

    def _batch(self, images: Tensor, plans: PlanBatch) -> Batch:
        return Batch(images.permute(0, 3, 1, 2), plans.targets, plans.image_ids, plans.letterboxes)

    def _start(self, plans: PlanBatch) -> "tuple[Batch, torch.cuda.Event]":
        """Begin to draw a batch beside the steps that compute; the event says when it is there.

        The images' memory belongs to the stream of the steps, which they are freed in; drawing waits for what has been
        asked of that stream by now, so the memory is free indeed, and a step that lasts never lets batches pile up.
        """
        images = self._new_images(plans)
        self._stream.wait_stream(torch.cuda.current_stream(self.device))
        with torch.cuda.stream(self._stream):
            self._render(plans.to(self.device), self.images.block, images)
            drawn = self._stream.record_event()
        return self._batch(images, plans), drawn

    def _finish(self, batch: Batch, drawn: "torch.cuda.Event") -> Batch:
        """The batch, once the stream of the steps waits for it; this process does not."""
        torch.cuda.current_stream(self.device).wait_event(drawn)
        return batch
