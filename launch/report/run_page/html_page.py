"""The page as text: templates with escaped contents, one stylesheet inside, and a policy that lets nothing out."""

import base64
import hashlib
import itertools
from functools import cache
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

import ds2f
from ds2f.errors import InputError
from ds2f.files import write_atomically
from ds2f.text import shown

_FOLDER = Path(__file__).parent / "templates"
_THEME = Path(ds2f.__file__).parent / "serving" / "page" / "theme.css"  # the colours of the server's page


def write(output: Path, page: str) -> None:
    """Writes a page.

    Raises:
      InputError: the file cannot be written.
    """
    try:
        write_atomically(output, page)
    except OSError as error:
        raise InputError(f"{output} cannot be written: {error.strerror or error}; give --output=FILE") from error


def render(template: str, **context: Any) -> str:
    """Renders a page. What comes from a run is text: markup in it is escaped."""
    style = "\n".join(path.read_text(encoding="utf-8") for path in (_THEME, _FOLDER / "report.css"))
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    counter = itertools.count(1)
    return (
        _environment()
        .get_template(template)
        .render(
            context,
            style=Markup(style),  # the project's own
            policy=f"default-src 'none'; style-src 'sha256-{digest}'; img-src data:; media-src data:; base-uri 'none'; "
            "form-action 'none'",
            next_id=lambda: f"figure-{next(counter)}",
        )
    )


@cache
def _environment() -> jinja2.Environment:
    return jinja2.Environment(
        loader=jinja2.FileSystemLoader(_FOLDER),
        autoescape=True,
        finalize=_finalized,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def _finalized(value: Any) -> Any:
    """A text without what would hide or turn its direction; line breaks and the templates' markup stay."""
    if not isinstance(value, str) or isinstance(value, Markup):
        return value
    return "\n".join(map(shown, value.split("\n")))
