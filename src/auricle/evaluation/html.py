"""The one Jinja environment: the templates of every package that writes HTML.

In: packages with a folder `templates/`. Out: an environment that escapes everything a template inserts, with filters
for numbers. Labels and file names are untrusted text.
"""

import base64
import functools
import hashlib
import re
from typing import Any

import jinja2
from markupsafe import Markup, escape

from auricle.evaluation.metrics import metric_info
from auricle.preparation import formatting


@functools.cache
def environment(*packages: str) -> jinja2.Environment:
    """Open the templates of packages. A name is looked up in the order given."""
    environment = jinja2.Environment(
        loader=jinja2.ChoiceLoader([jinja2.PackageLoader(package) for package in packages]),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(
        percent=lambda share, digits=1: no_break(formatting.percent(share, digits)),
        duration=lambda seconds: no_break(formatting.duration(seconds)),
        thousands=lambda number: f"{number:,.0f}".replace(",", "\u202f"),  # thin spaces
        position=lambda share: f"{min(1.0, max(0.0, share)) * 100:.2f}%",  # along an SVG, clipped to it
        metric_title=lambda name: metric_info(name).title,
        no_break=lambda text: text.replace(" %", "\u00a0%"),
        code=lambda text: Markup(re.sub("`([^`]+)`", r"<code>\1</code>", str(escape(text)))),
    )
    return environment


def render(template: str, **values: Any) -> str:
    """Fill a template of the report. Raises jinja2.UndefinedError for a value that is missing."""
    return environment("auricle.evaluation").get_template(template).render(**values)


def render_page(template: str, **values: Any) -> str:
    """Fill a template that extends base.html, which allows no script but its own, by its hash."""
    script = render("script.js")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return render(template, script=Markup(script), script_hash=digest, **values)


def no_break(text: str) -> str:
    """Keep a number and its unit on one line."""
    return text.replace(" ", "\u00a0")
