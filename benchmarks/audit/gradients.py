"""Where the gradient of the loss goes: by level of the pyramid, term, size of the objects below it, and parameters.

Norms are L2 and shares are of their squares, which add up over levels, cells and parameters.

Legend: B images, T terms of the loss, L maps that the head reads, h, w their cells.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from benchmarks.audit.neck import head_inputs
from benchmarks.audit.regions import OUTSIDE, owners
from benchmarks.audit.section import BIN_NAMES, Section, bins_of, level_title, percent
from engine.training.nonfinite import BufferSnapshot
from engine.training.preview import Preview
from models.detector import Detector
from models.gate_maps import neck_rows
from utils.structures import Letterbox, PackedTargets

TITLE = "Gradients"
PLACES = ("background", *BIN_NAMES)


@dataclass(frozen=True)
class Gradients:
    """Sums over batches of squared norms. terms (T, L): of each term of the loss with respect to each map; levels (L,):
    of the whole loss; places (L, places): its part in cells of the background and of objects by size bin; cells: of the
    same form, how many there are; parts: of the gradient of the parameters of each part of the model, with how many
    parameters it has."""

    names: list[str]
    terms: np.ndarray
    levels: np.ndarray
    places: np.ndarray
    cells: np.ndarray
    parts: dict[str, tuple[float, int]]


def measure_gradients(preview: Preview, batches: int) -> Gradients:
    """Of so many training batches, with the start weights, as a training step computes them; weights, gradients and
    running statistics stay. Losses are sums over the images of a batch, or what the head makes of them."""
    model, training = preview.model, preview.model.training
    snapshot, parts = BufferSnapshot(model), parameters_by_part(model)
    names: list[str] = []
    terms = levels = places = cells = 0.0
    squares = dict.fromkeys(parts, 0.0)
    torch.manual_seed(preview.config.seed)  # of heads that draw, whatever was computed before
    model.train()
    for pixels, targets, _ in preview.training_batches(batches):
        with head_inputs(model) as inputs, torch.autocast(pixels.device.type, dtype=preview.amp,
                                                          enabled=preview.amp is not None):
            raw = model(pixels, targets=targets)
        losses, maps = model.loss(raw, targets), inputs[-1]
        names = list(losses)
        by_term = [_zeros(torch.autograd.grad(loss, maps, retain_graph=True, allow_unused=True), maps)
                   if loss.requires_grad else [torch.zeros_like(x) for x in maps] for loss in losses.values()]
        whole = [torch.stack([grads[k].float() for grads in by_term]).sum(0) for k in range(len(maps))]
        terms = terms + np.array([[float(g.float().square().sum()) for g in grads] for grads in by_term])
        levels = levels + np.array([float(g.square().sum()) for g in whole])
        frame = (pixels.shape[2], pixels.shape[3])
        found, counted = zip(*(squares_by_place(g, targets, frame) for g in whole), strict=True)
        places, cells = places + np.stack(found), cells + np.stack(counted)
        flat = [p for part in parts.values() for p in part]
        grads = iter(torch.autograd.grad(sum(losses.values()), flat, allow_unused=True))
        for name, part in parts.items():
            squares[name] += sum(float(g.float().square().sum()) for g in (next(grads) for _ in part) if g is not None)
    snapshot.restore()
    model.train(training)
    return Gradients(names, terms, levels, places, cells, {
        name: (squares[name], sum(p.numel() for p in part)) for name, part in parts.items()})


def parameters_by_part(model: Detector) -> dict[str, list[Tensor]]:
    """Parameters that are trained: of the backbone, of the base's own pyramid, of scale-sequence necks, of the head."""
    backbone, last = len(model.config["backbone"]), len(model.model) - 1
    own = {node.index for node, _ in neck_rows(model)}
    parts: dict[str, list[Tensor]] = {"backbone": [], "pyramid": [], "neck": [], "head": []}
    for number, row in enumerate(model.model):
        name = "neck" if number in own else "head" if number == last else "backbone" if number < backbone else "pyramid"
        parts[name] += [p for p in row.parameters() if p.requires_grad]
    return {name: found for name, found in parts.items() if found}


def squares_by_place(gradient: Tensor, targets: PackedTargets, frame: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Squared norm of a map's gradient (B, C, h, w) in the cells of each of `PLACES`, and how many cells these have, in
    frames of (height, width).

    A cell is an object's as in `benchmarks.audit.regions`. It says where the gradient arrives, not which object caused
    it: the convolutions of a head spread it over neighbours.
    """
    per_cell = gradient.square().sum(1).cpu().numpy().astype(np.float64)  # (B, h, w)
    sums, counts = np.zeros(len(PLACES)), np.zeros(len(PLACES))
    placed = Letterbox(frame, frame, (1.0, 1.0), (0, 0))
    scale = per_cell.shape[1:]
    for squares, image in zip(per_cell, targets.unpack(), strict=True):
        boxes, ignore = image.boxes.cpu().numpy().astype(np.float64), image.ignore.cpu().numpy()
        owner = owners(boxes, ignore, scale, placed)
        sizes = np.sqrt((boxes[:, 2:] - boxes[:, :2]).prod(1))
        place = np.append(bins_of(sizes) + 1, 0)[np.where(owner < 0, -1, owner)]  # background is the last entry
        known = owner != OUTSIDE
        sums += np.bincount(place[known], squares[known], len(PLACES))
        counts += np.bincount(place[known], minlength=len(PLACES))
    return sums, counts


def _zeros(gradients: Sequence[Tensor | None], like: Sequence[Tensor]) -> list[Tensor]:
    return [torch.zeros_like(x) if g is None else g for g, x in zip(gradients, like, strict=True)]


def shares(squares: np.ndarray) -> np.ndarray:
    """Parts of their sum; zeros where that is zero."""
    total = squares.sum()
    return squares / total if total > 0 else np.zeros_like(squares)


def report_gradients(found: Gradients, strides: Sequence[int], batches: int) -> Section:
    """Tables by term and level, by place, and by part of the model."""
    section, titles = Section(TITLE), [level_title(k, strides) for k in range(len(found.levels))]
    by_level, by_term = shares(found.levels), shares(found.terms)
    section.lines += [f"Of {batches} training batches with the start weights: shares of the squared L2 norm. By map "
                      "that the head reads, of the whole loss and of its terms, which may oppose each other:", ""]
    rows = [("loss", by_level), *zip(found.names, by_term, strict=True)]
    section.add_table(["", *titles], [[name, *map(percent, row)] for name, row in rows])
    for name, row in rows:
        for title, value in zip(titles, row, strict=True):
            section.add(name, "share of the squared norm", value, "", title)
    places, cells = shares(found.places.sum(0)), shares(found.cells.sum(0))
    section.lines += ["Where it arrives, by the size of the object that a cell lies in (crowd regions left out):", ""]
    section.add_table(["cells of", "share of the cells", "share of the gradient"], [
        [name, percent(cell), percent(place)] for name, cell, place in zip(PLACES, cells, places, strict=True)])
    for name, cell, place in zip(PLACES, cells, places, strict=True):
        section.add("cells", "share of the cells", cell, name)
        section.add("cells", "share of the squared norm", place, name)
    squares, counts = (np.array(column, np.float64) for column in zip(*found.parts.values(), strict=True))
    section.lines += ["By part of the model, of the parameters' gradient:", ""]
    section.add_table(["part", "parameters", "share of the gradient"], [
        [name, f"{int(n):,}", percent(share)] for name, n, share in zip(found.parts, counts, shares(squares),
                                                                        strict=True)])
    for name, n, share in zip(found.parts, counts, shares(squares), strict=True):
        section.add(name, "parameters", n)
        section.add(name, "share of the squared norm", share)
    told = ", ".join(f"{value:.0%} at {title}" for title, value in zip(titles, by_level, strict=True))
    small, area = places[1:4].sum(), cells[1:4].sum()
    section.said = [f"of the squared gradient of the loss with respect to the maps that the head reads lie {told}",
                    f"cells in objects below 32 px are {area:.1%} of all and get {small:.1%} of it, those of the "
                    f"background {places[0]:.1%}"]
    return section
