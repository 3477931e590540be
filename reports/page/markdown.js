// Samples as Markdown. Texts of run folders are in fences that are longer than any fence inside them.

const fenceFor = (text, least) => "`".repeat((text.match(/`+/g) || []).reduce((most, own) => Math.max(most, own.length + 1), least));

function fenced(text) {
  const bar = fenceFor(text, 3);
  return `${bar}text\n${visible(text)}\n${bar}\n`;
}

function inlineCode(text) {
  const line = visible(text).replace(/\s+/g, " "), bar = fenceFor(line, 1);
  if (!line.trim()) return "(empty)"; // a code span needs text
  return /^[` ]|[` ]$/.test(line) ? `${bar} ${line} ${bar}` : `${bar}${line}${bar}`;
}

function sampleMarkdown(view, place, systems) {
  const { block, metric } = view, item = block.documents[place];
  const lines = [`## ${inlineCode(block.ids[place])}\n`, `Link: ${inlineCode(linkToSample(view, place))}\n`];
  const add = (title, text) => { if (text) lines.push(`${title}\n`, fenced(text)); };
  const facts = [["category", block.categories[place]], ...Object.entries(item.about || {})].filter(([, value]) => value !== null && value !== undefined);
  if (facts.length) lines.push(facts.map(([key, value]) => `${inlineCode(key)}: ${inlineCode(String(value))}`).join("; ") + "\n");
  add("Prompt:", item.prompt);
  add("Source text:", item.source);
  (item.references || []).forEach((text, at) => add(block.baseline ? `Answer of ${inlineCode(block.baseline)}:` : `Reference ${at + 1}:`, text));
  (item.choices || []).forEach((text, row) => {
    const each = systems.map((system) => `${inlineCode(block.systems[system])} ${formatValue(block.answers[system][place]?.logprobs?.[row] ?? null, "points")}`);
    add(`Choice ${row + 1}${(item.right || []).includes(row) ? ", correct" : ""}, log-probability in nats: ${each.join(", ")}`, text);
  });
  for (const system of systems) {
    const answer = block.answers[system][place], value = block.values[system][place]?.[view.column] ?? null;
    lines.push(`### ${inlineCode(block.systems[system])}${system === view.reference ? ", the reference" : ""}\n`);
    if (metric) lines.push(`${inlineCode(metric.name)} ${formatValue(value, metric.unit)}\n`);
    if (!answer) lines.push("No answer to this document.\n");
    else if (answer.unscored) lines.push(`Unscored: ${inlineCode(answer.unscored)}\n`);
    const outputs = answer?.outputs || [];
    outputs.forEach((output, at) => {
      add("Thoughts:", output.thoughts);
      lines.push(`${outputs.length > 1 ? `Output ${at + 1}` : "Output"}${output.cut ? ", cut at the token limit" : ""}:\n`, fenced(output.text));
    });
  }
  return lines.join("\n");
}

// The pieces of a Markdown file with these samples.
function samplesMarkdown(view, places, what) {
  const { block } = view, systems = [view.reference, ...view.compared];
  const head = [`# Samples of ${inlineCode(block.task)}\n`, `${inlineCode(document.title)}${block.note ? ` (${inlineCode(block.note)})` : ""}.`,
    `${count(places.length)} of ${count(block.total)} samples: ${what}. Systems: ${systems.map((system) => inlineCode(block.systems[system])).join(", ")}.\n`];
  return [head.join("\n"), ...places.map((place) => `\n${sampleMarkdown(view, place, systems)}`)];
}
