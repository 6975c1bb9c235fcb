// The list: all orders, those of a user or with a status, stuck ones, or those with a dead letter.

import { get, serverNow } from "./api.js";
import { age, chip, el } from "./show.js";

const PAGE_SIZE = 20;
const REFRESH_MS = 3000;

export class OrderList {
  #form; #list; #none; #older; #note;
  #shown = []; #next = ""; #pages = 1; #text = ""; #current = ""; #busy = false; #owner = "";

  constructor(form, list, none, older, note) {
    [this.#form, this.#list, this.#none, this.#older, this.#note] = [form, list, none, older, note];
    form.addEventListener("submit", (event) => { event.preventDefault(); this.#reload(); });
    form.elements.show.addEventListener("change", () => this.#reload());
    older.addEventListener("click", () => this.#loadMore());
    setInterval(() => this.refresh(), REFRESH_MS);
  }

  // Shows this user's orders only; an empty id means the orders of all users.
  restrictTo(userId) {
    this.#owner = userId;
    const { show, userId: field } = this.#form.elements;
    show.value = "";
    show.disabled = field.readOnly = Boolean(userId);
    field.value = userId;
    this.refresh();
  }

  mark(orderId) {
    this.#current = orderId;
    for (const link of this.#list.querySelectorAll("a")) this.#markOne(link);
  }

  // Fetches the first page again; with further pages open, nothing is fetched.
  async refresh() {
    if (this.#busy || document.hidden || this.#pages > 1) return;
    this.#busy = true;
    try {
      const page = await get(this.#address());
      this.#shown = page.orders;
      this.#next = page.nextCursor || "";
      this.#note.textContent = page.hasMore ? "newest first" : "";
      this.#render();
    } catch (error) {
      this.#note.textContent = error.status ? error.message : "";
    } finally {
      this.#busy = false;
    }
  }

  #reload() {
    const { show, userId, status } = this.#form.elements;
    userId.disabled = status.disabled = Boolean(show.value);
    this.#pages = 1;
    this.refresh();
  }

  async #loadMore() {
    const page = await get(this.#address(this.#next));
    this.#pages += 1;
    this.#shown = [...this.#shown, ...page.orders];
    this.#next = page.nextCursor || "";
    this.#note.textContent = `${this.#shown.length} orders; Apply starts again`;
    this.#render();
  }

  #address(cursor = "") {
    const { show, userId, status } = this.#form.elements;
    const query = new URLSearchParams({ limit: PAGE_SIZE });
    if (show.value) query.set(show.value, "true");
    else {
      const user = userId.value.trim() || this.#owner;
      if (user) query.set("userId", user);
      if (status.value.trim()) query.set("status", status.value.trim());
      if (cursor) query.set("cursor", cursor);
    }
    return `/orders?${query}`;
  }

  #render() {
    this.#none.hidden = this.#shown.length > 0;
    this.#older.hidden = !this.#next;
    const now = serverNow();
    const text = JSON.stringify(this.#shown.map((order) => [order.id, order.version]));
    if (text === this.#text) {
      this.#shown.forEach((order, at) => { this.#list.children[at].querySelector(".age").textContent = age(order.createdAt, now); });
      return;
    }
    this.#text = text;
    const focused = document.activeElement?.dataset?.id;
    this.#list.replaceChildren(...this.#shown.map((order) => this.#row(order, now)));
    if (focused) this.#list.querySelector(`[data-id="${focused}"]`)?.focus();
  }

  #row(order, now) {
    const link = el("a", { href: `#order=${order.id}`, "data-id": order.id },
      el("span", { class: "what" }, el("span", { class: "name" }, order.productName), el("span", { class: "of" }, order.userId)),
      el("span", { class: "money" }, order.totalOrderAmount),
      chip(order.orderStatus),
      el("span", { class: "age" }, age(order.createdAt, now)));
    this.#markOne(link);
    return el("li", {}, link);
  }

  #markOne(link) {
    if (link.dataset.id === this.#current) link.setAttribute("aria-current", "true");
    else link.removeAttribute("aria-current");
  }
}
