"""Every option and recipe key that a message, docstring or template names exists, spelt as it is typed."""

import argparse
import ast
import re
from functools import cache
from pathlib import Path

import pytest

from auricle.cli.main import _parser as parser
from auricle.models import registration
from auricle.recipe import Recipe

SOURCE = Path(__file__).parent.parent / "src" / "auricle"
FILES = sorted(path for path in SOURCE.rglob("*") if path.suffix in (".py", ".html", ".md"))
# Options of other programs that messages tell people to type.
OTHERS = {"--help", "--data-binary", "--local-dir", "--metadata-encoding", "--notest"}
NO_KEYS = {"onnx", "safetensors", "html", "json", "wav", "network"}


def _options(command: argparse.ArgumentParser) -> set[str]:
    names = {text for action in command._actions for text in action.option_strings if text.startswith("--")}
    for action in command._actions:
        if isinstance(action, argparse._SubParsersAction):
            for inner in action.choices.values():
                names |= _options(inner)
    return names


KNOWN = _options(parser()) | OTHERS
FAMILY_KEYS = {key for name in registration.names() for key in registration.family(name).Options.model_fields}


@cache
def _texts(path: Path) -> list[str]:
    """The string literals of a module, or the whole text of a template."""
    content = path.read_text(encoding="utf-8")
    if path.suffix != ".py":
        return [
            re.sub(
                r"<style.*?</style>|<script.*?</script>|var\(--[\w-]+\)|<!--.*?-->|{{.*?}}|{%.*?%}",
                "",
                content,
                flags=re.S,
            )
        ]
    nodes = (node for node in ast.walk(ast.parse(content)) if isinstance(node, ast.Constant))
    return [node.value for node in nodes if isinstance(node.value, str)]


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(SOURCE)))
def test_options_in_texts_exist(path: Path) -> None:
    for text in _texts(path):
        for option in re.findall(r"(?<![\w-])--[a-z][a-z0-9-]+", text):
            assert option in KNOWN, f"{option} in {text!r}"


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(SOURCE)))
def test_recipe_keys_in_texts_exist(path: Path) -> None:
    for text in _texts(path):
        for section, key in re.findall(r"(?<![\w.])(data|audio|model|train|evaluate)\.([a-z_]+)(?![\w(])", text):
            if key in NO_KEYS or (SOURCE / section / f"{key}.py").is_file():
                continue  # a file or a module
            fields = Recipe.model_fields[section].annotation.model_fields
            assert key in fields or (section == "model" and key in FAMILY_KEYS), f"{section}.{key} in {text!r}"
