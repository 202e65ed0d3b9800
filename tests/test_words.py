"""The project speaks the field's language: no private vocabulary in names, and none in what a user reads."""

import ast
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

import auricle

ROOT = Path(__file__).parents[1]
PACKAGE = Path(auricle.__file__).parent
# Never part of a name: of a module, class, function, parameter, field or constant.
_NAMES = """
    hear hears heard hearing said say says told tell tells asked ask asks asking wanted wants judge judges judged
    judging judgement beside stranger strangers kept taken drawn place places found made stretch stretches settle
    settled temper tempered tempering desk ear stand turn turns turned lane lanes shipment parcel parcels wish
    wishes broom doorplate lesson course courses sound sounds sight remark remarks fixes recognised doubted boasts
    luck anew strange
"""
NAMES = frozenset(_NAMES.split())
# Names that the field itself uses.
FIELD_NAMES = frozenset({"soundfile", "sound_device", "esc10_sound"})
# Never in a sentence that a user or a developer reads.
PHRASES = re.compile(
    r"""\b(
    hears | heard | hearing | told | tells | judge[sd]? | judging | judgement | beside | strangers? | tempered |
    tempering | settle[sd]? | stretch(es)? | anew | shipment | parcels? | broom | doorplate | lesson | wishes |
    boasts | remarks? | is\ said | are\ said | was\ said | says\ so | said\ so | said\ of | let\ go | lay\ down |
    lays\ down | lies\ down | ready\ frames | luck | cannot\ be\ had | kept\ from | leave\ it\ away | left\ away |
    mend(s|ed|ing)? | whole\ or\ not\ at\ all | half\ the\ say | pays?\ for\ what | goes\ on\ with | go\ on\ with |
    takes\ its\ place | named\ all\ the\ same | all\ the\ same | put\ right | set\ aside | for\ good | it\ knows |
    say\ it\ when | word\ of\ it
    )\b""",
    re.IGNORECASE | re.VERBOSE,
)


def files(*patterns: str) -> list[Path]:
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", *patterns],
        cwd=ROOT,
        capture_output=True,
        text=True,
    ).stdout.splitlines()
    return sorted(path for name in listed if (path := ROOT / name).is_file())


SOURCES = files("src/*.py")
TEXTS = files("README.md", "docs/*.md", "src/*.yaml", "src/*.html", "src/*.js", "src/*.css", "src/*.md")


def words(name: str) -> set[str]:
    """The words of a name: snake_case or CamelCase."""
    return {word.lower() for word in re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+", name)}


def defined(tree: ast.Module) -> Iterator[tuple[str, int]]:
    """Every name that a module defines for others: classes, functions, parameters, fields, constants."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            yield node.name, node.lineno
        if isinstance(node, ast.arg):
            yield node.arg, node.lineno
        if isinstance(node, ast.ClassDef | ast.Module):
            for line in node.body:
                targets = line.targets if isinstance(line, ast.Assign) else [getattr(line, "target", None)]
                yield from ((target.id, line.lineno) for target in targets if isinstance(target, ast.Name))
        if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            yield node.attr, node.lineno


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_names_are_the_fields_own(path: Path) -> None:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    bad = {(name, line) for name, line in defined(tree) if name not in FIELD_NAMES and words(name) & NAMES}
    bad |= {(part, 0) for part in path.relative_to(PACKAGE).with_suffix("").parts if words(part) & NAMES}
    assert not bad, "\n".join(f"{path}:{line}: {name}" for name, line in sorted(bad, key=lambda pair: pair[1]))


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_messages_and_docstrings_are_plain(path: Path) -> None:
    bad = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            bad += [f"{path}:{node.lineno}: {match.group(0)!r}" for match in PHRASES.finditer(node.value)]
    assert not bad, "\n".join(bad)


@pytest.mark.parametrize("path", TEXTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_pages_and_documents_are_plain(path: Path) -> None:
    bad = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        bad += [f"{path}:{number}: {match.group(0)!r}" for match in PHRASES.finditer(line)]
    assert not bad, "\n".join(bad)
