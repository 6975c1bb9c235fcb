// The items of an order: how many of which product, for how much.

import { by, el } from "./elements.js";
import { money } from "./format.js";

let shown = null;

// Items never change, so they are drawn once.
export function showItems({ id, items }) {
  if (!items || shown === id) return;
  shown = id;
  const section = by("items");
  section.hidden = false;
  section.querySelector("tbody").replaceChildren(...items.map(row));
}

const row = ({ productId, productName, quantity, unitAmount }) => el("tr", {},
  el("th", { scope: "row" }, productName, " ", el("code", { class: "note" }, productId)),
  el("td", { class: "n" }, String(quantity)),
  el("td", { class: "n" }, money(unitAmount)),
  el("td", { class: "n" }, money({ ...unitAmount, value: quantity * unitAmount.value })));
