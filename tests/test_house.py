"""House rules: sizes of files and functions, no print in library code, docstrings, and what importing does."""

import ast
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import thinwire
from tests.import_graph import circles, import_graph

PACKAGE = Path(thinwire.__file__).parent
FILES = sorted(PACKAGE.rglob("*.py"))
Function = ast.FunctionDef | ast.AsyncFunctionDef


def place(path: Path, node: ast.AST | None = None) -> str:
    return f"{path.relative_to(PACKAGE.parent)}:{getattr(node, 'lineno', 1)}"


def nodes(*kinds: type[ast.AST]) -> Iterator[tuple[Path, ast.AST]]:
    for path in FILES:
        yield from ((path, node) for node in ast.walk(ast.parse(path.read_text("utf-8"))) if isinstance(node, kinds))


def test_files_are_short() -> None:
    text = [*FILES, *PACKAGE.rglob("*.js"), *PACKAGE.rglob("*.css")]
    assert [place(path) for path in text if len(path.read_text("utf-8").splitlines()) > 300] == []


def own_lines(function: ast.AST) -> int:
    """Lines of a function without those of the functions defined in it."""
    inner = [node for node in ast.iter_child_nodes(function) if isinstance(node, Function)]
    return length(function) - sum(length(node) for node in inner)


def length(node: ast.AST) -> int:
    return node.end_lineno - node.lineno + 1  # pyright: ignore


def test_functions_are_short() -> None:
    found = nodes(ast.FunctionDef, ast.AsyncFunctionDef)
    assert [place(path, function) for path, function in found if own_lines(function) > 60] == []


def n_parameters(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    arguments = function.args
    return len(arguments.args) + len(arguments.kwonlyargs) + len(arguments.posonlyargs)


def test_functions_have_few_parameters() -> None:
    found = nodes(ast.FunctionDef, ast.AsyncFunctionDef)
    assert [place(path, function) for path, function in found if n_parameters(function) > 8] == []  # pyright: ignore


def test_modules_do_not_import_each_other_in_circles() -> None:
    assert circles(import_graph(PACKAGE)) == []


def test_a_circle_would_be_found(tmp_path: Path) -> None:
    package = tmp_path / "package"
    (package / "room").mkdir(parents=True)
    sources = {
        "__init__.py": "",
        "one.py": "from package.room import value\n",
        "room/__init__.py": "from package.room.two import value\n",
        "room/two.py": "def value():\n    from package.one import other\n",
    }
    for name, source in sources.items():
        (package / name).write_text(source)
    assert circles(import_graph(package)) == [["package.one", "package.room.two"]]


def test_library_code_does_not_print() -> None:
    calls = [(p, c) for p, c in nodes(ast.Call) if isinstance(c, ast.Call) and isinstance(c.func, ast.Name)]
    printing = [(p, c) for p, c in calls if c.func.id in ("print", "breakpoint")]  # pyright: ignore
    assert [place(p, c) for p, c in printing if p.parent.name != "cli"] == []


FACTORIES = {
    *("empty", "zeros", "ones", "full", "tensor", "as_tensor", "asarray", "scalar_tensor", "empty_strided", "eye"),
    *("empty_permuted", "arange", "linspace", "logspace", "rand", "randn", "randint", "randperm", "tril_indices"),
}
"""Functions of torch whose dtype and device follow from settings of the process."""
LAYERS = {"Linear", "Embedding", "RMSNorm", "LayerNorm"}


def unsaid(call: ast.Call) -> set[str]:
    """Which of dtype and device a call leaves to settings of the process; modules are made where the caller says."""
    said = {keyword.arg or "" for keyword in call.keywords}
    match call.func:
        case ast.Attribute(ast.Name("torch"), name) if name in FACTORIES:
            return {"dtype", "device"} - said
        case ast.Attribute(ast.Name("nn"), name) if name in LAYERS:
            return {"dtype"} - said
        case ast.Name("FeatureLinear" | "FeatureEmbedding"):
            return {"dtype"} - said
    return set()


def test_tensors_do_not_depend_on_settings_of_the_process() -> None:
    made = [(p, f) for p, f in nodes(ast.FunctionDef) if f.name == "__init__"]  # pyright: ignore
    by_modules = {place(path, call) for path, init in made for call in ast.walk(init)}
    found = [(place(path, call), unsaid(call)) for path, call in nodes(ast.Call)]  # pyright: ignore
    assert [at for at, left in found if "dtype" in left] == []
    assert [at for at, left in found if "device" in left and at not in by_modules] == []
    examples = {"torch.zeros(3)": 2, "nn.Linear(2, 3)": 1, "torch.ones(2, dtype=x.dtype)": 1, "torch.cat([x])": 0}
    assert {text: len(unsaid(ast.parse(text).body[0].value)) for text in examples} == examples  # pyright: ignore


def test_errors_are_never_swallowed_whole() -> None:
    bare = [(p, h) for p, h in nodes(ast.ExceptHandler) if isinstance(h, ast.ExceptHandler) and h.type is None]
    assert [place(p, h) for p, h in bare] == []


def test_nothing_is_unpickled() -> None:
    names = {(p, n.name) for p, i in nodes(ast.Import) if isinstance(i, ast.Import) for n in i.names}
    names |= {(p, i.module or "") for p, i in nodes(ast.ImportFrom) if isinstance(i, ast.ImportFrom)}
    assert [place(p) for p, name in names if name.split(".")[0] in ("pickle", "dill", "joblib")] == []
    loads = [p for p, a in nodes(ast.Attribute) if isinstance(a, ast.Attribute) and ast.unparse(a) == "torch.load"]
    assert [place(p) for p in loads] == []


def opens_itself(call: ast.Call) -> bool:
    """Whether a call reads a file without the opener of `thinwire.files`; standard input is 0."""
    match call:
        case ast.Call(ast.Name("open"), [ast.Constant(0), *_]):
            return False
        case ast.Call(ast.Name("open"), [_, ast.Constant(str(mode)), *_]):
            return not set(mode) & set("wax")
        case ast.Call(ast.Name("open")):
            return True
        case ast.Call(ast.Attribute(where, "read_text" | "read_bytes")):
            return not ast.unparse(where).startswith("files(")  # of the package itself
        case ast.Call(ast.Attribute(_, name) | ast.Name(name)):
            return name in ("load_file", "safe_open", "load_npz", "fromfile", "loadtxt")
    return False


def test_files_are_read_by_the_one_opener() -> None:
    calls = [(p, c) for p, c in nodes(ast.Call) if isinstance(c, ast.Call) and opens_itself(c)]
    its_own = [PACKAGE / "artifact" / "tensors.py"]  # opens the file with it first
    of_machine = [path for path in FILES if path.is_relative_to(PACKAGE / "engine")]  # its kernels, and /proc
    assert [place(p, c) for p, c in calls if p not in its_own + of_machine] == []
    examples = {"open(x)": True, "open(x, 'rb')": True, "open(x, 'a')": False, "x.read_text()": True, "read_text(x)": 0}
    assert {text: opens_itself(ast.parse(text).body[0].value) for text in examples} == examples  # pyright: ignore


def test_files_of_artefacts_are_found_by_what_is_listed() -> None:
    """`Artifact.file` refuses what is not listed, which nobody has checked; a path joined by hand does not."""
    joined = [(p, b) for p, b in nodes(ast.BinOp) if isinstance(b, ast.BinOp) and isinstance(b.op, ast.Div)]
    by_hand = [(p, b) for p, b in joined if isinstance(b.left, ast.Attribute) and b.left.attr == "path"]
    assert [place(p, b) for p, b in by_hand if p.name not in ("meta.py",)] == []


def undocumented(body: list[ast.stmt], in_class: bool) -> Iterator[ast.stmt]:
    """Public functions and classes without a docstring; properties and overridden protocol methods may go without."""
    for node in body:
        if not isinstance(node, Function | ast.ClassDef) or node.name.startswith("_"):
            continue
        decorators = {ast.unparse(decorator) for decorator in getattr(node, "decorator_list", [])}
        exempt = in_class and ("property" in decorators or node.name in ("forward", "extra_repr"))
        if ast.get_docstring(node) is None and not exempt:
            yield node
        if isinstance(node, ast.ClassDef):
            yield from undocumented(node.body, True)


def test_public_names_have_docstrings() -> None:
    missing = []
    for path in FILES:
        tree = ast.parse(path.read_text("utf-8"))
        missing += [place(path, node) for node in undocumented(tree.body, False)]
        if tree.body and ast.get_docstring(tree) is None:
            missing.append(place(path))
    assert missing == []


SPY = """
import os, sys
touched = []
Environ = type(os.environ)
plain = Environ.__getitem__
def note(self, key):
    touched.append(f"variable {key}")
    return plain(self, key)
Environ.__getitem__ = note
def audit(event, args):
    writes = event == "open" and isinstance(args[1], str) and any(flag in args[1] for flag in "wax+")
    if event.split(".")[0] in ("socket", "subprocess", "urllib", "http") or event == "os.system" or writes:
        touched.append(f"{event} {args}")
sys.addaudithook(audit)
sys.dont_write_bytecode = True
import thinwire
print(touched, [name for name in ("torch", "numpy", "pydantic", "numba") if name in sys.modules])
"""


def test_importing_touches_nothing() -> None:
    done = subprocess.run([sys.executable, "-c", SPY], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[] []"


@pytest.mark.parametrize("name", thinwire.__all__)
def test_public_names_exist(name: str) -> None:
    assert getattr(thinwire, name) is not None
    assert name in dir(thinwire)


def test_unknown_names_are_attribute_errors() -> None:
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        thinwire.nothing  # noqa: B018  # pyright: ignore


def test_configs_do_not_wait_for_torch() -> None:
    rooms = ("data", "model", "train", "prune", "verify")
    program = (
        "".join(f"import thinwire.{room}.config\n" for room in rooms) + "import sys; print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_imports_go_one_way() -> None:
    linter = Path(sys.executable).with_name("lint-imports")
    if not linter.exists():
        pytest.skip("import-linter is not installed")
    environment = os.environ | {"PYTHONIOENCODING": "utf-8"}
    command = [str(linter), "--no-cache"]
    done = subprocess.run(command, cwd=PACKAGE.parent, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stdout + done.stderr
