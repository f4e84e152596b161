// The list: filters with counts, the rows, hits in their texts.

const PAGE = 50;
const SORTS = [["", "order of the study"], ["longest", "longest first"], ["shortest", "shortest first"], ["reflections", "most reflections first"]];
const VERDICT_SIGN = { correct: "\u2713", wrong: "\u2717", "no answer": "\u2013" };

const badge = (verdict) => make("span", { class: `verdict ${verdict.replace(" ", "-")}` },
  make("span", { "aria-hidden": "true" }, VERDICT_SIGN[verdict] || ""), ` ${verdict}`);

/** The rows of the selection, filtered, searched and sorted; kept until the address changes it. */
async function selected(options) {
  const key = JSON.stringify([...FILTER_NAMES, "q", "sort"].map((name) => options[name] || ""));
  if (state.selection?.key === key) return state.selection;
  let found = null, search = null;
  if (options.q) {
    search = await source.search(options.q);
    found = search.rows;
  }
  const { rows, counts } = state.table.filter(options, found);
  const selection = { key, rows: state.table.sort(rows, options.sort), counts, search };
  if (!search || search.indexed >= search.total) state.selection = selection; // else ask again
  return selection;
}

function facet(name, title, options, counts) {
  const { table } = state, chosen = new Set((options[name] || "").split("|").filter(Boolean));
  const values = table.dims[name];
  if (values.length < 2 && !chosen.size) return null;
  const places = values.map((_, i) => i).sort((a, b) => chosen.has(String(values[b])) - chosen.has(String(values[a])) || a - b);
  const items = places.map((i) => {
    const value = values[i], text = String(value), on = chosen.has(text);
    if (!counts[name][i] && !on) return null;
    const toggled = on ? [...chosen].filter((other) => other !== text) : [...chosen, text];
    return make("li", {}, make("a", {
      class: on ? "on" : null, role: "checkbox", "data-value": text, "aria-checked": String(on), draggable: "false",
      href: address("/", { ...options, [name]: toggled.join("|"), page: "", t: "", side: "", with: "" }),
    }, make("bdi", {}, name === "block" ? `block ${text}` : said(name, value)), make("span", { class: "n" }, count(counts[name][i]))));
  });
  return make("details", { class: "facet", "data-facet": name, open: state.open.has(name) || chosen.size > 0,
    ontoggle: (event) => state.open[event.target.open ? "add" : "delete"](name) },
  make("summary", {}, title, chosen.size ? make("span", { class: "n" }, `${chosen.size} chosen`) : null),
  make("ul", {}, ...items));
}

/** What the selection amounts to, in a sentence and a bar. */
function summary(rows) {
  const { table } = state, verdicts = table.dims.verdict, tally = verdicts.map(() => 0);
  let loops = 0;
  const none = table.codes.loop.get("none");
  for (const row of rows) {
    tally[table.cols.verdict[row]]++;
    if (table.cols.loop[row] !== none) loops++;
  }
  const of = (name) => tally[verdicts.indexOf(name)] || 0;
  const bar = make("div", { class: "bar", role: "img", "aria-label": verdicts.map((v, i) => `${v}: ${share(tally[i], rows.length)}`).join(", ") });
  for (const name of ["correct", "wrong", "no answer"]) {
    const part = make("span", { class: name.replace(" ", "-") });
    part.style.flexGrow = of(name);
    bar.append(part);
  }
  return make("div", { class: "summary" }, make("p", {}, make("strong", { id: "found" }, plural(rows.length, "chain")),
    rows.length ? `: ${share(of("correct"), rows.length)} correct, ${share(of("wrong"), rows.length)} wrong, ${share(of("no answer"), rows.length)} without an answer; ${share(loops, rows.length)} end in a loop.` : "."), bar);
}

function entry(row, options, text) {
  const { table } = state, parts = table.parts(row);
  const loop = table.value("loop", row), wrong = table.value("wrong", row);
  const notes = [
    table.value("ending", row) !== "stop" || loop !== "none" ? said("ending", table.value("ending", row)) : null,
    loop !== "none" ? `${loop} loop` : null, wrong !== "none" ? said("wrong", wrong) : null,
  ].filter(Boolean).join(" \u00b7 ");
  const link = make("a", { href: chainAddress(row, options), "data-row": row },
    make("span", { class: "problem" }, make("bdi", {}, visible(parts[1].startsWith(parts[0]) ? parts[1] : `${parts[0]} ${parts[1]}`))),
    make("span", { class: "variant" }, make("bdi", {}, visible(parts[2]))),
    make("span", { class: "budget" }, `${visible(parts[3])} \u00b7 #${parts[4]}`),
    badge(table.value("verdict", row)), make("span", { class: "notes" }, notes),
    make("span", { class: "number tokens" }, plural(table.cols.tokens[row], "token")),
    make("span", { class: "number" }, plural(table.cols.reflections[row], "reflection")));
  if (text) link.append(snippet(text, options.q));
  return make("li", {}, link);
}

/** The first hit of a text with what surrounds it. */
function snippet(text, query) {
  const found = hits(text, query);
  const [a, b] = found[0] || [0, 0], from = Math.max(0, a - 70), to = Math.min(text.length, b + 110);
  const shown = (x, y) => visible(text.slice(x, y).replace(/\s+/g, " "));
  return make("span", { class: "snippet" }, make("bdi", {}, from ? "\u2026" : "", shown(from, a),
    make("mark", {}, shown(a, b)), shown(b, to), to < text.length ? "\u2026" : ""), make("span", { class: "n" }, plural(found.length, "hit")));
}

/** Notes which filter has the focus and how far each was scrolled; the result puts them back. */
function heldPlaces() {
  const name = (e) => e.closest("[data-facet]")?.dataset.facet;
  const focused = document.activeElement?.closest("main [data-value], #sort");
  const at = focused && [name(focused), focused.dataset.value];
  const scrolled = [...document.querySelectorAll("[data-facet] ul")].map((e) => [name(e), e.scrollTop]);
  return () => {
    for (const [facetName, top] of scrolled) {
      const list = document.querySelector(`[data-facet="${facetName}"] ul`);
      if (list) list.scrollTop = top;
    }
    if (!focused) return;
    const same = focused.id === "sort" ? document.getElementById("sort")
      : [...document.querySelectorAll(`[data-facet="${at[0]}"] [data-value]`)].find((e) => e.dataset.value === at[1]);
    same?.focus({ preventScroll: true });
  };
}

async function showList(options) {
  const main = document.getElementById("main"), turn = ++state.turn;
  const selection = await selected(options), { rows, counts, search } = selection;
  const pages = Math.max(1, Math.ceil(rows.length / PAGE));
  const page = Math.min(pages, Math.max(1, Number(options.page) || 1));
  const here = rows.slice((page - 1) * PAGE, page * PAGE);
  const texts = options.q && here.length ? await source.texts(here) : [];
  if (turn !== state.turn) return; // the address changed meanwhile
  state.rows = rows;
  const chosen = FILTER_NAMES.filter((name) => options[name]);
  const clear = chosen.length || options.q ? make("a", { class: "clear", href: "#/" }, "Clear all") : null;
  const problem = options.problem ? make("p", { class: "chip" }, "Problem ", make("bdi", {}, visible(options.problem)), " ",
    make("a", { href: address("/", { ...options, problem: "" }), "aria-label": "all problems" }, "\u00d7")) : null;
  const sorts = make("select", { id: "sort", onchange: (event) => go("/", { ...options, sort: event.target.value, page: "" }) },
    ...SORTS.map(([value, title]) => make("option", { value, selected: (options.sort || "") === value }, title)));
  const turnTo = (to, title, text) => make("a", { class: "turn", title, href: to < 1 || to > pages ? null : address("/", { ...options, page: to > 1 ? to : "" }), "aria-disabled": to < 1 || to > pages ? "true" : null }, text);
  const waiting = search && search.indexed < search.total
    ? make("p", { class: "notice", role: "status" }, `Searched ${count(search.indexed)} of ${plural(search.total, "chain")} so far; the rest is being indexed.`) : null;
  main.className = "list";
  const held = heldPlaces();
  main.replaceChildren(
    make("h1", { class: "hidden" }, "Chains of the study"),
    make("details", { id: "filters", open: state.filters, ontoggle: (event) => { state.filters = event.target.open; } },
      make("summary", {}, "Filters", chosen.length ? make("span", { class: "n" }, `${chosen.length} set`) : null), problem, clear,
      ...FACETS.map(([name, title]) => facet(name, title, options, counts))),
    make("section", { "aria-label": "Chains" }, summary(rows), waiting,
      make("div", { class: "bar-line" }, make("label", {}, "Sort by ", sorts),
        make("nav", { "aria-label": "Pages" }, turnTo(page - 1, "previous page", "\u2039"),
          rows.length ? `${count((page - 1) * PAGE + 1)}\u2013${count(Math.min(page * PAGE, rows.length))}` : "none", turnTo(page + 1, "next page", "\u203a"))),
      make("ol", { id: "rows" }, ...here.map((row, i) => entry(row, options, texts[i]))),
      rows.length ? null : make("p", {}, "No chain passes these filters.")));
  held();
  document.title = `${plural(rows.length, "chain")} \u00b7 PruneScope viewer`;
  if (waiting) setTimeout(() => { if (turn === state.turn) showList(options); }, 1500);
}
