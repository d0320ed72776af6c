"""The documentation in a real browser: every page without an error, the search, light and dark, a narrow screen; and the
page with the sliders against the oracle.

Chromium is that of the machine (Debian: `apt-get install chromium`), the driver is `playwright` from PyPI, whose own
browsers are not needed. The site is built for these tests; BPSTA_DOCS names a folder that holds it already.
"""

import functools
import html
import http.server
import json
import os
import re
import shutil
import subprocess
import sys
import threading
import urllib.request
from pathlib import Path

import numpy as np
import pytest
from _oracle import lif, rectangle, spatial

from snntorch_bpsta.training.studies.gradients import one_neuron

DOCS = Path(__file__).resolve().parent.parent / "docs"
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None)
SOURCES = [page.relative_to(DOCS) for kind in ("*.md", "*.ipynb") for page in DOCS.rglob(kind)]
PAGES = sorted(page.with_suffix("").as_posix() for page in SOURCES if "_build" not in page.parts)
STEPS = 24

if not PAGES:
    pytest.skip("the docs are not part of this distribution", allow_module_level=True)
if CHROMIUM is None:
    pytest.skip("needs Chromium", allow_module_level=True)
sync_api = pytest.importorskip("playwright.sync_api", reason="needs playwright: pip install playwright")


# --- the site and the browser ---------------------------------------------------------------------


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *args):
        pass


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The address of the built site, on this machine."""
    folder = os.environ.get("BPSTA_DOCS")
    if not folder:
        for library in ("sphinx", "furo", "myst_parser", "lightning", "matplotlib"):
            pytest.importorskip(library)
        folder = tmp_path_factory.mktemp("site")
        build = [sys.executable, "-m", "sphinx", "-q", "-b", "html", "-d", folder / "doctrees", DOCS, folder / "html"]
        run = subprocess.run(build, capture_output=True, text=True)
        assert run.returncode == 0, run.stderr
        folder = folder / "html"
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(folder)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/"
    server.shutdown()
    server.server_close()


FLAGS = """--disable-gpu --disable-quic --no-first-run --disable-background-networking --disable-component-update
--disable-sync""".split()


@pytest.fixture(scope="module")
def browser():
    with sync_api.sync_playwright() as driver:
        chromium = driver.chromium.launch(executable_path=CHROMIUM, args=FLAGS, chromium_sandbox=False)
        yield chromium
        chromium.close()


WIDE, NARROW = {"width": 1280, "height": 800}, {"width": 360, "height": 740}


class Tab:
    """A page, what went wrong on it, and which addresses outside of the site it asked for (it got an empty answer)."""

    def __init__(self, browser, site, viewport=WIDE, **options):
        self.site, self.viewport, self.wrong, self.outside = site, viewport, [], []
        self.context = browser.new_context(**options)
        self.page = self.context.new_page()
        self.page.set_default_timeout(10_000)
        self.page.on("console", self.said)
        self.page.on("pageerror", lambda error: self.wrong.append(str(error)))
        self.page.on("requestfailed", self.failed)
        self.context.route(lambda url: not url.startswith(site), self.answer)

    def said(self, message):
        if message.type in ("error", "warning"):  # an answer of 400 or above is an error here too
            self.wrong.append(message.text)

    def failed(self, request):
        if request.failure != "net::ERR_ABORTED":  # (the next page was opened before this one was complete)
            self.wrong.append(f"{request.url}: {request.failure}")

    def answer(self, route):
        self.outside.append(route.request.url)
        route.fulfill(status=200, body="")

    def open(self, name):
        self.outside.clear()
        self.page.set_viewport_size(self.viewport)
        self.page.goto(self.site + name)
        return self.page


@pytest.fixture(scope="module")
def tabs():
    """Those that are open, by their options."""
    return {}


@pytest.fixture
def tab(browser, site, tabs):
    """Gives tabs, and sees to it that nothing went wrong on them."""

    def give(**options):
        key = json.dumps(options)
        if key not in tabs:
            tabs[key] = Tab(browser, site, **options)
        return tabs[key]

    yield give
    wrong = [message for opened in tabs.values() for message in opened.wrong]
    for opened in tabs.values():
        opened.wrong.clear()
    assert wrong == []


# --- every page -----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", PAGES)
def test_tables_are_tables(name, site):
    """Those that notebooks print, too."""
    with urllib.request.urlopen(f"{site}{name}.html") as answer:
        page = answer.read().decode()
    shown = html.unescape(re.sub(r"<[^>]*>", "", re.sub(r"(?s)<(pre|script|style)\b.*?</\1>", "", page)))
    assert not re.search(r"\| *:?[-–—]+:? *\|", shown)  # dashes may have become long ones


@pytest.mark.parametrize("name", PAGES)
def test_a_page_opens_without_an_error_and_fits_a_narrow_screen(name, tab):
    opened = tab()
    page = opened.open(f"{name}.html")
    assert page.locator("article h1").count() == 1
    assert page.locator("img").evaluate_all("all => all.filter(img => !img.complete || !img.naturalWidth).length") == 0
    assert opened.outside == [], "asks for what is not on the site"
    page.set_viewport_size(NARROW)
    # The theme hides what runs over the window and scrolls what runs over the column: ask every box around the text.
    boxes = page.locator("html, body, .page, .main, .content")
    assert boxes.count() == 5
    assert max(boxes.evaluate_all("all => all.map(box => box.scrollWidth)")) <= NARROW["width"]


def test_formulas_are_drawn_without_a_network(tab):
    page = tab().open("method.html")
    page.locator("mjx-container").first.wait_for()
    formulas = page.locator("article .math")
    drawn = formulas.evaluate_all("all => all.filter(f => f.querySelector('mjx-container mjx-math')).length")
    assert drawn == formulas.count() > 50
    assert page.locator("mjx-merror").count() == 0


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_pictures_are_those_of_the_theme(scheme, tab):
    page = tab(color_scheme=scheme).open("pictures.html")
    shown = page.locator("article img:visible").evaluate_all("all => all.map(i => i.getAttribute('src'))")
    assert [name for name in shown if "pictures/" in name or "-light" in name or "-dark" in name]
    assert not [name for name in shown if f"-{({'light': 'dark', 'dark': 'light'})[scheme]}.svg" in name]


def test_the_table_of_contents_leads_to_every_page(tab):
    page = tab().open("index.html")
    links = page.locator(".sidebar-tree a.reference").evaluate_all("all => all.map(a => a.getAttribute('href'))")
    assert {link.removesuffix(".html") for link in links} >= set(PAGES) - {"index"}


def test_the_search_finds_temporal_alpha(tab):
    page = tab().open("index.html")
    search = page.locator(".sidebar-search")
    search.fill("temporal_alpha")
    search.press("Enter")
    page.wait_for_url("**/search.html?*")
    found = page.locator("#search-results li a")
    found.first.wait_for()
    page.locator("p.search-summary", has_text="Search finished").wait_for()
    targets = found.evaluate_all("all => all.map(a => new URL(a.href).pathname)")
    assert {"/method.html", "/api.html"} <= set(targets)
    found.first.click()
    page.locator("article h1").wait_for()
    assert "temporal_alpha" in page.locator("article").inner_text()


def test_the_search_says_so_when_it_finds_nothing(tab):
    page = tab().open("search.html?q=xyzzyplugh")
    page.get_by_text("did not match any documents").wait_for()


# --- light and dark -------------------------------------------------------------------------------


def luminance(colour):
    """Of "rgb(r, g, b)", as WCAG has it."""
    channels = [int(value) / 255 for value in re.findall(r"\d+", colour)[:3]]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one, other):
    dark, light = sorted((luminance(one), luminance(other)))
    return (light + 0.05) / (dark + 0.05)


def colour(page, selector, what):
    return page.locator(selector).first.evaluate("(node, what) => getComputedStyle(node)[what]", what)


def readable(page):
    """Asserts that text and curves stand out; returns how light the background is."""
    background = colour(page, "body", "backgroundColor")
    for text in ("article p", "article h1", ".playground label", ".playground .words", ".playground figcaption"):
        assert contrast(colour(page, text, "color"), background) >= 4.5, text
    assert contrast(colour(page, ".playground .tick", "fill"), background) >= 4.5
    for series in ("u", "o", "baseline", "bpsa", "bpsa+bpta"):
        stroke = colour(page, f'.playground [data-series="{series}"]:is(polyline, .spikes)', "stroke")
        assert contrast(stroke, background) >= 3, series
    return luminance(background)


def test_the_plots_are_readable_in_light_and_dark(tab):
    assert readable(tab(color_scheme="light").open("playground.html")) > 0.8
    assert readable(tab(color_scheme="dark").open("playground.html")) < 0.1


def test_the_plots_follow_the_switch_of_the_theme(tab):
    page = tab(color_scheme="light").open("playground.html")
    page.evaluate("document.body.dataset.theme = 'dark'")
    assert readable(page) < 0.1


@pytest.mark.parametrize("name", ["index", "method", "results"])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_is_readable_in_light_and_dark(name, scheme, tab):
    page = tab(color_scheme=scheme).open(f"{name}.html")
    background = colour(page, "body", "backgroundColor")
    assert (luminance(background) > 0.5) == (scheme == "light")
    for text in ("article p", "article h1", "article p a.reference"):
        assert contrast(colour(page, text, "color"), background) >= 4.5, text


# --- the sliders ----------------------------------------------------------------------------------

FROM = {"third": STEPS - STEPS // 3, "all": 0, "last": STEPS - 1}  # first step that the loss counts
LABELS = {"current": "current I", "beta": "decay beta", "threshold": "threshold", "alpha": "alpha of BPTA"}
VARIANTS = {"baseline": (rectangle(), False), "bpsa": (spatial, False), "bpsa+bpta": (spatial, True)}
START = {"current": 0.2, "beta": 0.9, "threshold": 0.5, "alpha": 0.8, "loss": "third"}
SETTINGS = {
    "as it opens": {},
    "no spike": {"current": 0.04},
    "no current": {"current": 0.0, "loss": "all"},
    "one spike": {"current": 0.06},
    "one spike, counted alone": {"current": 0.05, "beta": 0.91, "loss": "all"},
    "many spikes, all counted": {"current": 0.37, "beta": 0.73, "threshold": 0.81, "alpha": 0.35, "loss": "all"},
    "only the last step counted": {"current": 0.61, "beta": 0.5, "threshold": 0.44, "alpha": 1.0, "loss": "last"},
    "without alpha": {"current": 0.3, "alpha": 0.0},
    "at the threshold": {"current": 0.5, "beta": 0.0, "threshold": 0.5, "loss": "all"},
    "on the edge of the rectangle": {"current": 1.0, "beta": 0.0, "threshold": 0.5, "loss": "all"},
    "exploding": {"current": 0.25, "beta": 1.0, "threshold": 0.2, "alpha": 1.0, "loss": "third"},
}


def move(page, settings):
    """Give the sliders their values: each gets its `input` event, as under a hand."""
    for name, value in settings.items():
        if name == "loss":
            page.get_by_label("the loss counts").select_option(value)
        else:
            page.get_by_label(LABELS[name], exact=True).fill(str(value))


def values(page, series):
    return np.array(
        json.loads(page.locator(f'.playground [data-values][data-series="{series}"]').get_attribute("data-values"))
    )


def expected(current, beta, threshold, alpha, loss):
    """Membrane, spikes and the three gradients, by the oracle."""
    gradient = (np.arange(STEPS) >= FROM[loss]).astype(float)
    result = {}
    for name, (surrogate, residual) in VARIANTS.items():
        options = {"surrogate": surrogate, "alpha": alpha * residual, "dspk": gradient}
        run = lif(np.full(STEPS, current), beta=beta, threshold=threshold, **options)
        result[name] = run.dinput
    return {"u": run.mem, "o": run.spk, **result}


@pytest.fixture
def sliders(tab):
    """The page with the sliders, as the test before left it."""
    opened = tab(reduced_motion="reduce")  # a tab of its own
    return opened.page if opened.page.url.endswith("playground.html") else opened.open("playground.html")


def test_the_page_opens_with_the_values_of_the_study(tab):
    page = tab().open("playground.html")
    wanted = expected(**START)
    for series, numbers in wanted.items():
        np.testing.assert_allclose(values(page, series), numbers, rtol=1e-12, atol=0, err_msg=series)


@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS)
def test_the_page_has_the_numbers_of_the_oracle(settings, sliders):
    settings = {**START, **settings}
    move(sliders, settings)
    wanted = expected(**settings)
    np.testing.assert_array_equal(values(sliders, "u"), wanted["u"])
    np.testing.assert_array_equal(values(sliders, "o"), wanted["o"])
    for name in VARIANTS:
        np.testing.assert_allclose(values(sliders, name), wanted[name], rtol=1e-12, atol=0, err_msg=name)


@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS)
def test_the_curves_stand_where_the_axes_say(settings, sliders):
    settings = {**START, **settings}
    move(sliders, settings)
    wanted = expected(**settings)
    for series in ("u", *VARIANTS):
        curve = sliders.locator(f'.playground polyline[data-series="{series}"]')
        x, y = np.array([point.split(",") for point in curve.get_attribute("points").split()], dtype=float).T
        ticks = curve.locator("xpath=..").locator(".tick")
        labels, places = np.array(
            ticks.evaluate_all("all => all.map(t => [t.textContent, t.getAttribute('y')])"), dtype=float
        ).T
        assert 3 <= len(labels) <= 7
        top, bottom = places.min(), places.max()
        np.testing.assert_allclose(places, np.interp(labels, [0, labels[-1]], [bottom, top]), rtol=0, atol=0.01)
        np.testing.assert_allclose(y, bottom + wanted[series] / labels[-1] * (top - bottom), rtol=0, atol=0.01)
        np.testing.assert_allclose(np.diff(x), (x[-1] - x[0]) / (STEPS - 1), rtol=0, atol=0.01)
        shade = curve.locator("xpath=..").locator(".counted")
        left, width = (float(shade.get_attribute(name)) for name in ("x", "width"))
        np.testing.assert_array_equal((left < x) & (x < left + width), np.arange(STEPS) >= FROM[settings["loss"]])
        if series == "u":
            line = float(sliders.locator(".playground .threshold").get_attribute("y1"))
            assert line == pytest.approx(bottom + settings["threshold"] / labels[-1] * (top - bottom), abs=0.01)


def test_the_page_has_the_numbers_of_one_neuron(sliders):
    for settings in ({}, {"current": 0.31, "beta": 0.8, "threshold": 0.6}):
        move(sliders, {**START, **settings})
        for row in one_neuron(num_steps=STEPS, **settings):  # (has beta in float32, as the host)
            if row["variant"] in VARIANTS:
                np.testing.assert_array_equal(values(sliders, "o"), row["o"])
                np.testing.assert_allclose(values(sliders, "u"), row["u"], rtol=1e-6)
                np.testing.assert_allclose(values(sliders, row["variant"]), row["flow"], rtol=1e-6, atol=0)


@pytest.mark.parametrize("slider", LABELS)
def test_a_slider_answers_to_the_arrow_keys_and_to_the_mouse(slider, tab):
    page = tab().open("playground.html")
    handle = page.get_by_label(LABELS[slider], exact=True)
    shown = page.locator(f"output[for=playground-{slider}]")
    low, high, at = (float(handle.get_attribute(name)) for name in ("min", "max", "value"))
    assert shown.inner_text() == f"{at:.2f}"
    handle.focus()
    handle.press("ArrowLeft")
    handle.press("ArrowLeft")
    assert shown.inner_text() == f"{at - 0.02:.2f}"
    np.testing.assert_allclose(
        values(page, "bpsa+bpta"), expected(**{**START, slider: at - 0.02})["bpsa+bpta"], rtol=1e-9
    )
    box = handle.bounding_box()
    page.mouse.click(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    middle = float(shown.inner_text())
    assert abs(middle - (low + high) / 2) <= 0.02
    np.testing.assert_allclose(values(page, "bpsa+bpta"), expected(**{**START, slider: middle})["bpsa+bpta"], rtol=1e-9)


def test_the_experiments_are_what_the_page_says_of_them(tab):
    page = tab().open("playground.html")
    words = page.locator(".playground [aria-live=polite]")

    page.get_by_role("button", name="No spike").click()
    assert "No spike" in words.inner_text()
    assert values(page, "o").sum() == 0
    assert (values(page, "baseline") > 0).all()
    assert not values(page, "bpsa").any() and not values(page, "bpsa+bpta").any()

    page.get_by_role("button", name="One spike").click()
    assert "1 spike in 24 steps" in words.inner_text()
    fired = int(values(page, "o").argmax())
    assert values(page, "o").sum() == 1
    assert (values(page, "baseline") > 0).all()
    np.testing.assert_array_equal(values(page, "bpsa") > 0, np.arange(STEPS) <= fired)
    np.testing.assert_array_equal(values(page, "bpsa"), values(page, "bpsa+bpta"))
    assert f"at steps 1 to {fired + 1}" in words.inner_text()

    page.get_by_role("button", name="Many spikes").click()
    assert "8 spikes in 24 steps" in words.inner_text()
    np.testing.assert_array_equal(np.flatnonzero(values(page, "o")) + 1, [3, 6, 9, 12, 15, 18, 21, 24])
    for blocked in ("baseline", "bpsa"):
        np.testing.assert_array_equal(values(page, blocked) > 0, np.arange(1, STEPS + 1) > 15)
    assert (values(page, "bpsa+bpta") > 0).all()
    move(page, {"alpha": 0})
    np.testing.assert_array_equal(values(page, "bpsa"), values(page, "bpsa+bpta"))


def test_every_control_and_every_plot_has_a_name(tab):
    page = tab().open("playground.html")
    root = page.locator(".playground")
    names = root.locator("input, select").evaluate_all("all => all.map(control => control.labels[0].textContent)")
    assert len(names) == 5 and all(names)
    assert len(set(root.get_by_role("img").evaluate_all("all => all.map(svg => svg.getAttribute('aria-label'))"))) == 3


def test_on_a_narrow_screen_controls_and_plots_are_whole(tab):
    page = tab(viewport=NARROW).open("playground.html")
    parts = page.locator(".playground :is(button, input, select, output, svg, .legend li, .words)")
    assert parts.count() > 15
    for left, right in parts.evaluate_all("all => all.map(p => p.getBoundingClientRect()).map(b => [b.left, b.right])"):
        assert 0 <= left < right <= 360
    texts = page.locator(".playground svg text")
    sizes = texts.evaluate_all("all => all.map(t => t.getBoundingClientRect()).map(b => [b.left, b.right, b.height])")
    for left, right, height in sizes:
        assert 0 <= left < right <= 360 and height >= 10
    page.set_viewport_size({"width": 900, "height": 740})  # turned: the plots grow with the page
    page.wait_for_function(
        "document.querySelector('.playground polyline').ownerSVGElement.getBoundingClientRect().width > 400"
    )


def test_without_javascript_there_is_a_figure(tab):
    page = tab(java_script_enabled=False).open("playground.html")
    assert page.locator(".playground-figure img").is_visible()
    page = tab().open("playground.html")
    assert page.locator(".playground-figure").count() == 0
