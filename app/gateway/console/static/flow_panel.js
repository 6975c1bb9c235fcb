// Folds the flow diagram away: it is one line until it is wanted, and again when nothing has moved for a while.

const KEY = "orderflow-flow";
const IDLE_MS = 30_000;

export class FlowPanel {
  #details; #diagram; #choice = savedChoice();

  constructor(details, diagram) {
    [this.#details, this.#diagram] = [details, diagram];
    details.addEventListener("toggle", () => diagram.unfold(details.open));
    details.querySelector("summary").addEventListener("click", () => this.#choose(!details.open));
    details.open = this.#choice === "open";
    setInterval(() => this.#foldIdle(), 1000);
  }

  // Shows an order that was placed here on its way, unless the visitor has folded the diagram.
  follow(orderId) {
    this.#diagram.follow(orderId);
    if (this.#choice !== "folded") this.#details.open = true;
  }

  #choose(open) {
    this.#choice = open ? "open" : "folded";
    try {
      localStorage.setItem(KEY, this.#choice);
    } catch {
      // Storage is blocked: the choice lasts until the page is left.
    }
  }

  // Only what nobody has unfolded by hand.
  #foldIdle() {
    if (this.#details.open && this.#choice !== "open" && this.#diagram.idleFor > IDLE_MS) this.#details.open = false;
  }
}

function savedChoice() {
  try {
    return localStorage.getItem(KEY) || "";
  } catch {
    return "";
  }
}
