"""Device code outside the model: suppression, images composed in device memory, asynchronous batches."""

import numpy as np
import torch
from torch import Tensor

from benchmarks.gpu.context import Context
from data.augment.policies.policy import Policy
from data.augment.policies.ssd import SsdPolicy
from data.augment.policies.yolo import YoloPolicy
from data.loading.build import train_loader
from data.loading.config import LoaderConfig
from data.loading.loader import Loader
from tests.data.pictures import Index, make_records
from utils.select import SelectConfig, non_max_suppression
from utils.structures import Batch, Detections

SIZES = [(120, 160), (200, 100), (80, 80), (128, 128), (60, 240), (256, 200), (128, 96), (90, 90)]  # of images
AUGMENT = YoloPolicy(mixup=0.5, degrees=4, scale=0.7)
SPARSE, DENSE = SelectConfig(0.25), SelectConfig(0.001, 0.6, multi_label=True)  # as detect.py and val.py ask


def candidates(batch: int, count: int, classes: int, dense: bool) -> tuple[Tensor, Tensor]:
    """Boxes (B, N, 4) in clusters around objects, and scores (B, N, C): of one row in a hundred, or of them all."""
    generator = torch.Generator().manual_seed(0)

    def random(*shape: int) -> Tensor:
        return torch.rand(shape, generator=generator)

    objects = 40 if dense else 10
    owner = torch.randint(0, objects, (batch, count, 1), generator=generator)
    centre, side = random(batch, objects, 2) * 600, 8 + random(batch, objects, 2) * 60
    centre, side = (torch.take_along_dim(value, owner, 1) for value in (centre, side))
    centre = centre + side * (random(batch, count, 2) - 0.5) * 0.6
    side = side * (0.7 + 0.6 * random(batch, count, 2))
    best = (owner % classes == torch.arange(classes)).float()  # (B, N, C): an object's class scores, others hardly
    shown = random(batch, count, 1)
    if not dense:
        shown = (random(batch, count, 1) < 0.01) * (0.3 + 0.6 * shown)
    scores = shown * best
    if dense:  # other classes score little, and mostly nothing
        scores += 0.02 * random(batch, count, classes) * (random(batch, count, classes) < 0.02) * (1 - best)
    return torch.cat((centre - side / 2, centre + side / 2), -1), scores


def measure_nms(context: Context) -> None:
    """The detections of the device are those of the CPU, which the tests compare with the originals'."""
    batch, count, classes = (1, 200, 3) if context.small else (2, 8400, 80)
    for word, dense, options in (("sparse", False, SPARSE), ("dense", True, DENSE)):
        boxes, scores = candidates(batch, count, classes, dense)
        wanted = non_max_suppression(boxes, scores, options)
        found = non_max_suppression(boxes.to(context.device), scores.to(context.device), options)
        different = sum(map(_different, found, wanted))
        # A CPU suppresses many candidates in fp32 and a GPU in float64: one overlap in a million lies between.
        context.check(f"{word}: share that differs of {sum(map(len, wanted))} detections",
                      different / max(sum(map(len, wanted)), 1), 2e-3 if dense else 0.0)


def _different(found: Detections, wanted: Detections) -> int:
    """How many detections one side has and the other has not."""
    rows = [{tuple(row) for row in torch.cat((d.boxes, d.scores[:, None], d.labels[:, None]), 1).tolist()}
            for d in (found.cpu(), wanted)]
    return len(rows[0] ^ rows[1])


def _open(context: Context, cache: str | None, device: torch.device, workers: int, pin: bool = False,
          policy: Policy = AUGMENT) -> Loader:
    index = Index(make_records(context.work / "pictures", SIZES))
    config = LoaderConfig(3, seed=3, cache=cache, device=device, workers=workers, pin_memory=pin)
    return train_loader(index, 64 if context.small else 128, policy, config)


def _same_labels(ours: Batch, theirs: Batch) -> bool:
    pairs = zip(ours.targets.to("cpu").tensors(), theirs.targets.tensors(), strict=True)
    return ours.image_ids == theirs.image_ids and all(torch.equal(a, b) for a, b in pairs)


def measure_cache(context: Context) -> None:
    """`--cache gpu` draws on the device what the same loader draws on the CPU, and nearly what OpenCV draws."""
    for name, policy in (("yolo", AUGMENT), ("ssd", SsdPolicy())):
        _measure_policy(context, name, policy)


def _measure_policy(context: Context, name: str, policy: Policy) -> None:
    cpu, workers = torch.device("cpu"), 0 if context.small else 2
    ours = _open(context, "gpu", context.device, workers, policy=policy)
    for word, cache, most in ((f"{name}: the same kernels on the CPU", "gpu", 0.05),
                              (f"{name}: the loader that draws with OpenCV", None, 1.0)):
        theirs = _open(context, cache, cpu, 0, policy=policy)
        mean, labels = 0.0, True
        for epoch in (0, 3):
            ours.set_epoch(epoch)
            theirs.set_epoch(epoch)
            for one, other in zip(ours, theirs, strict=True):
                labels &= _same_labels(one, other)
                mean = max(mean, float((one.images.cpu().int() - other.images.int()).abs().float().mean()))
        context.check(f"mean difference from {word}, levels of 255", mean, most)
        context.fact(f"labels and order of {word}", labels)


def measure_rings(context: Context) -> None:
    """Batches that workers make in a ring, page-locked and fetched without waiting, arrive as they were drawn."""
    workers = 1 if context.small else 4
    ours, plain = _open(context, None, context.device, workers, pin=True), _open(context, None, context.device, 0)
    same = pinned = True
    for epoch in range(2 if context.small else 6):
        ours.set_epoch(epoch)
        plain.set_epoch(epoch)
        fetched = []
        for batch in ours:
            pinned &= batch.images.is_pinned() if context.cuda else True
            images = batch.images.to(context.device, non_blocking=True, memory_format=torch.channels_last)
            fetched.append((images if context.cuda else images.clone(), batch.image_ids))
        for (images, ids), other in zip(fetched, plain, strict=True):
            same &= ids == other.image_ids and np.array_equal(images.cpu().numpy(), other.images.numpy())
    context.fact("batches arrive as they were drawn", same)
    if context.cuda:
        context.fact("batches are page-locked", pinned)
    else:
        context.skip("batches are page-locked", "no CUDA")
