// The list of an endpoint's deliveries: filters and page in the address.

import { pathOfDelivery, pathOfOrder } from "./address.js";
import { get } from "./api.js";
import { curlButton } from "./curl.js";
import { arrangeValues, by, el, setText } from "./elements.js";
import { attemptText } from "./endpoint_view.js";
import { clearErrors, showProblem } from "./fields.js";
import { dateTime, inputTime, localInput, plural } from "./format.js";
import { firstPage, ListAddress } from "./list_address.js";
import { chip } from "./status.js";

const PAGE_SIZE = 25;
const TAIL = 6;
const FILTERS = ["status", "orderId", "since", "until"];
const TIMES = ["since", "until"];

export class DeliveryList {
  #path; #form; #address; #view; #onChange;

  // `onChange()` is called when the visitor has changed the view: it should load.
  constructor(endpointId, onChange) {
    [this.#path, this.#form, this.#onChange] = [`/webhooks/endpoints/${endpointId}/deliveries`, by("filters"), onChange];
    this.#address = new ListAddress(this.#form.closest("section"), location.pathname, FILTERS, () => { this.#open(); this.#onChange(); });
    this.#form.addEventListener("submit", (event) => { event.preventDefault(); this.#apply(); });
    this.#form.elements.status.addEventListener("change", () => this.#apply());
    this.#open();
  }

  async load() {
    const request = this.#request();
    try {
      const page = await get(request);
      if (request === this.#request()) this.#show(page);
    } catch (error) {
      // Errors of the filters; others are about more than this list.
      if (error.status !== 400) throw error;
      this.#refused(error);
    }
  }

  #open() {
    this.#view = this.#address.view;
    clearErrors(this.#form);
    for (const name of FILTERS) this.#form.elements[name].value = TIMES.includes(name) ? localInput(this.#view[name]) : this.#view[name];
    by("clear").hidden = !this.#filtered();
    by("clear").href = location.pathname;
    by("clear").dataset.view = "";
    curlButton(by("deliveries-curl"), this.#request(), "deliveries");
  }

  #filtered() {
    return FILTERS.some((name) => this.#view[name]);
  }

  #request() {
    const query = new URLSearchParams({ limit: PAGE_SIZE });
    for (const name of [...FILTERS, "cursor"]) if (this.#view[name]) query.set(name, this.#view[name]);
    return `${this.#path}?${query}`;
  }

  #apply() {
    const { elements } = this.#form;
    const values = Object.fromEntries(FILTERS.map((name) => [name, elements[name].value.trim()]));
    for (const name of TIMES) values[name] = inputTime(values[name]);
    this.#address.go(firstPage({ ...this.#view, ...values }));
  }

  #show({ deliveries, hasMore, nextCursor }) {
    const now = Date.now();
    arrangeValues(by("deliveries").tBodies[0], deliveries.map((delivery) => ({ ...delivery, due: Date.parse(delivery.nextAttemptAt) <= now })), row);
    by("deliveries").hidden = !deliveries.length;
    setText(by("list-note"), deliveries.length ? `${plural(deliveries.length, "delivery", "deliveries")}, newest first.` : "");
    this.#showEmpty(deliveries);
    this.#address.showPager(hasMore ? nextCursor : "");
  }

  #showEmpty(deliveries) {
    const none = by("deliveries-none");
    none.hidden = deliveries.length > 0;
    const kind = this.#filtered() || this.#view.cursor ? "filters" : "fresh";
    if (none.hidden || none.dataset.kind === kind) return;
    none.dataset.kind = kind;
    none.replaceChildren(...(kind === "fresh"
      ? [el("p", {}, "Nothing was sent yet. Send a test event, or place an order.")]
      : [el("p", {}, "No delivery matches."), el("a", { href: location.pathname, "data-view": "" }, "Show all deliveries")]));
  }

  #refused(error) {
    if (this.#form.querySelector("[aria-invalid]")) return;
    setText(by("list-note"), showProblem(this.#form, error) || "The list cannot be shown with these filters.");
    by("deliveries").hidden = true;
    by("deliveries-none").hidden = true;
    this.#address.showPager("");
  }
}

const row = (delivery) => el("tr", { "data-id": delivery.id },
  el("th", { scope: "row", class: "time" }, el("a", { href: pathOfDelivery(delivery.id) },
    el("time", { datetime: delivery.createdAt }, dateTime(delivery.createdAt, true)))),
  el("td", { class: "type" }, el("code", {}, delivery.type)),
  el("td", { class: "order-of" }, delivery.orderId ? orderLink(delivery.orderId) : null),
  el("td", { class: "status" }, chip(delivery.status, "Status")),
  el("td", { class: "attempt" }, ...lastAttempt(delivery)),
  el("td", { class: "time next-at" }, delivery.nextAttemptAt ? el("time", { datetime: delivery.nextAttemptAt }, delivery.due ? "due" : dateTime(delivery.nextAttemptAt)) : null));

const orderLink = (id) => el("a", { href: pathOfOrder(id), title: id, "aria-label": `Order ${id}` }, el("code", {}, `…${id.slice(-TAIL)}`));

function lastAttempt({ attempts = [] }) {
  if (!attempts.length) return [el("span", { class: "note" }, "none yet")];
  return [attemptText(attempts.at(-1)), ...(attempts.length > 1 ? [" ", el("span", { class: "note" }, `(${plural(attempts.length, "attempt")})`)] : [])];
}
