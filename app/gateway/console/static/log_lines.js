// An order's log lines that the live feed still has, and the commands that find all of them in the log.

import { command } from "./curl.js";
import { el } from "./elements.js";

let shown = "";

export function showLog(container, orderId, stages) {
  const key = JSON.stringify([orderId, stages]);
  if (key === shown) return;
  shown = key;
  container.replaceChildren(
    stages.length
      ? el("pre", { class: "command lines", tabindex: "0", role: "region", "aria-label": "Log lines of this order" }, stages.map((stage) => `${line(orderId, stage)}\n`).join(""))
      : el("p", { class: "note" }, "The live feed no longer has lines of this order; the log has them."),
    el("p", { class: "note" }, "All of them, also of earlier days, are in the log of the server. Of make run, started as make run >> orderflow.log 2>&1:"),
    command(`grep ${orderId} orderflow.log`, "log lines of this order, make run"),
    el("p", { class: "note" }, "In Docker:"),
    command(`docker compose logs --no-log-prefix app | grep ${orderId}`, "log lines of this order, Docker"));
}

const line = (orderId, { stage, at, module, tookMs, event, requestId }) =>
  JSON.stringify({ event: stage, timestamp: at, module, order_id: orderId, request_id: requestId, took_ms: tookMs, event_type: event });
