// The head of an order: its name, its state and the reason, what comes next, and its facts.

import { by, el, factList, setText } from "./elements.js";
import { dateTime, ms, withLocalTimes } from "./format.js";
import { chip } from "./status.js";

let shownNext = "";
let shownAbout = "";

export function showHead(order, then, now) {
  const more = order.items?.length > 1 ? ` and ${order.items.length - 1} more` : "";
  setText(by("order-title"), `${order.productName}${more}, ${order.totalOrderAmount}`);
  setText(by("order-for"), `for ${order.userId}, placed ${dateTime(order.createdAt)}`);
  by("chips").replaceChildren(chip(then.to, "Order"), el("span", { class: "note" }, "payment"), chip(then.paymentStatus, "Payment"),
    ...(now ? [] : [el("span", { class: "chip past" }, "past state")]));
}

export function showSentence(explanation, then, at, now) {
  setText(by("sentence"), now ? withLocalTimes(explanation.sentence) : `After change ${at}: ${then.to}, payment ${then.paymentStatus}.`);
}

export function showCountdown(next, now) {
  const left = next ? Date.parse(next) - now : 0;
  const countdown = by("countdown");
  countdown.hidden = !next;
  setText(countdown, next ? (left > 0 ? `Next attempt in ${ms(left)}` : "The next attempt is due") : "");
}

// Whether an address, which may be a path of this server, is one of a page and not of a script.
const isPage = (url) => URL.canParse(url, location.href) && /^https?:$/.test(new URL(url, location.href).protocol);

// What the customer must do: the provider's page, or a page of the shop, which alone may use the secret.
export function showNext({ nextAction: action }) {
  const key = JSON.stringify(action ?? null);
  if (key === shownNext) return;
  shownNext = key;
  const next = by("next");
  next.hidden = !action;
  if (!action) return next.replaceChildren();
  const page = action.type === "redirect" && isPage(action.url);
  next.replaceChildren(
    el("span", {}, page ? "The customer must act at the provider." : "The customer must confirm the payment in a page of the shop."),
    ...(page ? [el("a", { href: action.url, target: "_blank", rel: "noopener noreferrer" }, "Continue")] : []),
    el("span", {}, `until ${dateTime(action.expiresAt)}`));
}

// What the client has noted with the order, in a list of its own: its keys are the client's.
function metadataOf({ metadata }) {
  if (!metadata) return [];
  const pairs = Object.entries(metadata).flatMap(([key, value]) => [el("dt", {}, key), el("dd", {}, value)]);
  return [el("h3", { id: "metadata-title" }, "Metadata"), el("dl", { class: "facts metadata", "aria-labelledby": "metadata-title" }, pairs)];
}

export function showAbout(order, placed) {
  if (shownAbout === `${order.version}`) return;
  shownAbout = `${order.version}`;
  const facts = [
    ["Id", el("code", {}, order.id)],
    ["User", order.userId],
    ["Product", order.productName],
    ["Product id", order.productId],
    ["Placed", dateTime(order.createdAt, true)],
    ["Changed", dateTime(order.updatedAt, true)],
    ["Version", String(order.version)],
    ["Request", placed.requestId ? el("code", {}, placed.requestId) : null],
  ];
  by("about").replaceChildren(factList(facts), ...metadataOf(order));
}
