// Navigation by the hash of the address, theme, downloads, and printing.

const TITLE = document.title;
const THEMES = { "": "auto", light: "light", dark: "dark" };

function storedTheme(theme) {
  try { // a page from disk may not have storage
    if (theme === undefined) return localStorage.getItem("alignbench-theme") || "";
    localStorage.setItem("alignbench-theme", theme);
  } catch { /* the choice is not stored */ }
  return "";
}

function setTheme(theme) {
  const known = Object.hasOwn(THEMES, theme) ? theme : "";
  if (known) document.documentElement.dataset.theme = known;
  else delete document.documentElement.dataset.theme;
  $("theme").lastElementChild.textContent = THEMES[known];
  $("theme").title = known ? "" : "as in the system settings";
}

function startTheme() {
  setTheme(storedTheme());
  $("theme").hidden = false;
  $("theme").addEventListener("click", () => {
    const names = Object.keys(THEMES), now = document.documentElement.dataset.theme || "";
    const next = names[(names.indexOf(now) + 1) % names.length];
    setTheme(next);
    storedTheme(next);
  });
}

function decoded(text) {
  try { return decodeURIComponent(text); } catch { return text; }
}

// Shows the samples of a comparison, as links of the verdict name it: order, reference, compared system. Nothing changes
// if one of the systems is unknown.
function showComparison([order, ...names]) {
  const places = names.map((name) => view.block.systems.indexOf(name));
  if (places.length !== 2 || places.includes(-1)) return;
  [$("task-reference").value, $("task-aligned").value] = places.map(String);
  $("task-order").value = order;
  $("task-order").dispatchEvent(new Event("change", { bubbles: true }));
}

async function route(core, first) {
  const parts = location.hash.slice(1).split("/");
  const task = parts[0] === "task" && parts.length > 1;
  $("overview").hidden = task;
  $("task").hidden = !task;
  if (task) {
    const sample = parts[3] === "sample" && parts.length > 4 ? [decoded(parts[4]), Number(parts[5] || 1)] : null;
    const ready = openTask(core, decoded(parts[1]), Number(parts[2] || 1) - 1, sample);
    window.scrollTo(0, 0);
    if (!first && !sample) $("task-title").focus({ preventScroll: true });
    const place = location.hash;
    await ready;
    if (view && parts[3] === "show" && location.hash === place) showComparison(parts.slice(4).map(decoded));
    return;
  }
  document.title = TITLE;
  const target = location.hash.length > 1 ? $(decoded(location.hash.slice(1))) : null;
  if (!target) return;
  if (target.tagName === "DETAILS") target.open = true;
  target.scrollIntoView();
  if (first) return;
  if (!target.hasAttribute("tabindex")) target.tabIndex = -1;
  target.focus({ preventScroll: true });
}

function startPrint() {
  let opened = [];
  window.addEventListener("beforeprint", () => {
    opened = [...document.querySelectorAll("#overview details:not([open])")].filter((details) => !details.closest("figure"));
    for (const details of opened) details.open = true;
  });
  window.addEventListener("afterprint", () => { for (const details of opened) details.open = false; });
}

async function start() {
  startTheme();
  startPrint();
  const core = await unpack("core").catch((error) => {
    $("content").prepend(make("p", { class: "notice", role: "alert" }, `This browser cannot read the table and the samples (${error.message}); use a newer one.`));
  });
  if (!core) return;
  files = core.files;
  startAudit(core);
  startTask();
  for (const button of document.querySelectorAll("button.download"))
    button.addEventListener("click", async () => download(button.dataset.name, await unpack(button.dataset.block)));
  window.addEventListener("hashchange", () => route(core, false));
  await route(core, true);
  document.documentElement.dataset.ready = "yes";
}

start();
