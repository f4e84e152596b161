"use strict";
// Where the data comes from (the server, or this file), the table of chains, its filters, and how
// text from models is shown. Text is only ever put into the page as text.

const FACETS = [
  ["benchmark", "Benchmark"], ["variant", "Variant"], ["block", "Block removed"],
  ["verdict", "Verdict"], ["loop", "Loop"], ["wrong", "First wrong step"], ["ending", "Ending"],
  ["thinking", "End of thinking"], ["budget", "Budget"], ["sample", "Sample"],
];
const FILTER_NAMES = [...FACETS.map(([name]) => name), "problem"];
const SAID = { // values of the store in words
  ending: { stop: "stopped by itself", cut: "cut by the budget", looped: "ended in a loop", positions: "no positions left" },
  thinking: { end: "by the model", forced: "by the budget", looped: "in a loop", none: "no thinking" },
  wrong: { none: "none found" }, loop: { none: "no loop" },
};
const said = (name, value) => visible(SAID[name]?.[value] ?? String(value));

// ---------------------------------------------------------------- text

const UNSEEN = /[\u0000-\u0008\u000b-\u001f\u007f-\u009f\u061c\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb]|[\ud800-\udbff](?![\udc00-\udfff])|(?<![\ud800-\udbff])[\udc00-\udfff]/g;

/** Text with control characters, direction marks and lone surrogates made visible. */
function visible(text) {
  return text.replace(UNSEEN, (char) => {
    const code = char.charCodeAt(0);
    if (code < 0x20) return String.fromCharCode(0x2400 + code);
    if (code === 0x7f) return "\u2421";
    return `[U+${code.toString(16).toUpperCase().padStart(4, "0")}]`;
  });
}

/** An element: `make("p", {class: "quiet"}, "text", child)`. Strings become text nodes. */
function make(tag, attributes = {}, ...children) {
  const svg = ["svg", "rect", "path", "line", "title"].includes(tag);
  const made = svg ? document.createElementNS("http://www.w3.org/2000/svg", tag) : document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === undefined || value === null || value === false) continue;
    if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
    else made.setAttribute(name, value === true ? "" : String(value));
  }
  made.append(...children.filter((child) => child !== null && child !== undefined));
  return made;
}

const count = (n) => n.toLocaleString("en");
const plural = (n, one, many = `${one}s`) => `${count(n)} ${n === 1 ? one : many}`;
const share = (n, of) => (of ? `${Math.round((100 * n) / of)} %` : "0 %");

// ---------------------------------------------------------------- search

const PIECE = /[\p{L}\p{N}_]+|[^\p{L}\p{N}_\s\p{C}]/gu;

/** One expression per phrase of a query: the rule of `text_index.phrases`. */
function phrases(query) {
  const found = [];
  for (const [, quoted, bare] of query.matchAll(/"([^"]*)"|([^\s"]+)/g)) {
    const pieces = (quoted || bare || "").match(PIECE);
    if (!pieces) continue;
    const open = bare !== undefined && /[\p{L}\p{N}]$/u.test(pieces.at(-1));
    const body = pieces.map((p) => p.replace(/[.*+?^${}()|[\]\\\/-]/g, "\\$&")).join("\\s*");
    const word = (p) => /^[\p{L}\p{N}_]/u.test(p);
    const before = word(pieces[0]) ? "(?<![\\p{L}\\p{N}_])" : "";
    const after = open ? "[\\p{L}\\p{N}_]*" : word(pieces.at(-1)) ? "(?![\\p{L}\\p{N}_])" : "";
    found.push(new RegExp(before + body + after, "giu"));
  }
  return found;
}

/** Ranges [start, stop) of characters that a query matches; empty unless every phrase is there. */
function hits(text, query) {
  const found = [];
  for (const pattern of phrases(query)) {
    const before = found.length;
    for (const match of text.matchAll(pattern)) found.push([match.index, match.index + match[0].length]);
    if (found.length === before) return [];
  }
  return found.sort((a, b) => a[0] - b[0]);
}

// ---------------------------------------------------------------- source

/** Asks the server; in an exported file, answers from the file. */
const source = {
  embedded: null,
  cache: new Map(),
  async get(path) {
    const response = await fetch(path, { headers: { Accept: "application/json" } });
    const body = await response.json();
    if (!response.ok) throw new Error(body.error || `the server answered ${response.status}`);
    return body;
  },
  async overview() {
    const island = document.getElementById("data");
    if (island) {
      this.embedded = JSON.parse(island.textContent);
      return this.embedded.overview;
    }
    return this.get("api/overview");
  },
  /** Waits until the server has checked every row; an error where one is damaged. */
  async check() {
    if (!this.embedded) await this.get("api/check");
  },
  async chain(row) {
    if (this.embedded) return this.embedded.chains[row];
    if (!this.cache.has(row)) {
      if (this.cache.size > 60) this.cache.delete(this.cache.keys().next().value);
      this.cache.set(row, this.get(`api/chain/${row}`));
    }
    try {
      return await this.cache.get(row);
    } catch (error) {
      this.cache.delete(row);
      throw error;
    }
  },
  async forks(row) {
    return this.embedded ? this.embedded.forks[this.embedded.fork_of[row]] : this.get(`api/forks/${row}`);
  },
  async kl(row, variant) {
    if (this.embedded) return [];
    return this.get(`api/kl/${row}?variant=${encodeURIComponent(variant)}`);
  },
  async texts(rows) {
    if (this.embedded) return rows.map((row) => this.embedded.chains[row].texts.join(""));
    return this.get(`api/texts?rows=${rows.join(",")}`);
  },
  async search(query) {
    if (!this.embedded) return this.get(`api/search?q=${encodeURIComponent(query)}`);
    const rows = this.embedded.chains.map((_, i) => i);
    const texts = await this.texts(rows);
    return { rows: rows.filter((i) => hits(texts[i], query).length), indexed: rows.length, total: rows.length };
  },
};

// ---------------------------------------------------------------- the table

/** The chains of the study, in columns. */
class Table {
  constructor({ dims, cols, removed }) {
    Object.assign(this, { dims, cols, removed });
    this.size = cols.variant.length;
    this.codes = Object.fromEntries(Object.entries(dims).map(([name, values]) =>
      [name, new Map(values.map((value, i) => [String(value), i]))]));
    this.blocksOf = removed.map((blocks) => blocks.map((b) => this.codes.block.get(String(b))));
  }

  value(name, row) { return this.dims[name][this.cols[name][row]]; }

  parts(row) { return ["benchmark", "problem", "variant", "budget", "sample"].map((n) => String(this.value(n, row))); }

  /** The row of a key; -1 where there is none. */
  find(parts) {
    if (!this.rowOf) {
      this.rowOf = new Map();
      for (let row = 0; row < this.size; row++) this.rowOf.set(this.parts(row).join("\u0000"), row);
    }
    return this.rowOf.get(parts.join("\u0000")) ?? -1;
  }

  /** Rows that pass the filters, and for every value how many would with it. */
  filter(where, found) {
    const names = FACETS.map(([name]) => name);
    const tests = FILTER_NAMES.filter((name) => where[name]).map((name) => {
      const wanted = new Set(where[name].split("|").map((value) => this.codes[name].get(value)));
      const at = names.indexOf(name);
      if (name !== "block") return [at, this.cols[name], this.dims[name].map((_, i) => wanted.has(i))];
      return [at, this.cols.variant, this.blocksOf.map((blocks) => blocks.some((b) => wanted.has(b)))];
    });
    const counts = Object.fromEntries(names.map((name) => [name, new Int32Array(this.dims[name].length)]));
    const only = found && new Uint8Array(this.size);
    if (found) for (const row of found) only[row] = 1;
    const columns = names.filter((name) => name !== "block").map((name) => [names.indexOf(name), this.cols[name], counts[name]]);
    const blockAt = names.indexOf("block"), variants = this.cols.variant;
    const rows = [];
    for (let row = 0; row < this.size; row++) {
      if (only && !only[row]) continue;
      let failed = -1, several = false;
      for (const [at, column, passes] of tests) {
        if (passes[column[row]]) continue;
        if (failed !== -1 || at === -1) { several = true; break; }
        failed = at;
      }
      if (several) continue;
      if (failed === -1) rows.push(row);
      for (const [at, column, tally] of columns) if (failed === -1 || failed === at) tally[column[row]]++;
      if (failed === -1 || failed === blockAt) for (const b of this.blocksOf[variants[row]]) counts.block[b]++;
    }
    return { rows, counts };
  }

  sort(rows, how) {
    const [name, sign] = { longest: ["tokens", -1], shortest: ["tokens", 1], reflections: ["reflections", -1] }[how] || [];
    if (!name) return rows;
    const column = this.cols[name];
    return [...rows].sort((a, b) => sign * (column[a] - column[b]) || a - b);
  }
}
