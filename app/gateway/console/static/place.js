// The dialog that places an order: the request, its result, and its curl command.

import { newKey, postWithRetries } from "./api.js";
import { command, curl } from "./curl.js";
import { by, el } from "./elements.js";
import { clearErrors, showProblem } from "./fields.js";
import { pathOfOrder } from "./address.js";

const NOTES = {
  1: "The simulated provider captures the payment at once.",
  2: "The simulated provider declines it; no money moves.",
  slow: "The provider takes four seconds to answer; other orders are not delayed.",
  flaky: "The provider fails twice, then captures the payment. Watch the retries and their countdown.",
  "timeout-after-charge": "The provider captures the payment but does not answer. It is queried by key, and never charges twice.",
  pending: "The bank is awaited for some seconds; then the payment is captured.",
  "action-required": "The customer approves or refuses on a page of the provider: open the order, then Continue.",
  "refund-fails-later": "The provider captures the payment. Refund it: the refund succeeds, and fails some seconds later.",
  disputed: "The provider captures the payment; some seconds later the payer disputes it, and nothing can be refunded.",
};

export class PlaceDialog {
  #dialog; #form; #message; #key = newKey(); #onPlaced;

  constructor(onPlaced) {
    this.#dialog = by("place-dialog");
    this.#form = by("place-form");
    this.#message = this.#form.querySelector(".message");
    this.#onPlaced = onPlaced;
    this.#form.addEventListener("submit", (event) => { event.preventDefault(); this.#place(); });
    this.#form.addEventListener("input", () => { this.#key = newKey(); this.#show(); });
    this.#form.querySelector(".close").addEventListener("click", () => this.#dialog.close());
  }

  open() {
    this.#show();
    this.#dialog.showModal();
  }

  // Presets the token's user; only an admin may place orders for others.
  actFor(user) {
    if (!user?.userId) return;
    this.#form.elements.userId.value = user.userId;
    this.#form.elements.userId.readOnly = !user.admin;
  }

  #show() {
    clearErrors(this.#form);
    this.#message.textContent = "";
    // Only the simulated provider decides by the product.
    by("kind-note").textContent = this.#form.elements.product.type === "hidden" ? "" : NOTES[this.#form.elements.product.value];
    by("place-command").replaceChildren(command(curl("POST", "/orders", this.#body(), this.#key), "Place an order"));
  }

  #body() {
    const { userId, product, productName, totalOrderAmount, paymentMethod, capture } = this.#form.elements;
    return {
      userId: userId.value, productId: product.value, productName: productName.value, totalOrderAmount: totalOrderAmount.value,
      ...(paymentMethod.value.trim() && { paymentMethod: paymentMethod.value.trim() }),
      ...(capture.value && { capture: capture.value }),
    };
  }

  async #place() {
    clearErrors(this.#form);
    delete this.#message.dataset.tone;
    this.#message.textContent = "Placing…";
    try {
      const { created } = await postWithRetries("/orders", this.#body(), this.#key, (reason) => { this.#message.textContent = reason; });
      this.#key = newKey();
      this.#dialog.close();
      by("message").replaceChildren("Placed order ", el("a", { href: pathOfOrder(created.id) }, `…${created.id.slice(-6)}`), ": open it to follow it.");
      this.#onPlaced(created.id);
    } catch (error) {
      this.#message.dataset.tone = "bad";
      const rest = showProblem(this.#form, error);
      this.#message.textContent = rest && `Not placed. ${rest}`;
    }
  }
}
