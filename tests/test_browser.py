"""The documentation in a real browser: every page without an error, the search, light and dark, a narrow screen; and the
live page against the package.

Chromium is that of the machine (Debian: `apt-get install chromium`), the driver is `playwright` from PyPI, whose own
browsers are not needed. The site is built for these tests; BPSTA_DOCS names a folder that holds it already.
"""

import datetime
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
import torch
from _oracle import lif, spatial

import snntorch_bpsta as snn
from snntorch_bpsta.training.recipes import VARIANTS
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


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_charts_that_were_drawn_on_white_are_dark_on_a_dark_page(scheme, tab):
    page = tab(color_scheme=scheme).open("pictures.html")
    assert (colour(page, "article img[src*=figure]", "filter") == "none") == (scheme == "light")


def test_the_site_has_a_logo_and_a_favicon(tab):
    page = tab().open("index.html")
    icon = page.locator("link[rel*=icon]").evaluate("link => link.href")
    with urllib.request.urlopen(icon) as answer:
        assert b"<svg" in answer.read()
    assert page.locator(".sidebar-logo:visible").count() == 1


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
    assert "/method.html" in targets and any(target.startswith("/api-") for target in targets)
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
    for name in ("input", "uA", "uB", "oA", "oB", "duA", "duB", "lossA", "lossB"):
        assert contrast(colour(page, f'.playground [data-series="{name}"]', "stroke"), background) >= 3, name
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


# --- the live page --------------------------------------------------------------------------------

FROM = {"third": STEPS - STEPS // 3, "all": 0, "last": STEPS - 1}  # first step that the loss counts
LABELS = {
    "input": "input", "current": "current I", "noise": "noise", "rate": "spikes a step", "seed": "seed",
    "beta": "decay beta", "threshold": "threshold", "loss": "the loss counts", "from": "error has come to step",
    "target": "wanted spikes", "speed": "learning rate", "updates": "updates",
    "surrogateA": "surrogate of A", "resetA": "reset of A", "alphaA": "alpha of A",
    "surrogateB": "surrogate of B", "resetB": "reset of B", "alphaB": "alpha of B",
}  # fmt: skip
START = {
    "input": "constant", "current": 0.2, "noise": 0.2, "rate": 0.5, "seed": 1, "beta": 0.9, "threshold": 0.5,
    "loss": "third", "target": 5, "speed": 0.02, "updates": 0,
    "surrogateA": "spatial", "resetA": "zero", "alphaA": 0, "surrogateB": "spatial", "resetB": "zero", "alphaB": 0.8,
}  # fmt: skip
PLAIN = {"surrogateA": "rectangle"}
DEFAULT = {"surrogateA": "atan", "resetA": "subtract"}  # snnTorch's
SETTINGS = {
    "as it opens": {},
    "no spike": {"current": 0.04, **PLAIN},
    "no current": {"current": 0.0, "loss": "all", **DEFAULT},
    "one spike, counted alone": {"current": 0.05, "beta": 0.91, "loss": "all", **PLAIN},
    "many spikes": {"current": 0.37, "beta": 0.73, "threshold": 0.81, "alphaB": 0.35, "loss": "all", **DEFAULT},
    "only the last step": {"current": 0.61, "beta": 0.5, "threshold": 0.44, "alphaA": 0.6, "loss": "last", **PLAIN},
    "at the threshold": {"current": 0.5, "beta": 0.0, "threshold": 0.5, "loss": "all", **PLAIN},
    "on the edge of the rectangle": {"current": 1.0, "beta": 0.0, "threshold": 0.5, "loss": "all", **PLAIN},
    "exploding": {"current": 0.25, "beta": 1.0, "threshold": 0.2, "alphaB": 1.0},
    "both by subtraction": {"resetA": "subtract", "resetB": "subtract", "surrogateB": "atan", "alphaB": 0.3},
    "no reset": {"current": 0.1, **DEFAULT, "resetA": "none", "resetB": "none"},
    "noise": {"input": "noise", "current": 0.15, "noise": 0.9, "seed": 12, "loss": "all", **DEFAULT},
    "Poisson spikes": {"input": "poisson", "current": 0.3, "rate": 0.6, "seed": 7, **PLAIN},
    "many Poisson spikes": {"input": "poisson", "current": 0.12, "rate": 1.9, "seed": 50, "loss": "all", **DEFAULT},
}


def move(page, settings):
    """Give the controls their values: each gets its `input` event, as under a hand."""
    for name, value in settings.items():
        control = page.get_by_label(LABELS[name], exact=True)
        if isinstance(value, str):
            control.select_option(value)
        elif control.is_visible():  # what the input does not ask for is hidden
            control.fill(str(value))


def series(page, name):
    return page.locator(f'.playground [data-values][data-series="{name}"]')


def values(page, name):
    return np.array(json.loads(series(page, name).get_attribute("data-values")))


def random(seed):
    """The numbers of the page's generator, mulberry32."""
    mask, state = 2**32 - 1, seed
    while True:
        state = (state + 0x6D2B79F5) & mask
        t = ((state ^ (state >> 15)) * (1 | state)) & mask
        t = ((t + (((t ^ (t >> 7)) * (61 | t)) & mask)) & mask) ^ t
        yield ((t ^ (t >> 14)) & mask) / 2**32


def currents(settings):
    """[STEPS]: what the page gives its neuron."""
    draws = random(settings["seed"])
    if settings["input"] == "noise":
        return np.array([settings["current"] + settings["noise"] * (2 * next(draws) - 1) for _ in range(STEPS)])
    if settings["input"] == "poisson":
        counts = []
        for _ in range(STEPS):  # Knuth: how many numbers, multiplied, stay above exp(-rate)
            count, left = 0, next(draws)
            while left > np.exp(-settings["rate"]):
                count, left = count + 1, left * next(draws)
            counts.append(count)
        return settings["current"] * np.array(counts)
    return np.full(STEPS, settings["current"])


SURROGATES = {
    "spatial": {"spatial_adj": True},
    "rectangle": {"spike_grad": snn.surrogate.rectangle()},
    "atan": {},  # the default
}


def package(input_, settings, row, weight=1.0):
    """Membrane, spikes and dL/du of a row, and the counted spikes and their slope by the weight, by the package."""
    scale = torch.tensor(weight, dtype=torch.float64, requires_grad=True)
    current = scale * torch.as_tensor(input_)[:, None]
    current.retain_grad()
    reset = settings[f"reset{row}"]
    fixed = {name: torch.tensor(settings[name], dtype=torch.float64) for name in ("beta", "threshold")}
    out = snn.functional.lif_multistep(
        current, **fixed, reset_mechanism=reset, record_mem=True, impl="reference",
        temporal_alpha=0 if reset == "none" else settings[f"alpha{row}"], **SURROGATES[settings[f"surrogate{row}"]],
    )  # fmt: skip
    counted = out.spk[FROM[settings["loss"]] :].sum()
    counted.backward()
    rows = (part.detach().flatten().numpy() for part in (out.mem, out.spk, current.grad))
    return *rows, counted.item(), scale.grad.item()


def learnt(input_, settings, row, updates):
    """The losses and the weights of a row: gradient descent on (counted spikes - wanted)^2 / 2, by the package."""
    weight, losses, weights = 1.0, [], []
    for _ in range(updates + 1):
        *_, spikes, slope = package(input_, settings, row, weight)
        losses.append((spikes - settings["target"]) ** 2 / 2)
        weights.append(weight)
        weight -= settings["speed"] * (spikes - settings["target"]) * slope
    return losses, weights


def check(page, settings, weights=(1.0, 1.0)):
    """Both rows and their input on the page are those of the package."""
    input_ = values(page, "input")
    for row, weight in zip("AB", weights, strict=True):
        u, o, du, *_ = package(input_, settings, row, weight)
        np.testing.assert_allclose(values(page, f"u{row}"), u, rtol=1e-12, atol=1e-15, err_msg=f"u of {row}")
        np.testing.assert_array_equal(values(page, f"o{row}"), o, err_msg=f"o of {row}")
        np.testing.assert_allclose(values(page, f"du{row}"), du, rtol=1e-11, atol=0, err_msg=f"dL/du of {row}")


@pytest.fixture
def sliders(tab):
    """The page with the sliders, as it opens."""
    opened = tab(reduced_motion="reduce")  # a tab of its own
    opened.page.goto("about:blank")  # or the last settings stay in the address
    return opened.open("playground.html")


@pytest.fixture
def clocked(tab):
    """The same, in a tab whose clock moves when it is told to."""
    opened = tab(locale="en-GB")
    opened.page.clock.install(time=datetime.datetime(2026, 1, 1))
    opened.page.goto("about:blank")
    page = opened.open("playground.html")
    page.clock.pause_at(datetime.datetime(2026, 1, 2))
    return page


@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS)
def test_the_page_has_the_numbers_of_the_package(settings, sliders):
    move(sliders, settings)
    settings = {**START, **settings}
    np.testing.assert_allclose(values(sliders, "input"), currents(settings), rtol=1e-12, atol=1e-15)
    check(sliders, settings)


def test_the_page_opens_with_the_oracles_numbers(sliders):
    """Which judges the package as well."""
    for row, alpha in (("A", 0), ("B", 0.8)):
        counted = (np.arange(STEPS) >= FROM["third"]).astype(float)
        run = lif(np.full(STEPS, 0.2), beta=0.9, threshold=0.5, surrogate=spatial, alpha=alpha, dspk=counted)
        np.testing.assert_array_equal(values(sliders, f"u{row}"), run.mem)
        np.testing.assert_allclose(values(sliders, f"du{row}"), run.dinput, rtol=1e-12, atol=0)


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {**PLAIN, "current": 0.04},
        {**DEFAULT, "target": 6, "speed": 0.01},
        SETTINGS["Poisson spikes"] | {"target": 1},
    ],
    ids=["as it opens", "no spike", "default", "Poisson"],
)
def test_a_weight_learns_as_with_the_package(settings, sliders):
    move(sliders, settings)
    settings = {**START, **settings}
    input_ = values(sliders, "input")
    moved = False
    for row in "AB":
        losses, weights = learnt(input_, settings, row, 40)
        np.testing.assert_allclose(values(sliders, f"loss{row}"), losses, rtol=1e-9, err_msg=row)
        moved |= weights[-1] != 1
    assert moved
    move(sliders, {"updates": 5})
    check(sliders, settings, [learnt(input_, settings, row, 5)[1][-1] for row in "AB"])


@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS)
def test_the_curves_stand_where_the_axes_say(settings, sliders):
    move(sliders, settings)
    settings = {**START, **settings}
    for name in ("uA", "uB", "duA", "duB", "lossA", "lossB"):
        curve = series(sliders, name)
        x, y = np.array([point.split(",") for point in curve.get_attribute("points").split()], dtype=float).T
        texts = curve.locator("xpath=..").locator(".tick")
        labels, places = np.array(
            texts.evaluate_all("all => all.map(t => [t.textContent, t.getAttribute('y')])"), dtype=float
        ).T
        assert 3 <= len(labels) <= 8
        per_unit = (places[-1] - places[0]) / (labels[-1] - labels[0])
        np.testing.assert_allclose(places, places[0] + per_unit * (labels - labels[0]), rtol=0, atol=0.01)
        wanted = places[0] + per_unit * (values(sliders, name) - labels[0])
        np.testing.assert_allclose(y, wanted, rtol=0, atol=0.01)
        np.testing.assert_allclose(np.diff(x), (x[-1] - x[0]) / (len(x) - 1), rtol=0, atol=0.01)
        if name.startswith("u"):
            line = float(sliders.locator(".playground line.threshold").get_attribute("y1"))
            assert line == pytest.approx(places[0] + per_unit * (settings["threshold"] - labels[0]), abs=0.01)
        if not name.startswith("loss"):
            shade = curve.locator("xpath=..").locator(".counted")
            left, width = (float(shade.get_attribute(side)) for side in ("x", "width"))
            np.testing.assert_array_equal((left < x) & (x < left + width), np.arange(STEPS) >= FROM[settings["loss"]])


def test_the_page_has_the_numbers_of_one_neuron(sliders):
    move(sliders, PLAIN)
    for settings in ({}, {"current": 0.31, "beta": 0.8, "threshold": 0.6}):
        move(sliders, settings)
        rows = {
            row["variant"]: row for row in one_neuron(num_steps=STEPS, **settings)
        }  # (beta in float32, as snnTorch)
        for name, variant in (("A", "baseline"), ("B", "bpsa+bpta")):
            alpha = VARIANTS[variant]["temporal_alpha"]
            move(sliders, {f"alpha{name}": alpha})
            np.testing.assert_array_equal(values(sliders, f"o{name}"), rows[variant]["o"])
            np.testing.assert_allclose(values(sliders, f"u{name}"), rows[variant]["u"], rtol=1e-6)
            np.testing.assert_allclose(values(sliders, f"du{name}"), rows[variant]["flow"], rtol=1e-5, atol=0)


def test_the_input_is_drawn_by_the_mouse(sliders):
    pad = sliders.locator(".playground figure.input svg")
    pad.scroll_into_view_if_needed()
    box = pad.bounding_box()
    slot = (box["width"] - 54) / STEPS
    sliders.mouse.move(box["x"] + 46 + 2.5 * slot, box["y"] + 70)
    sliders.mouse.down()
    sliders.mouse.move(box["x"] + 46 + 9.5 * slot, box["y"] + 12, steps=20)
    sliders.mouse.up()
    drawn = values(sliders, "input")
    assert sliders.get_by_label("input", exact=True).input_value() == "drawn"
    np.testing.assert_array_equal(drawn[[0, 1, *range(10, STEPS)]], 0.2)
    assert (np.diff(drawn[2:10]) > 0).all() and drawn[9] > 1 > 0.3 > drawn[2]
    check(sliders, START)


def test_the_input_is_drawn_by_the_keys(sliders):
    pad = sliders.locator(".playground figure.input svg")
    pad.focus()
    for key in ("ArrowRight", "ArrowRight", "ArrowUp", "ArrowUp", "ArrowLeft", "ArrowDown"):
        pad.press(key)
    drawn = np.full(STEPS, 0.2)
    drawn[2], drawn[1] = 0.3, 0.15
    np.testing.assert_allclose(values(sliders, "input"), drawn, rtol=1e-12)
    assert pad.get_attribute("aria-valuetext") == "step 2: 0.15"
    check(sliders, START)


def test_play_sends_the_error_back_step_by_step(clocked):
    slider, button = clocked.get_by_label(LABELS["from"], exact=True), clocked.locator("button.play.from")
    shown = lambda: len(series(clocked, "duB").get_attribute("points").split())  # noqa: E731
    assert shown() == STEPS
    button.click()
    assert button.inner_text() == "Stop" and slider.input_value() == str(STEPS) and shown() == 1
    for steps in (2, 3, 4):
        clocked.clock.run_for(300)
        assert shown() == steps and slider.input_value() == str(STEPS + 1 - steps)
    t = STEPS - 4
    said = clocked.locator(".playground .said.step").inner_text()
    fires = "fires" if values(clocked, "oB")[t] else "is silent"
    assert said.startswith(f"Step {t + 1}.") and f"B {fires}" in said
    button.click()
    clocked.clock.run_for(3000)
    assert shown() == 4  # it stands
    button.click()
    clocked.clock.run_for(300 * STEPS)
    assert shown() == STEPS and button.inner_text().startswith("Play")


def test_train_moves_the_weight_update_by_update(clocked):
    clocked.locator("button.play.updates").click()
    clocked.clock.run_for(300 * 3)
    input_ = values(clocked, "input")
    weights = [learnt(input_, START, row, 3)[1][-1] for row in "AB"]
    assert all(weight != 1 for weight in weights)
    check(clocked, START, weights)
    assert clocked.locator(".playground .said.learnt").inner_text().startswith("After 3 updates.")


@pytest.mark.parametrize("settings", [SETTINGS["Poisson spikes"], SETTINGS["many spikes"], SETTINGS["noise"]])
def test_a_link_keeps_the_settings(settings, sliders, tab):
    move(sliders, settings)
    address = sliders.url
    assert "#" in address and sliders.locator(".playground a.link").evaluate("a => a.href") == address
    before = {name: values(sliders, name) for name in ("input", "uA", "oB", "duA", "duB", "lossB")}
    other = tab(reduced_motion="no-preference").open("index.html")
    other.goto(address)
    for name, numbers in before.items():
        np.testing.assert_array_equal(values(other, name), numbers)


def test_a_link_keeps_what_was_drawn(sliders):
    drawn = [round(0.05 * (t % 7), 2) for t in range(STEPS)]
    sliders.evaluate(f"location.hash = 'input=drawn&drawn={','.join(map(str, drawn))}'")
    sliders.wait_for_function("document.querySelector('#playground-input').value === 'drawn'")
    np.testing.assert_array_equal(values(sliders, "input"), drawn)
    check(sliders, START)


@pytest.mark.parametrize(
    "hash_",
    [
        "beta=nonsense&loss=none&resetA=__proto__&toString=1",
        "input=drawn",
        "input=drawn&drawn=1,2,x",
        "five-experiments",
    ],
)
def test_a_link_with_nonsense_opens_as_usual(hash_, tab):
    page = tab(reduced_motion="no-preference").open("index.html")
    page.goto(f"{tab(reduced_motion='no-preference').site}playground.html#{hash_}")
    np.testing.assert_array_equal(values(page, "input"), 0.2)
    check(page, START)


def test_a_number_in_a_link_is_kept_in_its_range(tab):
    page = tab(reduced_motion="no-preference").open("index.html")
    page.goto(f"{tab(reduced_motion='no-preference').site}playground.html#beta=7&threshold=-3&updates=2.4")
    check(
        page,
        {**START, "beta": 1, "threshold": 0.2},
        [learnt(np.full(STEPS, 0.2), {**START, "beta": 1, "threshold": 0.2}, row, 2)[1][-1] for row in "AB"],
    )


@pytest.mark.parametrize("slider", ["current", "beta", "threshold", "alphaB", "target"])
def test_a_slider_answers_to_the_arrow_keys_and_to_the_mouse(slider, tab):
    page = tab().open("playground.html")
    handle = page.get_by_label(LABELS[slider], exact=True)
    shown = page.locator(f"output[for=playground-{slider}]")
    low, high = (float(handle.get_attribute(name)) for name in ("min", "max"))
    at = float(handle.input_value())
    step = 1 if slider == "target" else 0.01
    handle.focus()
    handle.press("ArrowLeft")
    handle.press("ArrowLeft")
    assert float(shown.inner_text()) == pytest.approx(at - 2 * step)
    check(page, {**START, slider: round(at - 2 * step, 2)})
    box = handle.bounding_box()
    handle.click(position={"x": box["width"] / 2, "y": box["height"] / 2})  # once the page lies still
    middle = float(shown.inner_text())
    assert abs(middle - (low + high) / 2) <= 2 * step
    check(page, {**START, slider: middle})


def test_the_experiments_are_what_the_page_says_of_them(tab):
    page = tab().open("playground.html")
    words = page.locator(".playground [aria-live=polite]")

    page.get_by_role("button", name="No spike").click()
    assert words.inner_text().count("no spike") == 2
    assert not values(page, "oA").any() and not values(page, "oB").any()
    assert (values(page, "duA") > 0).all() and not values(page, "duB").any()
    assert values(page, "lossA").min() < values(page, "lossA")[0]  # plain backpropagation finds spikes
    assert len(set(values(page, "lossB"))) == 1
    move(page, {"current": 0.06})
    assert values(page, "duB").any()

    page.get_by_role("button", name="One spike").click()
    assert words.inner_text().count("1 spike in 24 steps") == 2
    fired = int(values(page, "oB").argmax())
    assert values(page, "oB").sum() == 1
    assert (values(page, "duA") > 0).all()
    assert values(page, "duA")[16] > values(page, "duA")[15]  # step 17 counts by itself
    np.testing.assert_array_equal(values(page, "duB") > 0, np.arange(STEPS) <= fired)
    assert f"at steps 1 to {fired + 1}" in words.inner_text()
    move(page, {"alphaB": 0})
    np.testing.assert_array_equal(values(page, "duB") > 0, np.arange(STEPS) <= fired)

    page.get_by_role("button", name="Many spikes").click()
    np.testing.assert_array_equal(np.flatnonzero(values(page, "oA")) + 1, [3, 6, 9, 12, 15, 18, 21, 24])
    np.testing.assert_array_equal(values(page, "duA") > 0, np.arange(1, STEPS + 1) > 15)
    assert (values(page, "duB") > 0).all()
    move(page, {"alphaB": 0})
    np.testing.assert_array_equal(values(page, "duA"), values(page, "duB"))
    move(page, {"alphaB": 1, "beta": 1, "threshold": 0.2, "current": 0.25})
    assert values(page, "oB").all() and values(page, "duB")[0] / values(page, "duB")[1] == pytest.approx(4)

    page.get_by_role("button", name="default").click()
    check(page, {**START, **DEFAULT})
    assert (values(page, "duA") > 0).all()
    page.get_by_role("button", name="Poisson").click()
    check(page, START)
    np.testing.assert_allclose(
        values(page, "input"), currents({**START, "input": "poisson", "current": 0.3, "rate": 0.6, "seed": 7})
    )


def test_every_control_and_every_plot_has_a_name(tab):
    page = tab().open("playground.html")
    root = page.locator(".playground")
    names = root.locator("input, select").evaluate_all("all => all.map(control => control.labels[0].textContent)")
    assert sorted(names) == sorted(LABELS.values())
    plots = root.locator("figure svg").evaluate_all("all => all.map(svg => svg.getAttribute('aria-label'))")
    assert len(set(plots)) == 5 and all(plots)


@pytest.mark.parametrize("viewport", [WIDE, NARROW], ids=["wide", "narrow"])
def test_controls_stand_beside_their_curves(viewport, tab):
    """On the left of them where there is room, else right above."""
    tab().viewport = viewport
    try:
        page = tab().open("playground.html")
    finally:
        tab().viewport = WIDE
    boxes = "all => all.map(p => p.getBoundingClientRect()).map(b => [b.left, b.top, b.right, b.bottom])"
    controls = page.locator(".playground .section .controls").evaluate_all(boxes)
    plots = page.locator(".playground .section .plots").evaluate_all(boxes)
    assert len(controls) == len(plots) == 4
    for (_, top, right, bottom), (left, upper, *_) in zip(controls, plots, strict=True):
        if viewport == WIDE:
            assert right < left and abs(top - upper) < 1
        else:
            assert 0 <= upper - bottom < 20


def test_on_a_narrow_screen_controls_and_plots_are_whole(tab):
    opened = tab(reduced_motion="no-preference")
    opened.viewport = NARROW
    page = opened.open("playground.html")
    opened.viewport = WIDE
    parts = page.locator(".playground :is(button, input, select, output, svg, .legend li, .words):visible")
    assert parts.count() > 15
    for left, right in parts.evaluate_all("all => all.map(p => p.getBoundingClientRect()).map(b => [b.left, b.right])"):
        assert 0 <= left < right <= 360
    texts = page.locator(".playground svg text")
    sizes = texts.evaluate_all("all => all.map(t => t.getBoundingClientRect()).map(b => [b.left, b.right, b.height])")
    for left, right, height in sizes:
        assert 0 <= left < right <= 360 and height >= 10
    page.set_viewport_size({"width": 800, "height": 740})  # turned: the plots grow with the page
    page.wait_for_function(
        "document.querySelector('.playground polyline').ownerSVGElement.getBoundingClientRect().width > 380"
    )


def test_without_javascript_there_is_a_figure(tab):
    page = tab(java_script_enabled=False).open("playground.html")
    assert page.locator(".playground-figure img:visible").count() == 1
    page = tab().open("playground.html")
    assert page.locator(".playground-figure").count() == 0
