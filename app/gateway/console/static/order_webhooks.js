// The deliveries of webhooks about one order, for each endpoint of the visitor's that is told of it.

import { pathOfDelivery, pathOfEndpoint } from "./address.js";
import { get } from "./api.js";
import { curlButton } from "./curl.js";
import { arrange, arrangeValues, el } from "./elements.js";
import { attemptText } from "./endpoint_view.js";
import { dateTime } from "./format.js";
import { chip } from "./status.js";

const REFRESH_MS = 3000;
// Deliveries are recorded shortly after the order's change that they tell.
const SETTLE_MS = 20_000;
const MAX_DELIVERIES = 20;
// Clocks may differ by less than this.
const TOLERANCE_MS = 60_000;

export class OrderWebhooks {
  #section; #list; #groups = new Map(); #order = null; #version = 0; #until = 0; #busy = false;

  constructor(section, list) {
    [this.#section, this.#list] = [section, list];
    setInterval(() => this.#refresh(), REFRESH_MS);
  }

  // Shows what is told about this order, until its last change is told.
  follow(order) {
    this.#order = order;
    if (order.version === this.#version) return;
    this.#version = order.version;
    this.#until = performance.now() + SETTLE_MS;
    this.#refresh();
  }

  async #refresh() {
    if (!this.#order || this.#busy || document.hidden || !this.#isDue()) return;
    this.#busy = true;
    try {
      // One page has them all: a user's own endpoints are few, and so are those of all users.
      const { endpoints } = await get(`/webhooks/endpoints?${new URLSearchParams({ userId: this.#order.userId })}`);
      arrange(this.#list, await Promise.all(endpoints.map((endpoint) => this.#group(endpoint))));
      this.#section.hidden = !endpoints.length;
    } catch {
      // What was shown stays; the page says by itself that the server does not answer.
    } finally {
      this.#busy = false;
    }
  }

  // While the order's last change is fresh, and while an attempt is near.
  #isDue() {
    const soon = Date.now() + 2 * REFRESH_MS;
    return performance.now() < this.#until ||
      [...this.#groups.values()].some(({ deliveries }) => deliveries.some(({ nextAttemptAt }) => nextAttemptAt && Date.parse(nextAttemptAt) < soon));
  }

  async #group(endpoint) {
    const path = this.#path(endpoint);
    const found = await get(path);
    let group = this.#groups.get(endpoint.id);
    if (!group) this.#groups.set(endpoint.id, (group = newGroup(endpoint, path, this.#order.id)));
    group.deliveries = found.deliveries;
    arrangeValues(group.list, found.deliveries, item);
    group.none.hidden = found.deliveries.length > 0;
    group.more.hidden = !found.hasMore;
    return group.element;
  }

  // Nothing about an order is older than the order, and with this bound older deliveries need not be searched.
  #path({ id }) {
    const since = new Date(Date.parse(this.#order.createdAt) - TOLERANCE_MS).toISOString();
    return `/webhooks/endpoints/${id}/deliveries?${new URLSearchParams({ limit: MAX_DELIVERIES, orderId: this.#order.id, since })}`;
  }
}

function newGroup(endpoint, path, orderId) {
  const list = el("ul", { class: "deliveries-of" });
  const none = el("p", { class: "note" }, "Nothing was sent about this order.");
  const more = el("a", { class: "note", href: pathOfEndpoint(endpoint.id, orderId), hidden: true }, "All deliveries about this order");
  const curl = el("div");
  const element = el("div", { class: "webhook-group" },
    el("div", { class: "head" }, el("h3", { class: "url" }, el("a", { href: pathOfEndpoint(endpoint.id, orderId), title: endpoint.url }, endpoint.url)), curl), list, none, more);
  curlButton(curl, path, `deliveries to ${endpoint.url.slice(0, 60)}`);
  return { element, list, none, more, deliveries: [] };
}

const item = ({ id, type, status, createdAt, nextAttemptAt, attempts = [] }) => el("li", {},
  chip(status, "Status"),
  el("a", { href: pathOfDelivery(id) }, el("code", {}, type)),
  el("span", { class: "note" }, [
    dateTime(createdAt, true),
    attempts.length ? attemptText(attempts.at(-1)) : "no attempt yet",
    nextAttemptAt ? `next attempt ${dateTime(nextAttemptAt)}` : "",
  ].filter(Boolean).join(", ")));
