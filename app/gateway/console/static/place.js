// The form that places an order: the request, its result, and its curl command.

import { call, curl, Problem } from "./api.js";
import { command } from "./show.js";

const NOTES = {
  1: "The simulated provider captures the payment at once.",
  2: "The simulated provider declines it; no money moves.",
  slow: "The provider takes four seconds to answer; other orders are not delayed.",
  flaky: "The provider fails twice, then captures the payment. Watch the retries and their countdown.",
  "timeout-after-charge": "The provider captures the payment but does not answer. It is queried by key, and never charges twice.",
  pending: "The bank is awaited for some seconds; then the payment is captured.",
  "action-required": "The customer approves or refuses on a page of the provider: open it with Continue.",
  "refund-fails-later": "The provider captures the payment. Refund it: the refund succeeds, and fails some seconds later.",
  disputed: "The provider captures the payment; some seconds later the payer disputes it, and nothing can be refunded.",
};
const MAX_ATTEMPTS = 8;

export class OrderForm {
  #form; #message; #onPlaced;

  constructor(form, message, onPlaced) {
    this.#form = form;
    this.#message = message;
    this.#onPlaced = onPlaced;
    form.addEventListener("submit", (event) => { event.preventDefault(); this.#place(); });
    form.addEventListener("change", () => this.#note());
    form.addEventListener("input", () => document.getElementById("place-command").replaceChildren());
    document.getElementById("place-curl").addEventListener("click", () => {
      document.getElementById("place-command").replaceChildren(command(curl("POST", "/orders", this.#body()), "Place order"));
    });
    this.#note();
  }

  // Presets the token's user; only an admin may place orders for others.
  actFor({ userId, admin }) {
    if (!userId) return;
    this.#form.elements.userId.value = userId;
    this.#form.elements.userId.readOnly = !admin;
  }

  #note() {
    document.getElementById("kind-note").textContent = NOTES[this.#form.elements.product.value];
  }

  #body() {
    const { userId, product, productName, amount, paymentMethod, capture } = this.#form.elements;
    return {
      userId: userId.value, productId: product.value, productName: productName.value, totalOrderAmount: amount.value,
      ...(paymentMethod.value.trim() && { paymentMethod: paymentMethod.value.trim() }),
      ...(capture.value && { capture: capture.value }),
    };
  }

  async #place() {
    this.#message.textContent = "Placing…";
    this.#message.dataset.tone = "";
    try {
      const { created } = await postWithRetries("POST", "/orders", this.#body(), (reason) => { this.#message.textContent = reason; });
      this.#message.textContent = `Placed order …${created.id.slice(-6)}.`;
      this.#onPlaced(created.id);
    } catch (error) {
      this.#message.dataset.tone = "bad";
      this.#message.textContent = `Not placed: ${error.message}`;
    }
  }
}

// Sends a POST with an idempotency key, and repeats it while the server is unavailable: it has one effect.
export async function postWithRetries(method, path, body, onRetry) {
  const random = crypto.getRandomValues(new Uint8Array(16));
  const key = Array.from(random, (byte) => byte.toString(16).padStart(2, "0")).join("");
  // The live feed never leaves out orders of requests whose id begins with console-.
  const headers = { "Idempotency-Key": key, "X-Request-Id": `console-${key}` };
  for (let attempt = 1; ; attempt += 1) {
    try {
      return await call(method, path, { body, headers });
    } catch (error) {
      const transient = !(error instanceof Problem) || error.status === 503;
      if (!transient || attempt >= MAX_ATTEMPTS) throw error;
      onRetry("The server is unavailable; trying again with the same key…");
      await new Promise((resolve) => setTimeout(resolve, 500 * attempt));
    }
  }
}
