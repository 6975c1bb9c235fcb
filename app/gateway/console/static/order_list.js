// The list of orders: filters, search, sorting and page in the address, refreshed while the page is looked at.

import { exportOf, isShownAlone, ORDER_ID, pathOfOrder, requestOf } from "./address.js";
import { get, Problem } from "./api.js";
import { by, el, setText } from "./elements.js";
import { saveFile } from "./export_file.js";
import { clearErrors, showProblem } from "./fields.js";
import { localTime, plural, utcTime } from "./format.js";
import { firstPage, ListAddress } from "./list_address.js";
import { OrderTable } from "./order_table.js";

const PAGE_SIZE = 50;
const REFRESH_MS = 2000;
const TIMES = ["createdFrom", "createdTo"];
const FILTERS = ["id", "userId", "status", "paymentStatus", "show", ...TIMES, "first"];
// They apply as soon as they are chosen.
const CHOICES = ["paymentStatus", "show", "first"];

export class OrderList {
  #form; #table; #address; #view; #owner = ""; #busy = false; #again = false; #onChanged; #onPlace;

  // `onChanged(orders)` gets the orders that are new or changed since the last look; `onPlace()` places one.
  constructor({ onChanged, onPlace }) {
    this.#form = by("filters");
    [this.#onChanged, this.#onPlace] = [onChanged, onPlace];
    this.#table = new OrderTable(by("orders"), (sort) => this.#address.go({ ...this.#view, sort }));
    this.#form.addEventListener("submit", (event) => { event.preventDefault(); this.#apply(); });
    for (const name of CHOICES) this.#form.elements[name].addEventListener("change", () => this.#apply());
    by("export").addEventListener("click", () => this.#export());
    this.#address = new ListAddress(this.#form.closest("section"), "/", [...FILTERS, "sort"], () => this.#open());
    addEventListener("visibilitychange", () => this.refresh());
    setInterval(() => this.refresh(), REFRESH_MS);
    this.#open();
  }

  // Shows this user's orders only; an empty id means the orders of all users.
  restrictTo(userId) {
    if (this.#owner === userId) return;
    this.#owner = userId;
    this.#table.reset();
    this.#showForm();
    this.refresh();
  }

  // Offers these statuses of payments to select by.
  offerPaymentStatuses(statuses) {
    const { paymentStatus } = this.#form.elements;
    paymentStatus.append(...statuses.map((status) => el("option", { value: status }, status)));
    paymentStatus.value = this.#view.paymentStatus;
  }

  // Requests the page again.
  async refresh() {
    if (document.hidden) return;
    if (this.#busy) {
      this.#again = true;
      return;
    }
    [this.#busy, this.#again] = [true, false];
    const address = requestOf(this.#view, this.#owner, PAGE_SIZE);
    try {
      const page = await get(address);
      if (address === requestOf(this.#view, this.#owner, PAGE_SIZE)) this.#show(page);
    } catch (error) {
      if (error.status) this.#refused(error);
    } finally {
      this.#busy = false;
      if (this.#again) this.refresh();
    }
  }

  #open() {
    this.#view = this.#address.view;
    sessionStorage.setItem("orderflow-list", location.search);
    clearErrors(this.#form);
    this.#table.reset();
    this.#showForm();
    this.refresh();
  }

  #showForm() {
    const { elements } = this.#form;
    for (const name of FILTERS) elements[name].value = TIMES.includes(name) ? localTime(this.#view[name]) : this.#view[name];
    if (this.#owner) elements.userId.value = this.#owner;
    elements.userId.readOnly = elements.show.disabled = Boolean(this.#owner);
    for (const name of ["userId", "status", "paymentStatus", ...TIMES, "first"]) elements[name].disabled = isShownAlone(this.#view);
    by("export").hidden = isShownAlone(this.#view);
    by("clear").hidden = !this.#filtered();
    by("clear").dataset.view = "";
  }

  #filtered() {
    return FILTERS.some((name) => this.#view[name]);
  }

  #apply() {
    const { id, userId, status, paymentStatus, show, createdFrom, createdTo, first } = this.#form.elements;
    const wanted = id.value.trim().toLowerCase();
    if (ORDER_ID.test(wanted)) {
      location.assign(pathOfOrder(wanted));
      return;
    }
    this.#address.go(firstPage({
      ...this.#view, id: wanted, userId: this.#owner ? "" : userId.value.trim(), status: status.value.trim(), paymentStatus: paymentStatus.value,
      show: show.value, createdFrom: utcTime(createdFrom.value), createdTo: utcTime(createdTo.value), first: first.value,
    }));
  }

  async #export() {
    const button = by("export");
    button.disabled = true;
    setText(by("message"), "Exporting…");
    try {
      await saveFile(exportOf(this.#view, this.#owner, "csv"), "orders.csv");
      setText(by("message"), "The orders are saved as orders.csv.");
    } catch (error) {
      setText(by("message"), error instanceof Problem ? `Nothing is exported: ${error.message}.` : "The export was cut off. Try again.");
    } finally {
      button.disabled = false;
    }
  }

  #show({ orders, hasMore, nextCursor }) {
    const found = this.#view.id ? orders.filter((order) => order.id.includes(this.#view.id)) : orders;
    const changed = this.#table.show(found, this.#view.sort);
    by("orders").classList.toggle("nothing", !found.length);
    this.#showEmpty(found, orders);
    this.#showNote(found, orders);
    this.#address.showPager(hasMore ? nextCursor : "", Boolean(this.#view.first));
    if (changed.length) this.#onChanged(changed);
  }

  #showNote(found, orders) {
    const order = this.#view.sort ? "sorted within this page" : this.#view.first ? "oldest first" : "newest first";
    const many = this.#view.id
      ? `${found.length} of the ${plural(orders.length, "order")} on this page; a whole id of 24 characters finds any order.`
      : `${plural(orders.length, "order")}, ${order}.`;
    setText(by("list-note"), found.length || this.#view.id ? many : "");
  }

  #showEmpty(found, orders) {
    const none = by("orders-none");
    none.hidden = found.length > 0;
    if (found.length) return;
    const fresh = !orders.length && !this.#filtered() && !this.#view.cursor;
    const kind = fresh ? "fresh" : this.#view.id ? "id" : "filters";
    if (none.dataset.kind === kind) return;
    none.dataset.kind = kind;
    none.replaceChildren(...(fresh
      ? [el("p", {}, el("strong", {}, "No orders yet.")), el("p", {}, "Place one and watch it on its way, or send one with POST /orders."),
        el("button", { type: "button", class: "primary", onclick: this.#onPlace }, "Place the first order")]
      : [el("p", {}, this.#view.id ? "No order on this page has this in its id." : "No order matches."),
        this.#view.id && el("p", {}, "This searches the ids of orders only. The log says which order a request or a payment id belongs to."), el("a", { href: "/", "data-view": "" }, "Show all orders")].filter(Boolean)));
  }

  #refused(error) {
    const { userId, status, paymentStatus, show, createdFrom, createdTo } = this.#form.elements;
    const fields = { userId, status, paymentStatus, createdFrom, createdTo, stuck: show, deadLetter: show, refundFailed: show };
    const named = fields[error.body.parameter];
    if (named && this.#form.querySelector("[aria-invalid]")) return;
    const errors = named ? [{ pointer: `/${named.name}`, detail: error.message }] : [];
    const rest = showProblem(this.#form, { message: error.message, errors });
    setText(by("list-note"), rest || "The list cannot be shown with these filters.");
    this.#table.show([], "");
  }
}
