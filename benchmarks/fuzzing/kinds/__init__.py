"""All kinds of input."""

from benchmarks.fuzzing.kind import Kind
from benchmarks.fuzzing.kinds.checkpoints import Checkpoint, Original
from benchmarks.fuzzing.kinds.commands import Flags, Scripts
from benchmarks.fuzzing.kinds.configs import ModelYaml, RecipeYaml
from benchmarks.fuzzing.kinds.datasets import DataYaml, LabelCache, ListFile
from benchmarks.fuzzing.kinds.exports import Onnx, TorchScript
from benchmarks.fuzzing.kinds.images import Image, Video
from benchmarks.fuzzing.kinds.labels import CocoJson, DotaTxt, VisDroneTxt, VocXml, YoloTxt

KINDS: dict[str, Kind] = {
    kind.name: kind
    for kind in (
        DataYaml(), YoloTxt(), VocXml(), CocoJson(), VisDroneTxt(), DotaTxt(), ListFile(), LabelCache(), Image(),
        Video(), ModelYaml(), RecipeYaml(), Checkpoint(), Original(), Onnx(), TorchScript(), Flags(), Scripts(),
    )
}
