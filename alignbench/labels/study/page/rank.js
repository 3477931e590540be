// A ranking with ties: levels of outputs, the best first, and those that are not ranked yet.
import { make } from "./common.js";

export const letter = (output) => String.fromCharCode(65 + output);

// The ranking after an output moved up (-1) or down (1): out of a tie, or into one with the next level.
export function moved(levels, output, by) {
  const at = levels.findIndex((level) => level.includes(output));
  if (at < 0) return [...levels, [output]];
  const rest = levels.map((level) => level.filter((other) => other !== output));
  if (levels[at].length > 1) rest.splice(by < 0 ? at : at + 1, 0, [output]);
  else if (rest[at + by]) rest[at + by].push(output);
  else rest[at].push(output);
  return tidy(rest);
}

// The ranking with an output in a level, or in a new level before it.
export function placed(levels, output, at, between) {
  const rest = levels.map((level) => level.filter((other) => other !== output));
  if (between) rest.splice(at, 0, [output]);
  else rest[at].push(output);
  return tidy(rest);
}

const tidy = (levels) => levels.filter((level) => level.length).map((level) => [...level].sort((a, b) => a - b));

// Draws the ranking into `board`. changed(levels, words): called after each change
export class Ranking {
  constructor(board, texts, levels, changed) {
    Object.assign(this, { board, texts, levels, changed });
    this.draw();
  }

  get pool() {
    return this.texts.map((_, output) => output).filter((output) => !this.levels.flat().includes(output));
  }

  set(levels, output, name = "up") {
    this.levels = levels;
    this.draw();
    this.board.querySelector(`[data-output="${output}"] [data-move="${name}"], [data-output="${output}"] button`)?.focus();
    const at = levels.findIndex((level) => level.includes(output));
    const tied = levels[at].filter((other) => other !== output).map(letter);
    this.changed(levels, `Output ${letter(output)}: rank ${at + 1} of ${levels.length}${tied.length ? `, tied with ${tied.join(", ")}` : ""}`);
  }

  draw() {
    const gap = (at) => make("li", { class: "gap", "data-at": at, "data-between": "yes", "aria-hidden": "true" });
    const rows = this.levels.flatMap((level, at) => [gap(at), make("li", { class: "level", "data-at": at },
      make("span", { class: "rank" }, `Rank ${at + 1}`), make("div", {}, ...level.map((output) => this.chip(output, true))))]);
    const list = make("ol", { class: "levels", "aria-label": "Ranks, the best first" }, ...rows, gap(this.levels.length));
    const pool = this.pool.map((output) => this.chip(output, false));
    const rest = make("div", { class: "pool", role: "group", "aria-label": "Not ranked" }, make("span", { class: "rank" }, "Not ranked"), make("div", {}, ...pool));
    this.board.replaceChildren(...(pool.length ? [rest] : []), list);
  }

  chip(output, ranked) {
    const name = `output ${letter(output)}`;
    const move = (by) => this.set(moved(this.levels, output, by), output, by < 0 ? "up" : "down");
    const button = (by, words, sign) => make("button", { type: "button", "data-move": by < 0 ? "up" : "down", "aria-label": words, click: () => move(by) }, sign);
    const keys = { ArrowUp: -1, ArrowDown: 1 };
    const keydown = (event) => {
      if (keys[event.key] === undefined) return;
      event.preventDefault();
      move(keys[event.key]);
    };
    const buttons = ranked
      ? [button(-1, `Move ${name} up`, "↑"), button(1, `Move ${name} down`, "↓")] : [button(1, `Rank ${name} next`, "Rank next")];
    const grip = make("span", { class: "grip", "aria-hidden": "true", pointerdown: (event) => this.drag(event, output) }, letter(output));
    const text = make("span", { class: "excerpt", dir: "auto" }, this.texts[output].slice(0, 80));
    return make("div", { class: "chip", role: "group", "aria-label": name, "data-output": output, keydown }, grip, text, ...buttons);
  }

  drag(event, output) {
    event.preventDefault();
    const grip = event.currentTarget, chip = grip.parentElement;
    grip.setPointerCapture(event.pointerId);
    chip.classList.add("dragged");
    const under = (at) => document.elementFromPoint(at.clientX, at.clientY)?.closest("[data-at]");
    const show = (target) => {
      for (const other of this.board.querySelectorAll(".over")) other.classList.remove("over");
      if (target && this.board.contains(target)) target.classList.add("over");
    };
    grip.addEventListener("pointermove", (at) => show(under(at)));
    grip.addEventListener("pointerup", (at) => {
      const target = under(at);
      chip.classList.remove("dragged");
      show(null);
      if (target && this.board.contains(target)) this.set(placed(this.levels, output, Number(target.dataset.at), Boolean(target.dataset.between)), output);
    });
    grip.addEventListener("pointercancel", () => { chip.classList.remove("dragged"); show(null); });
  }
}
