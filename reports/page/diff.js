// Differences between two texts, word by word: the algorithm of Myers (1986, "An O(ND) Difference Algorithm").

const MOST_EDITS = 1000; // words removed and added; the time grows with its square
const MOST_DIFF = 500000; // characters of a text
// a word, a character of a script without spaces, or a sign, each with the space after it, which is not compared
const UNSPACED = "\\p{Script=Han}\\p{Script=Hiragana}\\p{Script=Katakana}\\p{Script=Thai}";
const TOKEN = new RegExp(`(?:(?:(?![${UNSPACED}])[\\p{L}\\p{M}\\p{N}_])+|[^\\s])\\s*|\\s+`, "gu");

// [kind, text] of each part in order, kind "same", "removed" or "added"; null if the texts differ too much.
function diffWords(before, after) {
  if (Math.max(before.length, after.length) > MOST_DIFF) return null;
  const numbers = new Map(), numbered = (word) => numbers.get(word.trimEnd()) ?? numbers.set(word.trimEnd(), numbers.size).get(word.trimEnd());
  const [a, b] = [before, after].map((text) => text.trimStart().match(TOKEN) || []), [m, n] = [a.map(numbered), b.map(numbered)];
  let start = 0, end = 0;
  while (start < m.length && start < n.length && m[start] === n[start]) start++;
  while (end < m.length - start && end < n.length - start && m[m.length - 1 - end] === n[n.length - 1 - end]) end++;
  const middle = editScript(m.slice(start, m.length - end), n.slice(start, n.length - end));
  if (!middle) return null;
  const parts = [], space = after.slice(0, after.length - after.trimStart().length), words = { same: space ? [space] : [], removed: [], added: [] };
  const flush = (...kinds) => kinds.forEach((kind) => { if (words[kind].length) parts.push([kind, words[kind].splice(0).join("")]); });
  let x = 0, y = 0;
  const step = (kind) => {
    flush(...(kind === "same" ? ["removed", "added"] : ["same"]));
    words[kind].push(kind === "removed" ? a[x] : b[y]);
    if (kind !== "added") x++;
    if (kind !== "removed") y++;
  };
  for (let at = 0; at < start; at++) step("same");
  middle.forEach(step);
  for (let at = 0; at < end; at++) step("same");
  flush("same", "removed", "added");
  return parts;
}

// The shortest list of steps from one list of numbers to another; null if it has more than MOST_EDITS edits.
function editScript(a, b) {
  const most = Math.min(a.length + b.length, MOST_EDITS), reach = new Int32Array(2 * most + 3), zero = most + 1, trace = [];
  const fromAbove = (row, k, edits) => k === -edits || (k !== edits && row(k - 1) < row(k + 1));
  for (let edits = 0; edits <= most; edits++) {
    trace.push(reach.slice(zero - edits - 1, zero + edits + 2));
    for (let k = -edits; k <= edits; k += 2) { // diagonals; reach: the farthest place in `a` on each
      let x = fromAbove((at) => reach[zero + at], k, edits) ? reach[zero + k + 1] : reach[zero + k - 1] + 1;
      while (x < a.length && x - k < b.length && a[x] === b[x - k]) x++;
      reach[zero + k] = x;
      if (x >= a.length && x - k >= b.length) return stepsBack(edits);
    }
  }
  return null;

  function stepsBack(last) {
    const steps = [];
    let x = a.length, y = b.length;
    for (let edits = last; edits > 0; edits--) {
      const row = (k) => trace[edits][k + edits + 1], added = fromAbove(row, x - y, edits);
      const k = x - y + (added ? 1 : -1), from = row(k);
      for (; x > from && y > from - k; x--, y--) steps.push("same");
      steps.push(added ? "added" : "removed");
      [x, y] = [from, from - k];
    }
    for (; x > 0; x--) steps.push("same");
    return steps.reverse();
  }
}

// A box with the text `after` and what it removes from and adds to `before`.
function diffBox(before, after, query, least) {
  const parts = diffWords(before, after), note = (words) => make("p", { class: "remarks" }, words);
  if (!parts) return make("div", {}, note(`More than ${count(MOST_EDITS)} changed words, or more than ${count(MOST_DIFF)} characters: differences are not marked.`), textBox(after, query, least));
  if (parts.every(([kind]) => kind === "same")) return make("div", {}, note(before === after ? "The same text as the reference." : "The same words as the reference; only spaces differ."), textBox(after, query, least));
  const size = parts.reduce((sum, [, text]) => sum + text.length, 0), box = make("div", { class: "text diff", dir: "auto" });
  const show = (most) => {
    box.replaceChildren();
    for (const [kind, text] of parts) {
      if (most <= 0) break;
      const part = kind === "same" ? make("span") : make(kind === "added" ? "ins" : "del");
      marked(part, text.slice(0, whole(text, Math.min(most, text.length))), query);
      box.append(part);
      most -= text.length;
    }
    if (most < 0) box.append("…");
  };
  if (size <= 1.2 * least) {
    show(size);
    return box;
  }
  show(least);
  const button = make("button", { type: "button", class: "quiet", onclick: () => {
    show(size);
    button.remove();
    box.tabIndex = -1;
    box.focus({ preventScroll: true });
  } }, `Show all ${count(size)} characters of both texts`);
  return make("div", { class: "cut" }, box, button);
}
