// Formats numbers and text.

const NONE = "–";
const DIGITS = { proportion: 3, bits: 3, nats: 3, r: 3, points: 2, tokens: 1, words: 1, characters: 1, number: 3 };
const BETTER = { higher: "↑", lower: "↓", "0.5": "→ 0.5", "0": "→ 0", [NONE]: "" };
const BETTER_WORDS = { higher: "higher is better", lower: "lower is better", "0.5": "0.5 is best", "0": "0 is best", [NONE]: "no direction is better" };
const MARKS = { gain: "▲", loss: "▼", retained: "●", inconclusive: "○", [NONE]: "·" };
const KINDS = { gain: "gain", loss: "loss", retained: "retained", inconclusive: "inconclusive", [NONE]: "untested" };
const CUT = 2000; // characters of a text shown at first
// C0 and C1 without tab and line feed; embeddings, overrides and isolates of direction
const UNSEEN = /[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]/g;

const count = (number) => number.toLocaleString("en");

function formatValue(value, unit, sign = false) {
  if (value === null || value === undefined || !Number.isFinite(value)) return NONE;
  const text = Math.abs(value).toFixed(DIGITS[unit] ?? 3);
  const negative = value < 0 && Number(text) !== 0;
  return (negative ? "\u2212" : sign ? "+" : "") + text;
}

function formatInterval(low, high, unit, sign = false) {
  return Number.isFinite(low) && Number.isFinite(high) && low !== null && high !== null
    ? `[${formatValue(low, unit, sign)}, ${formatValue(high, unit, sign)}]` : "";
}

const formatP = (p) => (p === null ? NONE : p < 0.001 ? "<.001" : p.toFixed(3).replace(/^0/, ""));

function visible(text) {
  return text.replace(UNSEEN, (c) => {
    const code = c.charCodeAt(0);
    if (code < 0x20) return String.fromCharCode(0x2400 + code);
    return code === 0x7f ? "\u2421" : `⟨U+${code.toString(16).toUpperCase().padStart(4, "0")}⟩`;
  });
}

// The improvement from `before` to `after`; null if no direction is better, or if a value is missing.
function gain(before, after, better) {
  if (before === null || after === null) return null;
  if (better === "higher") return after - before;
  if (better === "lower") return before - after;
  if (better === "0.5" || better === "0") return Math.abs(before - Number(better)) - Math.abs(after - Number(better));
  return null;
}

// A box with text of a run folder, in its own direction; long text is cut, matches of the search are marked.
function textBox(text, query = "", least = CUT) {
  const box = make("div", { class: "text", dir: "auto" });
  if (!text) {
    box.append(make("span", { class: "empty" }, "nothing"));
    return box;
  }
  const size = text.length;
  text = text.replace(/^\n+/, (lines) => `${"↵".repeat(lines.length)} `); // leading empty lines would misalign columns
  const most = text.length > 1.2 * least ? least : text.length; // no cut that saves little
  const found = query ? text.toLowerCase().indexOf(query) : -1;
  const begin = text.length > most && found > most - 100 ? whole(text, Math.max(found - 300, 0)) : 0;
  const end = text.length > begin + most ? whole(text, begin + most) : text.length;
  marked(box, (begin ? "…" : "") + text.slice(begin, end) + (end < text.length ? "…" : ""), query);
  if (!begin && end === text.length) return box;
  const button = make("button", { type: "button", class: "quiet", onclick: () => {
    box.replaceChildren();
    marked(box, text, query);
    button.remove();
    box.tabIndex = -1;
    box.focus({ preventScroll: true });
  } }, `Show all ${count(size)} characters`);
  return make("div", { class: "cut" }, box, button);
}

// The place `at`, or the one before if it is inside a surrogate pair.
const whole = (text, at) => (at > 0 && text.charCodeAt(at) >= 0xdc00 && text.charCodeAt(at) < 0xe000 ? at - 1 : at);

function marked(box, text, query) {
  const lower = text.toLowerCase();
  if (!query || lower.length !== text.length) {
    box.append(visible(text));
    return;
  }
  let at = 0;
  for (let found = lower.indexOf(query); found >= 0; found = lower.indexOf(query, at)) {
    box.append(visible(text.slice(at, found)), make("mark", {}, visible(text.slice(found, found + query.length))));
    at = found + query.length;
  }
  box.append(visible(text.slice(at)));
}

// A name with possible line breaks between its parts.
function breakable(name) {
  return visible(name).split(/(?<=[_.])/).flatMap((part) => [part, make("wbr")]).slice(0, -1);
}

// A cell of CSV; an apostrophe before text that a spreadsheet would take for a formula.
function csvCell(value) {
  if (value === null || value === undefined) return "";
  let text = String(value);
  if (typeof value === "string" && /^[=+\-@\t\r]/.test(text)) text = `'${text}`;
  return /[",\n\r]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
}

const csv = (rows) => rows.map((row) => row.map(csvCell).join(",") + "\n").join("");
