// Elements and data blocks. Text from run folders only becomes text nodes: no string is parsed as markup.

const $ = (id) => document.getElementById(id);

// An element. attributes: null and false are left out; onclick etc. are listeners.
function make(name, attributes = {}, ...children) {
  const element = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (key.startsWith("on")) element.addEventListener(key.slice(2), value);
    else element.setAttribute(key, value === true ? "" : value);
  }
  element.append(...children.filter((child) => child !== null && child !== undefined));
  return element;
}

function drawing(name, attributes, ...children) {
  const element = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  element.append(...children);
  return element;
}

// The address of a task's samples, at a set of its folders.
const linkTo = (task, set) => `#task/${encodeURIComponent(task)}${set ? `/${set + 1}` : ""}`;

// The files of blocks that are not in this page: block -> address. Each calls `alignbench` with its block.
let files = {};
const arrived = new Map();
window.alignbench = (name, text) => arrived.set(name, text);

function readFile(name) {
  return new Promise((resolve, reject) => {
    const script = make("script", { src: files[name], onerror: () => {
      script.remove();
      reject(new Error(`the file ${files[name]} is not beside this page; reload the page, or copy the whole folder`));
    }, onload: () => {
      script.remove();
      resolve(arrived.get(name));
      arrived.delete(name);
    } });
    document.head.append(script);
  });
}

// The content of a data block: base64 of gzip of JSON.
async function unpack(name) {
  const binary = atob(Object.hasOwn(files, name) ? await readFile(name) : $(`data-${name}`).textContent);
  const bytes = new Uint8Array(binary.length);
  for (let i = 0; i < binary.length; i++) bytes[i] = binary.charCodeAt(i);
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  return JSON.parse(await new Response(stream).text());
}

function download(name, text, type = "text/csv") {
  const address = URL.createObjectURL(new Blob([text].flat(), { type: `${type};charset=utf-8` }));
  make("a", { href: address, download: name }).click();
  setTimeout(() => URL.revokeObjectURL(address), 10000);
}

// options: [value, label] each. The chosen value stays if it still exists.
function fill(select, options) {
  const before = select.value;
  select.replaceChildren(...options.map(([value, label]) => make("option", { value }, label)));
  if (options.some(([value]) => value === before)) select.value = before;
}

// Buttons for pages; turn(page) shows another one.
function pager(place, page, pages, what, turn) {
  const held = place.contains(document.activeElement) ? document.activeElement.dataset.turn : null;
  place.replaceChildren();
  if (pages < 2) return;
  const button = (label, to, name) =>
    make("button", { type: "button", disabled: to < 0 || to >= pages || to === page, "data-turn": name, onclick: () => turn(to) }, label);
  const number = make("input", {
    type: "number", min: 1, max: pages, value: page + 1, "aria-label": `Page of ${what}, of ${pages}`,
    onchange: (event) => turn(Math.min(Math.max(1, Math.round(event.target.valueAsNumber || 1)), pages) - 1),
  });
  place.append(
    button("« First", 0, "first"), button("‹ Previous", page - 1, "previous"),
    make("span", {}, "page ", number, ` of ${pages.toLocaleString("en")}`),
    button("Next ›", page + 1, "next"), button("Last »", pages - 1, "last"),
  );
  const again = held && place.querySelector(`[data-turn="${held}"]:not([disabled])`);
  if (again) again.focus();
  else if (held) number.focus();
}

// Listens to all controls of a form, which is never sent.
function onControls(form, changed) {
  let timer = 0;
  form.addEventListener("submit", (event) => event.preventDefault());
  form.addEventListener("change", (event) => { if (event.target.type !== "search") changed(event.target); });
  form.addEventListener("input", (event) => {
    if (event.target.type !== "search") return;
    clearTimeout(timer);
    timer = setTimeout(() => changed(event.target), 60);
  });
}
