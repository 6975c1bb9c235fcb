// Where an order's money is: what was taken, what went back, what is on its way, what is left; and each refund.

import { by, el } from "./elements.js";
import { dateTime, money } from "./format.js";
import { cannotBeGivenBack, isUncounted, onItsWay } from "./money.js";
import { chip } from "./status.js";

let shown = "";

export function showMoney(order) {
  const { total, authorized, captured, refunded, refundable, refunds } = order;
  const { pending, blocked } = onItsWay(order);
  const key = JSON.stringify([total, authorized, captured, refunded, pending, refundable, blocked, refunds, order.orderStatus, order.paymentStatus]);
  if (key === shown) return;
  shown = key;
  by("money").replaceChildren(...[
    bar(order),
    el("dl", { class: "facts amounts" },
      ...row("Ordered", total),
      ...(authorized ? row("Authorized", authorized) : []),
      ...(isUncounted(order) ? [el("dt", {}, "Captured"), el("dd", { class: "none" }, "unknown")] : row("Captured", captured)),
      ...row("Refunded", refunded, "refunded"),
      ...(pending.value ? row("Refund under way", pending, "pending") : []),
      ...(blocked.value ? row("Blocked", blocked, "blocked") : []),
      ...row("Can be refunded", refundable, "left")),
    el("h3", {}, "Refunds"),
    cannotBeGivenBack(order) ? el("p", { class: "note failure" }, `${money(blocked)} could not be given back; an operator decides.`) : null,
    refunds?.length ? el("ul", { class: "refunds" }, refunds.map(refundItem)) : el("p", { class: "note" }, "None."),
  ].filter(Boolean));
}

const row = (name, amount, kind = "") => [
  el("dt", {}, kind ? el("span", { class: `key ${kind}`, "aria-hidden": "true" }) : null, name),
  el("dd", { class: amount.value ? "" : "none" }, money(amount)),
];

// The shares of what was captured, as one bar.
function bar(order) {
  const { captured, refunded } = order;
  if (!captured.value) return el("p", { class: "note none-captured" }, isUncounted(order) ? "Unknown: not yet counted." : "Nothing has been captured.");
  const { pending, blocked } = onItsWay(order);
  const left = captured.value - refunded.value - pending.value - blocked.value;
  const parts = [["refunded", refunded.value], ["pending", pending.value], ["blocked", blocked.value], ["left", left]];
  return el("div", { class: "money-bar", "aria-hidden": "true" }, parts.filter(([, value]) => value > 0).map(([kind, value]) =>
    el("span", { class: kind, style: { width: `${(100 * value) / captured.value}%` } })));
}

const refundItem = ({ id, amount, status, at, reason, failure }) => el("li", {},
  el("span", { class: "refund-head" }, el("strong", {}, money(amount)), chip(status, "Refund"), at ? el("time", { datetime: at, class: "note" }, dateTime(at)) : null),
  reason ? el("span", { class: "reason" }, reason) : null,
  failure ? el("span", { class: "reason failure" }, `Failed: ${failure}`) : null,
  el("code", { class: "note" }, id));
