// The requests of an order: which request did what, and which calls to the provider it caused.

import { el } from "./elements.js";
import { dateTime } from "./format.js";
import { typeName } from "./status.js";

let shown = "";

export function showRequests(container, requests) {
  const key = JSON.stringify(requests);
  if (key === shown) return;
  shown = key;
  container.replaceChildren(requests.length
    ? el("ol", { class: "requests" }, requests.map(requestItem))
    : el("p", { class: "note" }, "No request is on record."));
}

const requestItem = ({ requestId, at, caller, changes, attempts }) => el("li", { id: `request-${requestId}`, tabindex: "-1" },
  el("span", { class: "request-head" }, el("code", {}, requestId), el("span", { class: "note" }, `${dateTime(at, true)}${caller ? `, by ${caller}` : ""}`)),
  changes.length ? el("span", {}, "Changed: ", ...changes.flatMap(({ sequence, type }, index) =>
    [index ? ", " : "", el("a", { href: `#change-${sequence}` }, `${sequence} ${typeName(type)}`)])) : el("span", { class: "note" }, "Changed nothing."),
  attempts.length ? el("span", {}, `Provider: ${attempts.map(({ call, answer }) => `${call} ${answer}`).join(", ")}`) : null);
