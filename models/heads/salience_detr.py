"""Salience DETR (Hou et al. 2024): a transformer over the pyramid that refines salient tokens and answers with a set.

Legend: B images, L levels, T tokens of all levels, C width, Q queries, D queries of denoising, K classes.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from models.assign.assignment import Assignment
from models.heads import published_detr
from models.heads.base import Head, merge_gains
from models.losses import AllReduce
from models.losses.detr import as_fractions, matched, own_slots, set_assignment, set_terms
from models.losses.normalisers import normalisers
from models.losses.salience import salience_sums
from models.registry import choose, register
from models.transformer.decoder import Decoder, box_head, class_head
from models.transformer.denoising import Draws, Slots, blocked_views, group_count, noised
from models.transformer.encoder import Encoder
from models.transformer.pan import PathAggregation
from models.transformer.position import (
    Layout,
    flatten,
    proposals,
    sine_positions,
    unflatten,
)
from models.transformer.salience import SaliencePredictor, pick_tokens, predict_salience
from utils.config import is_number
from utils.errors import UserError, shown
from utils.select import SelectConfig
from utils.structures import PackedTargets, Raw

LABEL_NOISE = 0.25  # chance that the label of a noised object is drawn anew
NEAR = 0.3  # of two proposals whose cells overlap more, the better one stays
SALIENCE_LOSSES = ("plain", "by_size", "fork")
LEVEL_RATIOS = (0.4, 0.8, 1.0, 1.0)
LAYER_RATIOS = (1.0, 0.8, 0.6, 0.6, 0.4, 0.2)


@register("SalienceDETR", multi_input=True)
class SalienceDETR(Head):
    """channels: one width for all levels. queries: at most that many answers; level_ratios: the fraction of each
    level's tokens that the encoder refines, finest first; layer_ratios: of those, the fraction that each layer of the
    encoder refines; decoder_layers: of the decoder; temperature: of the positions' sine embedding in the encoder;
    denoising: about how many noised objects an image is trained with, 0 for none; detections: of an image, at most.

    salience_loss: "plain"; "by_size", the loss of a cell times sqrt(32^2 / area of its object), within [0.5, 2];
    "fork", plain times objects of the batch / cells of an image, what Scale-Focused DETR's code computes.
    """

    selection = "topk"
    thresholds = SelectConfig(0.0, 1.0, 300, multi_label=True)
    recipe = "salience-detr"
    gains = {f"{part}{term}": gain for part in ("", "enc_", "dn_") for term, gain in
             (("cls", 1.0), ("l1", 5.0), ("giou", 2.0))} | {"salience": 2.0}
    hints = ("content", "targets", "image_size")
    free_size = False  # how many tokens are refined are whole numbers
    signature = r"enc_mask_predictor\.layer1\.0\.weight$"
    renames = {r"^backbone\.(conv1|bn1)\.": r"stem.\1.", r"^backbone\.(layer\d)\.": r"\1.", r"^fpn\.": "pre.",
               r"^neck\.convs\.(\d)\.0\.": r"map\1.conv.", r"^neck\.convs\.(\d)\.1\.": r"map\1.gn.",
               r"^(transformer|denoising_generator)\.": "head."}

    def __init__(self, channels: list[int], nc: int = 80, queries: int = 900, *, strides: list[int],
                 level_ratios: Sequence[float] = LEVEL_RATIOS, layer_ratios: Sequence[float] = LAYER_RATIOS,
                 decoder_layers: int = 6, heads: int = 8, points: int = 4, hidden: int = 2048,
                 temperature: float = 10_000.0, denoising: int = 100, salience_loss: str = "plain",
                 detections: int = 300, gains: dict[str, float] | None = None) -> None:
        super().__init__()
        width, levels = channels[0], len(channels)
        _check_ratios("level_ratios", level_ratios, levels, "levels that it reads")
        _check_ratios("layer_ratios", layer_ratios)
        if set(channels) != {width}:
            raise ValueError(f"its levels have {', '.join(map(str, channels))} channels; give all one width")
        self.num_classes, self.strides, self.width, self.queries = nc, list(strides), width, queries
        self.level_ratios, self.temperature = tuple(level_ratios), temperature
        self.denoising = denoising
        self.salience_loss = choose("salience_loss", salience_loss, SALIENCE_LOSSES)
        self.thresholds = replace(self.thresholds, max_det=detections)
        self.gains = merge_gains(self.gains, gains)
        self.level_embeds = nn.Parameter(torch.randn(levels, width))
        self.alpha = nn.Parameter(torch.empty(levels - 1).uniform_(-0.3, 0.3))
        self.enc_output = nn.Linear(width, width)
        self.enc_output_norm = nn.LayerNorm(width)
        self.encoder = Encoder(width, heads, levels, points, hidden, layer_ratios)
        self.neck = PathAggregation(width, levels)
        self.decoder = Decoder(width, heads, levels, points, hidden, decoder_layers, nc)
        self.tgt_embed = nn.Embedding(queries, width)
        self.encoder_class_head = class_head(width, nc)
        self.encoder_bbox_head = box_head(width)
        self.enc_mask_predictor = SaliencePredictor(width)
        self.label_encoder = nn.Embedding(nc, width)
        nn.init.xavier_uniform_(self.enc_output.weight)
        nn.init.zeros_(self.enc_output.bias)

    @property
    def per_cell(self) -> list[int]:
        return []

    def forward(self, pyramid: list[Tensor], content: Tensor | None = None, targets: PackedTargets | None = None,
                image_size: tuple[int, int] | None = None) -> dict[str, tuple[Tensor, ...]]:
        """Levels (B, C, h, w) -> "cls" (B, Q, K) logits and "box" (B, Q, 4), cx, cy, w, h as fractions of what shows
        the image, of each decoder layer, the last one last; "enc_cls", "enc_box" of the proposals; "salience"
        (B, 1, h, w) logits of each level; with targets also "dn_cls", "dn_box"."""
        size = image_size or (pyramid[0].shape[2] * self.strides[0], pyramid[0].shape[3] * self.strides[0])
        layout = Layout.of(pyramid, size, content)
        tokens = flatten(pyramid)  # (B, T, C)
        sines = sine_positions(layout, self.width // 2, self.temperature)
        positions = torch.cat([(s + level).to(level.dtype) for s, level in zip(sines, self.level_embeds, strict=True)],
                              1)
        boxes, valid = proposals(layout)
        salience = self._salience(tokens + positions, valid, layout)
        picks = pick_tokens(salience, layout, self.level_ratios)
        tokens = self.encoder(tokens, positions, picks, layout, self.encoder_class_head)
        memory = flatten(self.neck(unflatten(tokens, layout.sizes)))
        encoded = self._encoded(memory, valid)
        logits = self.encoder_class_head(encoded)  # (B, T, K)
        chosen = self._choose(logits, layout)  # (B, Q)
        wide = chosen[..., None]
        enc_cls = logits.gather(1, wide.expand(-1, -1, self.num_classes))
        picked = encoded.gather(1, wide.expand(-1, -1, self.width))
        enc_box = (self.encoder_bbox_head(picked).float() + boxes.gather(1, wide.expand(-1, -1, 4))).sigmoid()
        queries = self.tgt_embed.weight[:chosen.shape[1]].expand(len(memory), -1, -1)
        maps = {"enc_cls": (enc_cls,), "enc_box": (enc_box,), "salience": tuple(salience)}
        slots = None if targets is None else self._slots(targets, size, content)
        if targets is not None and slots is None:  # processes that train together wait for the gradient of everything
            queries = queries + 0 * self.label_encoder.weight.sum()
        return {**maps, **self._decode_queries(queries, enc_box.detach(), memory, layout, slots)}

    def _slots(self, targets: PackedTargets, size: tuple[int, int], content: Tensor | None) -> Slots | None:
        """Noised objects; None where the batch has no row of labels."""
        rows = targets.labels.shape[1]
        if not rows or not self.denoising:
            return None
        objects = as_fractions(targets, content_of(targets.boxes, size, content))
        groups = group_count(rows, self.denoising)
        draws = Draws.draw((len(objects), 2 * groups * rows), self.num_classes, LABEL_NOISE, objects.device)
        return noised(objects, targets.labels, targets.valid, groups, draws)

    def _decode_queries(self, queries: Tensor, references: Tensor, memory: Tensor, layout: Layout,
                        slots: Slots | None) -> dict[str, tuple[Tensor, ...]]:
        """The decoder's answers "cls", "box" by layer; with slots of denoising before them also "dn_cls", "dn_box"."""
        if slots is None:
            cls, box = self.decoder(queries, references, memory, layout)
            return {"cls": tuple(cls), "box": tuple(box)}
        count, rows = slots.labels.shape[1], slots.rows
        content = self.label_encoder(slots.labels) * slots.real[..., None]
        blocked = blocked_views(count // (2 * rows), rows, queries.shape[1], queries.device)
        queries, references = torch.cat((content, queries), 1), torch.cat((slots.references(), references), 1)
        cls, box = self.decoder(queries, references, memory, layout, blocked)
        return {"cls": tuple(x[:, count:] for x in cls), "box": tuple(x[:, count:] for x in box),
                "dn_cls": tuple(x[:, :count] for x in cls), "dn_box": tuple(x[:, :count] for x in box)}

    def loss(self, raw: Raw, targets: PackedTargets, all_reduce: AllReduce | None = None) -> dict[str, Tensor]:
        """Weighted terms times the batch size: cls, l1, giou of the decoder's layers together; enc_cls, ... of the
        proposals; dn_cls, ... of denoising, 0 where no image has an object, so that all batches have the same terms;
        salience. With `all_reduce` a part of the loss of all processes."""
        maps, content = raw.maps, content_of(targets.boxes, raw.image_size, raw.content)
        objects = as_fractions(targets, content)
        logits, boxes = torch.stack(maps["cls"] + maps["enc_cls"]), torch.stack(maps["box"] + maps["enc_box"])
        answers = matched(logits, boxes, targets, objects)
        terms = set_terms(answers, targets, objects, content)
        sums = {name: value[:-1].sum() for name, value in terms.items()}
        sums |= {f"enc_{name}": value[-1] for name, value in terms.items()}
        if self.denoising:
            sums |= {f"dn_{name}": value.new_zeros(()) for name, value in terms.items()}
        if "dn_cls" in maps:
            logits, boxes = torch.stack(maps["dn_cls"]), torch.stack(maps["dn_box"])
            groups = logits.shape[2] // (2 * targets.labels.shape[1])
            found = set_terms(own_slots(logits, boxes, targets), targets, objects, content)
            sums |= {f"dn_{name}": value.sum() / groups for name, value in found.items()}
        salience, cells = salience_sums(maps["salience"], targets, raw.image_size, self.salience_loss == "by_size")
        count = targets.valid.sum()
        amounts = torch.stack((count, cells, count + len(objects))).float()
        (boxes, cells, both), images = normalisers(amounts, len(objects), all_reduce)
        if self.salience_loss == "fork":  # objects of the whole batch, which may be none, by the cells of one image
            salience = salience * (both - images) / sum(x[0].numel() for x in maps["salience"])
        losses = {name: value * (self.gains[name] * images) / boxes for name, value in sums.items()}
        return {**losses, "salience": salience * (self.gains["salience"] * images) / cells}

    @property
    def assigner(self) -> str:
        return "one to one, by the least cost"

    def assignment(self, raw: Raw, targets: PackedTargets) -> Assignment:
        """See `Head.assignment`; of the last decoder layer: one prediction per object by construction."""
        return set_assignment(raw.maps["cls"][-1], raw.maps["box"][-1], targets,
                              content_of(targets.boxes, raw.image_size, raw.content))

    def _encoded(self, tokens: Tensor, valid: Tensor) -> Tensor:
        """Tokens (B, T, C) as the two-stage heads read them, those without a proposal as if they were zero."""
        return self.enc_output_norm(self.enc_output(tokens * valid[..., None]))

    def _salience(self, tokens: Tensor, valid: Tensor, layout: Layout) -> list[Tensor]:
        return predict_salience(self.enc_mask_predictor, self._encoded(tokens, valid).split(layout.counts, 1),
                                self.alpha, layout)

    def _choose(self, logits: Tensor, layout: Layout) -> Tensor:
        """(B, Q) the tokens that become queries: the best by class logit, of neighbours in a level the best one.

        All images get as many as the one that has the fewest."""
        score = logits.detach().amax(-1)
        best = score.topk(min(4 * self.queries, score.shape[1]), 1)
        if logits.is_meta:  # how many of them are near each other depends on values
            return best.indices[:, :self.queries]
        from torchvision.ops import batched_nms  # here, since it takes as long to import as PyTorch itself

        cells = torch.cat([_cells(size, level, logits.device) for level, size in enumerate(layout.sizes)])  # (T, 3)
        kept = []
        for values, index in zip(best.values.float(), best.indices, strict=True):
            x, y, level = cells[index].unbind(-1)
            corners = torch.stack((x - 1, y - 1, x + 1, y + 1), -1)
            kept.append(index[batched_nms(corners, values, level, NEAR)[:self.queries]])
        counts = [index.shape[0] for index in kept]
        fewest = torch.stack(counts).min() if torch.jit.is_tracing() else min(counts)  # of each image that a file reads
        return torch.stack([index[:fewest] for index in kept])

    def decode(self, raw: Raw) -> tuple[Tensor, Tensor]:
        """Boxes (B, Q, 4) xyxy in input pixels and scores (B, Q, K)."""
        cx, cy, w, h = raw.maps["box"][-1].float().unbind(-1)
        height, width = raw.image_size if raw.content is None else raw.content.to(cx).unbind(1)
        if raw.content is not None:
            height, width = height[:, None], width[:, None]
        boxes = torch.stack(((cx - w / 2) * width, (cy - h / 2) * height, (cx + w / 2) * width, (cy + h / 2) * height),
                            -1)
        return boxes, raw.maps["cls"][-1].float().sigmoid()

    @classmethod
    def adapt_original(cls, state: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """See `models.heads.published_detr`."""
        return published_detr.adapt(state)

    @classmethod
    def count_classes(cls, state: Mapping[str, Tensor], config: Mapping[str, Any]) -> int | None:
        """From the rows of the proposals' class layer."""
        return published_detr.count_classes(state)

    @classmethod
    def state_options(cls, state: Mapping[str, Tensor]) -> dict[str, Any]:
        """Queries and layers of the decoder."""
        return published_detr.state_options(state)


def _check_ratios(name: str, ratios: Sequence[float], count: int | None = None, of: str = "") -> None:
    """Raises `UserError` unless these are fractions, `count` of them where given."""
    if not isinstance(ratios, list | tuple) or not ratios or not all(is_number(r, 1e-3, 1) for r in ratios):
        raise UserError(f"{name} must be a list of fractions above 0 up to 1, not {shown(ratios)}", code="bad-value")
    if count not in (None, len(ratios)):
        raise UserError(f"{name} has {len(ratios)} numbers for {count} {of}; give one for each", code="wrong-count")


def content_of(like: Tensor, size: tuple[int, int], content: Tensor | None) -> Tensor:
    """content, or the whole frame of `size` for each image of `like`."""
    return like.new_tensor(size).expand(len(like), 2) if content is None else content


def _cells(size: tuple[int, int], level: int, device: torch.device) -> Tensor:
    """(h * w, 3): column, row and level of each cell."""
    y, x = torch.meshgrid(*(torch.arange(side, device=device, dtype=torch.float32) for side in size), indexing="ij")
    return torch.stack((x, y, torch.full_like(x, level)), -1).flatten(0, 1)
