// One document with the answers of all systems.

const PROMPT_CUT = 800;

// Columns of many systems are narrow: long outputs are cut earlier.
const outputCut = (view) => (view.block.systems.length > 2 ? CUT / 2 : CUT);

// The value of the chosen metric, and its difference from the reference.
function valueLine(view, place, system) {
  const metric = view.metric;
  if (!metric) return null;
  const value = view.block.values[system][place]?.[view.column] ?? null;
  const line = make("p", { class: "value" }, make("span", { class: "name" }, visible(metric.name)), " ", make("strong", {}, formatValue(value, metric.unit)));
  if (system === view.reference) return line;
  const base = view.block.values[view.reference][place]?.[view.column] ?? null;
  if (base === null || value === null) return line;
  const better = gain(base, value, metric.better), delta = value - base;
  const kind = delta === 0 || better === null || better === 0 ? "untested" : better > 0 ? "gain" : "loss";
  const word = { gain: "better", loss: "worse", untested: delta === 0 ? "the same" : "changed" }[kind];
  const mark = { gain: "▲ ", loss: "▼ ", untested: "" }[kind];
  line.append(" ", make("span", { class: `delta ${kind}` }, make("span", { "aria-hidden": "true" }, mark), delta === 0 ? word : `${formatValue(delta, metric.unit, true)} ${word}`));
  return line;
}

// before: the reference's output, from which differences are marked; undefined: mark none
function outputBox(output, view, before) {
  const parts = [before ? diffBox(before.text, output.text, view.query, outputCut(view)) : textBox(output.text, view.query, outputCut(view))];
  if (output.thoughts) {
    const open = view.query !== "" && output.thoughts.toLowerCase().includes(view.query); // a match must not be hidden
    parts.unshift(make("details", { class: "thoughts", open }, make("summary", {}, `Thoughts (${count(output.thoughts.length)} characters)`), textBox(output.thoughts, view.query)));
  }
  const remarks = Object.entries(output.scores || {}).map(([name, value]) => `${name} ${formatValue(value, "number")}`);
  if (output.length) remarks.unshift(`${count(output.text.length)} of ${count(output.length)} characters in this file`);
  if (output.cut) remarks.unshift("cut at the token limit");
  if (output.unscored) remarks.unshift(`unscored: ${output.unscored}`);
  if (remarks.length) parts.push(make("p", { class: "remarks" }, visible(remarks.join(" · "))));
  return make("div", { class: "output" }, ...parts);
}

function answerColumn(view, place, system) {
  const answer = view.block.answers[system][place], name = view.block.systems[system];
  const column = make("div", { class: system === view.reference ? "answer reference" : "answer" },
    make("h4", {}, make("bdi", {}, visible(name)), " ", system === view.reference ? make("span", { class: "tag" }, "reference") : null), valueLine(view, place, system));
  if (!answer) column.append(make("p", { class: "missing" }, "—", make("span", { class: "unseen" }, "This system has no answer to the document.")));
  else {
    if (answer.unscored) column.append(make("p", { class: "remarks" }, visible(`unscored: ${answer.unscored}`)));
    const outputs = answer.outputs || [];
    const before = view.diff && system !== view.reference ? view.block.answers[view.reference][place]?.outputs || [] : [];
    if (outputs.length) column.append(outputBox(outputs[0], view, before[0]));
    if (outputs.length > 1) {
      const button = make("button", { type: "button", class: "quiet", onclick: () => {
        button.replaceWith(...outputs.slice(1).map((output, at) => outputBox(output, view, before[at + 1])));
      } }, `${count(outputs.length - 1)} more`);
      column.append(button);
    }
  }
  return column;
}

// A row per choice: text, whether it is correct, log-probability of each system, the highest marked.
function choiceTable(view, place, systems) {
  const item = view.block.documents[place], right = new Set(item.right || []);
  const highest = systems.map((system) => {
    const found = (view.block.answers[system][place]?.logprobs || []).filter((x) => x !== null);
    return found.length > 1 ? Math.max(...found) : null;
  });
  const body = item.choices.map((choice, row) => make("tr", { class: right.has(row) ? "right" : null },
    make("th", { scope: "row" }, textBox(choice, view.query), " ", right.has(row) ? make("span", { class: "tag right" }, "✓ correct") : null),
    ...systems.map((system, column) => {
      const value = view.block.answers[system][place]?.logprobs?.[row] ?? null;
      const top = value !== null && value === highest[column];
      return make("td", { class: top ? "n top" : "n", "data-system": visible(view.block.systems[system]) }, formatValue(value, "points"), top ? make("span", { class: "sub" }, "highest") : null);
    })));
  const foot = make("tr", {}, make("th", { scope: "row" }, view.metric ? "value" : ""), ...systems.map((system) => make("td", { class: "n", "data-system": visible(view.block.systems[system]) }, valueLine(view, place, system))));
  return make("div", { class: "scroll", role: "region", "aria-label": `Choices of ${visible(view.block.ids[place])}`, tabindex: "0" },
    make("table", { class: "choices" },
      make("caption", { class: "unseen" }, "Log-probability of each choice in nats"),
      make("thead", {}, make("tr", {}, make("th", { scope: "col" }, "choice"), ...systems.map((system) =>
        make("th", { scope: "col", class: "n" }, make("bdi", {}, visible(view.block.systems[system])), make("span", { class: "sub" }, system === view.reference ? "reference, nats" : "nats"))))),
      make("tbody", {}, ...body), make("tfoot", {}, foot)));
}

function allValues(view, place, systems) {
  const details = make("details", { class: "values" }, make("summary", {}, "All values"));
  details.addEventListener("toggle", () => {
    if (details.childElementCount > 1) return;
    const rows = view.block.metrics.map((metric, column) => make("tr", {}, make("th", { scope: "row" }, ...breakable(metric.name), " ", BETTER[metric.better]),
      ...systems.map((system) => make("td", { class: "n" }, formatValue(view.block.values[system][place]?.[column] ?? null, metric.unit)))));
    const head = make("tr", {}, make("th", { scope: "col" }, "metric"), ...systems.map((system) => make("th", { scope: "col", class: "n" }, make("bdi", {}, visible(view.block.systems[system])))));
    details.append(make("div", { class: "scroll", role: "region", "aria-label": `All values of ${visible(view.block.ids[place])}`, tabindex: "0" }, make("table", { class: "plain" }, make("thead", {}, head), make("tbody", {}, ...rows))));
  });
  return details;
}

function folded(title, box) {
  return make("details", {}, make("summary", {}, title), box);
}

// The part of an address that names a document: its id, and a number if an earlier document has the same one.
function nameOf(block, place) {
  let nth = 1;
  for (let at = block.ids.indexOf(block.ids[place]); at < place; at = block.ids.indexOf(block.ids[place], at + 1)) nth++;
  return `${encodeURIComponent(block.ids[place])}${nth > 1 ? `/${nth}` : ""}`;
}

const linkToSample = (view, place) => `#task/${encodeURIComponent(view.block.task)}/${view.set + 1}/sample/${nameOf(view.block, place)}`;

// Puts the address of a sample into the address bar, and into the clipboard where the browser allows it.
async function copyLink(view, place, button) {
  history.replaceState(null, "", linkToSample(view, place));
  const copied = navigator.clipboard ? await navigator.clipboard.writeText(location.href).then(() => true, () => false) : false;
  button.textContent = button.ariaLabel = copied ? "Copied" : "Link in the address bar";
  setTimeout(() => { button.textContent = "Copy link"; button.ariaLabel = `Copy link to ${visible(view.block.ids[place])}`; }, 3000);
}

// Position in the present order, a box that selects the sample for export, a button that copies its address.
function sampleTools(view, place) {
  const id = visible(view.block.ids[place]);
  return make("span", { class: "tools" },
    make("span", { class: "position" }, `${count(view.found.indexOf(place) + 1)} of ${count(view.found.length)}`),
    make("label", {}, make("input", { type: "checkbox", checked: view.selected.has(place), "aria-label": `Select ${id}`, onchange: (event) => {
      view.selected[event.target.checked ? "add" : "delete"](place);
      showActions();
    } }), " select"),
    make("button", { type: "button", class: "quiet", "aria-label": `Copy link to ${id}`, onclick: (event) => copyLink(view, place, event.target) }, "Copy link"));
}

function sampleCard(view, place) {
  const item = view.block.documents[place], name = view.block.ids[place], id = `sample-${place}`;
  const systems = [view.reference, ...view.block.systems.keys()].filter((system, at, all) => all.indexOf(system) === at);
  const heading = make("h3", { id, dir: "auto" }, visible(name.length > 120 ? `${name.slice(0, 119)}…` : name));
  const tags = [view.block.categories[place], ...Object.entries(item.about || {}).filter(([, value]) => String(value).length < 60).map(([key, value]) => `${key}: ${value}`)];
  const long = Object.entries(item.about || {}).filter(([, value]) => String(value).length >= 60);
  const card = make("article", { class: "sample", "aria-labelledby": id },
    make("header", {}, heading, ...tags.filter(Boolean).map((tag) => make("span", { class: "tag", dir: "auto" }, visible(tag))), sampleTools(view, place)));
  if (item.prompt.trim()) card.append(make("div", { class: "prompt" }, make("span", { class: "label" }, "prompt"), textBox(item.prompt, view.query, PROMPT_CUT)));
  if (item.cut) card.append(make("p", { class: "remarks" }, visible(`Cut in this file, complete in the run folder: ${Object.entries(item.cut).map(([name, size]) => `${name} (${count(size)} characters)`).join(", ")}.`)));
  if (item.choices) card.append(choiceTable(view, place, systems));
  else card.append(make("div", { class: "answers", "data-systems": systems.length }, ...systems.map((system) => answerColumn(view, place, system))));
  const foot = make("div", { class: "more" });
  const references = item.references || [];
  if (references.length) foot.append(folded(view.block.baseline ? `Answer of ${visible(view.block.baseline)}` : references.length === 1 ? "Reference" : `${references.length} references`,
    make("div", {}, ...references.map((text) => textBox(text)))));
  if (item.source) foot.append(folded("Source text", textBox(item.source)));
  for (const [key, value] of long) foot.append(folded(key, textBox(String(value))));
  if (view.block.metrics.length > 1) foot.append(allValues(view, place, systems));
  card.append(foot);
  return card;
}
