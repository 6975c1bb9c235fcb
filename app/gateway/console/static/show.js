// Helpers that build elements and format times, amounts and statuses.

// An element with attributes, listeners (onclick: …), styles (style: {…}) and children.
export function el(name, attributes = {}, ...children) {
  return fill(document.createElement(name), attributes, children);
}

export function svg(name, attributes = {}, ...children) {
  return fill(document.createElementNS("http://www.w3.org/2000/svg", name), attributes, children);
}

function fill(node, attributes, children) {
  for (const [key, value] of Object.entries(attributes)) {
    if (value === undefined || value === null || value === false) continue;
    if (key.startsWith("on")) node.addEventListener(key.slice(2), value);
    else if (key === "style") for (const [name, text] of Object.entries(value)) node.style.setProperty(name, text);
    else node.setAttribute(key, value === true ? "" : value);
  }
  node.append(...children.flat().filter((child) => child !== null && child !== undefined && child !== false));
  return node;
}

export function ms(value) {
  if (value < 1) return `${value.toFixed(2)} ms`;
  if (value < 10) return `${value.toFixed(1)} ms`;
  if (value < 1000) return `${Math.round(value)} ms`;
  if (value < 60_000) return `${(value / 1000).toFixed(1)} s`;
  return `${Math.round(value / 60_000)} min`;
}

export function count(value) {
  return Math.round(value).toLocaleString("en");
}

export function rate(value) {
  if (value === 0) return "0";
  return value < 10 ? value.toFixed(1) : count(value);
}

// Text of an amount in minor units; the number of decimals depends on the currency.
export function money({ value, currency }) {
  const format = new Intl.NumberFormat("en", { style: "currency", currency, currencyDisplay: "code" });
  return format.format(value / 10 ** format.resolvedOptions().maximumFractionDigits);
}

export function age(then, now) {
  const seconds = Math.max(0, (now - Date.parse(then)) / 1000);
  if (seconds < 60) return `${Math.floor(seconds)} s`;
  if (seconds < 3600) return `${Math.floor(seconds / 60)} min`;
  if (seconds < 86_400) return `${Math.floor(seconds / 3600)} h`;
  return `${Math.floor(seconds / 86_400)} d`;
}

export const clock = (at) => {
  const time = new Date(at);
  return `${time.toLocaleTimeString("en-GB")}.${String(time.getMilliseconds()).padStart(3, "0")}`;
};

const TONES = {
  Processing: "busy", Success: "good", Confirm: "good", Declined: "bad", Cancelled: "off",
  Captured: "good", Voided: "off", Refunding: "busy", Refunded: "off", Unknown: "bad",
  ActionRequired: "wait", Pending: "busy", Authorized: "wait", Disputed: "bad",
};

export const tone = (status) => TONES[status] || "custom";

export const chip = (status, label) =>
  el("span", { class: `chip ${tone(status)}` }, label ? el("span", { class: "sr" }, `${label}: `) : null, status);

// A command with a button that copies it.
export function command(text, name) {
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
  const pre = el("pre", { class: "command", tabindex: "0", role: "region", "aria-label": `The curl of: ${name}` }, text);
  return el("div", { class: "curl" }, pre,
    el("div", { class: "buttons" }, el("button", { type: "button", class: "quiet", onclick: copy }, "Copy"), copied));
}
