// Addresses, keys, help, and the start.

const state = { shown: null, scrolls: new Map(), turn: 0, token: null, side: "a", chains: null, rows: [], selection: null, forks: false,
  open: new Set(["benchmark", "verdict", "loop", "variant"]), filters: window.innerWidth > 720, overview: null, table: null };

const address = (path, options) => {
  const query = Object.entries(options).filter(([, value]) => value !== "" && value !== null && value !== undefined)
    .map(([name, value]) => `${name}=${encodeURIComponent(value)}`).join("&");
  return `#${path}${query ? `?${query}` : ""}`;
};
const chainRoute = (row, options) => [`/chain/${state.table.parts(row).map(encodeURIComponent).join("/")}`, { ...options, page: "" }];
const chainAddress = (row, options) => address(...chainRoute(row, options));
const go = (path, options) => { location.hash = address(path, options); };

/** The path and options of the address; what cannot be read is left out. */
function route() {
  const [path, query = ""] = location.hash.replace(/^#/, "").split(/\?(.*)/s);
  const options = {};
  for (const part of query.split("&")) {
    const [name, value = ""] = part.split(/=(.*)/s);
    try { if (name) options[name] = decodeURIComponent(value); } catch { /* a broken escape */ }
  }
  let parts = [];
  try { parts = path.split("/").filter(Boolean).map(decodeURIComponent); } catch { /* a broken escape */ }
  return { parts, options };
}

/** Changes options of the address without going anywhere. */
function remember(changes) {
  const [path] = location.hash.replace(/^#/, "").split("?");
  history.replaceState(null, "", address(path || "/", { ...route().options, ...changes }));
}

function fail(error) {
  document.getElementById("main").prepend(make("p", { class: "notice", role: "alert" }, `Not shown: ${visible(error.message)}`));
}

async function render() {
  const { parts, options } = route();
  hideTip();
  const place = JSON.stringify([parts, options.page]), moved = place !== state.shown;
  if (moved && state.shown) state.scrolls.set(state.shown, scrollY);
  Object.assign(state, { token: null, side: "a", chains: null, shown: place });
  document.getElementById("query").value = options.q || "";
  try {
    if (parts[0] === "chain") {
      const row = state.table.find(parts.slice(1));
      if (row < 0) throw new Error(`this study has no chain ${parts.slice(1).join(", ") || "without a name"}.`);
      await showChain(row, options);
    } else await showList(options);
    // another place begins at its top; the list is found where it was left
    if (moved && !options.t) scrollTo(0, parts.length ? 0 : state.scrolls.get(place) ?? 0);
  } catch (error) {
    document.getElementById("main").replaceChildren(make("p", {}, make("a", { href: "#/" }, "\u2190 list")));
    fail(error);
  }
}

// ---------------------------------------------------------------- keys

const KEYS = [
  ["j k", "next, previous chain of the selection (or page of the list)"], ["] [", "next, previous variant"],
  [". ,", "next, previous sample"], ["+ -", "larger, smaller budget"], ["d", "the dense chain beside this one (or, on a dense chain, the first variant); again: alone"],
  ["n p", "next, previous mark"], ["\u2192 \u2190", "next, previous token"], ["f", "forks"], ["/", "search"],
  ["Esc", "unpin the token; close; back to the list"], ["?", "this help"],
];

function currentRow() {
  const { parts } = route();
  return parts[0] === "chain" ? state.table.find(parts.slice(1)) : -1;
}

function stepPart(part, by) {
  const row = currentRow(), some = siblings(row, part), to = some[some.findIndex(([, r]) => r === row) + by];
  if (to) go(...chainRoute(to[1], { ...route().options, t: "", side: "" }));
}

function stepSelection(by) {
  const { options } = route(), row = currentRow();
  if (row < 0) {
    const page = (Number(options.page) || 1) + by;
    if (page >= 1 && page <= Math.ceil(state.rows.length / PAGE)) go("/", { ...options, page: page > 1 ? page : "" });
    return;
  }
  const to = state.rows[state.rows.indexOf(row) + by];
  if (state.rows.includes(row) && to !== undefined) go(...chainRoute(to, { ...options, t: "", side: "" }));
}

function stepToken(by, marks) {
  const chain = state.chains?.[state.side];
  if (!chain) return;
  const at = state.token ?? (by > 0 ? -1 : chain.ids.length);
  const places = marks ? grouped(chain).map((mark) => mark.start) : chain.firsts;
  const to = by > 0 ? places.find((p) => p > at) : places.findLast((p) => p < at);
  if (to !== undefined) pin(to, state.side);
}

function toggleBeside() {
  const { options } = route(), row = currentRow();
  const some = siblings(row, "variant").map(([value]) => value), own = state.table.parts(row)[2];
  const other = own !== "dense" && some.includes("dense") ? "dense" : some.find((value) => value !== own);
  if (options.with || other) go(...chainRoute(row, { ...options, with: options.with ? "" : other }));
}

function escape() {
  if (document.activeElement?.id === "query") document.activeElement.blur();
  else if (state.token !== null) {
    hideTip();
    document.querySelector(".pinned")?.classList.remove("pinned");
    state.token = null;
    remember({ t: "", side: "" });
  } else if (currentRow() >= 0) go("/", { ...route().options, t: "", side: "", with: "" });
}

const ACTIONS = {
  j: () => stepSelection(1), k: () => stepSelection(-1), "]": () => stepPart("variant", 1), "[": () => stepPart("variant", -1),
  ".": () => stepPart("sample", 1), ",": () => stepPart("sample", -1), "+": () => stepPart("budget", 1), "-": () => stepPart("budget", -1),
  d: toggleBeside, n: () => stepToken(1, true), p: () => stepToken(-1, true), ArrowRight: () => stepToken(1), ArrowLeft: () => stepToken(-1),
  f: () => { const place = document.getElementById("forks"); if (place) { place.open = !place.open; place.scrollIntoView({ block: "nearest" }); } },
  "/": () => document.getElementById("query").focus(), "?": () => document.getElementById("help").showModal(), Escape: escape,
};
const ON_CHAIN = new Set(["]", "[", ".", ",", "+", "-", "d"]);

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || document.getElementById("help").open) return;
  const typing = event.target.closest?.("input, select, textarea");
  if (typing && event.key !== "Escape") return;
  if (event.key === " " && event.target.getAttribute?.("role") === "checkbox") { // as a box does
    event.preventDefault();
    event.target.click();
    return;
  }
  if (ON_CHAIN.has(event.key) && currentRow() < 0) return;
  const action = ACTIONS[event.key];
  if (!action) return;
  event.preventDefault();
  action();
});

// ---------------------------------------------------------------- help and start

function fillHelp() {
  const legend = Object.entries(MARKS).filter(([kind]) => kind !== "closing").map(([kind, title]) =>
    make("li", { class: kind.replace(" ", "-") }, make("span", { class: "swatch", "aria-hidden": "true" }), make("span", { class: `sample ${kind.replace(" ", "-")} odd` }, "text"), ` ${title}`));
  document.getElementById("help").append(
    make("form", { method: "dialog" }, make("button", { "aria-label": "close" }, "\u00d7")),
    make("h2", { id: "help-title" }, "Keys"), make("dl", {}, ...KEYS.flatMap(([keys, what]) => [make("dt", {}, ...keys.split(" ").map((k) => make("kbd", {}, k))), make("dd", {}, what)])),
    make("h2", {}, "Legend"), make("ul", { class: "legend" }, ...legend,
      make("li", {}, make("span", { class: "sample hit" }, "text"), " hit of the search"), make("li", {}, make("span", { class: "sample diverges" }, "text"), " where two chains first differ")),
    make("p", {}, "Point at a token, or tap it, for what is known of it. Blocks are numbered in the dense model. Control characters and direction marks are drawn as signs."),
    source.embedded ? make("p", {}, "This file is a selection of a study and needs no server.")
      : make("p", {}, "The selection as one file: ", make("code", {}, "prunescope view STUDY --where NAME=VALUE --search TEXT --export FILE.html"), ", with the names that the address of this page has."));
}

document.addEventListener("pointerover", (event) => {
  if (event.pointerType === "touch") return;
  const span = event.target.closest?.(".text span[data-token]");
  if (span) showTip(span);
  else if (state.token === null && !event.target.closest?.("#tip")) hideTip();
});
document.addEventListener("click", (event) => {
  const span = event.target.closest?.(".text span[data-token]");
  if (span && !String(getSelection())) pin(Number(span.dataset.token), span.dataset.side, { scroll: false });
});
document.addEventListener("scroll", () => { if (state.token === null) hideTip(); }, { passive: true });
document.getElementById("skip").addEventListener("click", (event) => { event.preventDefault(); document.getElementById("main").focus(); });
document.getElementById("help-button").addEventListener("click", () => document.getElementById("help").showModal());
document.getElementById("search").addEventListener("submit", (event) => {
  event.preventDefault();
  const { options } = route();
  go("/", { ...options, q: document.getElementById("query").value.trim(), page: "", t: "", side: "", with: "" });
  document.getElementById("query").blur();
});
window.addEventListener("hashchange", render);

(async () => {
  try {
    state.overview = await source.overview();
    state.table = new Table(state.overview.table);
    document.getElementById("study").textContent = visible(`${state.overview.study} \u00b7 ${state.overview.model}`);
    fillHelp();
    await render();
    document.documentElement.dataset.ready = "yes";
    await source.check();
  } catch (error) { fail(error); }
})();
