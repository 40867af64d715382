"""Salience DETR and Scale-Focused DETR against the originals: forward, set losses, salience, denoising."""

import re

import numpy as np
import pytest
import torch

from models import build_model
from models.losses.detr import as_fractions, matched, own_slots, set_terms
from models.losses.salience import level_targets, reach_of, salience_sums
from models.transformer.denoising import Draws, blocked_views, group_count, noised
from tests.golden_rule import fill_value, filled_state_dict, rule_input
from utils.boxes import cxcywh_to_xyxy
from utils.structures import PackedTargets, Targets, pack_targets

MODELS = {"salience-detr-r50-q100": "salience-detr-r50", "salience-detr-r50-q100-padded": "salience-detr-r50",
          "salience-detr-r50": "salience-detr-r50", "scale-focus-detr-r50-4level-q100": "scale-focused-detr-r50",
          "scale-focus-detr-r50-reading8-q100": "scale-focused-detr-r50-8level"}
OUTPUTS = {"": 5, **{f"_{k}": k for k in range(5)}}  # the original's names of the decoder's layers


def our_state(model, meta):
    rows, state = {node.name: node.index for node in model.model.nodes if node.name}, {}
    rows["head"] = len(model.model) - 1
    for key, value in filled_state_dict(meta).items():
        if "enhance_mcsp" in key:  # another name of the class head of the proposals
            continue
        pattern, ours = next((p, r) for p, r in model.head.renames.items() if re.search(p, key))
        row, rest = re.sub(pattern, ours, key).split(".", 1)
        state[f"model.{rows[row]}.{rest}"] = value
    return state


@pytest.fixture(params=MODELS, scope="module")
def case(request, golden):
    """(meta, arrays, model with the original's weights, Raw) of a fixture."""
    meta, arrays = golden(request.param)
    model = build_model({"base": MODELS[request.param], "pixels": {}}, meta["nc"], queries=meta["num_queries"]).eval()
    model.load_state_dict(our_state(model, meta))
    images, content = rule_input(meta["input_shape"]), None
    if "padded" in request.param:
        content = torch.tensor([[384, 384], [352, 328]])
        images[1, :, 352:] = images[1, :, :, 328:] = 0
    picks, memory = [], []


    def note(_, read, given) -> None:
        picks.append(read[2])
        memory.append(given)

    model.head.encoder.register_forward_hook(note)
    with torch.no_grad():
        raw = model(images, content)
    return meta, arrays, model, raw, picks[0], memory[0]


def test_forward_equals_the_original(case):
    meta, arrays, model, raw, picks, memory = case
    noise = meta["noise_f32_vs_f64_max_abs"]

    def close(ours, theirs, noise):
        torch.testing.assert_close(ours, torch.from_numpy(theirs), rtol=0, atol=max(1e-4, 20 * noise))

    assert sum(p.numel() for p in model.parameters()) == meta["n_params"]
    for k, level in enumerate(raw.maps["salience"]):
        close(level, arrays[f"salience_{k}"], noise["salience"][k])
    assert set(picks.index[0].tolist()) == set(arrays["foreground_inds_0"][0].tolist())
    close(memory[:, ::9, ::4], arrays["encoder_memory_sub"], noise["memory"])
    same = np.abs(raw.maps["enc_box"][0].numpy() - arrays["enc_boxes"]).max(-1) < 1e-3  # (B, Q): the same token chosen
    assert same.mean() >= (0.99 if meta["num_queries"] == 900 else 1)
    kept = torch.from_numpy(same)
    close(raw.maps["cls"][-1][kept], arrays["pred_logits"][same], noise["logits"])
    close(raw.maps["box"][-1][kept], arrays["pred_boxes"][same], noise["boxes"])
    for k, boxes in enumerate(arrays["aux_boxes"]):
        close(raw.maps["box"][k][kept], boxes[same], noise["boxes"])
    for k, logits in enumerate(arrays["aux_logits_sub"]):
        close(raw.maps["cls"][k][:, ::10, ::7][kept[:, ::10]], logits[same[:, ::10]], noise["logits"])


def test_decoded_boxes_are_pixels_of_the_image(case):
    meta, _, model, raw, *_ = case
    boxes, scores = model.decode(raw)
    size = torch.tensor(raw.image_size).expand(len(boxes), 2) if raw.content is None else raw.content
    expected = cxcywh_to_xyxy(raw.maps["box"][-1]) * size.flip(1).repeat(1, 2)[:, None]
    torch.testing.assert_close(boxes, expected, rtol=1e-5, atol=1e-3)
    torch.testing.assert_close(scores, raw.maps["cls"][-1].sigmoid())


def targets_of(arrays, sizes):
    """(B, 2) content and the targets of a fixture, whose boxes are fractions of each image."""
    content = torch.tensor(sizes)
    rows = [Targets((cxcywh_to_xyxy(torch.from_numpy(arrays[f"boxes_{i}"])) * size.flip(0).repeat(2)).float(),
                    torch.from_numpy(arrays[f"labels_{i}"]).long()) for i, size in enumerate(content)]
    return content, pack_targets(rows)


def normal(seed, shape, shift=0.0):
    return torch.tensor((np.random.RandomState(seed).standard_normal(shape) + shift).astype(np.float32),
                        requires_grad=True)


def unit(seed, shape):
    return torch.tensor((1 / (1 + np.exp(-np.random.RandomState(seed).standard_normal(shape)))).astype(np.float32),
                        requires_grad=True)


def test_the_weighted_sum_by_term(golden):
    meta, arrays = golden("loss_detr_weighted_sum")
    seed = int(re.search(r"RandomState\((\d+)\)", meta["pred_rule"])[1])
    queries, slots = meta["hyp"]["num_queries"], meta["denoising"]["padding_size"]
    shape = (6, 2, slots + queries)
    logits, boxes = normal(seed, (*shape, meta["hyp"]["num_classes"]), -2.0), unit(seed + 1, (*shape, 4))
    enc_logits, enc_boxes = normal(seed + 2, (2, queries, 91), -2.0), unit(seed + 3, (2, queries, 4))
    start = int(re.search(r"RandomState\((\d+)\+k\)", meta["pred_rule"])[1])
    salience = [normal(start + k, (2, 1, *size)) for k, size in enumerate(meta["feature_hw"])]
    content, targets = targets_of(arrays, meta["image_sizes_hw"])
    objects, count = as_fractions(targets, content), int(targets.valid.sum())
    answers = matched(torch.cat((logits[:, :, slots:], enc_logits[None])),
                      torch.cat((boxes[:, :, slots:], enc_boxes[None])), targets, objects)
    found = {"": set_terms(answers, targets, objects, content),
             "_dn": set_terms(own_slots(logits[:, :, :slots], boxes[:, :, :slots], targets), targets, objects, content)}
    ours = {}
    for part, terms in found.items():
        divisor = count * (meta["denoising"]["groups"] if part else 1)
        for name, theirs in (("cls", "class"), ("l1", "bbox"), ("giou", "giou")):
            for layer, k in (OUTPUTS if part else {**OUTPUTS, "_enc": 6}).items():
                ours[f"loss_{theirs}{part}{layer}"] = terms[name][k] / divisor
    total, cells = salience_sums(salience, targets, tuple(meta["batched_hw"]))
    ours["loss_salience"] = total / cells
    assert ours.keys() == meta["terms"].keys() and len(ours) == meta["n_terms"]
    for name, term in meta["terms"].items():
        assert float(ours[name].detach()) == pytest.approx(term["unweighted"], rel=1e-4), name
    loss = sum(meta["terms"][name]["weight"] * value for name, value in ours.items())
    assert float(loss.detach()) == pytest.approx(meta["results"]["total"], rel=1e-5)
    for k, key in enumerate(["aux0", "aux1", "aux2", "aux3", "aux4", "main", "enc"]):
        for image in range(2):
            query, gt = arrays[f"match_{key}_{image}"]
            assert answers.matches[k, image, gt.tolist()].tolist() == query.tolist(), key
    loss.backward()
    grads = {"grad_logits_sub": logits.grad[:, :, ::7, ::5], "grad_boxes_sub": boxes.grad[:, :, ::3],
             "grad_enc_logits_sub": enc_logits.grad[:, ::3, ::5], "grad_enc_boxes": enc_boxes.grad,
             **{f"grad_salience_{k}": level.grad for k, level in enumerate(salience)}}
    for name, grad in grads.items():
        torch.testing.assert_close(grad, torch.from_numpy(arrays[name]), rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("name", ["loss_salience", "loss_salience_scale_focus_fork"])
def test_salience_of_upstream_and_fork(golden, name):
    meta, arrays = golden(name)
    start = int(re.search(r"RandomState\((\d+)\+k\)", meta["pred_rule"])[1])
    maps = [normal(start + k, (2, 1, *size)) for k, size in enumerate(meta["feature_hw"])]
    frame = tuple(round(side * cells) for side, cells in zip(meta["strides_hw"][0], meta["feature_hw"][0], strict=True))
    _, targets = targets_of(arrays, meta["image_sizes_hw"])
    for k, shape in enumerate(meta["feature_hw"]):
        conf = level_targets(targets, tuple(shape), frame, reach_of(k, len(maps))).conf
        torch.testing.assert_close(conf, torch.from_numpy(arrays[f"mask_target_{k}"]), rtol=0, atol=1e-5)
    total, cells = salience_sums(maps, targets, frame)
    factor = meta["results"]["n_gt"] / meta["results"]["n_tokens"] if "fork" in name else 1
    loss = total / cells * factor
    assert int(cells) == meta["results"]["num_pos"]
    assert float(loss.detach()) == pytest.approx(meta["results"]["loss_salience"], rel=1e-4)
    loss.backward()
    for k, level in enumerate(maps):
        torch.testing.assert_close(level.grad, torch.from_numpy(arrays[f"grad_{k}"]), rtol=1e-3, atol=1e-8)


def test_matching_and_top_detections(golden):
    meta, arrays = golden("loss_detr_hybrid_criterion")
    logits, boxes = normal(510, (3, 2, 60, 91), -2.0), unit(511, (3, 2, 60, 4))
    content, targets = targets_of(arrays, [[1, 1], [1, 1]])
    objects = as_fractions(targets, content)
    answers = matched(logits, boxes, targets, objects)
    terms = set_terms(answers, targets, objects, content)
    for k, suffix in enumerate(("_0", "_enc", "")):
        for name, theirs in (("cls", "class"), ("l1", "bbox"), ("giou", "giou")):
            value = float((terms[name][k] / targets.valid.sum()).detach())
            assert value == pytest.approx(meta["results"][f"loss_{theirs}{suffix}"], rel=1e-4), theirs + suffix
        for image in range(2):
            query, gt = arrays[f"match_{k}_{image}"]
            assert answers.matches[k, image, gt.tolist()].tolist() == query.tolist()


def test_denoising_from_stored_draws(golden):
    meta, arrays = golden("detr_denoising")
    classes, queries = meta["args"]["num_classes"], meta["args"]["num_queries"]
    weight = fill_value("denoising_generator.label_encoder.weight", [classes, 256], 1.0, {})
    for case in meta["cases"]:
        key, counts = f"c{case['id']}_", case["boxes_per_image"]
        rows = max(counts)
        groups = group_count(rows, case["denoising_nums"])
        assert groups == case["groups"]
        packed = pack_targets([Targets(torch.zeros(n, 4), torch.from_numpy(arrays[f"{key}labels_{i}"]).long())
                               for i, n in enumerate(counts)])
        boxes = torch.zeros(2, rows, 4)
        for image, n in enumerate(counts):
            boxes[image, :n] = torch.from_numpy(arrays[f"{key}boxes_{image}"])
        draws = stored_draws(arrays, key, counts, groups)
        slots = noised(boxes, packed.labels, packed.valid, groups, draws)
        content = weight[slots.labels] * slots.real[..., None]
        torch.testing.assert_close(content[:, :, ::32], torch.from_numpy(arrays[f"{key}content_sub"]))
        torch.testing.assert_close(slots.references(), torch.from_numpy(arrays[f"{key}references_sigmoid"]), rtol=1e-5,
                                   atol=1e-6)
        blocked = blocked_views(groups, rows, queries, boxes.device)
        assert np.array_equal(blocked.numpy().astype(np.uint8), arrays[f"{key}attn_mask"])


def stored_draws(arrays, key, counts, groups) -> Draws:
    """The original draws for the objects of all images in one row, block by block; ours for slots of each image."""
    rows, total = max(counts), sum(counts)
    place = np.concatenate([image * 2 * groups * rows + np.arange(n) for image, n in enumerate(counts)]).astype(int)
    place = (place[None] + np.arange(2 * groups)[:, None] * rows).ravel()
    assert len(place) == 2 * groups * total

    def spread(name, fill, dtype):
        source = arrays[f"{key}{name}"]
        full = np.full((2 * 2 * groups * rows, *source.shape[1:]), fill, dtype)
        full[place] = source
        return torch.from_numpy(full).unflatten(0, (2, -1))

    changes = spread("draw_label_u", 1.0, np.float32) < 0.25
    return Draws(changes, spread("draw_label_class", 0, np.int64), spread("draw_box_sign01", 0, np.int64) * 2 - 1,
                 spread("draw_box_u", 0.0, np.float32))


def test_no_row_of_labels_means_no_slot():
    empty = PackedTargets(torch.zeros(2, 0, 4), torch.zeros(2, 0, dtype=torch.int64), *torch.zeros(2, 2, 0).bool())
    slots = noised(empty.boxes, empty.labels, empty.valid, 1, Draws.draw((2, 0), 3, 0.25, torch.device("cpu")))
    assert slots.references().shape == (2, 0, 4)
