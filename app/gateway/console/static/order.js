// One order: where it is, why, what comes next, and how it came there. The timeline is the record and is followed live.

import { call, curl, follow, get, serverNow } from "./api.js";
import { patiently } from "./place.js";
import { chip, clock, command, el, money, ms } from "./show.js";
import { rowsOf, waterfall } from "./waterfall.js";

const OPEN_MS = 1500;
const REFUNDABLE = ["Captured", "Refunding", "Refunded"];
const TYPES = {
  OrderCreated: "Placed", OrderUpdated: "Moved on", OrderCancelled: "Cancelled", RefundRequested: "Refund asked for",
  PaymentCaptured: "Money taken", PaymentDeclined: "Declined", PaymentVoided: "Payment called off",
  PaymentRefunded: "Money given back", PaymentRefundFailed: "Refund given up", PaymentParked: "Parked for an operator",
};

// The sentence with its times as the visitor's clock shows them.
const plain = (sentence) => sentence.replace(/\d{4}-\d\d-\d\dT[\d:.]+Z/g, clock);

export class OrderView {
  #home; #machine; #machineNote; #told; #changed;
  #id = ""; #end = () => {}; #entries = []; #order = null; #why = null; #way = { stages: [], attempts: [] };
  #at = 0; #parts = {}; #due = 0; #busy = false; #again = false; #actions = "";

  constructor(home, machine, machineNote, { told, changed }) {
    [this.#home, this.#machine, this.#machineNote, this.#told, this.#changed] = [home, machine, machineNote, told, changed];
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
    this.#home.replaceChildren(...Object.values(this.#parts));
    this.#end = follow(`/orders/one/${id}/events`, {
      event: (_, entry) => this.#heard(entry),
      state: (state, problem) => this.#state(state, problem),
    });
  }

  close() {
    this.#end();
    this.#id = "";
    [this.#entries, this.#order, this.#why, this.#way, this.#at, this.#actions] = [[], null, null, { stages: [], attempts: [] }, 0, ""];
    this.#home.replaceChildren(el("p", { class: "empty" }, "Choose an order from the list, open one by its id, or place one."));
    this.#machine.mark([]);
    this.#machineNote.textContent = "Every step an order may take.";
  }

  // Look again at all that is not on the timeline.
  async refresh() {
    if (!this.#id || document.hidden) return;
    if (this.#busy) {
      this.#again = true;
      return;
    }
    [this.#busy, this.#again] = [true, false];
    const id = this.#id;
    try {
      const [found, why, way] = await Promise.all(["", "/explain", "/latency"].map((part) => get(`/orders/one/${id}${part}`)));
      if (id !== this.#id) return;
      [this.#order, this.#why, this.#way] = [found.order, why, way];
      this.#render();
    } catch {
      // The stream tells what is wrong, and comes again.
    } finally {
      this.#busy = false;
      this.#due = performance.now() + OPEN_MS;
      if (this.#again) this.refresh();
    }
  }

  #state(state, problem) {
    if (state === "live") this.refresh();
    if (state === "refused") this.#home.replaceChildren(el("p", { class: "empty", role: "alert" }, `No such order here: ${problem.message}.`));
  }

  #heard(entry) {
    if (entry.orderId !== this.#id || this.#entries.some((known) => known.sequence === entry.sequence)) return;
    const atEnd = this.#at === this.#entries.length;
    this.#entries.push(entry);
    if (atEnd) this.#at = this.#entries.length;
    this.#changed(entry);
    this.#render();
    this.refresh();
  }

  #tick() {
    if (!this.#why) return;
    const next = this.#why.nextAttemptAt;
    const left = next ? Date.parse(next) - serverNow() : 0;
    const words = next ? (left > 0 ? `Next attempt in ${ms(left)}` : "The next attempt is due") : "";
    if (this.#parts.countdown.textContent !== words) this.#parts.countdown.textContent = words;
    this.#parts.countdown.hidden = !words;
    if (this.#why.waitsFor !== "nothing" && performance.now() > this.#due) this.refresh();
  }

  #skeleton(id) {
    return {
      name: el("div", { class: "order-name" }),
      sentence: el("p", { class: "sentence" }, "Looking it up…"),
      countdown: el("p", { class: "countdown", hidden: true }),
      id: el("p", { class: "note id" }, "Order ", el("code", {}, id)),
      actions: el("div", { class: "actions" }),
      answer: el("p", { class: "said", role: "status" }),
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
    this.#machine.mark(["(new)", ...this.#entries.slice(0, this.#at).map((entry) => entry.to)].filter((state, at, all) => state !== all[at - 1]));
    this.#machineNote.textContent = "The way taken.";
    if (!this.#why) return;
    this.#parts.sentence.textContent = then === last ? plain(this.#why.sentence) : `As it was after step ${this.#at}: ${then.to}, payment ${then.paymentStatus}.`;
    this.#renderActions();
    const rows = rowsOf(this.#way, this.#entries);
    const until = then === last ? Infinity : Date.parse(then.at);
    this.#parts.stages.replaceChildren(el("h3", {}, "Where the time went"),
      rows.length ? waterfall(rows, until) : el("p", { class: "note" }, "Nothing is known of its stages."),
      el("p", { class: "note" }, this.#way.stages.length ? this.#attempts() : `${this.#attempts()} Its stages are no longer in the live feed; this is the record.`));
  }

  #attempts() {
    const made = this.#why.attempts;
    return made === null ? "Payments cannot say how often the provider was asked." : `The provider was asked ${made === 1 ? "once" : `${made} times`}.`;
  }

  #renderName(then, now) {
    const name = this.#order ? [el("strong", {}, this.#order.productName), el("span", {}, this.#order.totalOrderAmount), el("span", { class: "note" }, `for ${this.#order.userId}`)] : [];
    this.#parts.name.replaceChildren(el("div", { class: "title" }, ...name),
      el("div", { class: "chips" }, chip(then.to, "Order"), el("span", { class: "note" }, "payment"), chip(then.paymentStatus, "Payment"),
        now ? null : el("span", { class: "chip past" }, "as of then")));
  }

  #renderSlider() {
    const last = this.#entries.length;
    const { slider } = this.#parts;
    if (!slider.children.length) {
      const range = el("input", { type: "range", min: "1", step: "1", id: "as-of", oninput: () => { this.#at = Number(range.value); this.#render(); } });
      slider.append(el("label", { for: "as-of" }, "The order as of step ", el("output", { for: "as-of" })), range);
    }
    slider.hidden = last < 2;
    const range = slider.querySelector("input");
    range.max = last;
    if (Number(range.value) !== this.#at) range.value = this.#at;
    const then = this.#entries[this.#at - 1];
    range.setAttribute("aria-valuetext", `step ${this.#at} of ${last}: ${TYPES[then.type] || then.type}`);
    slider.querySelector("output").textContent = `${this.#at} of ${last}`;
  }

  #renderTimeline() {
    const items = this.#entries.map((entry, at) => el("li", { class: at >= this.#at ? "later" : "" },
      el("time", { datetime: entry.at }, clock(entry.at)),
      el("span", { class: "what" }, el("strong", {}, TYPES[entry.type] || entry.type), ` by ${entry.actor === "client" ? "a client" : entry.actor}`,
        entry.from === entry.to ? ", " : `, ${entry.from} → ${entry.to}, `, `payment ${entry.paymentStatus}`),
      entry.detail ? el("span", { class: "detail" }, entry.detail) : null,
      at ? el("span", { class: "gap" }, `+${ms(Date.parse(entry.at) - Date.parse(this.#entries[at - 1].at))}`) : null));
    this.#parts.timeline.replaceChildren(el("h3", {}, "Timeline"), el("ol", { class: "timeline" }, items));
  }

  // Built anew only when other steps are allowed: what somebody is typing stays.
  #renderActions() {
    const refunds = REFUNDABLE.includes(this.#why.paymentStatus) && this.#why.orderStatus !== "Cancelled";
    const key = JSON.stringify([this.#why.allowed, refunds, this.#why.onCancel]);
    if (key === this.#actions) return;
    this.#actions = key;
    const { allowed } = this.#why;
    const rows = [];
    if (allowed.includes("Confirm")) rows.push(this.#button("Confirm", () => ["PUT", "/orders", { orderId: this.#id, orderStatus: "Confirm" }]));
    if (allowed.includes("Cancelled")) rows.push(this.#button("Cancel", () => ["PUT", "/orders", { orderId: this.#id, orderStatus: "Cancelled" }], this.#why.onCancel));
    if (allowed.includes("(custom)")) rows.push(this.#typed("Set status", "Status of your own", "Packed", (text) => ["PUT", "/orders", { orderId: this.#id, orderStatus: text }]));
    if (refunds) rows.push(this.#typed("Refund", "Amount, empty for all", "RM 10", (text) => ["POST", `/orders/one/${this.#id}/refunds`, text ? { amount: text } : {}]));
    this.#parts.actions.replaceChildren(...(rows.length ? rows : [el("p", { class: "note" }, "Nothing may be done to it now.")]));
  }

  #button(name, request, note) {
    return el("div", { class: "action" },
      el("button", { type: "button", onclick: () => this.#do(name, request()) }, name),
      this.#curl(name, request), note ? el("span", { class: "note" }, note) : null);
  }

  #typed(name, label, value, request) {
    const input = el("input", { value, maxlength: "64", autocomplete: "off", "aria-label": label, placeholder: label });
    const wanted = () => request(input.value.trim());
    return el("form", { class: "action", onsubmit: (event) => { event.preventDefault(); this.#do(name, wanted()); } },
      input, el("button", { type: "submit" }, name), this.#curl(name, wanted));
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
      const done = method === "POST" ? await patiently(method, path, body, (why) => { answer.textContent = why; }) : await call(method, path, { body });
      const amount = done.refund ? ` of ${money(done.refund.amount)}` : "";
      answer.textContent = `${name}${amount}: done.`;
      this.#told();
      this.refresh();
    } catch (error) {
      answer.dataset.tone = "bad";
      answer.textContent = `${name}: ${error.message}`;
    }
  }
}
