// The admin view: tables of what the server computes, loaded again every 15 seconds.
import { find, make, request } from "./common.js";

const EVERY = 15_000;
let shown;
const number = (value, digits = 2) => (value === null || value === undefined ? "–" : value.toFixed(digits));
const estimate = (own) => (own.value === null ? "–" : `${number(own.value)} [${number(own.low)}, ${number(own.high)}]`);

function table(title, head, rows, none) {
  const body = rows.map(([first, ...rest]) => make("tr", {}, make("th", { scope: "row" }, `${first}`), ...rest.map((cell) => make("td", {}, `${cell}`))));
  const content = make("table", {}, make("thead", {}, make("tr", {}, ...head.map((name) => make("th", { scope: "col" }, name)))), make("tbody", {}, ...body));
  return make("section", {}, make("h2", {}, title),
    rows.length ? make("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": title }, content) : make("p", { class: "small" }, none));
}

function show(found) {
  const now = JSON.stringify(found);
  if (now === shown) return; // the focus and the scrolled tables stay
  shown = now;
  find("count").textContent = `${found.done} of ${found.needed} judgements`;
  Object.assign(find("progress"), { max: Math.max(found.needed, 1), value: found.done });
  const wanted = `interval of at most ${found.width}`;
  find("message").textContent = found.stop ? `Stop: every win rate has an ${wanted}.`
    : found.done >= found.needed ? `All prompts are labelled, but not every win rate has an ${wanted}. More prompts need another study.`
    : `Continue until every win rate has an ${wanted}.`;
  find("message").className = "notice";
  const screening = (own) => own.screening.map((one) => `${one.criterion} ${estimate(one)}: ${one.mark}`).join("; ") || "–";
  find("tables").replaceChildren(
    table("Win rates", ["system", "against", "win rate, 95 % interval", "prompts", "width", "more judgements"],
      found.rates.map((own) => [own.model, own.baseline, estimate(own), own.clusters, number(own.span), own.enough ? "enough" : own.more ?? "–"]), "No two outputs of a prompt were compared yet."),
    table("Agreement", ["question", "statistic", "value, 95 % interval", "n"],
      found.agreement.map((own) => [own.question, own.statistic, estimate(own), own.n]), "No two labelers judged the same output yet."),
    table("Labelers", ["labeler", "group", "done", "skipped", "median seconds", "agreement with others", "screening", ""],
      found.labelers.map((own) => [own.labeler, own.group ?? "–", own.done, own.skipped, number(own.seconds, 0), estimate(own.agreement), screening(own),
        [own.outlier && "outlier: agrees less with others than they do with each other", !own.qualified && "stopped: below the pass mark", !own.active && "inactive"].filter(Boolean).join("; ")]), "No labelers."),
    table("Notes and skipped items", ["labeler", "prompt", "skipped because", "note"],
      found.remarks.map((own) => [own.labeler, own.prompt, own.skipped ?? "–", own.note || "–"]), "None."),
    ...found.notes.map((note) => make("p", { class: "small" }, note)));
  document.documentElement.dataset.ready = "yes";
}

async function refresh() {
  try {
    if (!document.hidden) show(await request("api/admin"));
  } catch (error) {
    find("message").textContent = error.status ? error.message : "The server does not answer.";
    find("message").className = "notice bad";
    shown = undefined;
    if (error.status === 403) return;
  }
  setTimeout(refresh, EVERY);
}
refresh();
