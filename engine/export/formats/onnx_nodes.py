"""Nodes that are added to a traced graph: a check of the images' size, and the selection of detections.

Legend: B images, N candidates of an image, C classes, K detections that are given of an image, S survivors of NMS.
"""

from typing import TYPE_CHECKING

import numpy as np

from utils.select import SelectConfig

if TYPE_CHECKING:
    from onnx import ModelProto

PREFIX = "assn"  # of the names of values that are added


class Nodes:
    """Adds nodes and constants to a model, each value under a name of its own."""

    def __init__(self, model: "ModelProto") -> None:
        self.graph, self.opset = model.graph, next(o.version for o in model.opset_import if o.domain in ("", "ai.onnx"))
        self.added: list = []

    def add(self, kind: str, *inputs: str, output: str = "", name: str = "", **attributes: object) -> str:
        """A node of one output, whose name is returned."""
        from onnx import helper

        output = output or f"{PREFIX}_{kind.lower()}_{len(self.added)}"
        self.added.append(helper.make_node(kind, [*inputs], [output], name=name or f"{PREFIX}/{output}", **attributes))
        return output

    def constant(self, value: object, dtype: type = np.int64) -> str:
        from onnx import numpy_helper

        name = f"{PREFIX}_constant_{len(self.graph.initializer)}"
        self.graph.initializer.append(numpy_helper.from_array(np.array(value, dtype), name))
        return name

    def sum(self, value: str, axis: int, output: str = "") -> str:
        """Along an axis, which is dropped; before operator set 13 axes are an attribute."""
        if self.opset < 13:
            return self.add("ReduceSum", value, output=output, axes=[axis], keepdims=0)
        return self.add("ReduceSum", value, self.constant([axis]), output=output, keepdims=0)


def add_size_check(model: "ModelProto", multiple: int) -> None:
    """Let images of other sizes than multiples fail at once, in a node whose name says why.

    They are reshaped to their size rounded down, which is their own where it is allowed, so that no value is touched.
    """
    nodes = Nodes(model)
    shape = nodes.add("Shape", "images")
    sides = nodes.add("Slice", shape, nodes.constant([2]), nodes.constant([4]))
    step = nodes.constant([multiple, multiple])
    whole = nodes.add("Mul", nodes.add("Div", sides, step), step)
    whole = nodes.add("Max", whole, nodes.constant([1, 1]))  # 0 would mean: as it is
    target = nodes.add("Concat", nodes.add("Slice", shape, nodes.constant([0]), nodes.constant([2])), whole, axis=0)
    checked = nodes.add("Reshape", "images", target,
                        name=f"images: height and width must be multiples of {multiple}")
    for node in model.graph.node:
        node.input[:] = [checked if name == "images" else name for name in node.input]
    rest = [*model.graph.node]
    del model.graph.node[:]
    model.graph.node.extend([*nodes.added, *rest])


def add_selection(model: "ModelProto", selection: SelectConfig, suppress: bool, peer: bool) -> None:
    """Replace the outputs `boxes` and `scores` by `detections` (B, K, 6) and `count` (B,), or by `output0` (B, K, 6).

    suppress: by NMS, otherwise the best are taken as they are. Each box has its best class, as in detect.py.
    """
    from onnx import TensorProto, helper

    nodes = Nodes(model)
    batch = model.graph.output[0].type.tensor_type.shape.dim[0]
    batch = batch.dim_value or batch.dim_param
    label = nodes.add("ArgMax", "scores", axis=2, keepdims=1)  # (B, N, 1)
    best = nodes.add("GatherElements", "scores", label, axis=2)  # (B, N, 1)
    flat = nodes.add("Reshape", best, nodes.constant([0, 0]))  # (B, N)
    kept = (_survivors if suppress else _above)(nodes, label, best, flat, selection)
    # Padded, so that there are always K candidates, which score zero: those are no detections.
    padded = nodes.add("Pad", kept, nodes.constant([0, 0, 0, selection.max_det]))
    top, place = f"{PREFIX}_top", f"{PREFIX}_place"
    nodes.added.append(helper.make_node("TopK", [padded, nodes.constant([selection.max_det])], [top, place], axis=1,
                                        name=f"{PREFIX}/best_first"))
    count = nodes.add("Slice", nodes.add("Shape", "boxes"), nodes.constant([1]), nodes.constant([2]))
    place = nodes.add("Min", place, nodes.add("Sub", count, nodes.constant([1])))
    place = nodes.add("Reshape", place, nodes.constant([0, 0, 1]))  # (B, K, 1)
    rows = nodes.add("GatherND", "boxes", place, batch_dims=1)  # (B, K, 4)
    labels = nodes.add("GatherND", nodes.add("Cast", label, to=TensorProto.FLOAT), place, batch_dims=1)  # (B, K, 1)
    score = nodes.add("Reshape", top, nodes.constant([0, 0, 1]))
    is_one = nodes.add("Greater", score, nodes.constant(0, np.float32))
    columns = nodes.add("Concat", rows, score, labels, axis=2)
    names = ["output0"] if peer else ["detections", "count"]
    nodes.add("Where", is_one, columns, nodes.constant(0, np.float32), output=names[0])
    outputs = [helper.make_tensor_value_info(names[0], TensorProto.FLOAT, [batch, selection.max_det, 6])]
    if not peer:
        nodes.sum(nodes.add("Cast", nodes.add("Greater", top, nodes.constant(0, np.float32)), to=TensorProto.INT64), 1,
                  output="count")
        outputs.append(helper.make_tensor_value_info("count", TensorProto.INT64, [batch]))
    model.graph.node.extend(nodes.added)
    del model.graph.output[:]
    model.graph.output.extend(outputs)


def _above(nodes: Nodes, label: str, best: str, flat: str, selection: SelectConfig) -> str:
    """(B, N) scores above the confidence, otherwise 0."""
    above = nodes.add("Greater", flat, nodes.constant(selection.conf, np.float32))
    return nodes.add("Where", above, flat, nodes.constant(0, np.float32))


def _survivors(nodes: Nodes, label: str, best: str, flat: str, selection: SelectConfig) -> str:
    """(B, N) scores of the boxes that survive NMS, otherwise 0."""
    if selection.agnostic:
        by_class = nodes.add("Transpose", best, perm=[0, 2, 1])  # (B, 1, N)
    else:
        every = nodes.constant([*range(nodes.graph.output[1].type.tensor_type.shape.dim[2].dim_value)])  # (C,)
        own = nodes.add("Where", nodes.add("Equal", label, every), "scores", nodes.constant(0, np.float32))
        by_class = nodes.add("Transpose", own, perm=[0, 2, 1])  # (B, C, N)
    # (S, 3) image, class, box; the corners of a box may be given in any order
    chosen = nodes.add("NonMaxSuppression", "boxes", by_class, nodes.constant([selection.max_det]),
                       nodes.constant([selection.iou], np.float32), nodes.constant([selection.conf], np.float32))
    place = nodes.add("Gather", chosen, nodes.constant([0, 2]), axis=1)  # (S, 2)
    empty = nodes.add("ConstantOfShape", nodes.add("Shape", flat))
    return nodes.add("ScatterND", empty, place, nodes.add("GatherND", flat, place))
