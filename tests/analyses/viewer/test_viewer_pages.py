"""The page in headless Chromium: no injection, no complaint, no request but to its own server."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from analyses.viewer.links import chain_address, selection_address
from analyses.viewer.local_server import listening, viewer_app
from analyses.viewer.single_file import write_single_file
from analyses.viewer.viewed_study import ViewedStudy
from tests.analyses.viewer.hostile import LONG, NAMES
from tests.headless import HeadlessPage, browser_missing

pytestmark = pytest.mark.skipif(bool(browser_missing()), reason=browser_missing() or "-")
TURNED = "return [...document.querySelectorAll('#rows li a')].map(a => Number(a.dataset.row))"


@contextmanager
def served(study: ViewedStudy) -> Iterator[str]:
    """The address of a running server."""
    import uvicorn

    place = listening(0)
    server = uvicorn.Server(
        uvicorn.Config(viewer_app(study), log_level="warning", lifespan="off", ws="none")
    )
    thread = threading.Thread(target=server.run, kwargs={"sockets": [place]}, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{place.getsockname()[1]}/"
    finally:
        server.should_exit = True
        thread.join()
        place.close()


@pytest.fixture(scope="module")
def hostile_url(hostile: ViewedStudy) -> Iterator[str]:
    with served(hostile) as url:
        yield url


@pytest.fixture(scope="module")
def real_url(real: ViewedStudy) -> Iterator[str]:
    with served(real) as url:
        yield url


@pytest.fixture(scope="module")
def wide() -> Iterator[HeadlessPage]:
    with HeadlessPage() as page:
        yield page


@pytest.fixture
def page(wide: HeadlessPage) -> Iterator[HeadlessPage]:
    """The wide page; whatever a test does there, it must not complain or ask for anything else."""
    wide.complaints()
    wide.requests()
    yield wide
    assert wide.complaints() == []
    assert {url.split("/")[2].split(":")[0] for url in wide.requests()} <= {"127.0.0.1", ""}


def go(page: HeadlessPage, address: str, shown: str = "main") -> None:
    """Change the address, and wait for something to be there."""
    page.run("document.getElementById('main').replaceChildren(); location.hash = arguments[0]",
             address)  # fmt: skip
    page.until("return document.querySelector(arguments[0]) !== null", shown)


# ---------------------------------------------------------------- hostile texts


def everything(hostile: ViewedStudy) -> list[str]:
    keys = [key for key in hostile.table.keys if key.problem != "long"]
    alone = [chain_address(key, token=3) for key in keys]
    beside = [chain_address(keys[1], beside=NAMES[0])]
    return [
        "#/",
        selection_address({}, '"<script>"'),
        selection_address({"wrong": "<i>slip</i>"}),
        *alone,
        *beside,
    ]


def test_hostile_texts_are_shown_and_nothing_runs(
    page: HeadlessPage, hostile: ViewedStudy, hostile_url: str
) -> None:
    page.open(hostile_url)
    for address in everything(hostile):
        go(page, address, "main h1, main #rows li")
        if "/chain/" in address:
            page.run("document.getElementById('forks').open = true")
            page.until("return document.querySelector('.tree') !== null")
            page.run("for (const part of document.querySelectorAll('details')) part.open = true")
        assert page.run("return window.hacked === undefined")
        assert (
            page.run(
                "return document.querySelectorAll('main :is(script, img, i, b, iframe)').length"
            )
            == 0
        )
        drawn = page.run("return document.body.textContent")
        assert "<script>window.hacked=1</script>" in drawn or "/chain/" not in address
        # nothing that reorders, hides or commands a terminal is left as it is
        assert not set(drawn) & set("\u202e\u202c\x1b\x00\x07\x7f\x85\u2028\u2029")
        if "/chain/" in address:
            assert "\u241b[31m" in drawn and "[U+202E]" in drawn and "[U+D800]" in drawn


def test_the_text_of_a_chain_is_all_there(
    page: HeadlessPage, hostile: ViewedStudy, hostile_url: str
) -> None:
    page.open(hostile_url + chain_address(hostile.table.keys[0]))
    drawn = page.run(
        "return [...document.querySelectorAll('.text .part')].map(p => p.textContent).join('')"
    )
    expected = page.run(
        "return visible(JSON.parse(arguments[0]))", json.dumps(hostile.texts([0])[0])
    )
    assert drawn == expected


def test_a_chain_of_30000_tokens_is_shown(
    page: HeadlessPage, hostile: ViewedStudy, hostile_url: str
) -> None:
    key = next(k for k in hostile.table.keys if k.problem == "long" and k.variant == NAMES[1])
    page.open(hostile_url + chain_address(key, token=LONG - 5))
    assert page.run("return document.querySelectorAll('.text span[data-token]').length") > 25_000
    pinned = page.run("return document.querySelector('.pinned').getBoundingClientRect().toJSON()")
    assert 0 < pinned["top"] < 900
    page.run(
        "document.querySelector('.strip')"
        ".dispatchEvent(new MouseEvent('click', {clientX: 400, bubbles: true}))"
    )
    assert int(page.run("return state.token")) not in (LONG - 5, 0)
    assert f"t={page.run('return state.token')}" in page.run("return location.hash")


def test_an_exported_file_opens_without_a_server(
    page: HeadlessPage, hostile: ViewedStudy, tmp_path: Path
) -> None:
    out = tmp_path / "page.html"
    write_single_file(hostile, out)
    page.open(out.as_uri())
    assert page.text("#found") == f"{len(hostile.table)} chains"
    for address in everything(hostile):
        go(page, address, "main h1, main #rows li")
        if "/chain/" in address:
            page.run("document.getElementById('forks').open = true")
            page.until("return document.querySelector('.tree') !== null")
        assert page.run("return window.hacked === undefined")
    go(page, selection_address({"verdict": "wrong"}, '"<script>"'), "#rows li mark")
    expected = hostile.table.select({"verdict": "wrong"}, hostile.search('"<script>"')["rows"])
    assert page.run(TURNED) == expected.tolist()
    assert [url for url in page.requests() if not url.startswith("file://")] == []


def test_a_page_without_questions_says_so(
    page: HeadlessPage, real: ViewedStudy, tmp_path: Path
) -> None:
    out = tmp_path / "page.html"
    write_single_file(real, out, {"variant": "dense"}, questions=False)
    page.open(out.as_uri())
    go(page, chain_address(real.table.keys[0]), "main h1")
    assert page.text(".question .withheld") == (
        "This page was written without questions and right answers."
    )
    assert "expected" not in page.text(".facts") and not page.complaints()


# ---------------------------------------------------------------- filter, search, step


@pytest.mark.parametrize(
    "where",
    [{}, {"variant": "dense"}, {"verdict": "correct"}, {"block": "BLOCK"}, {"budget": "12|48"},
     {"variant": "dense", "budget": "48"}],
)  # fmt: skip
def test_the_page_filters_as_the_table_does(
    page: HeadlessPage, real: ViewedStudy, real_url: str, where: dict[str, str]
) -> None:
    where = {k: v.replace("BLOCK", str(real.table.values("block")[0])) for k, v in where.items()}
    page.open(real_url)
    go(page, selection_address(where), "#found")
    assert page.run("return state.rows") == real.table.select(where).tolist()
    # the count beside a value is what choosing it alone in its filter would leave
    counted = page.run(
        """return [...document.querySelectorAll('.facet')]
        .flatMap(f => [...f.querySelectorAll('li a')]
        .map(a => [f.dataset.facet, a.querySelector('bdi').textContent.replace('block ', ''),
                   Number(a.querySelector('.n').textContent)]))"""
    )
    checked = 0
    for name, value, n in counted:
        if name in ("variant", "block", "budget", "verdict"):
            others = {k: v for k, v in where.items() if k != name}
            assert n == len(real.table.select({**others, name: value}))
            checked += 1
    assert checked >= 5


def test_a_value_is_chosen_by_a_click_and_taken_back(
    page: HeadlessPage, real: ViewedStudy, real_url: str
) -> None:
    page.open(real_url)
    find = (
        "[...document.querySelectorAll('[data-facet=variant] a')]"
        ".find(a => a.textContent.startsWith('dense'))"
    )
    page.run(f"{find}.click()")
    page.until("return location.hash === '#/?variant=dense'")
    page.until(
        "return state.rows.length === arguments[0]", len(real.table.select({"variant": "dense"}))
    )
    assert page.run(f"return {find}.getAttribute('aria-checked')") == "true"
    page.run(f"{find}.click()")
    page.until("return state.rows.length === arguments[0]", len(real.table))


def test_the_keyboard_keeps_its_place_among_the_filters(
    page: HeadlessPage, real: ViewedStudy, real_url: str
) -> None:
    page.open(real_url)
    page.run("document.querySelector('[data-facet=variant] [data-value=dense]').focus()")
    for on in ("true", "false"):
        page.press(" ")
        page.until(
            "const e = document.activeElement; return e.dataset.value === 'dense' && "
            "e.getAttribute('aria-checked') === arguments[0]",
            on,
        )
    assert page.run("return state.rows.length") == len(real.table)


def test_a_chain_begins_at_its_top_and_the_list_is_found_where_it_was_left(
    page: HeadlessPage, real: ViewedStudy, real_url: str
) -> None:
    page.open(real_url)
    page.run("document.getElementById('rows').style.paddingBottom = '3000px'")
    page.run("scrollTo(0, 160); document.querySelectorAll('#rows a')[3].click()")
    page.until("return state.chains?.a.row === 3")
    page.until("return scrollY === 0")
    page.run("document.body.style.paddingBottom = '3000px'; history.back()")
    page.until("return document.querySelector('#rows') !== null && scrollY === 160")


def test_a_search_marks_its_hits_in_the_list_and_in_the_chain(
    page: HeadlessPage, real: ViewedStudy, real_url: str
) -> None:
    page.open(real_url)
    page.press("/")
    page.press('"= "\ue007')
    page.until("return document.querySelector('#rows mark') !== null")
    assert page.run("return state.rows") == real.search('"="')["rows"]
    assert page.text("#rows mark") == "="
    page.run("document.querySelector('#rows a').click()")
    page.until("return document.querySelector('.text .hit') !== null")
    hits = page.run("return [...document.querySelectorAll('.text .hit')].map(e => e.textContent)")
    assert set(hits) == {"="}
    whole = page.run("return state.chains.a.texts.join('')")
    assert len(hits) == whole.count("=")


def test_keys_step_through_chains_variants_and_budgets(
    page: HeadlessPage, real: ViewedStudy, real_url: str
) -> None:
    keys = real.table.keys
    row = next(i for i, k in enumerate(keys) if k.variant == "dense" and k.budget == "12")
    page.open(real_url + chain_address(keys[row]))

    def shown() -> int:
        return int(page.run("return currentRow()"))

    def press(key: str, expected: int) -> None:
        page.press(key)
        page.until(
            "return currentRow() === arguments[0] && state.chains?.a.row === arguments[0]", expected
        )

    press("j", row + 1)
    press("k", row)
    pruned = real.table.row_of[keys[row]._replace(variant="reverse-order-2")]
    press("]", pruned)
    press("]", pruned)  # there is no other
    press("[", row)
    press("+", real.table.row_of[keys[row]._replace(budget="48")])
    press("-", row)
    page.press("?")
    assert page.run("return document.getElementById('help').open")
    assert "next, previous variant" in page.text("#help")
    page.press("\ue00c")
    page.until("return !document.getElementById('help').open")
    page.press("\ue00c")
    page.until("return document.querySelector('#rows') !== null")
    assert shown() == -1


# ---------------------------------------------------------------- tokens, two chains


def test_the_token_under_the_pointer_is_described(
    page: HeadlessPage, real: ViewedStudy, real_url: str
) -> None:
    key = next(k for k in real.table.keys if k.variant == "reverse-order-2" and k.budget == "48")
    chain = real.chain(real.table.row_of[key])
    page.open(real_url + chain_address(key))
    for token in (0, 5, len(chain["ids"]) - 1):
        page.point_at(f'.text span[data-token="{token}"]')
        tip = page.text("#tip")
        assert f"token {token}, id {chain['ids'][token]}" in tip
        assert f'"{chain["texts"][token].strip()}"' in tip
        probability = 2.718281828 ** chain["numbers"]["logprob"][token]
        if probability >= 0.01:
            assert f"probability {probability:.3f}"[:-1] in tip
        assert f"entropy {chain['numbers']['entropy'][token]:.2f}"[:-1] in tip
        assert "Block Influence" in tip and "KL from dense" in tip
        bars = page.run("return document.querySelectorAll('#tip .blocks rect').length")
        assert bars == len(chain["numbers"]["blocks"])


def test_a_token_is_in_the_address_and_found_again(
    page: HeadlessPage, real: ViewedStudy, real_url: str
) -> None:
    key = real.table.keys[0]
    page.open(real_url + chain_address(key))
    page.run("document.querySelector('.text span[data-token=\"4\"]').click()")
    address = page.run("return location.hash")
    assert address == chain_address(key, token=4)
    page.press("\ue014")  # the arrow to the right
    assert page.run("return location.hash") == chain_address(key, token=5)
    page.open(real_url + address)
    page.until("return document.querySelector('.pinned')?.dataset.token === '4'")
    assert "token 4," in page.text("#tip")


def test_two_chains_share_their_beginning_and_differ_where_their_ids_do(
    page: HeadlessPage, real: ViewedStudy, real_url: str
) -> None:
    pairs = 0
    for key in real.table.keys:
        if key.variant == "dense":
            continue
        a = real.chain(real.table.row_of[key])
        b = real.chain(real.table.row_of[key._replace(variant="dense")])
        at = next(
            (i for i, (x, y) in enumerate(zip(a["ids"], b["ids"], strict=False)) if x != y), None
        )
        if at is None:
            continue
        page.open(real_url + chain_address(key, beside="dense"))
        assert f"they differ from token {at} on" in page.text("#divergence")
        columns = page.run(
            "return [...document.querySelectorAll('.column')]"
            ".map(c => c.querySelector('.text span[data-token]').dataset.token)"
        )
        assert columns == [str(at)] * 2
        assert page.run("return document.querySelectorAll('.text .diverges').length") == 2
        page.until("return document.querySelectorAll('.column .curve').length === 4")  # entropy, KL
        pairs += 1
    assert pairs


def test_a_chain_that_is_not_there_is_said(page: HeadlessPage, real_url: str) -> None:
    page.open(real_url + "#/chain/arithmetic/nowhere/dense/12/0")
    assert "this study has no chain" in page.text("[role=alert]")
    page.open(real_url + "#/chain/%E0%A4%A")
    assert page.run("return document.querySelector('main').textContent.length") > 0


# ---------------------------------------------------------------- widths and themes

CONTRAST = """
const part = (v) => v / 255 <= .03928 ? v / 255 / 12.92 : ((v / 255 + .055) / 1.055) ** 2.4;
const lum = (c) => { const f = c.map(part);
  return .2126 * f[0] + .7152 * f[1] + .0722 * f[2]; };
const rgb = (t) => t.match(/[\\d.]+/g).map(Number);
const ground = (e) => { for (; e; e = e.parentElement) {
  const c = rgb(getComputedStyle(e).backgroundColor);
  if (c.length < 4 || c[3] > .9) return c.slice(0, 3); } return [255, 255, 255]; };
const low = [];
for (const e of document.querySelectorAll('body *')) {
  const own = [...e.childNodes].some(n => n.nodeType === 3 && n.textContent.trim());
  if (!own || !e.getClientRects().length) continue;
  if (e.closest('[aria-disabled], :disabled, .skip, noscript, option, title')) continue;
  const a = lum(rgb(getComputedStyle(e).color).slice(0, 3)), b = lum(ground(e));
  const ratio = (Math.max(a, b) + .05) / (Math.min(a, b) + .05);
  if (ratio < 4.5) low.push([e.className || e.tagName, e.textContent.slice(0, 30), ratio]);
}
return low;
"""


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
def test_it_fits_and_can_be_read(real: ViewedStudy, real_url: str, width: int, dark: bool) -> None:
    key = next(k for k in real.table.keys if k.variant == "reverse-order-2" and k.budget == "48")
    addresses = ["#/", selection_address({"variant": "dense"}, "="), chain_address(key, token=5),
                 chain_address(key, beside="dense")]  # fmt: skip
    with HeadlessPage(width, 844, dark) as page:
        ground = set()
        for address in addresses:
            page.open(real_url + address)
            assert page.run("return document.documentElement.scrollWidth") <= width
            assert page.run(CONTRAST) == []
            ground.add(page.run("return getComputedStyle(document.body).backgroundColor"))
        assert ground == ({"rgb(22, 24, 26)"} if dark else {"rgb(255, 255, 255)"})
        page.run("document.getElementById('help-button').click()")
        assert page.run(CONTRAST) == []
        assert page.complaints() == []
        assert {url.split("/")[2].split(":")[0] for url in page.requests()} == {"127.0.0.1"}


def test_every_control_has_a_name_and_can_be_reached(
    page: HeadlessPage, real: ViewedStudy, real_url: str
) -> None:
    for address in ("#/", chain_address(real.table.keys[0], beside="reverse-order-2")):
        page.open(real_url + address)
        nameless = page.run(
            """return [...document.querySelectorAll('a, button, select, input, svg[role=img]')]
            .filter(e => !e.textContent.trim() && !e.getAttribute('aria-label'))
            .filter(e => !e.labels?.length)
            .map(e => e.outerHTML)"""
        )
        assert nameless == []
        unreachable = page.run(
            """return [...document.querySelectorAll(
            'main :is(a:not([aria-disabled]), button, select:not(:disabled))')]
            .filter(e => e.tabIndex < 0).length"""
        )
        assert unreachable == 0


# ---------------------------------------------------------------- accessibility


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390], ids=["wide", "phone"])
def test_axe_finds_no_serious_fault(
    real: ViewedStudy, real_url: str, width: int, dark: bool
) -> None:
    key = real.table.keys[0]
    other = next(k.variant for k in real.table.keys if k.variant != key.variant)
    faults = []
    with HeadlessPage(width=width, dark=dark) as opened:
        opened.open(real_url)
        for address in ("#/", chain_address(key, token=3), chain_address(key, beside=other)):
            go(opened, address, "main h1, main #rows li")
            opened.run("for (const part of document.querySelectorAll('details')) part.open = true")
            faults += [f"{address}: {fault}" for fault in opened.faults()]
        opened.press("?")
        opened.until("return document.getElementById('help').open")
        faults += [f"help: {fault}" for fault in opened.faults()]
    assert not faults, "\n".join(faults[:20])
