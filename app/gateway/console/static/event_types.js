// Event types of webhooks: a form's choice of them, and what each tells.

import { el } from "./elements.js";
import { copyable } from "./curl.js";

const ALL = "*";
const PREFIX = "event:";

// A group of checkboxes for event types and wildcards, the `chosen` ones checked.
export function eventField(types, chosen) {
  const field = el("fieldset", { name: "events", class: "field event-field" }, el("legend", {}, "Events"),
    ...offered(types, chosen).map(([pattern, text]) => el("label", {},
      el("input", { type: "checkbox", name: PREFIX + pattern, checked: chosen.includes(pattern) }),
      el("span", {}, el("code", {}, pattern), " ", el("span", { class: "note" }, text)))));
  const boxes = [...field.querySelectorAll("input")];
  // Before the form hears of it, so that what is covered is not sent.
  field.addEventListener("input", () => markCovered(boxes));
  markCovered(boxes);
  return el("div", {}, field);
}

// The patterns that are checked in a form with these values.
export const pickedEvents = (values) =>
  Object.keys(values).filter((name) => name.startsWith(PREFIX)).map((name) => name.slice(PREFIX.length));

export const eventsError = (values) => (pickedEvents(values).length ? "" : "Choose at least one.");

// Each type with its description and its example.
export const typeReference = ({ name, description, example }) => el("details", { class: "type" },
  el("summary", {}, el("code", {}, name), " ", el("span", { class: "note" }, description)),
  copyable(JSON.stringify(JSON.parse(example), null, 2), `Example of ${name}`));

// Patterns with what they mean: all, the groups of several types, each type, and what is chosen besides.
function offered(types, chosen) {
  const groups = Map.groupBy(types, ({ name }) => name.split(".")[0]);
  const several = [...groups].filter(([, members]) => members.length > 1);
  const patterns = [
    [ALL, "all of them, also those of later releases"],
    ...several.map(([group]) => [`${group}.*`, `all that begin with ${group}`]),
    ...types.map(({ name, description }) => [name, description]),
  ];
  const known = new Set(patterns.map(([pattern]) => pattern));
  return [...patterns, ...chosen.filter((pattern) => !known.has(pattern)).map((pattern) => [pattern, ""])];
}

const covers = (wildcard, pattern) => wildcard.endsWith(ALL) && wildcard !== pattern && pattern.startsWith(wildcard.slice(0, -1));

// What a checked wildcard covers needs no check of its own.
function markCovered(boxes) {
  const pattern = (box) => box.name.slice(PREFIX.length);
  for (const box of boxes) {
    const covered = boxes.some((other) => other.checked && !other.disabled && covers(pattern(other), pattern(box)));
    if (covered !== box.disabled) box.checked = covered;
    box.disabled = covered;
  }
}
