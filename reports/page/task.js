// The page of a task: its metrics for all systems, and its samples with search, filters, sorting and paging.

const TASK_PAGE = 25;
const MOST_METRICS = 6; // shown without opening the list
let view = null;
let opening = 0; // number of the last request

async function openTask(core, name, set) {
  const known = Object.hasOwn(core.tasks, name) ? core.tasks[name] : null;
  const title = $("task-title");
  title.textContent = visible(known ? name : `Unknown task ${name}`);
  $("task-lede").textContent = known ? visible(known.title) : "";
  document.title = visible(known ? `${name}: ${known.title}` : name);
  if (!known) return emptyTask("");
  const chosen = known.sets[Math.min(Math.max(set, 0), known.sets.length - 1)];
  if (view && view.key === chosen.block) return undefined;
  emptyTask("Reading the samples…");
  const request = ++opening;
  let block;
  try {
    block = await unpack(chosen.block);
  } catch (error) {
    return emptyTask(`This browser cannot read the samples (${error.message}); use a newer one.`);
  }
  if (request !== opening) return undefined; // another task was opened since
  view = { key: chosen.block, block, query: "", page: 0, hay: null };
  showSets(name, known.sets, known.sets.indexOf(chosen));
  taskChoices(core);
  showResults(core);
  showSamples();
  const idle = window.requestIdleCallback || ((work) => setTimeout(work, 50));
  const mine = view;
  idle(() => haystacks(mine));
  return undefined;
}

function emptyTask(line) {
  view = null;
  opening++;
  for (const id of ["samples", "task-sets", "task-pager"]) $(id).replaceChildren();
  $("results").tBodies[0].replaceChildren();
  $("task-count").textContent = line;
  for (const id of ["more-results", "categories", "prefix", "task-left-out"]) $(id).hidden = true;
}

// Sets of one task: other shots, scorers or baselines.
function showSets(name, sets, own) {
  if (sets.length < 2) return;
  $("task-sets").append(make("nav", { class: "sets", "aria-label": "Settings of this task" }, make("ul", {}, ...sets.map((one, place) =>
    make("li", {}, make("a", { href: linkTo(name, place), "aria-current": place === own ? "page" : null }, visible(one.note) || `set ${place + 1}`))))));
}

function taskChoices(core) {
  const { block } = view;
  const systems = block.systems.map((name, place) => [String(place), visible(name)]);
  const first = block.metrics.findIndex((metric) => metric.better !== NONE);
  fill($("task-metric"), block.metrics.map((metric, place) => [String(place), `${visible(metric.name)} ${BETTER[metric.better]}`.trim()]));
  $("task-metric").value = String(first >= 0 ? first : Math.max(firstThatVaries(block), 0));
  fill($("task-reference"), systems);
  const chosen = $("audit-reference") ? $("audit-reference").value : "";
  $("task-reference").value = String(Math.max(block.systems.indexOf(chosen), 0));
  fill($("task-aligned"), [["", "all others"], ...systems]);
  const categories = [...new Set(block.documents.map((item) => item.category ?? ""))].filter(Boolean).sort();
  fill($("task-category"), [["", "all"], ...categories.map((name) => [name, visible(name)])]);
  for (const id of ["task-aligned", "task-show", "task-category", "task-text"]) $(id).value = "";
  $("task-order").value = "worst";
  $("task-category").parentElement.hidden = categories.length < 2;
  const several = block.systems.length > 1;
  for (const id of ["task-reference", "task-aligned", "task-show", "task-order"]) $(id).parentElement.hidden = !several;
  const left = block.total - block.documents.length;
  $("task-left-out").hidden = !left;
  $("task-left-out").textContent = left ? `${count(block.documents.length)} of ${count(block.total)} documents are in this file: half with the largest regressions, half evenly spaced over the rest. Metrics are over all documents; the run folders contain every sample.` : "";
  $("prefix").hidden = !block.prefix;
  $("prefix").lastElementChild.replaceWith(textBox(block.prefix));
}

function firstThatVaries(block) {
  return block.metrics.findIndex((_, column) => {
    const values = new Set(block.answers.flatMap((own) => own.map((answer) => answer?.values[column] ?? null)));
    values.delete(null);
    return values.size > 1;
  });
}

// Metrics of every system, with links to their provenance.
function showResults(core) {
  const { block } = view, overall = block.results.filter((row) => row.category === null), inside = block.results.filter((row) => row.category !== null);
  const chance = block.results.some((row) => row.chance !== null);
  const head = (extra) => [...extra.map((name) => make("th", { scope: "col" }, name)), ...(chance ? [make("th", { scope: "col", class: "n" }, "chance")] : []),
    ...block.systems.map((name) => make("th", { scope: "col", class: "n" }, make("a", { href: `#${core.anchors[name]}` }, make("bdi", {}, visible(name)))))];
  const line = (row, extra) => make("tr", {}, ...extra, ...(chance ? [make("td", { class: "n" }, formatValue(row.chance, row.unit))] : []), ...row.values.map((own) => resultCell(own, row.unit)));
  const metric = (row) => make("th", { scope: "row" }, ...breakable(row.metric), make("span", { class: "sub" }, `${row.unit} ${BETTER[row.better]}`.trim(), row.scorer && !row.scorer.includes("|") ? `, by ${visible(row.scorer.length > 48 ? `${row.scorer.slice(0, 47)}…` : row.scorer)}` : ""));
  const show = (table, heads, rows) => {
    table.tHead.rows[0].replaceChildren(...heads);
    table.tBodies[0].replaceChildren(...rows);
  };
  const first = overall.length > MOST_METRICS + 2 ? MOST_METRICS : overall.length, more = overall.slice(first);
  show($("results"), head(["metric"]), overall.slice(0, first).map((row) => line(row, [metric(row)])));
  show($("results-more"), head(["metric"]), more.map((row) => line(row, [metric(row)])));
  $("more-results").hidden = !more.length;
  $("more-results").open = false;
  $("more-results").firstElementChild.textContent = `${more.length} more metrics`;
  $("categories").hidden = !inside.length;
  $("categories").open = false;
  show($("results-by-category"), head(["category", "metric"]), inside.map((row) => line(row, [make("th", { scope: "row", dir: "auto" }, visible(row.category)), metric(row)])));
}

function resultCell(own, unit) {
  if (!own) return make("td", { class: "n" }, "—");
  const [value, low, high, n, unscored] = own;
  return make("td", { class: "n" }, formatValue(value, unit), make("span", { class: "sub" }, formatInterval(low, high, unit)),
    make("span", { class: "sub" }, `n = ${count(n)}${unscored ? `, ${count(unscored)} unscored` : ""}`));
}

// Per document, the smallest and largest gain and the largest change over the compared systems.
function measureSamples() {
  const { block, column, metric, reference, compared } = view, size = block.documents.length;
  const worst = new Array(size).fill(null), best = new Array(size).fill(null), most = new Array(size).fill(null), missing = new Array(size).fill(false);
  const value = (system, place) => block.answers[system][place]?.values[column] ?? null;
  for (let place = 0; place < size; place++) {
    const before = value(reference, place);
    if (before === null) missing[place] = true;
    for (const system of compared) {
      const after = value(system, place);
      if (after === null) missing[place] = true;
      if (before === null || after === null) continue;
      most[place] = Math.max(most[place] ?? 0, Math.abs(after - before));
      const better = gain(before, after, metric.better);
      if (better === null) continue;
      worst[place] = worst[place] === null ? better : Math.min(worst[place], better);
      best[place] = best[place] === null ? better : Math.max(best[place], better);
    }
  }
  Object.assign(view, { worst, best, most, missing });
}

// The searched text of each document in lower case; computed once.
function haystacks(mine) {
  if (!mine.hay)
    mine.hay = mine.block.documents.map((item, place) => [item.id, item.prompt, ...(item.choices || []),
      ...mine.block.answers.flatMap((own) => (own[place]?.outputs || []).map((output) => output.text))].join("\n").toLowerCase());
  return mine.hay;
}

function readControls(control) {
  const { block } = view, value = (id) => $(id).value;
  view.column = Number(value("task-metric"));
  view.metric = block.metrics[view.column] || null;
  view.reference = Number(value("task-reference"));
  const others = [...block.systems.keys()].filter((system) => system !== view.reference);
  view.compared = value("task-aligned") === "" ? others : [Number(value("task-aligned"))].filter((system) => system !== view.reference);
  if (!view.compared.length) { view.compared = others; $("task-aligned").value = ""; }
  const directed = view.metric && view.metric.better !== NONE;
  for (const option of [...$("task-order").options, ...$("task-show").options])
    if (["worst", "best", "regression", "improvement"].includes(option.value)) option.disabled = !directed;
  if (!directed && ["worst", "best"].includes(value("task-order"))) $("task-order").value = "change";
  if (directed && control && control.id === "task-metric") $("task-order").value = "worst";
  if (!directed && ["regression", "improvement"].includes(value("task-show"))) $("task-show").value = "";
  view.query = value("task-text").trim().toLowerCase();
}

function chosenSamples() {
  const { block, worst, best, most, missing, query } = view, category = $("task-category").value, show = $("task-show").value;
  const wanted = {
    "": () => true, regression: (place) => worst[place] !== null && worst[place] < 0, improvement: (place) => best[place] !== null && best[place] > 0,
    change: (place) => most[place] > 0, none: (place) => most[place] === 0 && !missing[place], missing: (place) => missing[place],
  }[show];
  const hay = query ? haystacks(view) : null, found = [];
  for (let place = 0; place < block.documents.length; place++)
    if ((!query || hay[place].includes(query)) && (!category || block.documents[place].category === category) && wanted(place)) found.push(place);
  const order = $("task-order").value;
  const key = { worst, best, change: most }[order], falling = order !== "worst";
  if (key) found.sort((a, b) => compareKeys(key[a], key[b], falling) || a - b);
  return found;
}

function showSamples(control = null) {
  readControls(control);
  measureSamples();
  view.found = chosenSamples();
  turnSamples(0, false);
  const total = view.block.documents.length, lost = view.found.filter((place) => view.worst[place] !== null && view.worst[place] < 0).length;
  const gained = view.found.filter((place) => view.best[place] !== null && view.best[place] > 0).length;
  const directed = view.metric && view.metric.better !== NONE && view.compared.length;
  $("task-count").textContent = `${count(view.found.length)} of ${count(total)} samples${directed ? `: ${count(lost)} with a regression, ${count(gained)} with an improvement in ${view.metric.name}` : ""}.`;
}

function turnSamples(page, move = true) {
  view.page = page;
  const begin = page * TASK_PAGE, shown = view.found.slice(begin, begin + TASK_PAGE);
  $("samples").replaceChildren(...shown.map((place) => sampleCard(view, place)));
  if (!shown.length) $("samples").append(make("p", { class: "missing" }, "No matching samples."));
  pager($("task-pager"), page, Math.ceil(view.found.length / TASK_PAGE), "the samples", turnSamples);
  if (move) $("samples-title").scrollIntoView();
}
