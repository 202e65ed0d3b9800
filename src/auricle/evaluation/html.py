"""The one Jinja environment: the templates of every package that writes HTML.

In: packages with a folder `templates/`. Out: an environment that escapes everything a template inserts.
"""

import functools

import jinja2


@functools.cache
def environment(*packages: str) -> jinja2.Environment:
    """Open the templates of packages. A name is looked up in the order given."""
    return jinja2.Environment(
        loader=jinja2.ChoiceLoader([jinja2.PackageLoader(package) for package in packages]),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
