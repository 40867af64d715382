"""TensorRT, as far as a machine without an NVIDIA GPU goes: what the package is asked, and what is said without it."""

import sys
from types import SimpleNamespace

import pytest
import torch

import export as script
from engine.export.config import ExportConfig
from engine.export.export import describe_file
from engine.export.formats import tensorrt as writer
from engine.export.program import Program
from engine.inference.runtimes import tensorrt as runtimes
from engine.inference.runtimes.open import load_runtime
from engine.inference.runtimes.tensorrt import join_engine, split_engine
from models import load_model
from tests.engine.export.conftest import SIZE
from tests.refusals import refused
from utils.trusted_exports import remember


class FakeTensorRt(SimpleNamespace):
    """Stands in for the package: an engine is the ONNX graph that it was made from, and answers with constants."""

    __version__ = "10.fake"

    def __init__(self, readable=True):
        super().__init__(asked=[], readable=readable)
        self.NetworkDefinitionCreationFlag = SimpleNamespace(EXPLICIT_BATCH=0)
        self.BuilderFlag = SimpleNamespace(FP16="fp16")
        self.DataType = SimpleNamespace(HALF="half", INT64="int64", INT32="int32", FLOAT="float")
        self.Logger = type("Logger", (), {"ERROR": 1, "__init__": lambda self, level: None})

    def Builder(self, logger):
        settings = SimpleNamespace(set_flag=self.asked.append, add_optimization_profile=self.asked.append)
        return SimpleNamespace(
            create_network=lambda flags: self.asked.append(f"flags {flags}"), create_builder_config=lambda: settings,
            create_optimization_profile=lambda: SimpleNamespace(set_shape=lambda *shapes: self.asked.append(shapes)),
            build_serialized_network=lambda network, given: self.graph if self.readable else None)

    def OnnxParser(self, network, logger):
        def parse(graph):
            self.graph = graph
            return True

        return SimpleNamespace(parse=parse, num_errors=0)

    def Runtime(self, logger):
        return SimpleNamespace(deserialize_cuda_engine=self.engine)

    def engine(self, content):
        if not content.startswith(b"\x08"):
            return None
        shapes = {"boxes": (2, 9, 4), "scores": (2, 9, 5)}
        context = SimpleNamespace(
            set_input_shape=lambda name, shape: shape == (2, 3, *SIZE), get_tensor_shape=shapes.get,
            set_tensor_address=lambda name, place: self.asked.append(name), execute_async_v3=lambda stream: True)
        return SimpleNamespace(create_execution_context=lambda: context, get_tensor_dtype=lambda name: "float")


@pytest.fixture
def fake(monkeypatch):
    module = FakeTensorRt()
    monkeypatch.setitem(sys.modules, "tensorrt", module)
    return module


def write(made, path, **flags):
    config = ExportConfig(weights="best.pt", include=("engine",), imgsz=SIZE, batch_size=2, **flags)
    model = load_model(made("pt")).eval().fuse()
    writer.write(Program(model), path, describe_file(model, config, "cuda"), config)


def test_without_the_package_or_a_gpu_it_is_one_sentence(made, monkeypatch, fake):
    words = ["--weights", str(made("pt")), "--include", "engine", "--imgsz", *map(str, SIZE)]
    with refused("needs-gpu", r"best\.engine: .*--device 0"):
        script.main(script.build_parser().parse_args(words))
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    with refused("missing-package", r"best\.engine: needs tensorrt.*pip install tensorrt"):
        script.main(script.build_parser().parse_args(words))


def test_what_the_builder_is_asked(made, tmp_path, fake):
    write(made, tmp_path / "a.engine", half=True)
    assert fake.asked == ["flags 1", "fp16"]
    text, engine = split_engine((tmp_path / "a.engine").read_bytes(), tmp_path / "a.engine")
    assert '"half": true' in text and engine == fake.graph
    write(made, tmp_path / "b.engine", dynamic=True)
    assert ("images", (1, 3, 32, 32), (2, 3, 64, 96), (2, 3, 96, 96)) in fake.asked
    fake.readable = False
    with refused("unsupported-model", "cannot build this model"):
        write(made, tmp_path / "c.engine")


def test_an_engine_is_run_on_a_gpu_and_trusted_like_a_program(made, tmp_path, monkeypatch, fake):
    path = tmp_path / "a.engine"
    write(made, path)
    with refused("needs-gpu", "runs on a GPU"):
        load_runtime(path, "cpu")
    monkeypatch.setattr(runtimes, "select_device", lambda name: torch.device("cuda", 0))
    with refused("untrusted-file", "machine code.*--trust"):
        load_runtime(path, "0")
    remember(path)
    runtime = load_runtime(path, "0")
    assert runtime.fixed_size == SIZE and runtime.fixed_batch == 2 and runtime.device.type == "cuda"
    runtime.device = torch.device("cpu")  # where the rest of it can be run
    stream = SimpleNamespace(cuda_stream=0, synchronize=lambda: fake.asked.append("synchronised"))
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: stream)
    del fake.asked[:]
    boxes, scores = runtime.predict(torch.zeros(3, 3, *SIZE, dtype=torch.uint8))  # two calls of two images
    assert boxes.shape == (3, 9, 4) and scores.shape == (3, 9, 5)
    assert fake.asked == ["images", "boxes", "scores", "synchronised"] * 2
    with refused("failed-inference", "takes no images of the shape"):
        runtime._predict(torch.zeros(1, 3, *SIZE))


def test_files_of_others_are_refused(tmp_path, made, fake, monkeypatch):
    monkeypatch.setattr(runtimes, "select_device", lambda name: torch.device("cuda", 0))
    path = tmp_path / "a.engine"
    model = load_model(made("pt"))
    metadata = describe_file(model, ExportConfig(imgsz=SIZE), "cuda")
    for content, code, told in ((b"", "corrupt-file", "truncated"),
                                (b"\xff\xff\xff\xff12", "corrupt-file", "truncated"),
                                (b"\x02\0\0\0{}engine", "foreign-file", "no metadata"),
                                (join_engine(metadata, b"other"), "corrupt-file", "10.fake cannot read it")):
        path.write_bytes(content)
        with refused(code, r"a\.engine", told):
            load_runtime(path, "0", trust=True)
