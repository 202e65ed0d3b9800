"""The order of the layers, and what importing may cost."""

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

import auricle

ROOT = Path(auricle.__file__).parent
# Each entry imports only from those above it. Within a folder, files import from their own folder freely.
ORDER = [
    "errors",
    "recipe",
    "recipes",
    "run_folder",
    "parallel",
    "corpus",
    "audio",
    "preparation",
    "models",
    "evaluation",
    "training",
    "inference",
    "export",
    "hub",
    "serving",
    "labelling",
    "voices",
    "demo",
    "cli",
    "__main__",
]
FILES = sorted(path for path in ROOT.rglob("*.py") if path != ROOT / "__init__.py")


def layer(module: str) -> int:
    """The place of a module, written without 'auricle.', in the order."""
    parts = module.split(".")
    for size in range(len(parts), 0, -1):
        if ".".join(parts[:size]) in ORDER:
            return ORDER.index(".".join(parts[:size]))
    raise AssertionError(f"{module} has no place in the layer order")


def imported(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "auricle":
            inner = node.module.removeprefix("auricle").removeprefix(".")
            for name in node.names:
                candidate = f"{inner}.{name.name}".strip(".")
                is_module = (ROOT / candidate.replace(".", "/")).is_dir() or (
                    ROOT / (candidate.replace(".", "/") + ".py")
                ).is_file()
                if is_module or inner:
                    found.add(candidate if is_module else inner)
        elif isinstance(node, ast.Import):
            found |= {name.name.removeprefix("auricle.") for name in node.names if name.name.startswith("auricle.")}
    return found


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_flow_one_way(path: Path) -> None:
    module = ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
    own = layer(module)
    for other in imported(path):
        assert layer(other) <= own, f"{module} imports {other}, which stands below it"


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_files_and_functions_stay_small(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert text.count("\n") <= 400
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef):
            assert (node.end_lineno or 0) - node.lineno < 60, f"{node.name} is too long"


def test_a_name_that_is_not_public_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        auricle.nothing  # noqa: B018


def test_the_command_line_starts_without_heavy_imports() -> None:
    code = (
        "import sys, auricle.cli.main as cli\ntry:\n cli.main(['--help'])\nexcept SystemExit: pass\n"
        "print(sorted(sys.modules))"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    loaded = set(ast.literal_eval(out.strip().splitlines()[-1]))
    heavy = {"torch", "transformers", "numpy", "pyarrow", "pydantic", "sklearn", "av", "soundfile", "rich", "datasets"}
    assert not heavy & loaded


def test_help_takes_less_than_a_third_of_a_second() -> None:
    command = [sys.executable, "-m", "auricle", "--help"]
    times = []
    for _ in range(5):
        before = os.times()
        subprocess.run(command, capture_output=True, check=True)
        after = os.times()
        # The processor's time, which is the clock's on a machine that has nothing else to do.
        times.append(after.children_user - before.children_user + after.children_system - before.children_system)
    assert min(times) < 0.3


def test_the_light_core_inspects_without_torch(corpus: Path) -> None:
    code = (
        "import sys\nfor name in ('torch', 'transformers', 'sklearn', 'datasets'): sys.modules[name] = None\n"
        f"from auricle.cli.main import main\nsys.exit(main(['inspect', {str(corpus)!r}]))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "24 of 24 clips usable" in done.stdout


def test_what_is_missing_is_named_with_the_command_that_installs_it(corpus: Path) -> None:
    code = (
        "import sys\nfor name in ('torch', 'transformers', 'sklearn', 'datasets'): sys.modules[name] = None\n"
        f"from auricle.cli.main import main\nsys.exit(main(['train', {str(corpus)!r}]))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 2
    assert "pip install 'auricle[train]'" in done.stderr
