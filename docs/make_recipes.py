"""Write the tables of docs/recipes.md from the recipe's own definition: `python -m docs.make_recipes`."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from auricle import models
from auricle.recipe import Recipe

PAGE = Path(__file__).parent / "recipes.md"
MARK = "<!-- made -->"


def tables() -> str:
    """One table per section: key, type, default; after the model's own, those of its families."""
    parts = []
    for name, field in Recipe.model_fields.items():
        section = field.annotation
        if not isinstance(section, type) or not hasattr(section, "model_fields"):
            continue
        parts += [f"## {name}", "", (section.__doc__ or "").strip(), "", *_table(section)]
        if name == "model":
            for family in models.names():
                options = models.family(family).Options
                parts += [f"### family: {family}", "", (options.__doc__ or "").strip(), "", *_table(options)]
    return "\n".join(parts)


def _table(section: Any) -> list[str]:
    schema = section.model_json_schema()
    properties = schema.get("properties", {})
    if not properties:
        return ["It has no options of its own.", ""]
    rows = ["| key | allowed | default |", "|---|---|---|"]
    for key, about in properties.items():
        default = f"`{_shown(about['default'])}`" if "default" in about else "to be given"
        rows.append(f"| `{key}` | {_allowed(about, schema.get('$defs', {}))} | {default} |")
    return [*rows, ""]


def _allowed(about: Mapping[str, Any], defined: Mapping[str, Any]) -> str:
    if "anyOf" in about:
        return " or ".join(_allowed(kind, defined) for kind in about["anyOf"])
    if "$ref" in about:
        keys = defined[about["$ref"].rpartition("/")[2]]["properties"]
        return "`{" + ", ".join(keys) + "}`"
    if "enum" in about:
        return ", ".join(f"`{value}`" for value in about["enum"])
    if about.get("type") == "array" and "items" in about:
        return f"a list of {_allowed(about['items'], defined)}"
    bounds = {"minimum": "≥", "exclusiveMinimum": ">", "maximum": "≤", "exclusiveMaximum": "<"}
    limits = " ".join(f"{sign} {about[key]}" for key, sign in bounds.items() if key in about)
    return f"{about.get('type', 'any')} {limits}".strip()


def _shown(value: object) -> str:
    return json.dumps(value) if not isinstance(value, str) else value


if __name__ == "__main__":
    head = PAGE.read_text(encoding="utf-8").split(MARK)[0]
    PAGE.write_text(f"{head}{MARK}\n\n{tables()}", encoding="utf-8")
