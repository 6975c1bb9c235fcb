// One order: its state and the reason, what comes next, and its timeline, which is followed live.

import { call, curl, followStream, get, serverNow } from "./api.js";
import { postWithRetries } from "./place.js";
import { chip, clock, command, el, money, ms } from "./show.js";
import { waterfall, waterfallRows } from "./waterfall.js";

const REFRESH_MS = 1500;
const TYPE_NAMES = {
  OrderCreated: "Placed", OrderUpdated: "Status changed", OrderCancelled: "Cancelled", RefundRequested: "Refund requested",
  CaptureRequested: "Capture requested", PaymentActionRequired: "Customer must act", PaymentDelayed: "Waits for a bank",
  PaymentAuthorized: "Authorized", PaymentDisputed: "Disputed", PaymentDisputeClosed: "Dispute ended",
  PaymentCaptured: "Captured", PaymentDeclined: "Declined", PaymentVoided: "Voided",
  PaymentRefunded: "Refunded", PaymentRefundFailed: "Refund failed", PaymentParked: "Parked for an operator",
};

// The sentence with its times in the visitor's time zone.
const withLocalTimes = (sentence) => sentence.replace(/\d{4}-\d\d-\d\dT[\d:.]+Z/g, clock);

// Whether an address, which may be a path of this server, is one of a page and not of a script.
const isPage = (url) => URL.canParse(url, location.href) && /^https?:$/.test(new URL(url, location.href).protocol);

export class OrderView {
  #container; #states; #statesNote; #paymentStatuses; #onChange; #onEntry;
  #id = ""; #end = () => {}; #entries = []; #order = null; #explanation = null; #latency = { stages: [], attempts: [] };
  #at = 0; #parts = {}; #due = 0; #busy = false; #again = false; #actions = ""; #next = "";

  constructor(container, states, statesNote, paymentStatuses, { onChange, onEntry }) {
    [this.#container, this.#states, this.#statesNote, this.#paymentStatuses] = [container, states, statesNote, paymentStatuses];
    [this.#onChange, this.#onEntry] = [onChange, onEntry];
    setInterval(() => this.#tick(), 100);
    this.close();
  }

  get id() {
    return this.#id;
  }

  open(id) {
    this.close();
    this.#id = id;
    this.#parts = this.#skeleton(id);
    this.#container.replaceChildren(...Object.values(this.#parts));
    this.#end = followStream(`/orders/one/${id}/events`, {
      event: (_, entry) => this.#addEntry(entry),
      state: (state, problem) => this.#state(state, problem),
    });
  }

  close() {
    this.#end();
    this.#id = "";
    [this.#entries, this.#order, this.#explanation, this.#latency, this.#at] = [[], null, null, { stages: [], attempts: [] }, 0];
    [this.#actions, this.#next] = ["", ""];
    this.#container.replaceChildren(el("p", { class: "empty" }, "Choose an order from the list, open one by its id, or place one."));
    this.#states.mark([]);
    this.#paymentStatuses.mark([]);
    this.#statesNote.textContent = "All transitions of an order.";
  }

  // Fetches everything that is not on the timeline.
  async refresh() {
    if (!this.#id || document.hidden) return;
    if (this.#busy) {
      this.#again = true;
      return;
    }
    [this.#busy, this.#again] = [true, false];
    const id = this.#id;
    try {
      const [found, explanation, latency] = await Promise.all(["", "/explain", "/latency"].map((part) => get(`/orders/one/${id}${part}`)));
      if (id !== this.#id) return;
      [this.#order, this.#explanation, this.#latency] = [found.order, explanation, latency];
      this.#render();
    } catch {
      // The stream reports the failure and reconnects.
    } finally {
      this.#busy = false;
      this.#due = performance.now() + REFRESH_MS;
      if (this.#again) this.refresh();
    }
  }

  #state(state, problem) {
    if (state === "live") this.refresh();
    if (state === "rejected") this.#container.replaceChildren(el("p", { class: "empty", role: "alert" }, `The order cannot be shown: ${problem.message}.`));
  }

  #addEntry(entry) {
    if (entry.orderId !== this.#id || this.#entries.some((known) => known.sequence === entry.sequence)) return;
    const atEnd = this.#at === this.#entries.length;
    this.#entries.push(entry);
    if (atEnd) this.#at = this.#entries.length;
    this.#onEntry(entry);
    this.#render();
    this.refresh();
  }

  #tick() {
    if (!this.#explanation) return;
    const next = this.#explanation.nextAttemptAt;
    const left = next ? Date.parse(next) - serverNow() : 0;
    const text = next ? (left > 0 ? `Next attempt in ${ms(left)}` : "The next attempt is due") : "";
    if (this.#parts.countdown.textContent !== text) this.#parts.countdown.textContent = text;
    this.#parts.countdown.hidden = !text;
    if (this.#explanation.waitsFor !== "nothing" && performance.now() > this.#due) this.refresh();
  }

  #skeleton(id) {
    return {
      name: el("div", { class: "order-name" }),
      sentence: el("p", { class: "sentence" }, "Loading…"),
      countdown: el("p", { class: "countdown", hidden: true }),
      next: el("div", { class: "next", hidden: true }),
      id: el("p", { class: "note id" }, "Order ", el("code", {}, id)),
      actions: el("div", { class: "actions" }),
      answer: el("p", { class: "message", role: "status" }),
      command: el("div", {}),
      slider: el("div", { class: "slider" }),
      timeline: el("div", {}),
      stages: el("div", {}),
    };
  }

  #render() {
    const last = this.#entries.at(-1);
    if (!last) return;
    const then = this.#entries[this.#at - 1] || last;
    this.#renderName(then, then === last);
    this.#renderSlider();
    this.#renderTimeline();
    this.#states.mark(["(new)", ...this.#entries.slice(0, this.#at).map((entry) => entry.to)].filter((state, at, all) => state !== all[at - 1]));
    this.#statesNote.textContent = "The states of this order.";
    this.#paymentStatuses.mark(this.#entries.slice(0, this.#at).map((entry) => entry.paymentStatus));
    if (!this.#explanation) return;
    this.#parts.sentence.textContent = then === last ? withLocalTimes(this.#explanation.sentence) : `After change ${this.#at}: ${then.to}, payment ${then.paymentStatus}.`;
    this.#renderNext();
    this.#renderActions();
    const rows = waterfallRows(this.#latency, this.#entries);
    const until = then === last ? Infinity : Date.parse(then.at);
    this.#parts.stages.replaceChildren(el("h3", {}, "Latency"),
      rows.length ? waterfall(rows, until) : el("p", { class: "note" }, "No stages are known."),
      el("p", { class: "note" }, this.#latency.stages.length ? this.#attempts() : `${this.#attempts()} Its stages are no longer in the live feed; these are the entries of its timeline.`));
  }

  #attempts() {
    const made = this.#explanation.attempts;
    return made === null ? "Payments do not answer how often the provider was called." : `The provider was called ${made === 1 ? "once" : `${made} times`}.`;
  }

  #renderName(then, now) {
    const name = this.#order ? [el("strong", {}, this.#order.productName), el("span", {}, this.#order.totalOrderAmount), el("span", { class: "note" }, `for ${this.#order.userId}`), ...this.#amounts()] : [];
    this.#parts.name.replaceChildren(el("div", { class: "title" }, ...name),
      el("div", { class: "chips" }, chip(then.to, "Order"), el("span", { class: "note" }, "payment"), chip(then.paymentStatus, "Payment"),
        now ? null : el("span", { class: "chip past" }, "past state")));
  }

  // What is held and what was taken, where that is not simply the total.
  #amounts() {
    return ["authorized", "captured"].filter((name) => this.#order[name]).map((name) => el("span", { class: "note" }, `${name} ${money(this.#order[name])}`));
  }

  // What the customer must do: the provider's page, or a page of the shop, which alone may use the secret.
  #renderNext() {
    const action = this.#order?.nextAction;
    const key = JSON.stringify(action ?? null);
    if (key === this.#next) return;
    this.#next = key;
    const { next } = this.#parts;
    next.hidden = !action;
    if (!action) return next.replaceChildren();
    const page = action.type === "redirect" && isPage(action.url);
    next.replaceChildren(
      el("span", {}, page ? "The customer must act at the provider." : "The customer must confirm the payment in a page of the shop."),
      page ? el("a", { href: action.url, target: "_blank", rel: "noopener noreferrer" }, "Continue") : null,
      el("span", {}, `until ${new Date(action.expiresAt).toLocaleString("en-GB")}`));
  }

  #renderSlider() {
    const last = this.#entries.length;
    const { slider } = this.#parts;
    if (!slider.children.length) {
      const range = el("input", { type: "range", min: "1", step: "1", id: "as-of", oninput: () => { this.#at = Number(range.value); this.#render(); } });
      slider.append(el("label", { for: "as-of" }, "The order as of change ", el("output", { for: "as-of" })), range);
    }
    slider.hidden = last < 2;
    const range = slider.querySelector("input");
    range.max = last;
    if (Number(range.value) !== this.#at) range.value = this.#at;
    const then = this.#entries[this.#at - 1];
    range.setAttribute("aria-valuetext", `change ${this.#at} of ${last}: ${TYPE_NAMES[then.type] || then.type}`);
    slider.querySelector("output").textContent = `${this.#at} of ${last}`;
  }

  #renderTimeline() {
    const items = this.#entries.map((entry, at) => el("li", { class: at >= this.#at ? "later" : "" },
      el("time", { datetime: entry.at }, clock(entry.at)),
      el("span", { class: "what" }, el("strong", {}, TYPE_NAMES[entry.type] || entry.type), ` by ${entry.actor === "client" ? "a client" : entry.actor}`,
        entry.from === entry.to ? ", " : `, ${entry.from} → ${entry.to}, `, `payment ${entry.paymentStatus}`),
      entry.detail ? el("span", { class: "detail" }, entry.detail) : null,
      at ? el("span", { class: "gap" }, `+${ms(Date.parse(entry.at) - Date.parse(this.#entries[at - 1].at))}`) : null));
    this.#parts.timeline.replaceChildren(el("h3", {}, "Timeline"), el("ol", { class: "timeline" }, items));
  }

  // Rebuilt only when other actions are allowed, so that text in the inputs stays.
  #renderActions() {
    const { allowed, actions, onCancel } = this.#explanation;
    const key = JSON.stringify([allowed, actions, onCancel]);
    if (key === this.#actions) return;
    this.#actions = key;
    const rows = [];
    if (actions.includes("capture")) rows.push(this.#withInput("Capture", "Amount to capture, empty for all", "", (text) => ["POST", `/orders/one/${this.#id}/capture`, text ? { amount: text } : {}]));
    if (allowed.includes("Confirm")) rows.push(this.#button("Confirm", () => ["PUT", "/orders", { orderId: this.#id, orderStatus: "Confirm" }]));
    if (allowed.includes("Cancelled")) rows.push(this.#button("Cancel", () => ["PUT", "/orders", { orderId: this.#id, orderStatus: "Cancelled" }], onCancel));
    if (allowed.includes("(custom)")) rows.push(this.#withInput("Set status", "Custom status", "Packed", (text) => ["PUT", "/orders", { orderId: this.#id, orderStatus: text }]));
    if (actions.includes("refund")) rows.push(this.#withInput("Refund", "Amount, empty for all", "RM 10", (text) => ["POST", `/orders/one/${this.#id}/refunds`, text ? { amount: text } : {}]));
    this.#parts.actions.replaceChildren(...(rows.length ? rows : [el("p", { class: "note" }, "No action is possible now.")]));
  }

  #button(name, request, note) {
    return el("div", { class: "action" },
      el("button", { type: "button", onclick: () => this.#do(name, request()) }, name),
      this.#curl(name, request), note ? el("span", { class: "note" }, note) : null);
  }

  #withInput(name, label, value, request) {
    const input = el("input", { value, maxlength: "64", autocomplete: "off", "aria-label": label, placeholder: label });
    const current = () => request(input.value.trim());
    return el("form", { class: "action", onsubmit: (event) => { event.preventDefault(); this.#do(name, current()); } },
      input, el("button", { type: "submit" }, name), this.#curl(name, current));
  }

  #curl(name, request) {
    const show = () => this.#parts.command.replaceChildren(command(curl(...request()), name));
    return el("button", { type: "button", class: "quiet", "aria-label": `curl of: ${name}`, onclick: show }, "curl");
  }

  async #do(name, [method, path, body]) {
    const { answer } = this.#parts;
    answer.dataset.tone = "";
    answer.textContent = `${name}…`;
    try {
      const done = method === "POST" ? await postWithRetries(method, path, body, (reason) => { answer.textContent = reason; }) : await call(method, path, { body });
      const part = done.refund ?? done.capture;
      const amount = part ? ` of ${money(part.amount)}` : "";
      answer.textContent = `${name}${amount}: done.`;
      this.#onChange();
      this.refresh();
    } catch (error) {
      answer.dataset.tone = "bad";
      answer.textContent = `${name}: ${error.message}`;
    }
  }
}
