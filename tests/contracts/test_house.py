"""Rules for the source tree: the direction of imports, sizes, error codes, unsafe calls, expected files."""

import ast
import re
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("utils", "data", "models", "engine", "assn", "benchmarks")
SCRIPTS = {path.stem for path in ROOT.glob("*.py")}
FILES = sorted([*ROOT.glob("*.py"), *(f for p in PACKAGES for f in (ROOT / p).rglob("*.py"))])
# Run by the Python of another project in a comparison; nothing here imports them.
PEERS = [path for path in FILES if path.name.startswith("peer_")]
OURS = [path for path in FILES if path not in PEERS]
TESTS = sorted((ROOT / "tests").rglob("*.py"))
# Which packages a package may import; the scripts may import all of these, and nothing imports a script.
MAY_IMPORT = {"utils": {"utils"}, "data": {"utils", "data"}, "models": {"utils", "models"},
              "engine": {"utils", "data", "models", "engine"}, "assn": {"assn"}}
# Who imports the package that the tree is installed as: torch.hub, and plugins, which may say `assn.models`.
USES_PACKAGE = ("hubconf.py", "models/plugins.py")
HOUSE = {*PACKAGES, *SCRIPTS, "tests"}
DISTRIBUTIONS = {"cv2": "opencv-python-headless", "yaml": "pyyaml", "PIL": "pillow", "google": "protobuf"}


@cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), str(path))


def nodes(paths: list[Path], *kinds: type[ast.AST]):
    """(`file:line`, path, node) of every node of these kinds."""
    for path in paths:
        for node in ast.walk(tree(path)):
            if isinstance(node, kinds):
                yield f"{path.relative_to(ROOT)}:{node.lineno}", path, node


def imports(paths: list[Path]):
    """(`file:line`, path, top-level name) of every absolute import, inside functions too."""
    for where, path, node in nodes(paths, ast.Import, ast.ImportFrom):
        if isinstance(node, ast.Import):
            yield from ((where, path, alias.name.split(".")[0]) for alias in node.names)
        elif not node.level:
            yield where, path, node.module.split(".")[0]


def test_imports_run_one_way():
    wrong = []
    for where, path, name in imports(FILES):
        home = path.relative_to(ROOT).parts[0].removesuffix(".py")
        allowed = HOUSE if home == "benchmarks" else MAY_IMPORT.get(home, MAY_IMPORT["engine"])
        if name in HOUSE - allowed - ({"assn"} if path.relative_to(ROOT).as_posix() in USES_PACKAGE else set()):
            wrong.append(f"{where} imports {name}")
    assert not wrong


def file_of(module: str) -> Path | None:
    """The file of a module of this project; None for other modules."""
    place = ROOT.joinpath(*module.split("."))
    return next((path for path in (place.with_suffix(".py"), place / "__init__.py") if path.is_file()), None)


def test_no_circular_imports():
    """Not inside functions and not under TYPE_CHECKING either; a package's `__init__` may gather what lies in it."""
    reads: dict[Path, set[Path]] = {path: set() for path in FILES}
    for _, path, node in nodes(FILES, ast.Import, ast.ImportFrom):
        names = ([alias.name for alias in node.names] if isinstance(node, ast.Import)
                 else [name for alias in node.names
                       for name in [f"{node.module}.{alias.name}"] if file_of(name)] or [node.module])
        reads[path] |= {found for found in map(file_of, names) if found in reads and found.name != "__init__.py"}
    done: set[Path] = set()

    def walk(path: Path, way: list[Path]) -> None:
        assert path not in way, "circle: " + " -> ".join(str(p.relative_to(ROOT)) for p in way[way.index(path):])
        if path not in done:
            for other in sorted(reads[path]):
                walk(other, [*way, path])
            done.add(path)

    for path in FILES:
        walk(path, [])


def test_third_party_imports_are_required():
    """An optional dependency may be listed behind a `#`: documented, not installed."""
    lines = (ROOT / "requirements.txt").read_text(encoding="utf-8").splitlines()
    listed = {re.split(r"[<>=!~\[ ;#]", line.lstrip("# "), maxsplit=1)[0].lower() for line in lines}
    known = listed | HOUSE | set(sys.stdlib_module_names)
    assert not {f"{name} ({where})" for where, _, name in imports(OURS + TESTS)
                if DISTRIBUTIONS.get(name, name).lower() not in known}


def test_peers_are_imported_by_nobody():
    assert all(path.parent.parent.name == "benchmarks" for path in PEERS)
    assert not [where for where, _, name in imports(OURS + TESTS) if name == "ultralytics" or name.startswith("peer_")]


def unsafe(call: ast.Call) -> bool:
    """Calls that run what they read."""
    name, given = ast.unparse(call.func), {k.arg: ast.unparse(k.value) for k in call.keywords}
    if name == "torch.load":
        return given.get("weights_only") != "True"
    if name.startswith("yaml."):
        return "load" in name and "safe" not in name or name.startswith("yaml.unsafe")
    return (name in ("eval", "exec", "pickle.load", "pickle.loads", "joblib.load", "torch.hub.load")
            or given.get("allow_pickle") == "True")


@pytest.mark.parametrize("text, expected", [
    ("eval(x)", True), ("model.eval()", False), ("yaml.load(f)", True), ("yaml.unsafe_load(f)", True),
    ("yaml.safe_load(f)", False), ("torch.load(f)", True), ("torch.load(f, weights_only=True)", False),
    ("pickle.load(f)", True), ("np.load(f, allow_pickle=True)", True), ("np.load(f)", False)])
def test_unsafe_is_recognised(text, expected):
    assert unsafe(ast.parse(text, mode="eval").body) == expected


def test_nothing_that_is_read_is_executed():
    assert not [f"{where} {ast.unparse(node.func)}" for where, _, node in nodes(FILES, ast.Call) if unsafe(node)]


def test_files_and_functions_are_short():
    long = [f"{path.relative_to(ROOT)}: {lines} lines" for path in FILES
            if (lines := len(path.read_text(encoding="utf-8").splitlines())) > 400]
    for where, _, node in nodes(FILES, ast.FunctionDef, ast.AsyncFunctionDef):
        if (lines := node.end_lineno - node.lineno + 1) > 60:
            long.append(f"{where} {node.name}: {lines} lines")
    assert not long


def functions(tree: ast.AST, prefix: str = ""):
    """(qualified name, function, whether it is the constructor of a registered layer) of every function."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            is_layer = node.name == "__init__" and any("register(" in ast.unparse(d) for d in
                                                       getattr(tree, "decorator_list", []))
            yield prefix + node.name, node, is_layer
        inside = f"{prefix}{node.name}." if isinstance(node, ast.ClassDef) else prefix
        yield from functions(node, inside)


def test_functions_have_at_most_seven_parameters():
    """Beside `self`; the constructor of a registered layer has the arguments of its row in a model file."""
    long = []
    for path in FILES:
        for name, node, is_layer in functions(tree(path)):
            count = len({a.arg for a in (*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs)}
                        - {"self", "cls"})
            if count > 7 and not is_layer:
                long.append(f"{path.relative_to(ROOT)}:{node.lineno} {name}: {count} parameters")
    assert not long


def has_code(call: ast.Call) -> bool:
    """Whether an error is given a literal code such as "missing-file", or the code of another error."""
    given = next((k.value for k in call.keywords if k.arg == "code"), call.args[1] if len(call.args) > 1 else None)
    if isinstance(given, ast.Constant):
        return isinstance(given.value, str) and bool(re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", given.value))
    return isinstance(given, ast.Attribute | ast.Name) and ast.unparse(given).split(".")[-1] == "code"


@pytest.mark.parametrize("text, expected", [
    ('UserError("x", code="missing-file")', True), ('UserError("x", "bad-value")', True), ('UserError("x")', False),
    ('UserError("x", code=error.code)', True), ('UserError("x", code=code)', True),
    ('UserError("x", code="Missing File")', False)])
def test_codes_are_recognised(text, expected):
    assert has_code(ast.parse(text, mode="eval").body) == expected


def test_errors_have_codes():
    kinds = {"UserError", *(node.name for _, _, node in nodes(FILES, ast.ClassDef)
                            if any("UserError" in ast.unparse(base) for base in node.bases))}
    assert not [f"{where} {ast.unparse(node)[:100]}" for where, _, node in nodes(FILES, ast.Call)
                if ast.unparse(node.func).split(".")[-1] in kinds and not has_code(node)]


# Where parsed arguments may appear: what parses them, and modules that are commands themselves.
PARSES = ("utils/cli.py", "utils/options.py", "utils/parser.py", "utils/errors.py")


def test_parsed_arguments_stay_in_the_scripts():
    """A package takes values or a configuration, not an `argparse.Namespace`."""
    paths = [path for path in FILES if path.relative_to(ROOT).parts[0] in MAY_IMPORT
             and not path.relative_to(ROOT).as_posix().startswith(PARSES)
             and '__name__ == "__main__"' not in path.read_text(encoding="utf-8")]
    assert not [where for where, _, node in nodes(paths, ast.Attribute, ast.Name)
                if ast.unparse(node) in ("argparse.Namespace", "Namespace")]


def test_utils_knows_no_model():
    """Not by the attributes of a model, a head, a loss or a recipe either."""
    known = {"head", "neck", "backbone", "recipe", "hyp", "gains", "strides", "anchors", "box_loss", "assign"}
    paths = sorted((ROOT / "utils").rglob("*.py"))
    assert not [f"{where} {ast.unparse(node)}" for where, _, node in nodes(paths, ast.Attribute) if node.attr in known]
    assert not [f"{where} {node.value}" for where, _, node in nodes(paths, ast.Constant)
                if isinstance(node.value, str) and node.value in known]


def test_tests_mirror_the_tree():
    """A folder of tests has the path of the package that it tests, but for what concerns several packages."""
    folders = {path.parent.relative_to(ROOT / "tests") for path in TESTS} - {Path()}
    several = {Path("contracts"), Path("golden"), Path("scripts"), Path("docs")}
    assert not [f"tests/{f}" for f in sorted(folders - several) if not (ROOT / f / "__init__.py").is_file()]


def lines_with(pattern: str, paths: list[Path]) -> list[str]:
    """`file:line: text` of every line that the pattern is found in."""
    return [f"{path.relative_to(ROOT)}:{number}: {line.strip()}" for path in paths
            for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1) if re.search(pattern, line)]


def test_no_path_outside_the_project():
    """A reader has this repository and nothing beside it: cite papers and public repositories."""
    texts = [*FILES, *TESTS, *(ROOT / "cfg").rglob("*.yaml"), ROOT / "Makefile", ROOT / "pyproject.toml"]
    assert not lines_with(r"(?<![\w.:/}])/(?:work|home|root|tmp|mnt|media|Users)/", texts)
    assert not lines_with(r"^[^#]*\.\./", [path for path in texts if path.suffix == ".yaml"])
    documents = [ROOT / "README.md", *(f for p in ("docs", "benchmarks") for f in (ROOT / p).rglob("*.md"))]
    assert not lines_with(r"(?:\.\./)+(?:shared|facts|golden)\b", [*texts, *documents])
    assert not lines_with(r"(?<![\w.:/}])/(?:work|home|root|mnt|Users)/", documents)


def test_expected_files_exist():
    folders = ("assn", "models", "utils", "data", "engine", "cfg/models", "cfg/data", "cfg/train", "tests",
               "benchmarks")
    files = ("train.py", "val.py", "detect.py", "export.py", "requirements.txt", "README.md", "LICENSE", "Makefile",
             "pyproject.toml", ".ci/run")
    assert not [entry for entry in folders if not (ROOT / entry).is_dir()]
    assert not [entry for entry in files if not (ROOT / entry).is_file()]


PROBE = """
import contextlib, importlib, json, os, random, sys
import numpy as np, torch
modules, foreign = json.loads(sys.argv[1])
for name in foreign:
    with contextlib.suppress(ImportError):  # an optional one
        importlib.import_module(name)  # side effects of libraries are not ours
def world():
    return {"os.environ": dict(os.environ), "sys.path": list(sys.path), "threads": torch.get_num_threads(),
            "numpy print options": np.get_printoptions(), "default type": torch.get_default_dtype(),
            "folder": os.getcwd(), "torch print options": vars(torch._tensor_str.PRINT_OPTS).copy(),
            "random": random.getstate(), "torch random": torch.get_rng_state().tolist(),
            "numpy random": np.random.get_state()[1].tolist(),
            "deterministic": torch.are_deterministic_algorithms_enabled(), "files": sorted(os.listdir())}
for name in modules:
    before = world()
    importlib.import_module(name)
    for what, value in world().items():
        if value != before[what]:
            print(f"importing {name} changed {what}")
"""


def test_imports_have_no_side_effects():
    import json

    modules = [".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__") for path in OURS
               if path.name != "__main__.py"]
    foreign = sorted({name for _, _, name in imports(OURS)} - HOUSE - {"__future__"})
    run = subprocess.run([sys.executable, "-B", "-c", PROBE, json.dumps([modules, foreign])], cwd=ROOT, text=True,
                         capture_output=True)
    assert run.returncode == 0, run.stderr[-2000:]
    assert run.stdout == ""
