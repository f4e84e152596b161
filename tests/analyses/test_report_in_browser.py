"""The report in headless Chromium: no complaint, no request, readable at both widths."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.headless import HeadlessPage, browser_missing

pytestmark = pytest.mark.skipif(bool(browser_missing()), reason=browser_missing() or "-")

# Contrast of text with what lies behind it (WCAG 2), all layers of colour blended over the page.
CONTRAST = r"""
const parse = c => {
  const v = c.match(/[\d.]+/g).map(Number);
  return v.length < 4 ? [...v, 1] : v;
};
const over = (top, below) => [0, 1, 2].map(i => top[i] * top[3] + below[i] * (1 - top[3]));
const linear = v => v <= .03928 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4;
const light = c => {
  const [r, g, b] = c.map(v => linear(v / 255));
  return .2126 * r + .7152 * g + .0722 * b;
};
const back = e => parse(getComputedStyle(e).backgroundColor);
return [...document.querySelectorAll(arguments[0])].map(e => {
  const layers = [];
  for (let p = e; p; p = p.parentElement) layers.unshift(back(p));
  const behind = layers.reduce((below, top) => over(top, below), [255, 255, 255]);
  const ink = parse(getComputedStyle(e).color);
  ink[3] *= Number(getComputedStyle(e).opacity);
  const [a, b] = [light(behind), light(over(ink, behind))].sort((x, y) => y - x);
  return [(a + .05) / (b + .05), e.className + ': ' + e.textContent.slice(0, 30)];
}).sort((x, y) => x[0] - y[0])[0];
"""
PARTS = (".glance td, .glance td .n, .glance th", "p, li, h2, figcaption", "pre, pre mark", "a")


@pytest.fixture(
    scope="module",
    params=[(1280, False), (1280, True), (390, False), (390, True)],
    ids=["wide", "wide dark", "phone", "phone dark"],
)
def page(report_page: Path, request: pytest.FixtureRequest) -> Iterator[HeadlessPage]:
    width, dark = request.param
    with HeadlessPage(width=width, dark=dark) as opened:
        opened.driver.get(report_page.as_uri())
        yield opened


def test_the_report_asks_for_nothing_and_nothing_complains(page: HeadlessPage) -> None:
    assert page.complaints() == []
    assert {url.split(":")[0] for url in page.requests()} <= {"file", "data", "about", "blob"}


def test_only_tables_and_figures_scroll_sideways(page: HeadlessPage) -> None:
    wide = page.run("return [document.documentElement.scrollWidth, window.innerWidth]")
    assert wide[0] <= wide[1]


def test_the_verdict_and_the_table_are_on_the_first_screen(page: HeadlessPage) -> None:
    place = "return document.querySelector(arguments[0]).getBoundingClientRect().top"
    assert page.run(place, ".headline") < 300
    assert page.run(place, "table.glance tbody tr:nth-child(3)") < 900


@pytest.mark.parametrize("part", PARTS)
def test_text_has_contrast(page: HeadlessPage, part: str) -> None:
    ratio, where = page.run(CONTRAST, part)
    assert ratio >= 4.5, where


def test_axe_finds_no_serious_fault_but_what_is_planted(page: HeadlessPage) -> None:
    few = "[...document.querySelectorAll('details')].slice(0, 2)"  # the glossary and a table
    page.run(
        f"for (const part of {few}) part.open = true;"
        "const made = document.createElement('img'); made.id = 'planted'; made.src = 'data:,';"
        "document.querySelector('main').append(made)"
    )
    found = page.faults()
    page.run(
        f"for (const part of {few}) part.open = false;document.getElementById('planted').remove()"
    )
    planted = [fault for fault in found if "image-alt" in fault and "planted" in fault]
    assert found == planted and planted, "\n".join(found[:20])


def test_a_number_leads_to_its_chains_by_keyboard(page: HeadlessPage) -> None:
    page.run("document.querySelector('.glance tbody a').focus()")
    target = page.run("return document.activeElement.getAttribute('href').slice(1)")
    page.press("\ue007")  # Enter
    page.until("return location.hash.length > 1")
    top = page.run(
        "return document.getElementById(arguments[0]).getBoundingClientRect().top", target
    )
    assert abs(top) < 60
