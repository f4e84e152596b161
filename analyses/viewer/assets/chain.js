// One chain, or two side by side: facts, strip, text by token, marks, forks.

const MARKS = {
  wrong: "wrong step", corrected: "corrected step", reflection: "reflection", loop: "loop pass",
  "left loop": "loop that was left", forced: "written by the engine", closing: "end of thinking",
};

/** Index of the unit that holds each token. */
function unitOf(chain) {
  const found = new Int32Array(chain.ids.length);
  chain.firsts.forEach((first, i) => found.fill(i, first, chain.firsts[i + 1] ?? chain.ids.length));
  return found;
}

/** The first token at which two chains differ; -1 where one only goes on, or both are equal. */
function firstDivergence(a, b) {
  const n = Math.min(a.ids.length, b.ids.length);
  for (let i = 0; i < n; i++) if (a.ids[i] !== b.ids[i]) return i;
  return -1;
}

// ---------------------------------------------------------------- text

/** Classes of every unit, and the number of the pass that begins there. */
function unitClasses(chain, query) {
  const of = unitOf(chain), classes = chain.texts.map(() => new Set()), passes = new Map();
  let pass = 0;
  for (const mark of chain.marks) {
    if (mark.kind === "loop" && ++pass && mark.stop - mark.start > 2) passes.set(of[mark.start], pass);
    for (let token = mark.start; token < mark.stop; token++) {
      classes[of[token]].add(mark.kind.replace(" ", "-"));
      if (mark.kind === "loop") classes[of[token]].add(pass % 2 ? "odd" : "even");
    }
  }
  if (query) {
    const whole = chain.texts.join(""), found = hits(whole, query);
    let at = 0, h = 0;
    chain.texts.forEach((text, i) => {
      const end = at + text.length;
      while (h < found.length && found[h][1] <= at) h++;
      if (h < found.length && found[h][0] < end) classes[i].add("hit");
      at = end;
    });
  }
  return { classes, passes };
}

/** The text of the units [from, to), a span each, in parts: thinking, answer. */
function textOf(chain, from, to, { query, divergence = -1, side = "" }) {
  const { classes, passes } = unitClasses(chain, query);
  const lines = !chain.texts.slice(...chain.thinking).join("").includes("\n"); // then break after full stops
  const parts = [];
  let part = null, name = null;
  const close = () => { if (part) { part.box.append(part.nodes); part.box.dir = "auto"; } }; // found once, not per token
  for (let i = from; i < to; i++) {
    const token = chain.firsts[i];
    const here = chain.answer && token >= chain.answer[0] && token < chain.answer[1] ? "answer"
      : token >= chain.thinking[0] && token < chain.thinking[1] ? "thinking" : name || "thinking";
    if (here !== name) {
      close();
      part = { box: make("div", { class: `part ${here}`, "aria-label": here }), nodes: document.createDocumentFragment() };
      parts.push(part.box);
      name = here;
    }
    if (token === divergence) classes[i].add("diverges");
    const text = chain.texts[i], own = text.trimEnd() || text; // the space between two tokens is not marked
    const span = document.createElement("span");
    span.dataset.token = token;
    span.dataset.side = side;
    if (classes[i].size) span.className = [...classes[i]].join(" ");
    if (passes.has(i)) span.dataset.pass = passes.get(i);
    span.textContent = visible(own) || "\u2205";
    part.nodes.append(span, visible(text.slice(own.length)));
    if (lines && text.trim() === ".") part.nodes.append(document.createElement("br"));
  }
  close();
  return make("div", { class: "text" }, ...parts);
}

// ---------------------------------------------------------------- strip

/** The whole chain on one line: parts, marks, numbers along it. */
function strip(chain, { divergence = -1, kl = null, side = "", token = null }) {
  const size = Math.max(1, chain.ids.length), least = size / 300;
  const rect = (start, stop, y, height, name, title) => {
    const width = Math.max(stop - start, least);
    return make("rect", { x: Math.min(start, size - width), y, width, height, class: name }, title ? make("title", {}, title) : null);
  };
  const shapes = [rect(0, size, 0, 30, "ground")];
  shapes.push(rect(...chain.thinking, 0, 5, "thinking", "thinking"));
  if (chain.answer) shapes.push(rect(...chain.answer, 0, 5, "answer", "answer"));
  const height = { loop: [12, 12], "left loop": [12, 12], forced: [24, 6], closing: [0, 30], reflection: [7, 12], wrong: [7, 23], corrected: [19, 11] };
  const order = Object.keys(height);
  let pass = 0;
  for (const mark of [...chain.marks].sort((a, b) => order.indexOf(a.kind) - order.indexOf(b.kind))) {
    const name = mark.kind.replace(" ", "-") + (mark.kind === "loop" ? (++pass % 2 ? " odd" : " even") : "");
    shapes.push(rect(mark.start, mark.stop, ...height[mark.kind], name, `${visible(mark.label)}, token ${mark.start}`));
  }
  if (divergence >= 0) shapes.push(rect(divergence, divergence + 1, 0, 30, "diverges", `the chains differ from token ${divergence} on`));
  if (token !== null) shapes.push(rect(token, token + 1, 0, 30, "cursor"));
  const box = make("svg", { viewBox: `0 0 ${size} 30`, preserveAspectRatio: "none", class: "strip", role: "img", "data-side": side,
    "aria-label": `${plural(chain.ids.length, "token")}: ${counted(chain)}` }, ...shapes);
  box.addEventListener("click", (event) => {
    const { left, width } = box.getBoundingClientRect();
    pin(Math.min(chain.ids.length - 1, Math.floor(((event.clientX - left) / width) * size)), side);
  });
  const rows = [make("div", { class: "lane" }, box, make("div", { class: "scale" }, make("span", {}, "token 0"), make("span", {}, count(chain.ids.length))))];
  if (chain.numbers) rows.push(curve(chain.numbers.entropy, "entropy"));
  if (kl?.length) rows.push(curve(kl, "KL(dense || variant)"));
  return make("div", { class: "strips" }, ...rows);
}

/** One number along the chain: the largest of each of at most 400 stretches. */
function curve(values, name) {
  const bins = Math.min(400, values.length), most = values.reduce((top, v) => Math.max(top, v ?? 0), 1e-6);
  const shapes = [];
  for (let b = 0; b < bins; b++) {
    const a = Math.floor((b * values.length) / bins), z = Math.max(a + 1, Math.floor(((b + 1) * values.length) / bins));
    let top = 0;
    for (let i = a; i < z; i++) top = Math.max(top, values[i] ?? 0);
    const height = 20 * Math.sqrt(top / most);
    shapes.push(make("rect", { x: b, y: 20 - height, width: 1, height, class: "value" }));
  }
  return make("div", { class: "lane" }, make("svg", { viewBox: `0 0 ${bins} 20`, preserveAspectRatio: "none", class: "curve", role: "img", "aria-label": `${name} along the chain` }, ...shapes),
    make("div", { class: "scale" }, make("span", {}, `${name}, up to ${most.toFixed(2)} nats (square-root scale)`)));
}

/** Marks in a list; the passes of a loop are one entry. */
function grouped(chain) {
  const entries = [];
  for (const mark of chain.marks) {
    const last = entries.at(-1);
    if (mark.kind === "loop" && last?.kind === "loop") { last.stop = mark.stop; last.passes++; }
    else entries.push({ ...mark, passes: 1 });
  }
  return entries;
}

const counted = (chain) => Object.keys(MARKS).map((kind) => [kind, chain.marks.filter((m) => m.kind === kind).length])
  .filter(([kind, n]) => n && kind !== "closing").map(([kind, n]) => `${n} \u00d7 ${MARKS[kind]}`).join(", ") || "nothing marked";

function markList(chain, side) {
  const of = unitOf(chain), kinds = Object.keys(MARKS);
  const chips = kinds.map((kind) => {
    const starts = chain.marks.filter((m) => m.kind === kind).map((m) => m.start);
    if (!starts.length || kind === "closing") return null;
    return make("button", { type: "button", class: `chip ${kind.replace(" ", "-")}`, title: "to the next one",
      onclick: () => pin(starts.find((s) => s > (state.token ?? -1)) ?? starts[0], side) },
    make("span", { class: "swatch", "aria-hidden": "true" }), `${MARKS[kind]} \u00d7 ${count(starts.length)}`);
  });
  const items = grouped(chain).map((mark) => {
    const text = chain.texts.slice(of[mark.start], of[Math.min(mark.stop, chain.ids.length) - 1] + 1).join("").trim();
    const label = mark.kind === "loop" ? `${mark.label.split(",")[0]}, ${plural(mark.passes, "pass", "passes")}` : mark.label;
    return make("li", {}, make("button", { type: "button", class: mark.kind.replace(" ", "-"), onclick: () => pin(mark.start, side) },
      make("span", { class: "swatch", "aria-hidden": "true" }), visible(label), make("span", { class: "n" }, ` token ${count(mark.start)} `),
      make("bdi", { class: "quote" }, visible(text.length > 60 ? `${text.slice(0, 60)}\u2026` : text))));
  });
  return make("div", { class: "marks" }, make("div", { class: "chips" }, ...chips),
    items.length ? make("details", {}, make("summary", {}, `List of ${plural(items.length, "mark")}`), make("ol", {}, ...items)) : null);
}

// ---------------------------------------------------------------- one chain

/** A chain's verdict and end in a sentence. */
function facts(chain) {
  const f = chain.facts, answer = f.extracted === null ? null : visible(String(f.extracted));
  const end = f.scoring === "likelihood" ? "The choices were scored; nothing was generated."
    : `${plural(f.tokens, "token")} (${count(f.thinking_tokens)} thinking), ${said("ending", f.finish)}; thinking ended ${said("thinking", f.thinking_finish)}.`;
  return make("p", { class: "facts" }, badge(f.outcome), answer === null ? ", " : make("span", {}, " answered ", make("q", { dir: "auto" }, answer), ", "),
    ...(chain.gold === null ? [] : ["expected ", make("q", { dir: "auto" }, visible(chain.gold)), ". "]), end);
}

/** Rows like this one but for one part of the key. */
function siblings(row, part) {
  const { table } = state, own = table.parts(row), at = ["benchmark", "problem", "variant", "budget", "sample"].indexOf(part);
  return table.dims[part].map((value) => {
    const parts = [...own];
    parts[at] = String(value);
    return [String(value), table.find(parts)];
  }).filter(([, other]) => other >= 0);
}

function chooser(row, part, title, options) {
  const some = siblings(row, part);
  return make("label", {}, `${title} `, make("select", { "data-part": part, disabled: some.length < 2, onchange: (event) => go(...chainRoute(Number(event.target.value), { ...options, t: "", side: "" })) },
    ...some.map(([value, other]) => make("option", { value: other, selected: other === row }, visible(value)))));
}

/** The variant that is shown beside a chain: the one asked for, where there is such a chain. */
function besideRow(row, options) {
  if (!options.with) return -1;
  const parts = state.table.parts(row);
  return parts[2] === options.with ? -1 : state.table.find([parts[0], parts[1], options.with, parts[3], parts[4]]);
}

async function showChain(row, options) {
  const main = document.getElementById("main"), turn = ++state.turn;
  const other = besideRow(row, options);
  const [chain, beside, selection] = await Promise.all([source.chain(row), other < 0 ? null : source.chain(other), selected(options)]);
  if (turn !== state.turn) return;
  const at = selection.rows.indexOf(row), { table } = state;
  state.rows = selection.rows;
  state.chains = { a: chain, b: beside };
  const step = (by, text, title) => {
    const to = selection.rows[at + by];
    return make("a", { class: "turn", title, href: at < 0 || to === undefined ? null : chainAddress(to, { ...options, t: "", side: "" }), "aria-disabled": at < 0 || to === undefined ? "true" : null }, text);
  };
  const others = siblings(row, "variant").filter(([, r]) => r !== row);
  const compare = make("label", {}, "beside ", make("select", { id: "beside", disabled: !others.length, onchange: (event) => go(...chainRoute(row, { ...options, with: event.target.value })) },
    make("option", { value: "" }, "nothing"), ...others.map(([value]) => make("option", { value, selected: other >= 0 && value === options.with }, visible(value)))));
  const head = make("div", { class: "chain-head" },
    make("nav", { "aria-label": "Chains of the selection" }, make("a", { href: address("/", { ...options, t: "", side: "", with: "" }) }, "\u2190 list"),
      step(-1, "\u2039", "previous chain (k)"), at < 0 ? "not in the selection" : `${count(at + 1)} of ${count(selection.rows.length)}`, step(1, "\u203a", "next chain (j)")),
    make("h1", {}, make("bdi", {}, visible(chain.problem.startsWith(chain.benchmark) ? chain.problem : `${chain.benchmark}: ${chain.problem}`))),
    make("div", { class: "choosers" }, chooser(row, "variant", "variant", options), chooser(row, "budget", "budget", options), chooser(row, "sample", "sample", options), compare,
      make("a", { href: address("/", { problem: chain.problem, benchmark: chain.benchmark }) }, "all chains of this problem")));
  const question = make("details", { class: "question", open: (chain.question ?? "").length < 400 }, make("summary", {}, "Question"),
    chain.question === null ? make("p", { class: "withheld" }, "This page was written without questions and right answers.") : make("p", { dir: "auto" }, visible(chain.question)));
  const body = beside ? pair(chain, beside, options) : [facts(chain), strip(chain, { side: "a", token: state.token, kl: chain.numbers?.kl }), markList(chain, "a"),
    textOf(chain, 0, chain.texts.length, { query: options.q, side: "a" })];
  const missing = options.with && other < 0 && options.with !== chain.variant ? make("p", { class: "notice" }, "The variant ", make("bdi", {}, visible(options.with)), " has no chain at this budget and sample.") : null;
  const forks = make("details", { id: "forks", open: state.forks, ontoggle: (event) => { state.forks = event.target.open; if (state.forks) showForks(row, event.target, options); } },
    make("summary", {}, "Forks: what the chains of this problem and sample share"));
  main.className = beside ? "chain two" : "chain";
  main.replaceChildren(head, question, missing ?? "", ...body, forks);
  document.title = `${table.parts(row).slice(1).map(visible).join(" \u00b7 ")} \u00b7 PruneScope viewer`;
  if (options.t) pin(Number(options.t), beside && options.side === "b" ? "b" : "a", { scroll: true, quiet: true });
  if (beside && chain.numbers) for (const [side, mine, index, name] of [["a", chain, row, beside.variant], ["b", beside, other, chain.variant]]) {
    if (mine.variant !== "dense") continue;
    source.kl(index, name).then((kl) => {
      if (turn === state.turn && kl.length) document.querySelector(`.strips[data-side="${side}"]`)?.append(curve(kl, "KL(dense || variant)"));
    }).catch(fail);
  }
}

/** Two chains: what they share once, then each its own way. */
function pair(a, b, options) {
  const at = firstDivergence(a, b), length = Math.min(a.ids.length, b.ids.length);
  const shared = at < 0 ? length : at;
  const unitsShared = (chain) => { let i = 0; while (i < chain.firsts.length && (chain.firsts[i + 1] ?? chain.ids.length) <= shared) i++; return i; };
  const cut = Math.min(unitsShared(a), unitsShared(b)); // a character that only one finishes is not shared
  const words = at < 0
    ? a.ids.length === b.ids.length ? "Both chains are the same." : `The first ${plural(shared, "token")} are the same; then one of them goes on.`
    : `The first ${plural(shared, "token")} are the same; they differ from token ${count(at)} on.`;
  const column = (chain, side) => {
    const strips = strip(chain, { side, divergence: at, token: side === state.side ? state.token : null, kl: chain.numbers?.kl });
    strips.dataset.side = side;
    return make("section", { class: "column", "aria-label": `variant ${visible(chain.variant)}` }, make("h2", {}, make("bdi", {}, visible(chain.variant))), facts(chain), strips, markList(chain, side),
      textOf(chain, cut, chain.texts.length, { query: options.q, divergence: chain.firsts[cut] <= at ? chain.firsts[cut] : -1, side }));
  };
  return [make("section", { class: "shared", "aria-label": "shared beginning" }, make("p", { id: "divergence" }, words),
    cut ? make("details", { open: cut < 400 }, make("summary", {}, "The shared beginning"), textOf(a, 0, cut, { query: options.q, side: "a" })) : null),
  make("div", { class: "columns" }, column(a, "a"), column(b, "b"))];
}

// ---------------------------------------------------------------- a token

/** What is known of a token. */
function tokenFacts(chain, token) {
  const of = unitOf(chain), unit = of[token], numbers = chain.numbers;
  const last = (chain.firsts[unit + 1] ?? chain.ids.length) - 1, first = chain.firsts[unit];
  const text = JSON.stringify(chain.texts[unit].trim() || chain.texts[unit]).replace(UNSEEN, (c) => visible(c));
  const lines = [make("p", { class: "token-text" }, make("bdi", {}, text)),
    make("p", {}, first === last ? `token ${count(token)}, id ${chain.ids[token]}` : `tokens ${count(first)}\u2013${count(last)} spell this character, ids ${chain.ids.slice(first, last + 1).join(", ")}`)];
  const labels = [...new Set(chain.marks.filter((m) => m.start <= token && token < m.stop).map((m) => m.label))];
  if (labels.length) lines.push(make("p", { class: "labels" }, visible(labels.join("; "))));
  if (!numbers) {
    const why = chain.unmeasured ?? (state.overview.measured ? "nothing was generated" : "viewer started without --measure");
    return [...lines, make("p", { class: "quiet" }, `no numbers per token: ${visible(why)}`)];
  }
  const p = Math.exp(numbers.logprob[token]);
  lines.push(make("p", {}, `probability ${p >= 0.001 ? p.toFixed(3) : p.toExponential(1)}, entropy ${numbers.entropy[token]?.toFixed(2) ?? "?"} nats`));
  if (numbers.kl) lines.push(make("p", {}, `KL from dense ${numbers.kl[token]?.toFixed(3) ?? "?"} nats`));
  const influence = numbers.influence[token], most = Math.max(...influence.map((v) => v ?? 0), 1e-9);
  const width = 100 / influence.length;
  lines.push(make("p", { class: "quiet" }, `Block Influence, blocks ${numbers.blocks[0]} to ${numbers.blocks.at(-1)}; most: block ${numbers.blocks[influence.indexOf(most)] ?? "?"} (${most.toFixed(3)})`),
    make("svg", { viewBox: "0 0 100 24", preserveAspectRatio: "none", class: "blocks", role: "img", "aria-label": influence.map((v, i) => `block ${numbers.blocks[i]}: ${v ?? "none"}`).join(", ") },
      ...influence.map((v, i) => make("rect", { x: i * width + width * 0.1, width: width * 0.8, y: 24 - (22 * (v ?? 0)) / most, height: (22 * (v ?? 0)) / most, class: "value" }, make("title", {}, `block ${numbers.blocks[i]}: ${v ?? "none"}`)))));
  return lines;
}

function showTip(span) {
  const tip = document.getElementById("tip"), chain = state.chains?.[span.dataset.side];
  if (!chain) return;
  tip.replaceChildren(...tokenFacts(chain, Number(span.dataset.token)));
  tip.hidden = false;
  const box = span.getClientRects()[0] ?? span.getBoundingClientRect(), own = tip.getBoundingClientRect(), edge = document.documentElement;
  const below = box.bottom + 8 + own.height < edge.clientHeight;
  tip.style.left = `${Math.max(8, Math.min(box.left, edge.clientWidth - own.width - 8))}px`;
  tip.style.top = `${below ? box.bottom + 8 : Math.max(8, box.top - own.height - 8)}px`;
}

const hideTip = () => { document.getElementById("tip").hidden = true; };

/** Chooses a token: outlined, described, and in the address. */
function pin(token, side = "a", { scroll = true, quiet = false } = {}) {
  const chain = state.chains?.[side];
  if (!chain || !Number.isInteger(token) || token < 0 || token >= chain.ids.length) return;
  const first = chain.firsts[unitOf(chain)[token]];
  const find = (name) => document.querySelector(`.text span[data-token="${first}"][data-side="${name}"]`);
  const span = find(side) ?? find("a"); // the shared beginning is drawn once
  if (!span) return;
  for (const old of document.querySelectorAll(".text span.pinned")) old.classList.remove("pinned");
  span.classList.add("pinned");
  const folded = span.closest("details");
  if (folded) folded.open = true;
  Object.assign(state, { token, side });
  for (const old of document.querySelectorAll(".strip .cursor")) old.remove();
  const box = document.querySelector(`.strip[data-side="${side}"]`), size = chain.ids.length;
  box?.append(make("rect", { x: Math.min(token, size - size / 300), y: 0, width: Math.max(1, size / 300), height: 30, class: "cursor" }));
  if (scroll) span.scrollIntoView({ block: "center" });
  showTip(span);
  if (!quiet) remember({ t: token, side: side === "a" ? "" : side });
}

// ---------------------------------------------------------------- forks

async function showForks(row, place, options) {
  if (place.querySelector("ul, p")) return;
  try {
    const { tree, left_out: left } = await source.forks(row);
    if (place.querySelector("ul, p")) return;
    place.append(make("p", { class: "quiet" }, "Each line is a stretch of tokens that all chains below it share; a chain ends where its name stands."),
      make("ul", { class: "tree" }, fork(tree, row, options)));
    if (left) place.append(make("p", { class: "notice" }, `${plural(left, "more chain")} not drawn.`));
  } catch (error) { fail(error); }
}

function fork(node, row, options) {
  const { table } = state;
  const groups = new Map(); // the budgets of a variant that end alike stand together
  for (const end of node.ends) {
    const name = JSON.stringify([table.value("variant", end), table.value("verdict", end)]);
    groups.set(name, [...(groups.get(name) ?? []), end]);
  }
  const ends = [...groups.values()].map((some) => {
    const verdict = table.value("verdict", some[0]);
    return make("span", { class: "end" }, make("bdi", {}, visible(table.value("variant", some[0]))), " at ",
      ...some.flatMap((end) => [make("a", { class: end === row ? "own" : null, href: chainAddress(end, { ...options, t: "", side: "" }) }, visible(String(table.value("budget", end)))), " "]),
      make("span", { class: `verdict ${verdict.replace(" ", "-")}`, title: verdict }, VERDICT_SIGN[verdict] ?? verdict));
  });
  const last = node.stop - 1;
  const range = last < node.start ? "from the first token" : last === node.start ? count(last) : `${count(node.start)}\u2013${count(last)}`;
  return make("li", {}, make("div", { class: node.rows.includes(row) ? "way" : null },
    make("span", { class: "n" }, range, node.rows.length > 1 ? ` \u00b7 ${plural(node.rows.length, "chain")} ` : " "),
    make("bdi", { class: "quote" }, visible(node.text.replace(/\s+/g, " ")), node.more ? "\u2026" : ""), " ", ...ends),
  node.children.length ? make("ul", {}, ...node.children.map((child) => fork(child, row, options))) : null);
}
