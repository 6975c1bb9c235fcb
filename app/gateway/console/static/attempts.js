// The calls to the payment provider that are on record for an order.

import { el } from "./elements.js";
import { dateTime, ms } from "./format.js";

let shown = "";

export function showAttempts(container, attempts, { attempts: made }) {
  const key = JSON.stringify([attempts, made]);
  if (key === shown) return;
  shown = key;
  const note = made === null ? "Payments do not answer how often the provider was called." : `The provider was called ${made === 1 ? "once" : `${made} times`}.`;
  container.replaceChildren(...(attempts.length ? [table(attempts)] : []), el("p", { class: "note" }, note));
}

const table = (attempts) => el("ol", { class: "attempts" }, attempts.map(({ attempt, at, call, answer, reason, tookMs }) => el("li", {},
  el("span", { class: "number" }, attempt),
  el("span", {}, el("strong", {}, `${call}: ${answer}`), reason ? el("span", { class: "reason" }, reason) : null),
  el("span", { class: "note when" }, `${dateTime(at, true)}, took ${ms(tookMs)}`))));
