// The page of one labeler: an item, its answer, and the submission, which is repeated until it is stored.
import { find, make, request } from "./common.js";
import { Ranking, letter } from "./rank.js";

const WAIT = 60_000, AGAIN = 5_000; // milliseconds until a labeler who waits for items, or for the server, asks again
let state, ranking, seconds = 0, since = Date.now(), busy = false, waiting;

// What the browser keeps, unless it refuses to: the page works without it.
const place = (name) => `alignbench ${state.study} ${state.labeler} ${name}`;
const kept = (name) => { try { return JSON.parse(localStorage.getItem(place(name))); } catch { return null; } };
const keep = (name, value) => { try { localStorage.setItem(place(name), JSON.stringify(value)); } catch { /* full or blocked */ } };
const drop = (name) => { try { localStorage.removeItem(place(name)); } catch { /* blocked */ } };
const say = (words, bad = false) => { find("message").textContent = words; find("message").className = words ? (bad ? "notice bad" : "notice") : ""; };
const sentence = (words) => `${words[0].toUpperCase()}${words.slice(1).replace(/\.$/, "")}.`;
const isLost = (error) => error.status === 0 || error.status >= 500;

// Time counts while the page is visible.
const spent = () => seconds + (document.hidden ? 0 : (Date.now() - since) / 1000);
document.addEventListener("visibilitychange", () => {
  if (document.hidden) seconds += (Date.now() - since) / 1000;
  since = Date.now();
});

function show(found) {
  const before = state;
  state = found;
  clearTimeout(waiting);
  const { item, done, target } = state;
  find("who").textContent = `Labeler ${state.labeler}`;
  find("count").textContent = item ? `${done} of about ${target} done` : `${done} done`;
  Object.assign(find("progress"), { max: Math.max(target, 1), value: done });
  find("undo").hidden = !state.last;
  find("item").hidden = !item;
  document.documentElement.dataset.item = item?.id ?? "none";
  if (!item) {
    say(state.waiting ? "All items that are left are with other labelers. This page asks for new ones every minute."
      : state.complete ? "The study is complete. Thank you." : "There are no more items for you. Thank you.");
    if (before?.item) find("message").focus();
    if (state.waiting) waiting = setTimeout(() => busy || load(), WAIT);
    return;
  }
  say("");
  const own = kept(item.id) ?? fromServer(item.draft);
  seconds = own?.seconds ?? 0;
  since = Date.now();
  find("title").textContent = `Item ${done + 1}`;
  find("prompt").textContent = item.prompt;
  find("outputs").replaceChildren(...item.outputs.map((text, output) => card(text, output, own)));
  find("note").value = own?.note ?? "";
  find("note").maxLength = find("why").maxLength = state.asked.longest_note;
  ranking = new Ranking(find("ranking"), item.outputs, own?.levels ?? [], (_, words) => { find("moved").textContent = words; save(); });
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

function card(text, output, own) {
  const [low, high] = state.asked.likert, marks = Array.from({ length: high - low + 1 }, (_, at) => low + at);
  const flags = own?.flags?.[output] ?? [];
  const summary = make("summary", {}, "");
  const count = () => { summary.textContent = `Flags of output ${letter(output)}: ${card.querySelectorAll(":checked[type=checkbox]").length || "none"}`; };
  const card = make("section", { class: "card", "aria-labelledby": `output-${output}`, change: () => { count(); save(); } },
    make("h3", { id: `output-${output}` }, `Output ${letter(output)}`),
    make("div", { class: "text", dir: "auto" }, text || "(empty)"),
    make("fieldset", { class: "likert" }, make("legend", {}, `Rating of output ${letter(output)}: ${low} worst, ${high} best`),
      ...marks.map((mark) => choice("radio", `likert-${output}`, mark, mark, own?.likert?.[output] === mark))),
    make("details", {}, summary, make("fieldset", { class: "flags" }, make("legend", { class: "unseen" }, `Flags of output ${letter(output)}`),
      ...Object.keys(state.asked.flags).map((name) => choice("checkbox", `flags-${output}`, name, state.asked.flags[name], flags.includes(name))))));
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
const save = () => keep(state.item.id, draft());

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
  keep("unsent", own); // also a reload sends it again
  return store("api/submit", own);
}

// Sends a change until the server has answered. An answer that refuses it is shown.
async function store(path, content, wait = 1, focus = document.activeElement) {
  busy = true;
  find("all").disabled = find("undo").disabled = true;
  try {
    const found = await request(path, content);
    forget(content.item);
    finish(found);
  } catch (error) {
    if (isLost(error)) {
      say(`Not saved yet. ${sentence(error.message)} Trying again in ${wait} s; keep this page open.`, true);
      return setTimeout(() => store(path, content, Math.min(wait * 2, 15), focus), wait * 1000);
    }
    drop("unsent");
    const words = `Not saved. ${sentence(error.message)}`;
    if (error.status === 409) {
      forget(content.item);
      return load(words);
    }
    say(words, true);
    finish(null);
    focus.focus();
  }
}
// Asks for the labeler's item until the server has answered. words: a message that stays
async function load(words = "") {
  try {
    finish(await request("api/state"));
  } catch (error) {
    if (!isLost(error)) return say(sentence(error.message), true);
    say(`${words} The server does not answer. Trying again in ${AGAIN / 1000} s.`.trim(), true);
    return setTimeout(load, AGAIN, words);
  }
  if (words) say(words, true);
  const unsent = kept("unsent"); // before a reload
  if (unsent) store("api/submit", unsent);
}
function finish(found) {
  busy = false;
  find("all").disabled = find("undo").disabled = false;
  if (found) show(found);
}
function forget(item) {
  drop("unsent");
  if (item) drop(item);
}

find("item").addEventListener("submit", submit);
find("note").addEventListener("input", save);
document.addEventListener("keydown", (event) => {
  if (event.key !== "Enter" || find("item").hidden || find("skipping").open) return;
  if (event.ctrlKey || event.metaKey) return submit(event);
  if (event.target.matches("input")) { // it would submit the form
    event.preventDefault();
    event.target.click();
  }
});
find("skip").addEventListener("click", () => { find("why").value = find("note").value; find("skip-message").textContent = ""; find("skipping").showModal(); });
find("skip-now").addEventListener("click", skip);
find("stay").addEventListener("click", () => find("skipping").close());
find("undo").addEventListener("click", () => busy || store("api/undo", { submission: state.last }));

load();
