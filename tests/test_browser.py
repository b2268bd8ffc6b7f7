"""Pages in a browser: what is drawn is what the arrays say, everybody can use it, and no text gets out of its place."""

from __future__ import annotations

import json
import os
import re
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_models
from contrast import contrast
from graph_makers import MAKERS
from test_attribution import check_equal

from attnflow_hf import Attribution, Attributor, LayerGraph, Options, Page, flow, rollout, run_dataset
from attnflow_hf.html import page_data
from attnflow_hf.packing import pack
from attnflow_hf.run_page import page_of_run
from attnflow_hf.tokens import Tokens

pytestmark = pytest.mark.browser

TEXT = "the key to old cabinets is on a table"
ARGUMENTS = (
    "--no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync"
).split()
Open = Callable[..., Any]


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright (extra: dev)")
    program = os.environ.get("ATTNFLOW_CHROMIUM") or shutil.which("chromium")
    if program is None:
        pytest.skip("needs Chromium: on the path as chromium, or named by ATTNFLOW_CHROMIUM")
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=program, args=ARGUMENTS)
        yield browser
        browser.close()


@pytest.fixture
def show(chromium: Any, tmp_path: Path) -> Iterator[Open]:
    """Return a function that opens HTML; at the end no error was told, no dialog shown, nothing asked of a network."""
    faults: list[str] = []
    contexts = []

    def opened(html: str, *, width: int = 900, scheme: str = "light", **options: Any) -> Any:
        path = tmp_path / f"{len(contexts)}.html"
        path.write_text(html, encoding="utf-8")
        context = chromium.new_context(viewport={"width": width, "height": 800}, color_scheme=scheme, **options)
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(10_000)
        page.on("console", lambda message: faults.append(f"{message.type}: {message.text}"))
        page.on("pageerror", lambda error: faults.append(str(error)))
        page.on("dialog", lambda dialog: (faults.append(dialog.message), dialog.dismiss()))
        page.on("request", lambda request: None if local(request.url, path) else faults.append(request.url))
        page.goto(path.as_uri())
        return page

    yield opened
    for context in contexts:
        context.close()
    assert faults == []


def local(url: str, path: Path) -> bool:
    return url == path.as_uri() or url.startswith(("blob:", "data:"))


@pytest.fixture(scope="module")
def bert() -> Attributor:
    return Attributor(tiny_models.bert(), tiny_models.tokenizer())


@pytest.fixture(scope="module")
def page_of_text(bert: Attributor) -> Page:
    return bert.page(TEXT)


def cells(page: Any) -> Any:
    return page.locator("[data-cell]")


def drawn(page: Any) -> tuple[np.ndarray, np.ndarray]:
    """Return the score of each token that is drawn, and how much of the full color it has, read off its color."""
    found = page.evaluate(
        """() => {
          const root = document.querySelector(".attnflow-page").shadowRoot;
          return [...root.querySelectorAll("[data-cell]")].map((cell) =>
            [Number(cell.dataset.score), getComputedStyle(cell).backgroundColor]);
        }"""
    )
    colors = np.array([rgb(color) for _, color in found])
    return np.array([score for score, _ in found]), (255 - colors[:, 0]) / (255 - 77)


def rgb(color: str) -> np.ndarray:
    """Return red, green and blue from 0 to 255 of a computed color."""
    numbers = np.array([float(number) for number in re.findall(r"[\d.]+(?:e-?\d+)?", color)[:3]])
    return numbers * 255 if color.startswith("color(srgb") else numbers


def check_drawn(page: Any, scores: np.ndarray) -> None:
    found, shares = drawn(page)
    np.testing.assert_array_equal(found, scores)
    np.testing.assert_allclose(shares, scores / scores.max(), rtol=0, atol=1 / 178)


def set_layer(page: Any, layer: int) -> None:
    page.get_by_role("slider").fill(str(layer))


def open_graph(page: Any) -> None:
    page.get_by_text("Flow through the layers").first.click()
    page.locator("svg").first.wait_for()


# What is drawn


def test_each_method_layer_and_output_is_drawn_as_the_arrays_say(show: Open, page_of_text: Page) -> None:
    page = show(page_of_text.to_html())
    for attribution in page_of_text.attributions:
        page.get_by_role("radio", name=attribution.method, exact=True).check(force=True)
        for layer in range(3):
            set_layer(page, layer)
            check_drawn(page, attribution.scores[layer, 0])
        cells(page).nth(4).click()
        check_drawn(page, attribution.scores[2, 4])
        assert cells(page).nth(4).get_attribute("aria-selected") == "true"
        cells(page).nth(0).click()


def test_where_an_input_went_is_a_column(show: Open, page_of_text: Page) -> None:
    page = show(page_of_text.to_html())
    page.get_by_role("radio", name="where it went").check(force=True)
    cells(page).nth(3).click()
    check_drawn(page, page_of_text.attributions[0].scores[2, :, 3])
    page.get_by_label("input token", exact=True).first.select_option(label="cabinets")
    check_drawn(page, page_of_text.attributions[0].scores[2, :, 5])


def test_edge_weights_and_their_target_are_chosen_and_told(show: Open) -> None:
    attributor = Attributor.from_pretrained()
    given = [attributor("the keys to the cabinet", edge_weights="grad_attention", target=each) for each in (0, 1)]
    page = show(Page.of(given).to_html())
    for each in given:
        page.get_by_role("radio", name=f"flow, target {each.target.label}").check(force=True)
        check_drawn(page, each.scores)
        by = page.locator(".by").inner_text()
        assert by == f"flow, target {each.target.label}, on grad_attention, layer 5"
    assert "on grad_attention" in page.locator(".facts").inner_text()


def test_rows_of_a_run_tell_their_targets(show: Open, tmp_path: Path) -> None:
    rows = [{"id": 1, "text": "the keys to the cabinet"}, {"id": 2, "text": "the author of the books"}]
    options = Options(edge_weights="grad_attention")
    run_dataset(rows, Attributor.from_pretrained(), tmp_path / "run", method="raw", options=options, progress=False)
    told = show(page_of_run(tmp_path / "run").to_html()).locator(".facts").all_inner_texts()
    assert [re.split(r"\s+\u00b7\s+", each) for each in told] == [
        ["on grad_attention", "target plural", "id 1"],
        ["on grad_attention", "target singular", "id 2"],
    ]


def test_words_are_sums(show: Open) -> None:
    tokens = Tokens(
        np.arange(4),
        ("ca", "##b", "##in", "the"),
        np.zeros(4, dtype=bool),
        np.arange(4),
        offsets=np.array([[0, 2], [2, 3], [3, 5], [6, 9]]),
        texts=("cabin the",),
    )
    attribution = Attribution(tokens, np.array([0.1, 0.2, 0.3, 0.4]), "raw", "numpy", 0, 1)
    page = show(attribution.to_html())
    page.get_by_label("whole words").check()
    assert cells(page).all_inner_texts() == ["cabin", "the"]
    check_drawn(page, attribution.to_words().scores)


def test_generated_tokens_are_outputs_of_one_text(show: Open) -> None:
    gpt2 = Attributor(tiny_models.gpt2(), tiny_models.tokenizer(template=""))
    found = gpt2.generate("the key to", max_new_tokens=3, method="rollout")
    page = show(Page.of(found).to_html())
    menu = page.get_by_label("output position")
    for number, attribution in enumerate(found):
        menu.select_option(index=number)
        n = len(attribution.tokens)
        assert [float(cells(page).nth(i).get_attribute("data-score")) for i in range(n)] == attribution.scores.tolist()
        assert cells(page).nth(n - 1).get_attribute("aria-selected") == "true"
        assert all(cells(page).nth(i).get_attribute("data-score") == "" for i in range(n, cells(page).count()))
        assert page.locator(".said b").inner_text() == attribution.prediction.label.strip()


@pytest.mark.parametrize("name", sorted(MAKERS))
def test_the_pages_flows_are_the_packages(name: str, chromium: Any) -> None:
    folder = files("attnflow_hf") / "browser"
    program = "".join((folder / each).read_text(encoding="utf-8") for each in ("numbers.js", "max_flow.js"))
    page = chromium.new_page()
    for seed, (n_layers, n) in enumerate([(1, 5), (3, 9), (6, 24)]):
        weights = MAKERS[name](np.random.default_rng(seed), n_layers, n).astype(np.float32)
        graph = LayerGraph(np.where(np.isinf(weights), 1e3, weights))
        pairs = np.random.default_rng(seed).integers(n, size=(6, 2)).tolist()
        values = flow(graph, layer=n_layers - 1)
        found = page.evaluate(
            f"""([packed, size, n, stage, pairs]) => {{ {program}
            const weights = new Numbers(packed).slice(0, size);
            return pairs.map(([source, sink]) => {{
              const found = maxFlow(weights, n, stage, source, sink);
              return {{...found, paths: strongestPaths(found.edges, source, sink, stage, 1e6)}};
            }}); }}""",
            [pack(graph.weights), graph.weights.size, n, n_layers - 1, pairs],
        )
        for (source, sink), each in zip(pairs, found, strict=True):
            np.testing.assert_allclose([each["value"], each["capacity"]], values[source, sink], rtol=1e-6, atol=1e-6)
            check_flow(each, graph, source, sink)
    page.close()


def check_flow(found: dict[str, Any], graph: LayerGraph, source: int, sink: int) -> None:
    """Check that a flow keeps to the capacities, loses nothing on its way, and is the sum of its paths."""
    flows = np.zeros_like(graph.weights)
    for layer, query, key, _, amount in found["edges"]:
        flows[layer, query, key] = amount
    assert (flows <= graph.weights + 1e-9).all()
    for layer in range(1, graph.n_layers):
        np.testing.assert_allclose(flows[layer].sum(axis=0), flows[layer - 1].sum(axis=1), rtol=0, atol=1e-9)
    np.testing.assert_allclose(flows[-1].sum(axis=1)[source], found["value"], rtol=0, atol=1e-9)
    np.testing.assert_allclose(flows[0].sum(axis=0)[sink], found["value"], rtol=0, atol=1e-9)
    np.testing.assert_allclose(sum(path["amount"] for path in found["paths"]), found["value"], rtol=0, atol=1e-6)
    assert all(path["nodes"][0] == source and path["nodes"][-1] == sink for path in found["paths"])


def test_the_graph_shows_the_flow_of_the_chosen_pair(show: Open, page_of_text: Page) -> None:
    page = show(page_of_text.to_html())
    open_graph(page)
    graph = page_of_text.sheets[0].graph.graph
    values = flow(graph, layer="all")
    for layer, output, token in [(2, 0, 3), (1, 4, 4), (0, 7, 2)]:
        set_layer(page, layer)
        page.get_by_label("output position").select_option(index=output)
        page.locator(".graph").get_by_label("input token").select_option(index=token)
        value = float(page.locator(".value").get_attribute("data-value"))
        np.testing.assert_allclose(value, values[layer, output, token], rtol=0, atol=1e-6)
        cut = page.locator(".edge.cut").evaluate_all("(edges) => edges.map((edge) => Number(edge.dataset.amount))")
        np.testing.assert_allclose(sum(cut), value, rtol=0, atol=1e-6)
        path = page.locator(".path").first
        path.hover()
        assert page.locator(".chosen-path").get_attribute("d").count("L") == layer + 1


def test_a_graph_that_is_too_large_shows_chosen_flows(
    show: Open, bert: Attributor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("attnflow_hf.page.MAX_GRAPH_SIZE", 10)
    found = bert.page(TEXT)
    page = show(found.to_html())
    open_graph(page)
    pairs = [pair for pair in found.sheets[0].flows["pairs"] if pair["layer"] == 2]
    menu = page.locator(".graph").get_by_label("input token")
    assert menu.locator("option").count() == len(pairs) == 5
    for number, pair in enumerate(pairs):
        menu.select_option(index=number)
        assert float(page.locator(".value").get_attribute("data-value")) == pair["value"]
        assert page.locator(".edge").count() == len(pair["edges"])
    assert "the 5 inputs that get most" in page.locator(".told").inner_text()
    cells(page).nth(3).click()
    assert "holds flows from [CLS] alone" in page.locator(".graph-body").inner_text()


# Who uses it, and with what


def test_values_are_told_on_hover_and_by_keyboard(show: Open, page_of_text: Page) -> None:
    page = show(page_of_text.to_html())
    scores = page_of_text.attributions[0].scores[2, 0]
    tip = page.locator(".tip")
    cells(page).nth(2).hover()
    told = f"key {scores[2]:.4f}  \u00b7  {1 + int((scores > scores[2]).sum())} of {len(scores)}"
    assert tip.inner_text() == told
    page.mouse.move(0, 0)
    assert tip.is_hidden()
    cells(page).nth(0).focus()
    for key, index in [("ArrowRight", 1), ("ArrowRight", 2), ("End", len(scores) - 1), ("ArrowLeft", -2), ("Home", 0)]:
        page.keyboard.press(key)
        index %= len(scores)
        assert cells(page).nth(index).evaluate("(cell) => cell === cell.getRootNode().activeElement")
        assert tip.inner_text().startswith(f"{cells(page).nth(index).inner_text()} {scores[index]:.4f}")
    page.keyboard.press("Escape")
    assert tip.is_hidden()


def test_all_can_be_done_by_keyboard_alone(show: Open, page_of_text: Page) -> None:
    page = show(page_of_text.to_html())
    rolled = page_of_text.attributions[1]
    page.keyboard.press("Tab")
    page.keyboard.press("ArrowRight")
    check_drawn(page, rolled.scores[2, 0])
    page.keyboard.press("Tab")
    page.keyboard.press("ArrowLeft")
    check_drawn(page, rolled.scores[1, 0])
    page.keyboard.press("Tab")
    page.keyboard.press("Tab")
    page.keyboard.press("Tab")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("Enter")
    check_drawn(page, rolled.scores[1, 2])
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    page.locator("svg").wait_for()
    assert focus_is_visible(page)
    page.keyboard.press("Tab")
    page.keyboard.press("Tab")
    assert page.locator(".chosen-path").get_attribute("d") != ""


def focus_is_visible(page: Any) -> bool:
    return page.evaluate(
        """() => {
          const node = document.querySelector(".attnflow-page").shadowRoot.activeElement;
          const seen = node.matches("input[type=radio]") ? node.nextElementSibling : node;
          const style = getComputedStyle(seen);
          return style.outlineStyle !== "none" && parseFloat(style.outlineWidth) >= 2;
        }"""
    )


def test_lines_are_walked_up_and_down(show: Open, page_of_text: Page) -> None:
    page = show(page_of_text.to_html(), width=360)
    cells(page).nth(1).focus()
    page.keyboard.press("ArrowDown")
    tops = cells(page).evaluate_all("(all) => all.map((cell) => cell.offsetTop)")
    at = cells(page).evaluate_all("(all) => all.findIndex((cell) => cell === cell.getRootNode().activeElement)")
    assert tops[at] == min(top for top in tops if top > tops[1] + 12)
    page.keyboard.press("ArrowUp")
    assert cells(page).evaluate_all("(all) => all.findIndex((cell) => cell === cell.getRootNode().activeElement)") == 1


def test_roles_and_names(show: Open, page_of_text: Page) -> None:
    page = show(page_of_text.to_html())
    assert page.get_by_role("main").count() == page.get_by_role("heading", level=1).count() == 1
    for name in ("method", "direction"):
        assert page.get_by_role("group", name=name, exact=True).get_by_role("radio").count() >= 2
    assert page.get_by_role("slider", name="layer").count() == 1
    box = page.get_by_role("listbox", name="tokens with their scores; arrow keys move, Enter chooses")
    scores = page_of_text.attributions[0].scores[2, 0]
    for piece, score in zip(page_of_text.attributions[0].tokens, scores, strict=True):
        assert box.get_by_role("option", name=f"{piece}, {score:.4f}", exact=True).count() >= 1
    open_graph(page)
    assert page.get_by_role("img", name="Flow from [CLS] to").count() == 1
    assert page.get_by_role("button", name="Save the data").count() == 1
    focusable = page.locator("[data-cell][tabindex='0']")
    assert focusable.count() == 1, "one stop for all tokens"
    assert page.evaluate("() => document.documentElement.lang") == "en"


CONTRAST = """() => {
  const root = document.querySelector(".attnflow-page").shadowRoot;
  const told = [];
  for (const node of root.querySelectorAll(".page *")) {
    const text = [...node.childNodes].some((child) => child.nodeType === 3 && child.data.trim());
    if (!text || !node.checkVisibility() || node.closest("select, svg") || node.matches(":disabled")) continue;
    let behind = node;
    while (behind && /^(transparent|rgba\\(.*, 0\\))$/.test(getComputedStyle(behind).backgroundColor)) {
      behind = behind.parentElement;
    }
    told.push([node.textContent, getComputedStyle(node).color, getComputedStyle(behind).backgroundColor]);
  }
  for (const node of root.querySelectorAll("svg text")) {
    const behind = getComputedStyle(root.querySelector(".page")).backgroundColor;
    told.push([node.textContent, getComputedStyle(node).fill, behind]);
  }
  return told;
}"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_contrast_is_enough(scheme: str, show: Open, page_of_text: Page) -> None:
    page = show(page_of_text.to_html(), scheme=scheme)
    open_graph(page)
    for layer in range(3):
        set_layer(page, layer)
        pairs = page.evaluate(CONTRAST)
        assert len(pairs) > 40
        for text, color, background in pairs:
            assert contrast(rgb(color), rgb(background)) >= 4.5, (text, color, background)
    surface = rgb(page.evaluate(CONTRAST)[0][2])
    assert (surface.mean() < 64) == (scheme == "dark")
    fullest = page.locator('[style="--w: 1;"]').first.evaluate("(cell) => getComputedStyle(cell).backgroundColor")
    assert contrast(rgb(fullest), surface) > 2.5, "the largest score must stand out"


def test_a_phone_needs_no_scrolling_sideways(show: Open, page_of_text: Page, run_folder: Path) -> None:
    for source in (page_of_text.to_html(), page_of_run(run_folder).to_html()):
        page = show(source, width=360)
        open_graph(page)
        assert page.evaluate("() => document.documentElement.scrollWidth") <= 360
        beyond = cells(page).evaluate_all(
            "(all) => all.filter((cell) => cell.getBoundingClientRect().right > 360).length"
        )
        assert beyond == 0


def test_text_from_right_to_left_runs_so(show: Open) -> None:
    words = ("\u05e9\u05dc\u05d5\u05dd", "\u05e2\u05d5\u05dc\u05dd", "abc")
    tokens = Tokens(np.arange(3), words, np.zeros(3, dtype=bool), np.arange(3))
    page = show(Attribution(tokens, np.array([0.1, 0.2, 0.3]), "raw", "numpy", 0, 1).to_html())
    lefts = cells(page).evaluate_all("(all) => all.map((cell) => cell.getBoundingClientRect().left)")
    assert lefts == sorted(lefts, reverse=True)
    cells(page).nth(0).focus()
    page.keyboard.press("ArrowLeft")
    assert cells(page).nth(1).evaluate("(cell) => cell === cell.getRootNode().activeElement")


def test_without_scripts_the_tokens_are_there(show: Open, page_of_text: Page) -> None:
    page = show(page_of_text.to_html(), java_script_enabled=False)
    assert page.locator("[data-score]").all_inner_texts() == list(page_of_text.attributions[0].tokens)
    assert page.get_by_text("prediction").is_visible()


# Large texts


def test_512_tokens_and_12_layers(show: Open, capsys: pytest.CaptureFixture[str]) -> None:
    rng = np.random.default_rng(0)
    attentions = rng.random((12, 512, 512)) ** 8
    graph = LayerGraph.from_weights(attentions)
    tokens = Tokens.from_names([f"t{number}" for number in range(512)])
    several = [
        Attribution(tokens, scores, name, "numpy", "all", "all")
        for name, scores in (("rollout", rollout(graph, layer="all")), ("raw", graph.weights))
    ]
    source = Page.of(several).to_html()
    start = time.perf_counter()
    page = show(source)
    seconds = {"open": time.perf_counter() - start}
    check_drawn(page, several[0].scores[11, 511])

    @contextmanager
    def measured(name: str) -> Iterator[None]:
        start = time.perf_counter()
        yield
        page.evaluate("() => new Promise((done) => requestAnimationFrame(() => setTimeout(done)))")
        seconds[name] = time.perf_counter() - start

    root = "document.querySelector('.attnflow-page').shadowRoot"
    with measured("layer"):
        page.evaluate(
            f"() => {{ const node = {root}.querySelector('[type=range]'); node.value = 4; "
            "node.dispatchEvent(new Event('input')); }"
        )
    check_drawn(page, several[0].scores[4, 511])
    with measured("method"):
        page.evaluate(f"() => {root}.querySelectorAll('[name=series]')[1].click()")
    check_drawn(page, several[1].scores[4, 511])
    with measured("output"):
        page.evaluate(f"() => {root}.querySelector('[data-cell=\"100\"]').click()")
    check_drawn(page, several[1].scores[4, 100])
    with measured("direction"):
        page.evaluate(f"() => {root}.querySelectorAll('[name=direction]')[1].click()")
    with measured("input"):
        page.evaluate(f"() => {root}.querySelector('[data-cell=\"200\"]').click()")
    check_drawn(page, several[1].scores[4, :, 200])
    with capsys.disabled():
        sizes = {"tokens": 512, "layers": 12, "megabytes": round(len(source) / 1e6, 1)}
        print("\n" + json.dumps({**sizes, "milliseconds": {k: round(1000 * v) for k, v in seconds.items()}}))


# Hostile texts, and data that are taken out

HOSTILE = (
    "<script>alert(1)</script>",
    "</script><script>alert(2)</script>",
    "<!--<script>",
    '"><img src=x onerror=alert(3)>',
    "' onmouseover='alert(4)",
    "a\u202eb\u2066c",
    "nul\x00bell\x07",
    "\u2028\u2029",
    "\ud800",
    "{{constructor.constructor('alert(5)')()}}",
    "__proto__",
    "]]></style><style>*{display:none}</style>",
)


def hostile() -> Attribution:
    tokens = Tokens(np.arange(len(HOSTILE)), HOSTILE, np.zeros(len(HOSTILE), dtype=bool), np.arange(len(HOSTILE)))
    scores = np.linspace(0, 1, len(HOSTILE))
    return Attribution(tokens, scores, "raw", "numpy", 1, 2, notes=(HOSTILE[0], HOSTILE[3], HOSTILE[5]))


def test_hostile_text_is_text(show: Open, tmp_path: Path) -> None:
    page = show(Page.of(hostile(), graph=LayerGraph(np.full((3, 12, 12), 1 / 12)), title=HOSTILE[1]).to_html())
    shown = cells(page).evaluate_all("(all) => all.map((cell) => cell.textContent)")
    unsafe = re.compile("[\x00-\x08\x0b-\x1f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
    assert shown == [unsafe.sub("\ufffd", text) for text in HOSTILE]
    open_graph(page)
    for number in range(len(HOSTILE)):
        cells(page).nth(number).hover()
        cells(page).nth(number).click()
    assert page.locator(".note").all_inner_texts() == [HOSTILE[0], HOSTILE[3], "a\ufffdb\ufffdc"]
    assert page.get_by_role("heading").inner_text() == HOSTILE[1]
    for tag in ("img", "script:not([type])", "style"):
        expected = {"script:not([type])": 1, "style": 1}.get(tag, 0)
        assert page.locator(tag).count() == expected, tag
    assert page.title() == HOSTILE[1]


def test_data_are_taken_out_as_they_were_put_in(show: Open, tmp_path: Path, page_of_text: Page) -> None:
    for number, given in enumerate((Page.of(hostile()), page_of_text)):
        source = given.to_html()
        page = show(source)
        with page.expect_download() as download:
            page.get_by_role("button", name="Save the data").click()
        assert download.value.suggested_filename == "attnflow.json"
        path = tmp_path / f"saved{number}.json"
        download.value.save_as(path)
        assert json.loads(path.read_text()) == page_data(source)
        for one, two in zip(Page.load(path).attributions, given.attributions, strict=True):
            check_equal(one, two)
        parsed = page.evaluate("() => JSON.parse(document.getElementById('attnflow-data').textContent).sheets.length")
        assert parsed == 1


# Notebooks

THEMES = {
    "jupyter dark": ('<body data-jp-theme-light="false" style="background:#111;color:#ddd">', "dark"),
    "jupyter light": ('<body data-jp-theme-light="true">', "light"),
    "vscode dark": ('<body class="vscode-dark">', "dark"),
    "vscode light": ('<body class="vscode-light">', "light"),
}
LOUD = (
    "<style>*{color:red!important} span,button,label{display:none!important} p{font-size:80px!important} "
    "div{letter-spacing:9px}</style>"
)


@pytest.mark.parametrize("theme", THEMES)
def test_outputs_of_a_notebook_keep_to_themselves(theme: str, show: Open, bert: Attributor) -> None:
    body, scheme = THEMES[theme]
    pages = [
        bert.page(TEXT, methods=["raw", "rollout"]),
        bert.page("the cat sat near the mat", methods=["raw", "rollout"]),
    ]
    outputs = "".join(f'<div class="output">{each._repr_html_()}</div>' for each in pages)
    other = "light" if scheme == "dark" else "dark"
    page = show(f"<!doctype html><html>{body}{LOUD}<p id='own'>own</p>{outputs}</body></html>", scheme=other)
    first, second = (page.locator(".attnflow-page").nth(number) for number in range(2))
    assert first.locator("[data-cell]").count() == len(pages[0].attributions[0].tokens)
    first.get_by_role("radio", name="rollout").check(force=True)
    assert second.get_by_role("radio", name="raw").is_checked()
    for host, given, method in ((first, pages[0], 1), (second, pages[1], 0)):
        scores = host.locator("[data-cell]").evaluate_all("(all) => all.map((cell) => Number(cell.dataset.score))")
        np.testing.assert_array_equal(scores, given.attributions[method].scores[2, 0])
        assert host.locator(".attnflow-static").is_hidden()
        style = "(node) => [getComputedStyle(node).color, getComputedStyle(node.closest('.page')).backgroundColor]"
        color, background = map(rgb, host.locator("[data-cell]").first.evaluate(style))
        assert (background.mean() < 64) == (scheme == "dark")
        assert contrast(color, background) > 10
        spacing = host.locator("[data-cell]").first.evaluate("(node) => getComputedStyle(node).letterSpacing")
        assert spacing == "normal"
    assert page.locator("#own").evaluate("(node) => getComputedStyle(node).fontSize") == "80px"
    page.evaluate("() => { document.body.className = 'vscode-light'; }")
    page.wait_for_function("() => document.querySelector('.attnflow-page').style.colorScheme === 'light'")


def test_a_notebook_that_runs_scripts_its_own_way(show: Open, bert: Attributor) -> None:
    """As VS Code does: HTML is set, then each script is put in anew at the end of the output and taken away."""
    output = json.dumps(bert(TEXT, method="raw")._repr_html_()).replace("<", "\\u003c")
    page = show(
        f"""<!doctype html><html><body class="vscode-dark"><div id="out"></div><script>
        const out = document.getElementById("out");
        for (let i = 0; i < 2; i++) {{
          const cell = out.appendChild(document.createElement("div"));
          cell.innerHTML = {output};
          for (const node of cell.querySelectorAll("script")) {{
            const script = document.createElement("script");
            script.text = node.innerText;
            if (node.getAttribute("type")) script.setAttribute("type", node.getAttribute("type"));
            cell.appendChild(script).parentNode.removeChild(script);
          }}
        }}</script></body></html>"""
    )
    assert page.locator(".attnflow-page[data-ready]").count() == 2
    assert cells(page).count() == 2 * (len(TEXT.split()) + 2)


# Runs


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory: pytest.TempPathFactory, bert: Attributor) -> Path:
    folder = tmp_path_factory.mktemp("run") / "flows"
    words = TEXT.split()
    texts = [" ".join(words[: 1 + number % len(words)]) for number in range(45)]
    texts[7] = HOSTILE[1]
    rows = [{"id": number, "text": text} for number, text in enumerate(texts)]
    run_dataset(rows, bert, folder, method=["raw", "rollout"], save_layer_graphs=True, progress=False)
    return folder


def test_a_run_is_searched_and_leafed_through(show: Open, run_folder: Path) -> None:
    made = page_of_run(run_folder, n_rows=44)
    page = show(made.to_html())
    rows, status = page.locator(".sheet"), page.get_by_role("status")
    assert page.locator(".lead").inner_text() == "44 of 45 rows"
    assert (rows.count(), status.inner_text()) == (20, "1\u201320 of 44")
    page.get_by_role("button", name="Next").click()
    page.get_by_role("button", name="Next").click()
    assert (rows.count(), status.inner_text()) == (4, "41\u201344 of 44")
    assert page.get_by_role("button", name="Next").is_disabled()
    page.get_by_role("radio", name="rollout").check(force=True)
    for number in range(4):
        row, sheet = rows.nth(number), made.sheets[40 + number]
        scores = row.locator("[data-cell]").evaluate_all("(all) => all.map((cell) => Number(cell.dataset.score))")
        np.testing.assert_array_equal(scores, sheet.attributions[1].scores)
        assert row.locator(".said b").inner_text() == sheet.prediction[0]
        assert row.locator(".facts").inner_text() == f"id {40 + number}"
    page.get_by_role("searchbox").fill("ON A table")
    assert status.inner_text() == "1\u20134 of 4 that match"
    assert all("on a table" in text for text in rows.locator("[role=listbox]").all_inner_texts())
    page.get_by_role("searchbox").fill("nothing like it")
    assert (rows.count(), status.inner_text()) == (0, "No text matches.")


def test_a_row_shows_its_flow(show: Open, run_folder: Path) -> None:
    made = page_of_run(run_folder)
    page = show(made.to_html())
    row = page.locator(".sheet").nth(5)
    row.get_by_text("Flow through the layers").click()
    row.locator("svg").wait_for()
    row.get_by_label("input token").select_option(index=3)
    value = float(row.locator(".value").get_attribute("data-value"))
    expected = flow(made.sheets[5].graph.graph, output_positions=[0])[0, 3]
    np.testing.assert_allclose(value, expected, rtol=0, atol=1e-6)
