"""What makes a page stand alone and stay inert: escaping templates, JSON that ends no script, a policy, the runtime."""

import base64
import hashlib
import json
from collections.abc import Sequence
from functools import cache
from importlib.resources import files
from typing import Any

import jinja2
from markupsafe import Markup

_PACKAGE = "harness.reporting.html"
# JSON within a script element: what would end it, or begin a comment. What is not ASCII, json escapes by itself.
_ESCAPED = {each: f"\\u{ord(each):04x}" for each in "<>&"}
_TEXTS = ("page.css", "page.js")


def as_json(value: Any) -> Markup:
    """Return a value as JSON that may stand in a script element; raises ValueError for NaN and infinity."""
    text = json.dumps(value, allow_nan=False, separators=(",", ":"))
    for character, escaped in _ESCAPED.items():
        text = text.replace(character, escaped)
    return _as_it_is(text)


def policy(scripts: Sequence[str], *, beside: bool) -> str:
    """Return a page's Content-Security-Policy: no network, and no script but these; beside: and a file beside it."""
    hashes = " ".join(
        f"'sha256-{base64.b64encode(hashlib.sha256(each.encode()).digest()).decode()}'" for each in scripts
    )
    sources = f"'self' file: {hashes}" if beside else hashes
    # Vega writes styles of its own.
    styles = "style-src 'unsafe-inline'; img-src data:"
    return f"default-src 'none'; script-src {sources}; {styles}; base-uri 'none'; form-action 'none'"


def render(template: str, *, runtime: str, runtime_file: str = "", **context: Any) -> str:
    """Return a page of a template. runtime: the scripts of charts, in the page; or runtime_file: beside it.

    Every value of the context is escaped.
    """
    css, script = (_text(name) for name in _TEXTS)
    scripts = [each for each in (runtime, script) if each]
    return (
        _environment()
        .get_template(template)
        .render(
            css=_as_it_is(css),
            scripts=[_as_it_is(each) for each in scripts],
            runtime_file=runtime_file,
            policy=policy(scripts, beside=bool(runtime_file)),
            **context,
        )
    )


@cache
def chart_runtime() -> str:
    """Return Vega, Vega-Lite and vega-embed as one script, of the version that Altair writes specifications for."""
    import vl_convert

    bundle: Any = vl_convert.javascript_bundle  # its types ask for a snippet that it does not need
    script = str(bundle(vl_version=vega_lite_version()))
    # Within a string or a regular expression these mean the same; elsewhere no script has them.
    return script.replace("</script", "<\\/script").replace("<!--", "<\\!--")


def vega_lite_version() -> str:
    """Return the version of Vega-Lite that Altair writes specifications for, as vl-convert names it."""
    import altair

    return ".".join(altair.SCHEMA_VERSION.lstrip("v").split(".")[:2])


@cache
def _environment() -> jinja2.Environment:
    return jinja2.Environment(
        loader=jinja2.FunctionLoader(_text),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


@cache
def _text(name: str) -> str:
    return files(_PACKAGE).joinpath("templates", name).read_text("utf-8")


def _as_it_is(text: str) -> Markup:
    """Return a text that is not escaped: of this program itself, or escaped by its caller."""
    return Markup(text)  # noqa: S704 - nothing of a stranger comes here as it was
