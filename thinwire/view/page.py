"""A payload as one HTML file that opens from anywhere and makes no network request.

The page's own scripts are the ES modules in `static/`, committed as they are. Browsers do not load modules from
`file://`, so they are joined into one inline module: `ORDER` lists them, their `import … from "./…"` lines and the
word `export` go, and every top-level name must be unique over all of them. Data travels as gzip + base64, so no text
of a payload can end a script element. A content security policy names the hashes of the one script and the one style
sheet and forbids the rest.
"""

import base64
import gzip
import hashlib
import json
import re
from collections.abc import Sequence
from html import escape
from importlib.resources import files
from pathlib import Path

from thinwire.artifact import make_parents, require_file_place, unwritable, write_text
from thinwire.view.layout import lay_out
from thinwire.view.payload import Payload

ORDER = (
    "guard.js",
    "dom.js",
    "format.js",
    "data.js",
    "state.js",
    "heatmap.js",
    "histogram.js",
    "sparkline.js",
    "measurements.js",
    "evidence.js",
    "attention.js",
    "relations.js",
    "panel_node.js",
    "panel_channel.js",
    "panel_task.js",
    "edges.js",
    "viewport.js",
    "graph.js",
    "help.js",
    "main.js",
)
"""The page's modules, each after those it imports."""
STYLES = ("base.css", "page.css", "graph.css", "panel.css")
IMPORT = re.compile(r'^import \{[^}]*\} from "\./([a-z_]+\.js)";\n', re.MULTILINE)
TOP_LEVEL = re.compile(r"^(?:export )?(?:async )?(?:function|const|let|class) ([A-Za-z_$][\w$]*)", re.MULTILINE)


def write(payload: Payload, path: Path) -> None:
    """Write the page of a payload to `path`; the same payload gives the same bytes. Raises UserError for a bad path."""
    path = Path(path)
    require_file_place(path, "an HTML file")
    save(render(payload), path)


def save(text: str, path: Path) -> None:
    """Write the HTML text of a page to `path`. Raises UserError where that is not possible."""
    make_parents(path)
    try:
        write_text(path, text)
    except OSError as error:
        raise unwritable(path, error) from None


def render(payload: Payload) -> str:
    """The page of a payload as HTML text."""
    drawings = [lay_out(task, payload.vocab).model_dump(mode="json") for task in payload.tasks]
    data = {"payload": payload.model_dump(mode="json"), "drawings": drawings}
    return compose(payload.title, data, ORDER, STYLES)


def compose(title: str, data: object, modules: Sequence[str], styles: Sequence[str]) -> str:
    """A page as HTML text: data for JSON, and the names of its modules and style sheets in `static/`, in order."""
    script, style = join_modules(modules), "\n".join(_static(name) for name in styles)
    text = json.dumps(data, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    packed = base64.b64encode(gzip.compress(text.encode(errors="replace"), compresslevel=9, mtime=0)).decode()
    policy = (
        f"default-src 'none'; script-src '{_digest(script)}'; style-src '{_digest(style)}'; img-src data:; "
        "base-uri 'none'; form-action 'none'"
    )
    title = title.encode(errors="replace").decode()  # a path may hold bytes that are no text
    return PAGE.format(policy=policy, title=escape(title), style=style, data=packed, script=script)


def join_modules(order: Sequence[str] = ORDER) -> str:
    """Modules of `static/` as one, each after those it imports."""
    joined, loaded, owners = [], set(), {}
    for name in order:
        text = _static(name)
        missing = set(IMPORT.findall(text)) - loaded
        assert not missing, f"{name} imports {missing} before they are loaded; mend the order"
        for symbol in TOP_LEVEL.findall(text):
            assert symbol not in owners, f"{name} and {owners[symbol]} both define {symbol}"
            owners[symbol] = name
        joined.append(f"// {name}\n" + re.sub(r"^export ", "", IMPORT.sub("", text), flags=re.MULTILINE))
        loaded.add(name)
    return "\n" + "\n".join(joined)


def _static(name: str) -> str:
    return files("thinwire.view").joinpath("static", name).read_text(encoding="utf-8")


def _digest(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<link rel="icon" href="data:,">
<title>{title}</title>
<style>{style}</style>
</head>
<body>
<div id="app"><p class="loading">Reading the page…</p></div>
<noscript><p>This page draws with JavaScript, all of it inside this file; allow scripts to see it.</p></noscript>
<script type="text/plain" id="data">{data}</script>
<script type="module">{script}</script>
</body>
</html>
"""
