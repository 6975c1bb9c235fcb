// A request as a curl command, with a button that copies it.

import { el } from "./elements.js";
import { hasToken } from "./token.js";

const quoted = (text) => `'${text.replace(/'/g, "'\\''")}'`;

// The curl command of a request; it names the token as $TOKEN and does not contain it. `key` is the Idempotency-Key.
export function curl(method, path, body, key = "") {
  const lines = [`curl -s${method === "GET" ? "" : ` -X ${method}`} ${quoted(location.origin + path)}`];
  if (hasToken()) lines.push(`-H "Authorization: Bearer $TOKEN"`);
  if (key) lines.push(`-H ${quoted(`Idempotency-Key: ${key}`)}`);
  if (body !== undefined) lines.push(`-H 'Content-Type: application/json'`, `-d ${quoted(JSON.stringify(body))}`);
  return lines.join(" \\\n  ");
}

// A command with a button that copies it; `name` says what the command does.
export const command = (text, name) => copyable(text, `Command: ${name}`);

// A text with a button that copies it.
export function copyable(text, label) {
  const pre = el("pre", { class: "command", tabindex: "0", role: "region", "aria-label": label }, text);
  const copied = el("span", { class: "note", role: "status" });
  const copy = async () => {
    try {
      await navigator.clipboard.writeText(text);
      copied.textContent = "Copied.";
    } catch {
      getSelection().selectAllChildren(pre);
      copied.textContent = "Selected: copy it with the keyboard.";
    }
  };
  return el("div", { class: "curl" }, pre,
    el("div", { class: "buttons" }, el("button", { type: "button", class: "quiet", onclick: copy }, "Copy"), copied));
}

// A button in `place` that shows and hides the curl of a GET below the head that it stands in.
export function curlButton(place, path, name) {
  let shown = null;
  const button = el("button", {
    type: "button", class: "quiet", "aria-expanded": "false", "aria-label": `curl of the ${name}`,
    onclick: () => {
      if (shown) shown.remove();
      shown = shown ? null : command(curl("GET", path), name);
      if (shown) place.closest(".head").after(shown);
      button.setAttribute("aria-expanded", String(Boolean(shown)));
    },
  }, "curl");
  place.replaceChildren(button);
}
