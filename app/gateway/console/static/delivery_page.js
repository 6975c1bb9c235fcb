// The page of one delivery of a webhook: its attempts, and what is sent.

import { idOfPage, pathOfEndpoint, pathOfOrder } from "./address.js";
import { get } from "./api.js";
import { copyable, curlButton } from "./curl.js";
import { by, el, factList, setText } from "./elements.js";
import { attemptText, succeeded } from "./endpoint_view.js";
import { dateTime, duration, plural } from "./format.js";
import { followByPolling } from "./polling.js";
import { connection, setTitle, start, watchDeskCount } from "./shell.js";
import { chip } from "./status.js";
import { retryDelivery } from "./webhook_actions.js";

const REFRESH_MS = 2000;
const TICK_MS = 500;
const id = idOfPage();
const path = `/webhooks/deliveries/${id}`;

let delivery = null;
let shown = "";

async function load() {
  ({ delivery } = await get(path));
  by("missing").hidden = true;
  by("delivery").hidden = false;
  show();
  tick();
}

// Rebuilt only when the delivery has changed, so that focus stays and opened answers stay open.
function show() {
  const key = JSON.stringify(delivery);
  if (key === shown) return;
  shown = key;
  const { type, status, orderId, endpointId, webhookId, createdAt, nextAttemptAt, attempts = [], body } = delivery;
  setTitle(`${type}: ${status} · Delivery`);
  setText(by("delivery-title"), type);
  by("to-endpoint").href = pathOfEndpoint(endpointId);
  by("about").replaceChildren(factList([
    ["Status", chip(status, "Status")],
    ["Order", orderId && el("a", { href: pathOfOrder(orderId) }, el("code", {}, orderId))],
    ["Endpoint", el("a", { href: pathOfEndpoint(endpointId) }, el("code", {}, endpointId))],
    ["webhook-id", el("code", {}, webhookId)],
    ["Recorded", dateTime(createdAt, true)],
    ["Next attempt", nextAttemptAt && dateTime(nextAttemptAt)],
  ]));
  by("attempts").replaceChildren(attempts.length
    ? el("ol", { class: "deliveries-made" }, attempts.map(attemptItem))
    : el("p", { class: "note" }, "None yet."));
  by("body").replaceChildren(copyable(pretty(body), "Body as JSON"));
}

const attemptItem = (attempt, index) => el("li", {},
  el("span", { class: "number" }, String(index + 1)),
  el("span", { class: succeeded(attempt) ? "result" : "result failed" }, el("strong", {}, attemptText(attempt))),
  el("time", { class: "note", datetime: attempt.at }, dateTime(attempt.at, true)),
  attempt.response ? el("details", { class: "more answer" }, el("summary", {}, `What attempt ${index + 1} was answered`),
    el("pre", { class: "command", tabindex: "0", role: "region", "aria-label": `Answer to attempt ${index + 1}` }, attempt.response)) : null);

function pretty(body) {
  try {
    return JSON.stringify(JSON.parse(body), null, 2);
  } catch {
    return body;
  }
}

function tick() {
  if (!delivery) return;
  const { nextAttemptAt, attempts = [] } = delivery;
  const left = nextAttemptAt ? Date.parse(nextAttemptAt) - Date.now() : 0;
  const next = !nextAttemptAt ? "" : left > 0 ? `The next attempt is in ${duration(left / 1000)}.` : "An attempt is due.";
  setText(by("countdown"), [attempts.length ? `${plural(attempts.length, "attempt")} on record.` : "", next].filter(Boolean).join(" "));
}

async function retry() {
  if (!await retryDelivery(delivery)) return;
  setText(by("message"), "It is sent again.");
  refresh();
}

function missing(text, title) {
  by("delivery").hidden = true;
  by("missing").hidden = false;
  setText(by("missing-text"), text);
  setTitle(title);
  connection("restricted", "Nothing to follow");
}

start("webhooks");
by("delivery-id").textContent = id;
setTitle("Delivery");
by("actions").append(el("button", { type: "button", onclick: retry }, "Retry…"));
for (const place of document.querySelectorAll(".curl-of")) curlButton(place, path + place.dataset.part, place.dataset.name);
setInterval(tick, TICK_MS);
watchDeskCount();
const refresh = followByPolling(load, REFRESH_MS, {
  403: () => missing("Webhooks need the scope webhooks:manage.", "Not allowed"),
  404: (error) => missing(`This delivery cannot be shown: ${error.message}.`, "No such delivery"),
});
