"""The recipes that come with auricle, and how a recipe is read and changed.

In: a name, a YAML file or a Recipe; `section.key=value` settings; values by name or key. Out: a checked Recipe.
"""

from collections.abc import Callable, Iterable, Mapping
from importlib import resources
from pathlib import Path
from typing import Any

import yaml

from auricle.errors import UsageError, unknown
from auricle.recipe import Recipe, parse

# What trains where no recipe is named: the first, unless a probe of a cached encoder is better.
DEFAULT, PROBE = "sound", "probe"
# The keys that are set most often: options of the command line, and keyword arguments in Python.
NAMED_SETTINGS: Mapping[str, str] = {
    "reader": "data.reader",
    "label": "data.label",
    "group": "data.group",
    "pattern": "data.reader_options.pattern",
    "split": "data.split",
    "folds": "data.folds",
    "test": "data.test_size",
    "corrections": "data.corrections",
    "strict": "data.strict",
    "checkpoint": "model.checkpoint",
    "epochs": "train.epochs",
    "batch_size": "train.batch_size",
    "learning_rate": "train.learning_rate",
    "seed": "train.seed",
    "embed_audio": "evaluate.embed_audio",
}


def names() -> list[str]:
    """The recipes that come with auricle."""
    files = resources.files("auricle.recipes").iterdir()
    return sorted(file.name.removesuffix(".yaml") for file in files if file.name.endswith(".yaml"))


def load(
    name_or_path: str | Path | Recipe,
    settings: Iterable[str] = (),
    values: Mapping[str, Any] | None = None,
    spelling: Callable[[str], str] = str,
) -> Recipe:
    """Take a recipe, or read it by name or from a YAML file; apply `section.key=value` settings, then `values`.

    `values` are by name (NAMED_SETTINGS) or by key (`train.epochs`). `spelling` turns a name into what the user typed,
    for messages. Raises UsageError for an unknown recipe, an unreadable file, an unknown key or a value out of bounds.
    """
    content = name_or_path.model_dump() if isinstance(name_or_path, Recipe) else _read(name_or_path)
    given: dict[str, Any] = {}
    for setting in settings:
        key, value = _parsed(setting)
        _set(content, key, value, f"--set {setting}")
        given[key] = value
    values = {**(values or {})}
    for name, value in values.items():
        key = NAMED_SETTINGS.get(name, name)
        if given.setdefault(key, value) != value:
            raise UsageError(
                f"{key} received two values: {spelling(name)} {value} and --set {key}={given[key]}. Remove one of them."
            )
    if given.get("data.folds") is not None and "data.split" not in given:
        values["split"] = "folds"
    if values.get("checkpoint") is not None and "checkpoint" not in content.get("model", {}):
        raise UsageError(
            f"{spelling('checkpoint')} received '{values['checkpoint']}', but the recipe '{content['name']}' trains "
            f"from scratch. Choose one that starts from a checkpoint: {spelling('recipe')} probe, emotion, or genre."
        )
    for name, value in values.items():
        _set(content, NAMED_SETTINGS.get(name, name), value, spelling(name))
    typed = {NAMED_SETTINGS[name]: spelling(name) for name in values if name in NAMED_SETTINGS}
    named = content["name"] if isinstance(name_or_path, Recipe) else name_or_path
    own = name_or_path.data.model_fields_set if isinstance(name_or_path, Recipe) else ()
    keys = {key.removeprefix("data.") for key in given if key.startswith("data.")}
    return parse(content, f"recipe '{named}'", typed).with_given({*own, *keys})


def alternative(settings: Iterable[str] = (), values: Mapping[str, Any] | None = None) -> Recipe | None:
    """The recipe `probe` with the same settings and values as the default recipe.

    None where they configure the default's model, its input or its training, of which a probe only has the seeds.
    """
    values = values or {}
    keys = [_parsed(setting)[0] for setting in settings] + [NAMED_SETTINGS.get(name, name) for name in values]
    if any(key not in ("train.seed", "train.seeds") and not key.startswith(("data.", "evaluate.")) for key in keys):
        return None
    return load(PROBE, settings, values)


def _read(name_or_path: str | Path) -> dict[str, Any]:
    """The content of a recipe, unchecked."""
    path = Path(name_or_path)
    if str(name_or_path) in names():
        text = resources.files("auricle.recipes").joinpath(f"{name_or_path}.yaml").read_text(encoding="utf-8")
    elif path.suffix in (".yaml", ".yml") and path.is_file():
        text = path.read_text(encoding="utf-8")
    elif path.suffix in (".yaml", ".yml"):
        raise UsageError(f"No recipe file at '{path}'. Give an existing YAML file or one of: {', '.join(names())}.")
    else:
        raise UsageError(unknown("recipe", str(name_or_path), names()) + " A path to a YAML file works too.")
    try:
        content = yaml.safe_load(text) or {}
    except yaml.YAMLError as error:
        raise UsageError(f"The recipe '{name_or_path}' is not valid YAML: {error}") from error
    if not isinstance(content, dict):
        raise UsageError(
            f"The recipe '{name_or_path}' is not a mapping of sections. Known: {', '.join(Recipe.model_fields)}."
        )
    return {"name": path.stem, **content}


def _parsed(setting: str) -> tuple[str, object]:
    """The key and value of a `section.key=value`. The value is YAML, so 3, 0.5, null, [a, b] and text all work."""
    key, equals, value = setting.partition("=")
    section, dot, rest = key.strip().partition(".")
    if not equals or not dot or not rest:
        raise UsageError(f"--set received '{setting}'. Write section.key=value, for example train.epochs=20.")
    try:
        parsed = yaml.safe_load(value)
    except yaml.YAMLError as error:
        raise UsageError(f"--set {setting}: the value is not valid YAML: {error}") from error
    return f"{section}.{rest}", _number(parsed) if isinstance(parsed, str) else parsed


def _set(content: dict[str, Any], key: str, value: Any, typed: str) -> None:
    """Set one `section.key`, perhaps of several levels; `typed` names it in messages."""
    section, *names = key.split(".")
    if section not in Recipe.model_fields:
        raise UsageError(f"{typed}: " + unknown("section", section, Recipe.model_fields))
    if not names:
        raise UsageError(f"{typed} is a section of the recipe. Write section.key, for example train.epochs.")
    *outer, last = names
    inner = content.setdefault(section, {})
    if not isinstance(inner, dict):
        raise UsageError(f"{typed}: the recipe's '{section}' is not a section of keys.")
    for name in outer:
        if isinstance(inner.get(name), list):
            raise UsageError(f"{typed}: '{section}.{name}' is a list. Give the whole list: --set {section}.{name}=[…].")
        if not isinstance(inner.get(name), dict):
            # freeze.top=2 replaces the word in `freeze: none` by a mapping.
            inner[name] = {}
        inner = inner[name]
    inner[last] = value


def _number(text: str) -> str | float:
    """YAML 1.1 reads 1e-3 as text; a person means the number."""
    try:
        return float(text)
    except ValueError:
        return text
