"""The shape of the package: what lies at the top level, and which way imports flow."""

import ast
from pathlib import Path

import auricle

ROOT = Path(auricle.__file__).parent
TOP_LEVEL = {
    "__init__.py",
    "__main__.py",
    "errors.py",
    "recipe.py",
    "recipes",
    "run_folder.py",
    "parallel.py",
    "demo.py",
    "py.typed",
}
FOLDERS = [
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
    "cli",
]


def modules() -> dict[str, Path]:
    """Every module of the package by its dotted name."""
    listed = {}
    for path in sorted(ROOT.rglob("*.py")):
        parts = path.relative_to(ROOT.parent).with_suffix("").parts
        listed[".".join(parts).removesuffix(".__init__")] = path
    return listed


def imports(path: Path, known: dict[str, Path]) -> set[str]:
    """The modules that one imports when it is itself imported: imports inside functions and for typing are left out."""
    listed: set[str] = set()
    pending: list[ast.AST] = list(ast.parse(path.read_text(encoding="utf-8")).body)
    while pending:
        node = pending.pop()
        if isinstance(node, ast.ImportFrom) and node.module:
            listed |= {
                name if (name := f"{node.module}.{alias.name}") in known else node.module for alias in node.names
            }
        elif isinstance(node, ast.Import):
            listed |= {alias.name for alias in node.names}
        elif isinstance(node, ast.Try):
            pending += [*node.body, *node.orelse, *(line for handler in node.handlers for line in handler.body)]
        elif isinstance(node, ast.If) and "TYPE_CHECKING" not in ast.unparse(node.test):
            pending += [*node.body, *node.orelse]
    return listed & set(known)


def test_the_top_level_holds_what_the_design_names() -> None:
    listed = {path.name for path in ROOT.iterdir() if path.name != "__pycache__"}
    assert listed == TOP_LEVEL | set(FOLDERS)


def test_no_module_imports_itself_by_a_detour() -> None:
    known = modules()
    graph = {name: imports(path, known) - {name} for name, path in known.items()}
    done: set[str] = set()

    def visit(name: str, trail: tuple[str, ...]) -> None:
        assert name not in trail, " → ".join((*trail[trail.index(name) :], name))
        if name not in done:
            for other in sorted(graph[name]):
                visit(other, (*trail, name))
            done.add(name)

    for name in graph:
        visit(name, ())
