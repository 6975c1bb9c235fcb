// The rows of the orders table: each is kept and updated in place, so that focus and selection stay.

import { pathOfOrder } from "./address.js";
import { arrange, el, setText } from "./elements.js";
import { dateTime, moneyOrDash, money } from "./format.js";
import { isUncounted, onItsWay } from "./money.js";
import { chip } from "./status.js";

const TAIL = 6;
const VALUES = {
  time: (order) => Date.parse(order.createdAt),
  user: (order) => order.userId.toLowerCase(),
  product: (order) => order.productName.toLowerCase(),
  total: (order) => order.total.value,
  captured: (order) => order.captured.value,
  refunded: (order) => order.refunded.value,
  status: (order) => `${order.orderStatus} ${order.paymentStatus}`,
};

export class OrderTable {
  #body; #heads; #rows = new Map(); #known = new Map(); #fresh = true; #onSort;

  // `onSort(name)` is called with what the visitor sorts by, such as "total" or "-total".
  constructor(table, onSort) {
    this.#body = table.tBodies[0];
    this.#heads = [...table.querySelectorAll("th[data-sort]")];
    this.#onSort = onSort;
    for (const head of this.#heads) this.#makeSortable(head);
  }

  // Forgets what it shows: the next orders are of another list.
  reset() {
    this.#known = new Map();
    this.#rows = new Map();
    this.#fresh = true;
  }

  // Shows these orders, sorted within the page if `sort` says by what. Returns those that are new or changed.
  show(orders, sort) {
    this.#markSorted(sort);
    const changed = orders.filter((order) => this.#known.get(order.id)?.version !== order.version);
    const first = this.#fresh;
    this.#fresh = false;
    const rows = sorted(orders, sort).map((order) => this.#row(order, !first));
    this.#known = new Map(orders.map((order) => [order.id, order]));
    for (const id of this.#rows.keys()) if (!this.#known.has(id)) this.#rows.delete(id);
    arrange(this.#body, rows);
    return first ? [] : changed;
  }

  #makeSortable(head) {
    const button = el("button", { type: "button", class: "sort", onclick: () => {
      const name = head.dataset.sort;
      const now = head.getAttribute("aria-sort");
      this.#onSort(now === "descending" ? name : now === "ascending" ? "" : `-${name}`);
    } }, head.textContent);
    head.replaceChildren(button);
  }

  #markSorted(sort) {
    for (const head of this.#heads) {
      const name = head.dataset.sort;
      if (sort === name) head.setAttribute("aria-sort", "ascending");
      else if (sort === `-${name}`) head.setAttribute("aria-sort", "descending");
      else head.removeAttribute("aria-sort");
    }
  }

  #row(order, live) {
    let row = this.#rows.get(order.id);
    const known = this.#known.get(order.id);
    if (row && known && known.version === order.version) return row;
    if (!row) this.#rows.set(order.id, (row = newRow(order)));
    fillRow(row, order);
    if (live) {
      row.classList.remove("changed");
      // Restarts the animation.
      void row.offsetWidth;
      row.classList.add("changed");
    }
    return row;
  }
}

function sorted(orders, sort) {
  const value = VALUES[sort.replace("-", "")];
  if (!value) return orders;
  const sign = sort.startsWith("-") ? -1 : 1;
  return [...orders].sort((one, other) => sign * (value(one) < value(other) ? -1 : value(one) > value(other) ? 1 : 0));
}

function newRow(order) {
  return el("tr", { "data-id": order.id, onanimationend: (event) => event.currentTarget.classList.remove("changed") },
    el("th", { scope: "row", class: "id" }, el("a", { href: pathOfOrder(order.id), title: order.id },
      el("span", { class: "start" }, order.id.slice(0, -TAIL)), el("span", { class: "tail" }, order.id.slice(-TAIL)))),
    el("td", { class: "time" }, el("time", { datetime: order.createdAt, title: order.createdAt }, dateTime(order.createdAt))),
    el("td", { class: "user-name", title: order.userId }, order.userId),
    el("td", { class: "product", title: order.productName }, order.productName),
    el("td", { class: "n total" }, money(order.total)),
    el("td", { class: "n captured" }),
    el("td", { class: "n refunded" }),
    el("td", { class: "status" }));
}

function fillRow(row, order) {
  setText(row.querySelector(".captured"), isUncounted(order) ? "unknown" : moneyOrDash(order.captured));
  row.querySelector(".refunded").replaceChildren(...refundedTexts(order));
  row.querySelector(".status").replaceChildren(chip(order.orderStatus, "Order"), " ",
    el("span", { class: `payment ${order.paymentStatus}` }, el("span", { class: "sr" }, "Payment: "), order.paymentStatus));
}

// What went back, what is on its way back, and what cannot go back now, each in a line of its own.
function refundedTexts(order) {
  const { pending, blocked } = onItsWay(order);
  const rest = [["pending", pending], ["blocked", blocked]].filter(([, amount]) => amount.value);
  const refunded = order.refunded.value || !rest.length ? [el("span", { class: "sum" }, moneyOrDash(order.refunded))] : [];
  return [...refunded, ...rest.map(([name, amount]) => el("span", { class: `sum ${name}` }, `${name} ${money(amount)}`))];
}
