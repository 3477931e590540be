// The page of a task: its metrics for all systems, and its samples with search, filters, sorting and paging.

const TASK_PAGE = 25;
const MOST_METRICS = 6; // shown without opening the list
let view = null;
let opening = 0; // number of the last request of a task
let showing = 0; // number of the last request of samples

// sample: [id, number among the documents with this id] of the document to show
async function openTask(core, name, set, sample) {
  const known = Object.hasOwn(core.tasks, name) ? core.tasks[name] : null;
  const title = $("task-title");
  title.textContent = visible(known ? name : `Unknown task ${name}`);
  $("task-lede").textContent = known ? visible(known.title) : "";
  document.title = visible(known ? `${name}: ${known.title}` : name);
  if (!known) return emptyTask("");
  const chosen = known.sets[Math.min(Math.max(set || 0, 0), known.sets.length - 1)];
  if (view && view.key === chosen.block) return sample ? openSample(...sample) : undefined;
  emptyTask("Reading the samples…");
  const request = ++opening;
  let block;
  try {
    block = await unpack(chosen.block);
  } catch (error) {
    return emptyTask(unreadable(error));
  }
  if (request !== opening) return undefined; // another task was opened since
  block.documents = new Array(block.ids.length);
  block.answers = block.systems.map(() => new Array(block.ids.length));
  view = { key: chosen.block, block, set: known.sets.indexOf(chosen), query: "", page: 0, found: [], hay: [], parts: [], selected: new Set() };
  showSets(name, known.sets, view.set);
  taskChoices(core);
  showResults(core);
  return sample ? openSample(...sample) : showSamples();
}

const unreadable = (error) => `The samples cannot be read: ${error.message}.`;

// Reads the parts with the texts of these documents. false: something else was asked for since, or a part is unreadable.
async function readTexts(mine, places, told = false) {
  const request = ++showing, { starts, documents, answers } = mine.block;
  const wanted = [...new Set(places.map((place) => starts.findLastIndex((start) => start <= place)))].filter((part) => mine.parts[part] !== true);
  const read = async (part) => {
    const own = await (mine.parts[part] ||= unpack(`${mine.key}/${part}`).finally(() => { mine.parts[part] = null; }));
    if (mine.parts[part] === true) return;
    own.documents.forEach((item, at) => { documents[starts[part] + at] = item; });
    own.answers.forEach((each, system) => each.forEach((answer, at) => { answers[system][starts[part] + at] = answer; }));
    mine.parts[part] = true;
  };
  try {
    for (let at = 0; at < wanted.length; at += 8) { // some at once
      if (told) $("task-count").textContent = `Reading the samples: part ${count(at + 1)} of ${count(wanted.length)}…`;
      await Promise.all(wanted.slice(at, at + 8).map(read));
      if (view !== mine || request !== showing) return false;
    }
  } catch (error) {
    if (view === mine) $("task-count").textContent = unreadable(error);
    return false;
  }
  return view === mine;
}

function emptyTask(line) {
  view = null;
  opening++;
  for (const id of ["samples", "task-sets", "task-pager"]) $(id).replaceChildren();
  $("results").tBodies[0].replaceChildren();
  $("task-count").textContent = line;
  for (const id of ["more-results", "categories", "prefix", "task-left-out", "task-actions", "task-absent"]) $(id).hidden = true;
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
  const categories = [...new Set(block.categories)].filter(Boolean).sort();
  fill($("task-category"), [["", "all"], ...categories.map((name) => [name, visible(name)])]);
  for (const id of ["task-aligned", "task-show", "task-category", "task-text"]) $(id).value = "";
  $("task-order").value = "worst";
  $("task-category").parentElement.hidden = categories.length < 2;
  const several = block.systems.length > 1;
  for (const id of ["task-reference", "task-aligned", "task-show", "task-order"]) $(id).parentElement.hidden = !several;
  $("task-diff").parentElement.hidden = !(several && block.generated);
  const left = block.total - block.ids.length;
  $("task-left-out").hidden = !left;
  $("task-left-out").textContent = left ? `${count(block.ids.length)} of ${count(block.total)} documents are in this file: half with the largest regressions, half evenly spaced over the rest. Metrics are over all documents; a report without --no-shards has every sample.` : "";
  $("prefix").hidden = !block.prefix;
  $("prefix").lastElementChild.replaceWith(textBox(block.prefix));
}

function firstThatVaries(block) {
  return block.metrics.findIndex((_, column) => {
    const values = new Set(block.values.flatMap((own) => own.map((each) => each?.[column] ?? null)));
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
  const { block, column, metric, reference, compared } = view, size = block.ids.length;
  const worst = new Array(size).fill(null), best = new Array(size).fill(null), most = new Array(size).fill(null), missing = new Array(size).fill(false);
  const value = (system, place) => block.values[system][place]?.[column] ?? null;
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

// The searched text of a document in lower case; computed once.
function haystack({ hay, block }, place) {
  const item = block.documents[place];
  return (hay[place] ??= [block.ids[place], item.prompt, ...(item.choices || []),
    ...block.answers.flatMap((own) => (own[place]?.outputs || []).flatMap((output) => [output.text, output.thoughts || ""]))].join("\n").toLowerCase());
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
  view.diff = $("task-diff").checked;
}

function chosenSamples() {
  const { block, worst, best, most, missing, query } = view, category = $("task-category").value, show = $("task-show").value;
  const wanted = {
    "": () => true, regression: (place) => worst[place] !== null && worst[place] < 0, improvement: (place) => best[place] !== null && best[place] > 0,
    change: (place) => most[place] > 0, none: (place) => most[place] === 0 && !missing[place], missing: (place) => missing[place],
  }[show];
  const found = [];
  for (let place = 0; place < block.ids.length; place++)
    if ((!category || block.categories[place] === category) && wanted(place) && (!query || haystack(view, place).includes(query))) found.push(place);
  const order = $("task-order").value;
  const key = { worst, best, change: most }[order], falling = order !== "worst";
  if (key) found.sort((a, b) => compareKeys(key[a], key[b], falling) || a - b);
  return found;
}

async function showSamples(control = null, at = null) {
  readControls(control);
  if (view.query && !(await readTexts(view, [...view.block.ids.keys()], true))) return;
  measureSamples();
  view.found = chosenSamples();
  if (!(await turnSamples(Math.floor(Math.max(view.found.indexOf(at), 0) / TASK_PAGE), false))) return;
  const total = view.block.ids.length, lost = view.found.filter((place) => view.worst[place] !== null && view.worst[place] < 0).length;
  const gained = view.found.filter((place) => view.best[place] !== null && view.best[place] > 0).length;
  const directed = view.metric && view.metric.better !== NONE && view.compared.length;
  $("task-count").textContent = `${count(view.found.length)} of ${count(total)} samples${directed ? `: ${count(lost)} with a regression, ${count(gained)} with an improvement in ${view.metric.name}` : ""}.`;
}

async function turnSamples(page, move = true) {
  view.page = page;
  const begin = page * TASK_PAGE, shown = view.found.slice(begin, begin + TASK_PAGE);
  if (!(await readTexts(view, shown))) return false;
  $("samples").replaceChildren(...shown.map((place) => sampleCard(view, place)));
  if (!shown.length) $("samples").append(make("p", { class: "missing" }, "No matching samples."));
  pager($("task-pager"), page, Math.ceil(view.found.length / TASK_PAGE), "the samples", turnSamples);
  showActions();
  if (move) $("samples-title").scrollIntoView();
  return true;
}

// Shows the page with a document; if the filters exclude it, they are reset.
async function openSample(id, nth) {
  const mine = view, { ids } = mine.block;
  let place = ids.indexOf(id);
  for (let more = nth; more > 1 && place >= 0; more--) place = ids.indexOf(id, place + 1);
  $("task-absent").hidden = place >= 0;
  $("task-absent").textContent = place >= 0 ? "" : `The linked sample ${visible(id.slice(0, 120))} is not among the samples of this page.`;
  await showSamples(null, place);
  if (view === mine && place >= 0 && !mine.found.includes(place)) {
    for (const control of ["task-show", "task-category", "task-text"]) $(control).value = "";
    await showSamples(null, place);
  }
  const heading = $(`sample-${place}`);
  if (view !== mine || !heading) return;
  heading.tabIndex = -1;
  heading.focus({ preventScroll: true });
  heading.closest(".sample").classList.add("linked");
  heading.closest(".sample").scrollIntoView();
}

// What is exported: the selected samples, or all that the filters show.
function showActions() {
  const { selected, found } = view, number = selected.size || found.length;
  $("task-actions").hidden = !number;
  $("task-export").textContent = `Export ${selected.size ? `${count(number)} selected` : number === 1 ? "this" : `these ${count(number)}`} sample${number === 1 ? "" : "s"} as Markdown`;
  $("task-clear").hidden = !selected.size;
}

async function exportSamples() {
  const mine = view, { selected, found } = mine, before = $("task-count").textContent;
  const places = selected.size ? [...found.filter((place) => selected.has(place)), ...[...selected].filter((place) => !found.includes(place))] : found;
  if (!(await readTexts(mine, places, true))) return;
  $("task-count").textContent = before;
  const what = selected.size ? "selected by hand" : [...$("task-controls").querySelectorAll("select, input[type=search]")].filter((control) => control.value && !control.parentElement.hidden)
    .map((control) => `${control.parentElement.firstChild.textContent.trim().toLowerCase()} ${inlineCode(control.selectedOptions?.[0].textContent ?? control.value)}`).join(", ");
  download(`${mine.block.task.replace(/[^\w.-]+/g, "_")}.md`, samplesMarkdown(mine, places, what), "text/markdown");
}

function startTask() {
  onControls($("task-controls"), (control) => {
    if (!view) return;
    if (control.id !== "task-diff") showSamples(control);
    else {
      readControls(control);
      turnSamples(view.page, false);
    }
  });
  $("task-export").addEventListener("click", exportSamples);
  $("task-clear").addEventListener("click", () => {
    view.selected.clear();
    turnSamples(view.page, false);
    $("task-export").focus();
  });
}
