// The state diagram, drawn from the server's transitions, and the list of a payment's statuses; both show where an order has been.

import { el, svg } from "./elements.js";

const WIDE = {
  size: [660, 250],
  places: {
    "(new)": [48, 118], Processing: [176, 118], Success: [312, 48], Declined: [312, 200],
    Confirm: [454, 48], "(custom)": [596, 48], Cancelled: [454, 200],
  },
};
const NARROW = {
  size: [380, 420],
  places: {
    "(new)": [190, 24], Processing: [190, 100], Success: [90, 184], Declined: [300, 184],
    Confirm: [90, 268], "(custom)": [90, 364], Cancelled: [300, 324],
  },
};
const [WIDTH, HEIGHT] = [100, 34];
const BENDS = { "Success>(custom)": -0.34, "Processing>Cancelled": -0.04 };
const BENDS_NARROW = { "Success>(custom)": 0.62, "Processing>Cancelled": 0 };

export class StateDiagram {
  #container; #rules = []; #path = []; #nodes = {}; #edges = {};

  constructor(container) {
    this.#container = container;
    container.setAttribute("role", "img");
    new ResizeObserver(() => this.#draw()).observe(container);
  }

  show(rules) {
    this.#rules = rules;
    this.#draw();
  }

  // Highlights `path`, the states that an order has been in, oldest first.
  mark(path) {
    this.#path = path;
    for (const node of Object.values(this.#nodes)) node.classList.remove("been", "here");
    for (const edge of Object.values(this.#edges)) edge.classList.remove("taken");
    path.forEach((state, at) => {
      this.#nodes[this.#kind(state)]?.classList.add("been");
      if (at) this.#edges[`${this.#kind(path[at - 1])}>${this.#kind(state)}`]?.classList.add("taken");
    });
    const here = path.at(-1);
    if (here) this.#nodes[this.#kind(here)]?.classList.add("here");
    this.#container.setAttribute("aria-label", path.length
      ? `States of this order: ${path.join(", then ")}.`
      : `States and transitions: ${this.#rules.map((rule) => `${rule.from} by ${rule.by} to ${rule.to}`).join("; ")}.`);
  }

  #kind(state) {
    return state in this.#nodes ? state : "(custom)";
  }

  #draw() {
    if (!this.#rules.length) return;
    const narrow = this.#container.clientWidth < 480;
    const { size: [w, h], places } = narrow ? NARROW : WIDE;
    const known = { ...places };
    let spare = 0;
    for (const { from, to } of this.#rules) for (const state of [from, to]) known[state] ??= [60 + 110 * spare++, h - 20];
    const drawing = svg("svg", { viewBox: `0 0 ${w} ${h}` }, svg("defs", {}, arrow("tip", "tip"), arrow("tip-taken", "tip taken")));
    [this.#nodes, this.#edges] = [{}, {}];
    for (const rule of this.#rules) drawing.append(this.#edge(rule, known, narrow ? BENDS_NARROW : BENDS));
    for (const state of new Set(this.#rules.flatMap(({ from, to }) => [from, to]))) drawing.append(this.#node(state, known[state]));
    this.#container.replaceChildren(drawing);
    this.#container.style.maxWidth = `${w * 1.25}px`;
    this.mark(this.#path);
  }

  #node(state, [x, y]) {
    const node = svg("g", { class: "node" },
      svg("rect", { x: x - WIDTH / 2, y: y - HEIGHT / 2, width: WIDTH, height: HEIGHT, rx: HEIGHT / 2 }),
      svg("text", { x, y: y + 5 }, state));
    return (this.#nodes[state] = node);
  }

  #edge(rule, places, bends) {
    const [from, to] = [places[rule.from], places[rule.to]];
    const name = `${rule.from}>${rule.to}`;
    const d = rule.from === rule.to ? loop(from) : line(from, to, bends[name] ?? 0);
    const edge = svg("path", { d, class: "edge" }, svg("title", {}, `${rule.from} → ${rule.to}: ${rule.by}${rule.money ? ` (${rule.money})` : ""}`));
    return (this.#edges[name] = edge);
  }
}

export class PaymentStatusList {
  #list; #note; #rules = []; #path = [];

  constructor(list, note) {
    [this.#list, this.#note] = [list, note];
  }

  show(rules) {
    this.#rules = rules;
    this.mark(this.#path);
  }

  // Highlights `path`, the statuses that a payment has had, oldest first, and says what the last one means.
  mark(path) {
    this.#path = path;
    const here = path.at(-1);
    this.#list.replaceChildren(...this.#rules.map(({ status, meaning }) => el("li", {
      title: meaning,
      class: status === here ? "here" : path.includes(status) ? "been" : null,
      "aria-current": status === here ? "true" : null,
    }, status)));
    const rule = this.#rules.find(({ status }) => status === here);
    const text = rule ? `${here}: ${rule.meaning}.` : "";
    if (this.#note.textContent !== text) this.#note.textContent = text;
  }
}

const arrow = (id, name) => svg("marker", { id, class: name, viewBox: "0 0 8 8", refX: 7, refY: 4, markerWidth: 7, markerHeight: 7, orient: "auto" }, svg("path", { d: "M0 0L8 4L0 8z" }));

function line([fromX, fromY], [toX, toY], bend) {
  const middle = [(fromX + toX) / 2 - (toY - fromY) * bend, (fromY + toY) / 2 + (toX - fromX) * bend];
  const [startX, startY] = border([fromX, fromY], middle);
  const [endX, endY] = border([toX, toY], middle);
  return `M${startX} ${startY}Q${middle[0]} ${middle[1]} ${endX} ${endY}`;
}

const loop = ([x, y]) => `M${x - 16} ${y - HEIGHT / 2}C${x - 26} ${y - 46} ${x + 26} ${y - 46} ${x + 16} ${y - HEIGHT / 2}`;

// The point where the line from a node's centre towards another point leaves the node.
function border([x, y], [towardsX, towardsY]) {
  const [dx, dy] = [towardsX - x, towardsY - y];
  const share = Math.min((WIDTH / 2 + 3) / Math.abs(dx || 1e-9), (HEIGHT / 2 + 3) / Math.abs(dy || 1e-9));
  return [Math.round(x + dx * share), Math.round(y + dy * share)];
}
