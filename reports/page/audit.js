// The audit table: reference, margin, correction and scorer; filters, sorting, download as CSV.

const audit = { core: null, sort: null, falling: false, page: 0, rows: [] };
const AUDIT_PAGE = 100;
const LEVEL = 0.05;
const CORRECTIONS = { holm: "Holm", bh: "Benjamini–Hochberg", none: "no correction" };
const P_COLUMN = { number: true, key: (row) => row.p_adjusted, cell: (row) => formatP(row.p_adjusted) };

const AUDIT_COLUMNS = [
  { name: "task", key: (row) => row.task, cell: taskCell, head: true },
  { name: "verdict", key: (row) => ["gain", "loss", "retained", "inconclusive", NONE].indexOf(row.verdict), cell: verdictCell },
  { name: "metric", key: (row) => row.metric, cell: metricCell },
  { name: "change", number: true, key: (row) => row.delta, cell: changeCell },
  { name: "worse · better", key: (row) => (row.tax_of_range === null ? null : -row.tax_of_range), numeric: true, cell: barCell },
  { name: "systems", wide: true, key: (row) => `${row.alignedName} ${row.referenceName}`, cell: systemsCell },
  { name: "reference", number: true, key: (row) => row.reference, cell: (row) => formatValue(row.reference, row.unit) },
  { name: "aligned", number: true, key: (row) => row.aligned, cell: (row) => formatValue(row.aligned, row.unit) },
  P_COLUMN,
  { name: "relative tax", number: true, key: (row) => row.relative_tax, cell: (row) => (row.relative_tax === null ? NONE : `${formatValue(100 * row.relative_tax, "tokens", true)} %`) },
  { name: "MDE", number: true, key: (row) => row.detectable, cell: (row) => formatValue(row.detectable, row.unit) },
  { name: "documents", number: true, key: (row) => row.n, cell: documentsCell },
];

// Adjusted p-values: Holm 1979, Benjamini & Hochberg 1995.
function adjust(values, correction) {
  const order = values.map((_, place) => place).sort((a, b) => values[a] - values[b]), found = [...values], tests = values.length;
  let last = correction === "holm" ? 0 : 1;
  if (correction === "holm") order.forEach((place, rank) => { found[place] = last = Math.min(1, Math.max(last, values[place] * (tests - rank))); });
  if (correction === "bh") order.reverse().forEach((place, rank) => { found[place] = last = Math.min(last, (values[place] * tests) / (tests - rank)); });
  return found;
}

// The settings of the verdicts; a margin that is not a number is that of the report.
function auditSettings() {
  const margin = $("audit-margin").valueAsNumber;
  return { margin: Number.isFinite(margin) ? Math.min(Math.max(margin, 0), 100) : audit.core.margin, correction: $("audit-correction").value, scorer: $("audit-scorer").value };
}

// Whether the settings are those of the audit.
const asAudited = ({ margin, correction, scorer }) => margin === audit.core.margin && correction === "holm" && !scorer;

// The verdicts of a contrast, by the rules of alignbench/audit/abilities.py: one row of each family is tested, the first
// of those by the chosen scorer, if the family has some.
function judge(rows, settings) {
  if (asAudited(settings)) { // numbers of the page are rounded: they could give other verdicts
    for (const row of rows) Object.assign(row, row.audited);
    return;
  }
  const { margin, correction, scorer } = settings;
  const primary = new Map(), mine = (row) => Boolean(scorer) && row.scorer === scorer;
  for (const row of [...rows].sort((a, b) => a.rank - b.rank)) {
    const own = primary.get(row.family);
    if (row.headline && row.gain !== null && (!own || (mine(row) && !mine(own)))) primary.set(row.family, row);
  }
  const tested = [...primary.values()].filter((row) => row.p !== null), p = adjust(tested.map((row) => row.p), correction);
  for (const row of rows) {
    const chosen = primary.get(row.family) === row, tests = chosen && correction !== "none" ? Math.max(tested.length, 1) : 1;
    row.p_adjusted = chosen && row.p !== null ? p[tested.indexOf(row)] : null;
    row.detectable = row.gain !== null && row.standard_error ? audit.core.factors[tests - 1] * row.standard_error : null;
    row.primary = chosen;
    row.verdict = NONE;
    row.note = row.audited.note.startsWith("p is below") ? "" : row.audited.note;
    if (row.gain === null) continue; // its note says why it is not tested
    const within = row.span !== null && row.gain_low !== null && row.gain_low >= (-margin / 100) * row.span;
    if (chosen) row.verdict = row.p_adjusted !== null && row.p_adjusted < LEVEL ? (row.gain > 0 ? "gain" : "loss") : within ? "retained" : "inconclusive";
    const only = chosen && row.p !== null && row.p < LEVEL && !["gain", "loss"].includes(row.verdict);
    if (only) row.note = `p is below ${LEVEL} only before the correction for ${tested.length} tests`;
  }
}

function verdictCell(row) {
  return make("span", { class: `verdict-word ${KINDS[row.verdict]}`, title: row.note || null },
    make("span", { "aria-hidden": "true" }, `${MARKS[row.verdict]} `), row.verdict === NONE ? "not tested" : row.verdict);
}

function taskCell(row) {
  const parts = [row.ability, row.group, row.variant].filter(Boolean).join(", ");
  const link = audit.core.tasks[row.task]
    ? make("a", { href: linkTo(row.task, row.set) }, ...breakable(row.task)) : make("span", {}, ...breakable(row.task));
  link.title = visible(audit.core.tasks[row.task]?.title || row.task);
  return [link, make("span", { class: "sub" }, visible(parts))];
}

function metricCell(row) {
  const scorer = row.scorer && !row.scorer.includes("|") ? `, by ${row.scorer.length > 40 ? `${row.scorer.slice(0, 39)}…` : row.scorer}` : "";
  return [...breakable(row.metric), make("span", { class: "sub" },
    `${row.unit} `, make("span", { title: BETTER_WORDS[row.better], "aria-label": BETTER_WORDS[row.better], role: "img" }, BETTER[row.better]), visible(scorer))];
}

function systemsCell(row) {
  return [make("bdi", {}, visible(row.alignedName)), make("span", { class: "sub" }, "against ", make("bdi", {}, visible(row.referenceName)))];
}

function changeCell(row) {
  return [formatValue(row.delta, row.unit, true), make("span", { class: "sub" }, formatInterval(row.low, row.high, row.unit, true) || "no interval")];
}

function documentsCell(row) {
  const grouped = row.clusters === row.n ? "" : ` in ${count(row.clusters)} groups`;
  const missing = row.left_out ? ` ${count(row.left_out)} unscored` : "";
  return [count(row.n), grouped || missing ? make("span", { class: "sub" }, `${grouped}${missing}`.trim()) : null];
}

// The improvement and its interval: [middle, low, high]; the change if no direction is better.
function betterment(row) {
  if (row.gain === null) return [row.delta, row.low, row.high];
  return [row.gain, row.gain_low, row.gain_high];
}

function barCell(row) {
  const [middle, low, high] = betterment(row);
  const scale = 56 / (audit.scales[row.unit] || 1), x = (value) => 60 + scale * value;
  const kind = KINDS[row.verdict], parts = [drawing("line", { x1: 60, x2: 60, y1: 1, y2: 17, class: "zero" })];
  if (low !== null && high !== null) parts.push(drawing("line", { x1: x(low), x2: x(high), y1: 9, y2: 9, class: `reach ${kind}` }));
  const at = x(middle);
  const shape = { gain: `${at - 4},4 ${at + 5},9 ${at - 4},14`, loss: `${at + 4},4 ${at - 5},9 ${at + 4},14` }[kind];
  parts.push(shape ? drawing("polygon", { points: shape, class: kind }) : drawing("circle", { cx: at, cy: 9, r: 3.5, class: kind }));
  return drawing("svg", { viewBox: "0 0 120 18", width: 120, height: 18, class: "bar", "aria-hidden": "true" }, ...parts);
}

// A header whose button calls click(column).
function sortHeader(column, sorted, falling, click) {
  return make("th", { scope: "col", class: column.number ? "n" : null, "aria-sort": sorted ? (falling ? "descending" : "ascending") : "none" },
    make("button", { type: "button", class: "sort", onclick: () => click(column) }, column.name,
      make("span", { class: "arrow", "aria-hidden": "true" }, sorted ? (falling ? " ↓" : " ↑") : "")));
}

function compareKeys(a, b, falling) {
  const none = (value) => value === null || value === undefined;
  if (none(a) || none(b)) return none(a) - none(b); // missing values are last in both orders
  const order = typeof a === "string" ? a.localeCompare(b, "en") : a - b;
  return falling ? -order : order;
}

function chosenContrasts() {
  const own = audit.core.audits[$("audit-reference").value] || [];
  const aligned = $("audit-aligned").value;
  return own.map((place) => audit.core.contrasts[place]).filter((one) => !aligned || one.aligned === aligned);
}

function auditRows() {
  const group = $("audit-group").value, verdict = $("audit-verdict").value;
  const contrasts = chosenContrasts(), settings = auditSettings();
  for (const one of contrasts) judge(one.objects, settings);
  const every = $("audit-metrics").value === "all", words = $("audit-text").value.toLowerCase().split(/\s+/).filter(Boolean);
  const rows = contrasts.flatMap((one) => one.objects).filter((row) =>
    (every || row.headline) && (!group || row.ability === group) && (!verdict || row.verdict === verdict) &&
    words.every((word) => row.hay.includes(word)));
  if (audit.sort) {
    const keyed = rows.map((row) => [audit.sort.key(row), row]);
    keyed.sort((a, b) => compareKeys(a[0], b[0], audit.falling));
    return keyed.map(([, row]) => row);
  }
  return rows;
}

function showAudit(page = 0) {
  audit.rows = auditRows();
  audit.page = page;
  audit.scales = {};
  for (const row of audit.rows)
    for (const end of betterment(row)) if (end !== null) audit.scales[row.unit] = Math.max(audit.scales[row.unit] || 0, Math.abs(end));
  P_COLUMN.name = { holm: "p (Holm)", bh: "p (BH)", none: "p" }[$("audit-correction").value];
  const contrasts = chosenContrasts(), columns = AUDIT_COLUMNS.filter((column) => column.name !== "systems" || contrasts.length > 1);
  const head = $("audit-table").tHead.rows[0], held = [...head.cells].findIndex((cell) => cell.contains(document.activeElement));
  head.replaceChildren(...columns.map((column) => sortHeader(column, audit.sort === column, audit.falling, sortAudit)));
  if (held >= 0 && head.cells[held]) head.cells[held].firstChild.focus();
  const shown = audit.rows.slice(page * AUDIT_PAGE, (page + 1) * AUDIT_PAGE);
  $("audit-table").tBodies[0].replaceChildren(...shown.map((row) => make("tr", { class: KINDS[row.verdict] }, ...columns.map((column) =>
    make(column.head ? "th" : "td", { class: column.number ? "n" : column.wide ? "wide" : null, scope: column.head ? "row" : null }, ...[column.cell(row)].flat().filter((part) => part !== null))))));
  const all = contrasts.reduce((sum, one) => sum + one.rows.length, 0);
  const number = (kind) => audit.rows.filter((row) => row.verdict === kind).length;
  $("audit-count").textContent = `${count(audit.rows.length)} of ${count(all)} rows: ${number("gain")} gains, ${number("loss")} losses, ${number("retained")} retained, ${number("inconclusive")} inconclusive.`;
  $("audit-settings").textContent = asAudited(auditSettings()) ? "" : "The verdict and the findings above have other settings: Holm’s correction, " +
    `a margin of ${audit.core.margin} % of the range, and the first scorer of each task.`;
  const notes = contrasts.flatMap((one) => one.notes.map((note) => (contrasts.length > 1 ? `${one.aligned} against ${one.reference}: ${note}` : note)));
  const remarks = audit.rows.filter((row) => row.note).map((row) => `${row.task}.${row.metric}: ${row.note}`);
  $("audit-notes").replaceChildren(...[...new Set([...notes, ...remarks])].slice(0, 40).map((note) => make("li", {}, visible(note))));
  pager($("audit-pager"), page, Math.ceil(audit.rows.length / AUDIT_PAGE), "the audit", showAudit);
}

function sortAudit(column) {
  const numeric = column.number || column.numeric;
  if (audit.sort === column) audit.falling = !audit.falling;
  else [audit.sort, audit.falling] = [column, Boolean(numeric)];
  showAudit();
}

// Scorers of headline metrics of a family that has several, which can be compared.
function severalScorers(rows) {
  const found = new Map();
  for (const row of rows) if (row.headline && row.gain !== null && row.scorer) found.set(row.family, (found.get(row.family) || new Set()).add(row.scorer));
  return [...new Set([...found.values()].filter((own) => own.size > 1).flatMap((own) => [...own]))].sort();
}

function auditChoices() {
  const own = (audit.core.audits[$("audit-reference").value] || []).map((place) => audit.core.contrasts[place]);
  const aligned = [...new Set(own.map((one) => one.aligned))], rows = own.flatMap((one) => one.objects);
  fill($("audit-aligned"), [["", `all (${aligned.length})`], ...aligned.map((name) => [name, visible(name)])]);
  const scorers = severalScorers(rows);
  fill($("audit-scorer"), [["", "first of each task"], ...scorers.map((name) => [name, visible(name)])]);
  $("audit-scorer").parentElement.hidden = !scorers.length;
  fill($("audit-group"), [["", "all"], ...[...new Set(rows.map((row) => row.ability))].sort().map((name) => [name, visible(name)])]);
}

function auditCsv() {
  const { margin, correction } = auditSettings(), names = audit.core.columns.map((name) => (name === "p_holm" ? "p_adjusted" : name));
  const rows = audit.rows.map((row) => [row.alignedName, row.referenceName, ...names.map((name) => row[name]), correction, margin]);
  download("audit.csv", csv([["aligned_model", "reference_model", ...names, "correction", "margin_percent"], ...rows]));
}

function startAudit(core) {
  audit.core = core;
  for (const one of core.contrasts)
    one.objects = one.rows.map((cells, place) => {
      const row = Object.fromEntries(core.columns.map((name, place) => [name, cells[place]]));
      row.set = one.sets[place];
      row.rank = one.ranks[place];
      row.audited = { verdict: row.verdict, p_adjusted: row.p_holm, detectable: row.detectable, primary: row.primary, note: row.note };
      row.referenceName = one.reference;
      row.alignedName = one.aligned;
      row.hay = [row.task, core.tasks[row.task]?.title, row.metric, row.ability, row.group, row.variant, row.scorer, one.aligned, one.reference].join(" ").toLowerCase();
      return row;
    });
  if (!$("audit")) return;
  fill($("audit-reference"), Object.keys(core.audits).map((name) => [name, name ? visible(name) : "from lineages"]));
  fill($("audit-correction"), Object.entries(CORRECTIONS));
  $("audit-margin").value = core.margin;
  fill($("audit-verdict"), [["", "all"], ["gain", "gain"], ["loss", "loss"], ["retained", "retained"], ["inconclusive", "inconclusive"], [NONE, "not tested"]]);
  auditChoices();
  onControls($("audit-controls"), (control) => {
    if (control.id === "audit-reference") auditChoices();
    showAudit();
  });
  $("audit-csv").addEventListener("click", auditCsv);
  showAudit();
}
