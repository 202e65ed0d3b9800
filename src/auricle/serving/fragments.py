"""The pieces of HTML that pages are made of; Jinja escapes what is put into them."""

import jinja2


def template(name: str) -> jinja2.Template:
    """Open a piece by its file name."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("auricle.serving"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(name)
