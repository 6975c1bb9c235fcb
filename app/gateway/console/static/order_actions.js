// What can be done with an order: each action asks before it does anything, except the one that changes no money.

import { call } from "./api.js";
import { ask, textField } from "./dialog.js";
import { correctionsOf, isOperator, resolve } from "./desk_actions.js";
import { el } from "./elements.js";
import { money, parseAmount, plainAmount } from "./format.js";
import { seesAll } from "./token.js";

export class ActionBar {
  #bar; #message; #onDone; #shown = ""; #order;

  constructor(bar, message, onDone) {
    [this.#bar, this.#message, this.#onDone] = [bar, message, onDone];
  }

  // Rebuilt only when other actions are possible, so that focus stays.
  show(order, { allowed, actions, onCancel, waitsFor }, entries) {
    this.#order = order;
    const resolved = seesAll() && entries.some((entry) => isOperator(entry.actor));
    const parked = seesAll() && waitsFor === "an operator";
    const key = JSON.stringify([allowed, actions, onCancel, resolved, parked, order.refundable]);
    if (key === this.#shown) return;
    this.#shown = key;
    const buttons = [
      parked && el("a", { class: "decide", href: `/console/desk#case-${order.id}` }, "Decide at the desk"),
      actions.includes("capture") && this.#button("Capture…", () => this.#capture()),
      allowed.includes("Confirm") && this.#button("Confirm", () => this.#confirm()),
      allowed.includes("(custom)") && this.#button("Set status…", () => this.#setStatus()),
      actions.includes("refund") && order.refundable.value > 0 && this.#button("Refund…", () => this.#refund()),
      allowed.includes("Cancelled") && this.#button("Cancel order…", () => this.#cancel(onCancel)),
      resolved && this.#button("Correct the resolution…", () => this.#correct()),
    ].filter(Boolean);
    const note = onCancel && !actions.length ? [el("p", { class: "note" }, `On cancelling: ${onCancel}.`)] : [];
    this.#bar.replaceChildren(...(buttons.length ? [...buttons, ...note] : [el("p", { class: "note" }, "No action is possible now.")]));
  }

  #button = (name, act) => el("button", { type: "button", onclick: act }, name);

  #say(text) {
    delete this.#message.dataset.tone;
    this.#message.textContent = text;
    this.#onDone();
  }

  async #confirm() {
    try {
      await call("PUT", "/orders", { body: { orderId: this.#order.id, orderStatus: "Confirm" } });
      this.#say("Confirmed.");
    } catch (error) {
      this.#message.dataset.tone = "bad";
      this.#message.textContent = `Not confirmed: ${error.message}.`;
    }
  }

  async #setStatus() {
    const answer = await ask({
      title: "Set a custom status",
      fields: [textField("orderStatus", "Status", { maxlength: "64", hint: "1 to 64 visible characters, such as Packed. No money moves." })],
      check: ({ orderStatus }) => ({ orderStatus: orderStatus.trim() ? "" : "Write a status, such as Packed." }),
      submit: () => "Set status",
      request: ({ orderStatus }) => ["PUT", "/orders", { orderId: this.#order.id, orderStatus: orderStatus.trim() }],
    });
    if (answer) this.#say("The status is set.");
  }

  async #cancel(onCancel) {
    const { productName, totalOrderAmount, userId, refundable, id } = this.#order;
    const part = refundable.value ? ` (${money(refundable)})` : "";
    const answer = await ask({
      title: "Cancel this order?",
      lead: [el("p", {}, `${productName}, ${totalOrderAmount}, for ${userId}.`), el("p", {}, onCancel ? `For the money: ${onCancel}${part}.` : "No money is involved."),
        el("p", { class: "note" }, "A cancelled order cannot be taken up again.")],
      danger: true,
      submit: () => "Cancel the order",
      request: () => ["PUT", "/orders", { orderId: id, orderStatus: "Cancelled" }],
    });
    if (answer) this.#say("The order is cancelled.");
  }

  async #refund() {
    const { captured, refunded, pending, refundable, id } = this.#order;
    const amount = amountField(refundable, `All that is left: ${money(refundable)}`);
    const answer = await ask({
      title: "Refund",
      lead: [el("dl", { class: "facts amounts" }, ...facts([["Captured", captured], ["Refunded so far", refunded], ["Refund under way", pending], ["Left", refundable]]))],
      fields: [amount, textField("reason", "Reason (optional)", { hint: "It is shown with the refund." })],
      danger: true,
      check: (values) => ({ amount: amountError(values.amount, refundable, "is left") }),
      submit: (values) => `Refund ${amountText(values.amount, refundable.currency)}`.trim(),
      request: ({ amount: text, reason }) => ["POST", `/orders/one/${id}/refunds`, {
        amount: bodyAmount(text, refundable.currency), ...(reason.trim() && { reason: reason.trim() }),
      }],
    });
    if (answer) this.#say(`Refund of ${money(answer.refund.amount)}: on its way.`);
  }

  async #capture() {
    const { authorized, id } = this.#order;
    const answer = await ask({
      title: "Capture",
      lead: [el("dl", { class: "facts amounts" }, ...facts([["Authorized", authorized]])), el("p", { class: "note" }, "An amount is captured once. What is not captured is released.")],
      fields: [amountField(authorized, `All that is authorized: ${money(authorized)}`)],
      check: (values) => ({ amount: amountError(values.amount, authorized, "is authorized") }),
      submit: (values) => `Capture ${amountText(values.amount, authorized.currency)}`.trim(),
      request: ({ amount: text }) => ["POST", `/orders/one/${id}/capture`, { amount: bodyAmount(text, authorized.currency) }],
    });
    if (answer) this.#say(`Capture of ${money(answer.capture.amount)}: on its way.`);
  }

  async #correct() {
    const { id, total, userId, paymentStatus } = this.#order;
    if (await resolve(id, correctionsOf(paymentStatus), [["Amount", money(total)], ["User", userId]], true)) this.#say("The resolution is corrected.");
  }
}

const facts = (rows) => rows.filter(([, amount]) => amount).flatMap(([name, amount]) => [el("dt", {}, name), el("dd", {}, money(amount))]);

// An amount is never taken from an empty field: all of it has a button of its own.
function amountField(most, allText) {
  const field = textField("amount", `Amount in ${most.currency}`, { inputmode: "decimal", maxlength: "32" });
  const fill = () => {
    const input = field.querySelector("input");
    input.value = plainAmount(most);
    input.dispatchEvent(new Event("input", { bubbles: true }));
    input.focus();
  };
  field.append(el("button", { type: "button", class: "quiet fill", onclick: fill }, allText));
  return field;
}

function amountError(text, most, what) {
  if (!text.trim()) return "Write an amount: an empty field moves nothing.";
  const { error, amount } = parseAmount(text, most.currency);
  if (error) return error;
  return amount.value > most.value ? `Only ${money(most)} ${what}.` : "";
}

const amountText = (text, currency) => {
  const { amount } = parseAmount(text, currency);
  return amount ? money(amount) : "";
};

const bodyAmount = (text, currency) => {
  const { amount } = parseAmount(text, currency);
  return amount ? `${currency} ${plainAmount(amount)}` : "";
};
