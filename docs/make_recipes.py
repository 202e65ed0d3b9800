"""Write the tables of docs/recipes.md from the recipe's own definition: `python -m docs.make_recipes`."""

import json
from pathlib import Path

from auricle.recipe import Recipe

PAGE = Path(__file__).parent / "recipes.md"
MARK = "<!-- made -->"


def tables() -> str:
    """One table per section: key, type, default."""
    parts = []
    for name, field in Recipe.model_fields.items():
        section = field.annotation
        if not isinstance(section, type) or not hasattr(section, "model_fields"):
            continue
        parts += [f"## {name}", "", (section.__doc__ or "").strip(), "", "| key | allowed | default |", "|---|---|---|"]
        properties = section.model_json_schema()["properties"]
        for key, about in properties.items():
            parts.append(f"| `{key}` | {_allowed(about)} | `{_shown(about.get('default'))}` |")
        parts.append("")
    return "\n".join(parts)


def _allowed(about: dict[str, object]) -> str:
    kinds = about.get("anyOf")
    if isinstance(kinds, list):
        return " or ".join(_allowed(kind) for kind in kinds)
    if "enum" in about:
        return ", ".join(f"`{value}`" for value in about["enum"])  # type: ignore[attr-defined]
    bounds = {"minimum": "≥", "exclusiveMinimum": ">", "maximum": "≤", "exclusiveMaximum": "<"}
    limits = " ".join(f"{sign} {about[key]}" for key, sign in bounds.items() if key in about)
    return f"{about.get('type', 'any')} {limits}".strip()


def _shown(value: object) -> str:
    return json.dumps(value) if not isinstance(value, str) else value


if __name__ == "__main__":
    head = PAGE.read_text(encoding="utf-8").split(MARK)[0]
    PAGE.write_text(f"{head}{MARK}\n\n{tables()}", encoding="utf-8")
