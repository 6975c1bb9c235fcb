// Placing an order: what is sent, what came of it, and the same by hand.

import { call, curl, Problem } from "./api.js";
import { command } from "./show.js";

const NOTES = {
  1: "The simulated provider takes the money at once.",
  2: "The simulated provider declines it; no money moves.",
  slow: "The provider takes four seconds to answer; other orders go on.",
  flaky: "The provider is out of order twice, then takes the money. Watch the retries and their countdown.",
  "timeout-after-charge": "The provider takes the money and says nothing. It is asked by key, and never charges twice.",
};
const PATIENCE = 8;

export class Place {
  #form; #said; #placed;

  constructor(form, said, placed) {
    this.#form = form;
    this.#said = said;
    this.#placed = placed;
    form.addEventListener("submit", (event) => { event.preventDefault(); this.#place(); });
    form.addEventListener("change", () => this.#note());
    form.addEventListener("input", () => document.getElementById("place-command").replaceChildren());
    document.getElementById("place-curl").addEventListener("click", () => {
      document.getElementById("place-command").replaceChildren(command(curl("POST", "/orders", this.#body()), "Place order"));
    });
    this.#note();
  }

  // Whose orders are placed, where the token says so.
  actFor({ userId, admin }) {
    if (!userId) return;
    this.#form.elements.userId.value = userId;
    this.#form.elements.userId.readOnly = !admin;
  }

  #note() {
    document.getElementById("kind-note").textContent = NOTES[this.#form.elements.product.value];
  }

  #body() {
    const { userId, product, productName, amount } = this.#form.elements;
    return { userId: userId.value, productId: product.value, productName: productName.value, totalOrderAmount: amount.value };
  }

  async #place() {
    this.#said.textContent = "Placing…";
    this.#said.dataset.tone = "";
    try {
      const { created } = await patiently("POST", "/orders", this.#body(), (why) => { this.#said.textContent = why; });
      this.#said.textContent = `Placed order …${created.id.slice(-6)}.`;
      this.#placed(created.id);
    } catch (error) {
      this.#said.dataset.tone = "bad";
      this.#said.textContent = `Not placed: ${error.message}`;
    }
  }
}

// Send a POST with a key, again and again where the server is away: it has one effect.
export async function patiently(method, path, body, tell) {
  const random = crypto.getRandomValues(new Uint8Array(16));
  const key = Array.from(random, (byte) => byte.toString(16).padStart(2, "0")).join("");
  // Requests of this name are watched: the live feed tells of their orders however many others there are.
  const headers = { "Idempotency-Key": key, "X-Request-Id": `console-${key}` };
  for (let tries = 1; ; tries += 1) {
    try {
      return await call(method, path, { body, headers });
    } catch (error) {
      const passing = !(error instanceof Problem) || error.status === 503;
      if (!passing || tries >= PATIENCE) throw error;
      tell("The server is away; trying again with the same key…");
      await new Promise((resolve) => setTimeout(resolve, 500 * tries));
    }
  }
}
