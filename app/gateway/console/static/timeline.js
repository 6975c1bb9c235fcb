// An order's timeline, and a slider that shows the order as of any change.

import { el, setText } from "./elements.js";
import { dateTime, money, ms, withLocalTimes } from "./format.js";
import { typeName } from "./status.js";

export class Timeline {
  #list; #slider; #onMove; #range; #output;
  entries = [];
  // How many entries the page shows as passed.
  at = 0;

  constructor(list, slider, onMove) {
    [this.#list, this.#slider, this.#onMove] = [list, slider, onMove];
    this.#range = el("input", { type: "range", min: "1", step: "1", id: "as-of", oninput: () => { this.at = Number(this.#range.value); this.#render(); this.#onMove(); } });
    this.#output = el("output", { for: "as-of" });
    slider.append(el("label", { for: "as-of" }, "The order as of change ", this.#output), this.#range);
  }

  // Adds an entry unless it is known; returns whether it was new.
  add(entry) {
    if (this.entries.some((known) => known.sequence === entry.sequence)) return false;
    const atEnd = this.at === this.entries.length;
    this.entries.push(entry);
    if (atEnd) this.at = this.entries.length;
    this.#render();
    return true;
  }

  #render() {
    const last = this.entries.length;
    this.#list.replaceChildren(...this.entries.map((entry, index) => this.#item(entry, index)));
    this.#slider.hidden = last < 2;
    this.#range.max = last;
    if (Number(this.#range.value) !== this.at) this.#range.value = this.at;
    this.#range.setAttribute("aria-valuetext", `change ${this.at} of ${last}: ${typeName(this.entries[this.at - 1].type)}`);
    setText(this.#output, `${this.at} of ${last}`);
  }

  #item(entry, index) {
    const before = this.entries[index - 1];
    const status = entry.from === entry.to ? "" : `, ${entry.from} → ${entry.to}`;
    return el("li", { id: `change-${entry.sequence}`, class: index >= this.at ? "later" : "" },
      el("time", { datetime: entry.at }, dateTime(entry.at, true)),
      before ? el("span", { class: "gap" }, `+${ms(Date.parse(entry.at) - Date.parse(before.at))}`) : null,
      el("span", { class: "what" }, el("strong", {}, typeName(entry.type)), entry.amount ? el("strong", { class: "amount" }, ` ${money(entry.amount)}`) : null,
        ` by ${actorText(entry)}${status}, payment ${entry.paymentStatus}`),
      entry.detail ? el("span", { class: "detail" }, ...withPages(withLocalTimes(entry.detail))) : null,
      entry.requestId && entry.requestId !== before?.requestId ? el("span", { class: "detail" }, "request ", el("a", { href: `#request-${entry.requestId}` }, el("code", {}, entry.requestId))) : null);
  }
}

// The simulated provider's pages, of this server, become links; whatever else a text has stays text.
const PAGES = /(\/providers\/simulated\/actions\/[\w-]+)/;
const withPages = (text) =>
  text.split(PAGES).map((part, index) => (index % 2 ? el("a", { href: part, target: "_blank", rel: "noopener noreferrer" }, part) : part));

const actorText = ({ actor, caller }) => (actor === "client" ? (caller ? `client ${caller}` : "a client") : actor);
