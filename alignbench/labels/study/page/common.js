// What both pages share: elements without markup in texts, and requests with the secret of the link.

// The secret is after "#" in the link. Another link in the same tab only changes that part.
const secret = location.hash.slice(1);
addEventListener("hashchange", () => location.reload());

export const find = (id) => document.getElementById(id);

// An element; attributes with a function are listeners. Children are elements or texts, never markup.
export function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (typeof value === "function") element.addEventListener(name, value);
    else if (value !== false && value !== null && value !== undefined) element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children);
  return element;
}

// The answer to a request. Throws an Error with `status`: 0 if there is no connection.
export async function request(path, content) {
  const headers = { Authorization: `Bearer ${secret}`, "Content-Type": "application/json" };
  const options = content === undefined ? { headers } : { headers, method: "POST", body: JSON.stringify(content) };
  let response, answer;
  try {
    response = await fetch(path, options);
    answer = await response.json();
  } catch {
    throw Object.assign(new Error("no connection"), { status: 0 });
  }
  if (!response.ok) throw Object.assign(new Error(answer.error ?? `the server answered ${response.status}`), { status: response.status });
  return answer;
}
