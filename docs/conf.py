"""Sphinx configuration; warnings are errors (``make docs``)."""

import ast
import configparser
import inspect
import json
import re
import runpy
import sys
import zlib
from pathlib import Path

import snntorch_bpsta
from snntorch_bpsta import _typing
from snntorch_bpsta._palette import COLOURS
from snntorch_bpsta.neurons import FAMILY

sys.path.insert(0, str(Path(__file__).parent))
from measured import markdown, measured  # noqa: E402, of this folder
from pictures import cards  # noqa: E402

project = "snntorch-bpsta"
SETTINGS = configparser.ConfigParser()
SETTINGS.read(Path(__file__).parent.parent / "setup.cfg", encoding="utf-8")
ADDRESS = SETTINGS.get(
    "metadata", "url", fallback=""
)  # of the repository at GitHub; all addresses of the docs come from it
copyright = "2026, the snntorch-bpsta developers"
release = version = snntorch_bpsta.__version__

extensions = ["myst_nb", "sphinx_copybutton", "sphinx_design", "sphinx-mathjax-offline"]
extensions += [
    f"sphinx.ext.{name}" for name in ("autodoc", "autosummary", "doctest", "intersphinx", "mathjax", "napoleon")
]
extensions += ["sphinx.ext.linkcode" if ADDRESS else "sphinx.ext.viewcode"]
autosummary_generate = False  # the tables link to what stands below them
copybutton_exclude = ".linenos, .gp, .go"
myst_enable_extensions = ["dollarmath", "colon_fence"]
myst_heading_anchors = 3
nb_execution_mode = "off"  # they are committed with their outputs, and the tests execute them
nb_render_markdown_format = "myst"  # tables that a notebook prints; by default they are left as they are typed
exclude_patterns = ["_build"]
html_theme = "furo"
pygments_dark_style = "github-dark"  # the theme's own underlines names of modules
html_title = "snntorch-bpsta"
_PALETTE = {f"palette-{name}": colour for name, colour in COLOURS.items()}  # for playground.css
html_theme_options = {"light_css_variables": _PALETTE, "dark_css_variables": _PALETTE}
html_theme_options |= {f"{theme}_logo": f"pictures/logo-{theme}.svg" for theme in ("light", "dark")}
html_theme_options |= {"sidebar_hide_name": True}  # the logo has it
html_favicon = "_static/pictures/favicon.svg"
if ADDRESS:
    html_theme_options |= {"source_repository": ADDRESS, "source_branch": "main", "source_directory": "docs/"}
html_static_path = ["_static"]
html_css_files = ["site.css"]
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_preserve_defaults = True
python_maximum_signature_line_length = 100
python_use_unqualified_type_names = True
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_ivar = True
napoleon_custom_sections = ["Shape"]
strip_signature_backslash = True  # or napoleon prints `input_` as `input`


# Where others document what our signatures name, as they name it. (Whole inventories cannot be fetched without a network.)
ELSEWHERE = {
    "torch": (
        "https://docs.pytorch.org/docs/stable/",
        {
            "generated/torch.nn.Module.html#torch.nn.Module": ("nn.Module", "torch.nn.modules.module.Module"),
            "tensor_attributes.html#torch.device": ("torch.device",),
            "tensors.html#torch.Tensor": ("Tensor", "torch.Tensor"),
        },
    ),
    "numpy": (
        "https://numpy.org/doc/stable/",
        {"reference/generated/numpy.ndarray.html#numpy.ndarray": ("np.ndarray", "numpy.ndarray")},
    ),
    "python": (
        "https://docs.python.org/3/",
        {
            "library/collections.abc.html#collections.abc.Callable": ("collections.abc.Callable",),
            "library/os.html#os.PathLike": ("os.PathLike",),
            "library/pathlib.html#pathlib.Path": ("Path", "pathlib.Path"),
        },
    ),
}


def inventory(project, pages):
    """Writes a file as Sphinx reads it; returns its path."""
    path = Path(__file__).parent / "_build" / f"{project}.inv"
    path.parent.mkdir(exist_ok=True)
    head = (
        f"# Sphinx inventory version 2\n# Project: {project}\n# Version:\n# The remainder is compressed using zlib.\n"
    )
    lines = "".join(f"{name} py:class 1 {page} -\n" for page, names in pages.items() for name in names)
    path.write_bytes(head.encode() + zlib.compress(lines.encode()))
    return str(path)


intersphinx_mapping = {name: (address, inventory(name, pages)) for name, (address, pages) in ELSEWHERE.items()}


def compatibility(folder):
    """The tables of compatibility.md, by the comment whose place each takes, from the test results in `folder`."""
    files = sorted(Path(folder).glob("*.json"))
    runs = {file.stem: json.loads(file.read_text(encoding="utf-8")) for file in files}
    runs = dict(
        sorted(runs.items(), key=lambda run: [int(n) for n in run[1]["versions"]["torch"].split("+")[0].split(".")])
    )
    versions = list(dict.fromkeys(name for run in runs.values() for name in run["versions"]))
    features = list(dict.fromkeys(name for run in runs.values() for name in run["features"]))
    reasons = {}
    for name, run in runs.items():
        for row in run["features"].values():
            for reason, count in row["reasons"].items():
                by_run = reasons.setdefault(reason, dict.fromkeys(runs, 0))
                by_run[name] += count

    def table(corner, rows):
        return markdown([[corner, *runs], *rows])

    def cell(row):
        failed = [f"**{row['failed']} FAILED**"] if row["failed"] else []
        passed = [str(row["passed"])] if row["passed"] else []
        skipped = [f"{row['skipped']} skipped"] if row["skipped"] else []
        return ", ".join(failed + passed + skipped) or "not run"

    facts = [[name, *(run["versions"].get(name) or "not installed" for run in runs.values())] for name in versions]
    facts += [[name, *(run[name] for run in runs.values())] for name in ("platform", "device", "date")]
    facts += [["commit", *((run["commit"] or "unknown")[:10] for run in runs.values())]]
    return {
        "environments": table("", facts),
        "features": table(
            "",
            [
                [
                    name,
                    *(
                        cell(run["features"].get(name, {"passed": 0, "skipped": 0, "failed": 0}))
                        for run in runs.values()
                    ),
                ]
                for name in features
            ],
        ),
        "skipped": table("", [[reason, *counts.values()] for reason, counts in sorted(reasons.items())]),
    }


# As a repository's page shows a picture in light and in dark.
PICTURE = re.compile(r'<picture>.*?alt="([^"]+)" src="([^"]+)-light\.svg">\s*</picture>', re.DOTALL)


def in_light_and_dark(found):
    """The same as the docs' pages do it."""
    alt, path = found.groups()
    return "\n".join(
        f":::{{image}} ../results/{path}-{theme}.svg\n:alt: {alt}\n:class: only-{theme}\n:::"
        for theme in ("light", "dark")
    )


def fill_in(app, name, source):
    if name == "compatibility":
        for table, text in compatibility(Path(__file__).parent / "compatibility").items():
            source[0] = source[0].replace(f"<!-- {table} -->", text)
    if name == "where-the-time-goes":
        for table, text in measured(Path(__file__).parent.parent / "benchmarks" / "results").items():
            source[0] = source[0].replace(f"<!-- {table} -->", text)
    if name == "gallery":
        source[0] = re.sub(r"<!-- (\w+) -->", lambda found: cards(found[1]), source[0])
    if name in ("results", "runs"):
        results = Path(__file__).parent.parent / "results"
        page = (results / {"results": "README.md", "runs": "RUNS.md"}[name]).read_text(encoding="utf-8")
        folders = "|".join(["PLAN.md", *(re.escape(path.name) for path in results.iterdir() if path.is_dir())])
        page = re.sub(rf"\[([^\]]+)\]\((?:{folders})/?\)", r"\1", page)  # which are no page
        page = page.replace("](README.md", "](results.md").replace("](RUNS.md", "](runs.md")
        page = re.sub(PICTURE, in_light_and_dark, page)
        page = re.sub(r"\]\((?!https?:|#|results\.md|runs\.md)", "](../results/", page)
        source[0] = page.replace(" ± ", "\u00a0±\u00a0")


def no_edit_of_notebooks(app, name, template, context, doctree):
    """Their pages stand in another folder than they do."""
    if name.startswith("examples/"):
        context["page_source_suffix"] = ""


def add_playground(app, name, template, context, doctree):
    if name == "playground":
        app.add_css_file("playground.css")
        app.add_js_file("playground.js", loading_method="defer")


def add_card(app, name, template, context, doctree):
    """What sites show beside a link to a page; they ask for a whole address."""
    if app.config.html_baseurl:
        address = f"{app.config.html_baseurl.rstrip('/')}/_static/pictures/social.png"
        context["metatags"] += f'<meta property="og:image" content="{address}" />'


# The names of _typing.py, which a reader need not know, and what they stand for.
TYPES = {
    node.target.id: ast.unparse(node.value).strip('"')
    for node in ast.parse(Path(_typing.__file__).read_text(encoding="utf-8")).body
    if isinstance(node, ast.AnnAssign)
}


def spell_out(app, what, name, obj, options, signature, returns):
    def spelled(text):
        text = re.sub(r": Unpack\[\w+\]", "", text or "")
        return re.sub(rf"\b(?:{'|'.join(TYPES)})\b(?=\s*(?:[|,)=\]]|$))", lambda found: TYPES[found[0]], text) or None

    return spelled(signature), spelled(returns)


def annotate_neurons():
    """The arguments of a neuron are the host's, which has no types; _typing.py has them."""
    for neuron in FAMILY:
        types, signature = getattr(_typing, f"{neuron.__name__}Arguments").__annotations__, inspect.signature(neuron)
        parameters = [each.replace(annotation=types[name]) for name, each in signature.parameters.items()]
        neuron.__signature__ = signature.replace(parameters=parameters)


def with_badge(text, path):
    """The notebook with a badge below its heading that opens `path` of the repository in Colab."""
    book = json.loads(text)
    colab = runpy.run_path(str(Path(__file__).parent.parent / "setup.py"))["colab"]
    heading, *rest = book["cells"][0]["source"]
    book["cells"][0]["source"] = [heading.rstrip("\n") + "\n", f"\n{colab(ADDRESS, path)}\n", *rest]
    return json.dumps(book)


def linkcode_resolve(domain, info):
    """The lines of an object in the repository."""
    found = sys.modules.get(info["module"])
    for name in info["fullname"].split("."):
        found = getattr(found, name, None)
    try:
        lines, first = inspect.getsourcelines(inspect.unwrap(getattr(found, "fget", found)))
        path = Path(inspect.getsourcefile(inspect.unwrap(getattr(found, "fget", found)))).resolve()
        path = path.relative_to(Path(__file__).resolve().parent.parent)
    except (TypeError, OSError, ValueError):  # no function and no class, or not ours
        return None
    return f"{ADDRESS}/blob/main/{path.as_posix()}#L{first}-L{first + len(lines) - 1}"


def bring_notebooks(app):
    """The notebooks of the repository as pages, in a folder that is not committed."""
    here = Path(__file__).parent
    (here / "examples").mkdir(exist_ok=True)
    notebooks = sorted((here.parent / "examples").glob("*.ipynb"))
    for page in (here / "examples").glob("*.ipynb"):
        if page.name not in {notebook.name for notebook in notebooks}:
            page.unlink()  # of a notebook that had another name
    for notebook in notebooks:
        page = here / "examples" / notebook.name
        text = notebook.read_text(encoding="utf-8").replace("](../results/README.md", "](../results.md")
        text = text.replace("](../results/RUNS.md", "](../runs.md")
        text = text.replace("](../docs/", "](../")
        if ADDRESS:
            text = with_badge(text, f"examples/{notebook.name}")
        if not page.exists() or page.read_text(encoding="utf-8") != text:
            page.write_text(text, encoding="utf-8")


def setup(app):
    app.connect("builder-inited", bring_notebooks)
    annotate_neurons()
    app.connect("source-read", fill_in)
    app.connect("html-page-context", add_playground)
    app.connect("html-page-context", add_card)
    app.connect("html-page-context", no_edit_of_notebooks)
    app.connect("autodoc-process-signature", spell_out)
