// The page of one labeler: an item, its answer, and the submission, which is repeated until it is stored.
import { find, make, request } from "./common.js";
import { Ranking, letter } from "./rank.js";

let state, ranking, seconds = 0, since = Date.now(), busy = false;

const keep = (name) => `alignbench ${state.study} ${state.labeler} ${name}`;
const say = (words, bad = false) => { find("message").textContent = words; find("message").className = words ? (bad ? "notice bad" : "notice") : ""; };
const sentence = (name) => state.asked.flags[name];

// Time counts while the page is visible.
const spent = () => seconds + (document.hidden ? 0 : (Date.now() - since) / 1000);
document.addEventListener("visibilitychange", () => {
  if (document.hidden) seconds += (Date.now() - since) / 1000;
  since = Date.now();
});

function show(found) {
  state = found;
  const { item, done, target } = state;
  find("who").textContent = `Labeler ${state.labeler}`;
  find("count").textContent = item ? `${done} of about ${target} done` : `${done} done`;
  Object.assign(find("progress"), { max: Math.max(target, 1), value: done });
  find("undo").hidden = !state.last;
  find("item").hidden = !item;
  document.documentElement.dataset.item = item?.id ?? "none";
  if (!item) return say("There are no items for you now. Thank you.");
  const kept = JSON.parse(localStorage.getItem(keep(item.id)) ?? "null") ?? fromServer(item.draft);
  seconds = kept?.seconds ?? 0;
  since = Date.now();
  find("title").textContent = `Item ${done + 1}`;
  find("prompt").textContent = item.prompt;
  find("outputs").replaceChildren(...item.outputs.map((text, output) => card(text, output, kept)));
  find("note").value = kept?.note ?? "";
  find("note").maxLength = find("why").maxLength = state.asked.longest_note;
  ranking = new Ranking(find("ranking"), item.outputs, kept?.levels ?? [], (_, words) => { find("moved").textContent = words; save(); });
  find("reasons").replaceChildren(...state.asked.reasons.map((reason) => choice("radio", "reason", reason, reason, false)));
  find("title").focus();
  scrollTo(0, 0);
}

// A withdrawn answer in the form of a draft.
function fromServer(draft) {
  if (!draft?.answer) return draft && { note: draft.note, seconds: draft.seconds };
  const levels = [];
  draft.answer.forEach((own, output) => (levels[own.rank - 1] ??= []).push(output));
  const flags = draft.answer.map((own) => Object.keys(own.flags).filter((name) => own.flags[name]));
  return { levels, flags, likert: draft.answer.map((own) => own.likert), note: draft.note, seconds: draft.seconds };
}

const choice = (type, name, value, words, checked) => make("label", {}, make("input", { type, name, value, checked }), make("span", {}, words));

function card(text, output, kept) {
  const [low, high] = state.asked.likert, marks = Array.from({ length: high - low + 1 }, (_, at) => low + at);
  const flags = kept?.flags?.[output] ?? [];
  const summary = make("summary", {}, "");
  const count = () => { summary.textContent = `Flags of output ${letter(output)}: ${card.querySelectorAll(":checked[type=checkbox]").length || "none"}`; };
  const card = make("section", { class: "card", "aria-labelledby": `output-${output}`, change: () => { count(); save(); } },
    make("h3", { id: `output-${output}` }, `Output ${letter(output)}`),
    make("div", { class: "text", dir: "auto" }, text || "(empty)"),
    make("fieldset", { class: "likert" }, make("legend", {}, `Rating of output ${letter(output)}: ${low} worst, ${high} best`),
      ...marks.map((mark) => choice("radio", `likert-${output}`, mark, mark, kept?.likert?.[output] === mark))),
    make("details", {}, summary, make("fieldset", { class: "flags" }, make("legend", { class: "unseen" }, `Flags of output ${letter(output)}`),
      ...Object.keys(state.asked.flags).map((name) => choice("checkbox", `flags-${output}`, name, sentence(name), flags.includes(name))))));
  count();
  return card;
}

// What is on the page; it is kept in the browser until the item is submitted.
function draft() {
  const values = (name) => [...document.querySelectorAll(`input[name="${name}"]:checked`)].map((input) => input.value);
  const outputs = state.item.outputs.map((_, output) => output);
  return {
    likert: outputs.map((output) => Number(values(`likert-${output}`)[0]) || null), flags: outputs.map((output) => values(`flags-${output}`)),
    levels: ranking.levels, note: find("note").value, seconds: spent(),
  };
}
const save = () => localStorage.setItem(keep(state.item.id), JSON.stringify(draft()));

function submit(event) {
  event.preventDefault();
  if (busy) return;
  const own = draft(), missing = own.likert.indexOf(null);
  if (missing >= 0) {
    say(`Rate output ${letter(missing)}.`, true);
    return document.querySelector(`input[name="likert-${missing}"]`).focus();
  }
  if (ranking.pool.length) {
    say(`Rank output ${letter(ranking.pool[0])}.`, true);
    return document.querySelector(".pool button").focus();
  }
  const rank = (output) => own.levels.findIndex((level) => level.includes(output)) + 1;
  const answer = own.likert.map((likert, output) => ({ likert, flags: own.flags[output], rank: rank(output) }));
  send({ answer, note: own.note });
}

function skip() {
  const reason = document.querySelector("input[name=reason]:checked")?.value, note = find("why").value;
  if (!reason || (reason === "other" && !note.trim())) {
    find("skip-message").textContent = reason ? "Describe the reason in the note." : "Choose a reason.";
    return;
  }
  find("skipping").close();
  send({ reason, note });
}

function send(content) {
  const random = crypto.getRandomValues(new Uint8Array(16));
  const submission = Array.from(random, (byte) => byte.toString(16).padStart(2, "0")).join("");
  const own = { submission, item: state.item.id, seconds: Math.round(spent() * 10) / 10, ...content };
  localStorage.setItem(keep("unsent"), JSON.stringify(own)); // also a reload sends it again
  return store("api/submit", own);
}

// Sends a change until the server has answered. An answer that refuses it is shown.
async function store(path, content, wait = 1) {
  busy = true;
  find("all").disabled = find("undo").disabled = true;
  try {
    const found = await request(path, content);
    forget(content.item);
    say("");
    finish(found);
  } catch (error) {
    if (error.status === 0 || error.status >= 500) {
      say(`Not saved yet: ${error.message}. Trying again in ${wait} s; keep this page open.`, true);
      return setTimeout(() => store(path, content, Math.min(wait * 2, 15)), wait * 1000);
    }
    localStorage.removeItem(keep("unsent"));
    say(`Not saved: ${error.message}.`, true);
    if (error.status === 409) forget(content.item), finish(await request("api/state"));
    else finish(null);
  }
}
function finish(found) {
  busy = false;
  find("all").disabled = find("undo").disabled = false;
  if (found) show(found);
}
function forget(item) {
  localStorage.removeItem(keep("unsent"));
  if (item) localStorage.removeItem(keep(item));
}

find("item").addEventListener("submit", submit);
find("note").addEventListener("input", save);
document.addEventListener("keydown", (event) => { if (event.key === "Enter" && (event.ctrlKey || event.metaKey) && !find("item").hidden && !find("skipping").open) submit(event); });
find("skip").addEventListener("click", () => { find("why").value = find("note").value; find("skip-message").textContent = ""; find("skipping").showModal(); });
find("skip-now").addEventListener("click", skip);
find("stay").addEventListener("click", () => find("skipping").close());
find("undo").addEventListener("click", () => busy || store("api/undo", { submission: state.last }));

async function start() {
  try {
    state = await request("api/state");
    const unsent = localStorage.getItem(keep("unsent"));
    show(state);
    if (unsent) store("api/submit", JSON.parse(unsent));
  } catch (error) {
    say(error.status ? error.message : "The server does not answer. Reload the page later.", true);
  }
}
start();
