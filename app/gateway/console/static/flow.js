// The flow diagram: modules as boxes, connections between them, and moving orders. Figures count every stage; dots are a sample.

import { svg, setText } from "./elements.js";
import { StageFigures, WINDOW_MS } from "./flow_figures.js";
import { CONNECTIONS, NAMES, NARROW, route, WIDE } from "./flow_layout.js";
import { count, ms, plural, rate } from "./format.js";
import { STAGE_NAMES } from "./stages.js";

const STAGES = {
  "gateway received": { path: ["client", "gateway"] },
  "orders received": { path: ["gateway", "orders"] },
  "order stored": { path: ["orders", "mongo", "orders"] },
  "event handed to payments": { path: ["orders", "payments"] },
  "payments received": { path: ["payments", "mongo", "payments", "provider"] },
  "payment processed": { path: ["provider", "payments"] },
  "result handed to orders": { path: ["payments", "orders"] },
  "orders received result": { path: ["orders"] },
  "order updated": { path: ["orders", "mongo"], ends: true },
};

const MAX_DOTS = 160;
const SEGMENT_MS = 420;
const IDLE_MS = 45_000;
const FADE_MS = 900;
// Stages that arrived so shortly before the diagram was unfolded are still drawn; those of orders placed here always.
const MISSED_MS = 3000;
const MAX_MISSED = 200;
const MAX_ENDED = 1000;

export class FlowDiagram {
  #scene; #note; #rows; #choose;
  #layout = WIDE; #canvas; #pen; #scale = 1;
  #texts = {}; #labels = {}; #rates = {}; #colours = {};
  #dots = new Map(); #figures = new StageFigures(); #drawing = false; #sampled = [];
  #queues = {}; #mine = new Set(); #restriction = "";
  #ended = new Map();
  #open = false; #missed = []; #stale = true; #activeAt = -Infinity;
  #reducedMotion = matchMedia("(prefers-reduced-motion: reduce)");

  constructor(scene, note, rows, choose) {
    this.#scene = scene;
    this.#note = note;
    this.#rows = rows;
    this.#choose = choose;
    scene.setAttribute("role", "img");
    scene.setAttribute("aria-label", "Client, gateway, orders, payments, provider and MongoDB, and orders moving between them; the figures are in the table below.");
    this.#buildRows();
    new ResizeObserver(() => this.#fit()).observe(scene);
    addEventListener("theme", () => { this.#readColours(); this.#draw(); });
    setInterval(() => this.#update(), 1000);
  }

  // Unfolds or folds the diagram: folded, nothing is drawn.
  unfold(open) {
    if (open === this.#open) return;
    this.#open = open;
    this.#fit();
    const missed = this.#missed.filter(({ line, at }) => this.#mine.has(line.order_id) || performance.now() - at < MISSED_MS);
    this.#missed = [];
    if (open) for (const { line } of missed) this.stage(line);
    else this.#dots.clear();
  }

  // For how long there has been nothing to show, in milliseconds.
  get idleFor() {
    return performance.now() - this.#activeAt;
  }

  // Shows what the visitor may not see, instead of the figures of all orders.
  restrict(text) {
    this.#restriction = text;
    setText(this.#note, text);
  }

  // Draws a stage of one order, unless the page is hidden.
  stage(line) {
    const known = STAGES[line.stage];
    if (!known || document.hidden) return;
    this.#activeAt = performance.now();
    if (!this.#open) {
      this.#missed.push({ line, at: this.#activeAt });
      if (this.#missed.length > MAX_MISSED) this.#missed.shift();
      return;
    }
    let dot = this.#dots.get(line.order_id);
    if (known.ends) this.#noteEnd(line);
    if (!dot) {
      // Processes report at their own pace: a stage from before the last one may arrive after it, and must not wait for it.
      if (line.at < this.#ended.get(line.order_id)) return;
      if (line.stage === "gateway received") this.#sampled.push(performance.now());
      if (line.stage === "order updated" || line.stage === "orders received result") return;
      if (this.#dots.size >= MAX_DOTS && !this.#mine.has(line.order_id)) return;
      const [x, y] = this.#layout.places[known.path[0]];
      dot = { id: line.order_id, box: known.path[0], last: known.path[0], path: [], x, y, tone: "busy", t: 0 };
      this.#dots.set(line.order_id, dot);
    }
    const [first, ...rest] = known.path;
    dot.path.push(...route(dot.last, first), ...rest);
    dot.last = known.path.at(-1);
    dot.updatedAt = performance.now();
    if (line.stage === "payment processed") dot.next = ["not attempted", "unknown"].includes(line.answer) ? "trouble" : "busy";
    if (known.ends) {
      dot.next = { Success: "good", Declined: "bad", Cancelled: "off" }[line.order_status] || "good";
      dot.ends = true;
    }
    this.#animate();
  }

  #noteEnd({ order_id: id, at }) {
    this.#ended.set(id, at);
    if (this.#ended.size > MAX_ENDED) this.#ended.delete(this.#ended.keys().next().value);
  }

  statistics(statistics) {
    this.#figures.add(statistics, performance.now());
    [this.#stale, this.#activeAt] = [true, performance.now()];
  }

  queues(queues) {
    const { now: _, ...counts } = queues;
    if (JSON.stringify(counts) === JSON.stringify(this.#queues)) return;
    [this.#queues, this.#stale] = [counts, true];
  }

  // Orders placed on this page are always drawn, and highlighted.
  follow(orderId) {
    this.#mine.add(orderId);
    this.#activeAt = performance.now();
  }

  #fit() {
    const width = this.#scene.clientWidth;
    if (!width || !this.#open) return;
    this.#layout = width < 640 ? NARROW : WIDE;
    const [w, h] = this.#layout.size;
    this.#scale = width / w;
    const ratio = Math.min(2, devicePixelRatio || 1);
    const canvas = document.createElement("canvas");
    canvas.width = Math.round(width * ratio);
    canvas.height = Math.round(h * this.#scale * ratio);
    canvas.setAttribute("aria-hidden", "true");
    this.#pen = canvas.getContext("2d");
    this.#pen.setTransform(this.#scale * ratio, 0, 0, this.#scale * ratio, 0, 0);
    this.#canvas = canvas;
    const drawing = this.#boxes(w, h);
    drawing.addEventListener("click", (event) => this.#clicked(event));
    this.#scene.replaceChildren(canvas, drawing);
    this.#scene.style.aspectRatio = `${w} / ${h}`;
    for (const dot of this.#dots.values()) [dot.x, dot.y] = this.#layout.places[dot.box];
    this.#readColours();
    this.#stale = true;
    this.#update();
  }

  #boxes(w, h) {
    const [width, height] = this.#layout.box;
    const drawing = svg("svg", { viewBox: `0 0 ${w} ${h}` });
    for (const [name, [x, y]] of Object.entries(this.#layout.places)) {
      const left = x - width / 2;
      const lines = [0, 1].map((line) => svg("text", { x, y: y + 8 + 19 * line, class: "box-line" }));
      this.#texts[name] = lines;
      drawing.append(svg("g", { class: `box box-${name}` },
        svg("rect", { x: left, y: y - height / 2, width, height, rx: 16 }),
        svg("text", { x, y: y - height / 2 + 29, class: "box-name" }, NAMES[name]), ...lines));
    }
    this.#labels = {};
    for (const { stage, at: [x, y], name, arrow, anchor = "middle" } of this.#layout.labels) {
      const lines = [0, 1, 2].map((line) =>
        svg("text", { x, y: y + 16 * line, class: line ? "stage-time" : "stage-rate", "text-anchor": anchor }));
      this.#labels[stage] = { lines, before: name || arrow };
      drawing.append(...lines);
    }
    return drawing;
  }

  #readColours() {
    const style = getComputedStyle(document.documentElement);
    const names = ["busy", "good", "bad", "off", "trouble", "connection", "ink", "flow"];
    this.#colours = Object.fromEntries(names.map((name) => [name, style.getPropertyValue(`--${name}`).trim()]));
  }

  #buildRows() {
    this.#rows.replaceChildren();
    for (const [at, stage] of STAGE_NAMES.entries()) {
      const row = this.#rows.insertRow();
      const head = document.createElement("th");
      head.scope = "row";
      head.textContent = `${at + 1}. ${stage}`;
      row.append(head);
      for (let cell = 0; cell < 3; cell += 1) row.insertCell().className = "n";
    }
  }

  // Shows the figures, if any have changed since: an idle diagram does nothing.
  #update() {
    if (document.hidden) return;
    const now = performance.now();
    const found = this.#figures.at(now);
    const busy = Object.keys(found).length > 0;
    if (!busy && !this.#stale && !this.#dots.size) return;
    this.#stale = busy;
    this.#rates = found;
    this.#updateNote(found, now);
    if (!this.#open) return;
    for (const [at, stage] of STAGE_NAMES.entries()) {
      const figures = found[stage];
      const [each, middle, slow] = [...this.#rows.rows[at].cells].slice(1);
      each.textContent = figures ? rate(figures.rate) : "0";
      middle.textContent = figures ? ms(figures.p50) : "–";
      slow.textContent = figures ? ms(figures.p99) : "–";
    }
    for (const [stage, { lines: [each, middle, slow], before }] of Object.entries(this.#labels)) {
      const figures = found[stage];
      each.textContent = figures ? `${before} ${rate(figures.rate)}/s` : "";
      middle.textContent = figures ? `p50 ${ms(figures.p50)}` : "";
      slow.textContent = figures ? `p99 ${ms(figures.p99)}` : "";
    }
    this.#updateBoxes(found);
    this.#prune(now);
    this.#draw();
  }

  #updateBoxes(found) {
    const { orders, payments } = this.#queues;
    const placed = found["order stored"]?.rate || 0;
    const texts = {
      client: [placed ? `${rate(placed)} orders/s` : "POST /orders"],
      gateway: ["HTTP in and out"],
      orders: orders ? [`outbox ${count(orders.open)}`, orders.dead ? `dead letters ${count(orders.dead)}` : orders.due ? `overdue ${count(orders.due)}` : ""] : [""],
      payments: payments
        ? [`open ${count(payments.open)}`, [payments.retrying && `retry ${count(payments.retrying)}`, payments.parked && `parked ${count(payments.parked)}`, payments.dead && `dead ${count(payments.dead)}`].filter(Boolean).join(" · ")]
        : [""],
      provider: ["takes payments"],
      mongo: ["stores orders"],
    };
    for (const [name, lines] of Object.entries(this.#texts)) {
      lines.forEach((line, at) => { line.textContent = texts[name][at] || ""; });
      lines[1].classList.toggle("alarm", name === "orders" ? Boolean(orders?.dead || orders?.due) : name === "payments" && Boolean(payments?.parked || payments?.dead));
    }
  }

  #updateNote(found, now) {
    this.#sampled = this.#sampled.filter((at) => now - at < WINDOW_MS);
    const all = found["gateway received"]?.rate || 0;
    const shown = Math.min(all, this.#sampled.length / (WINDOW_MS / 1000));
    const updated = found["order updated"]?.rate || 0;
    setText(this.#note, this.#restriction || `${this.#traffic(all, updated, shown)} ${this.#waiting()}`.trim());
  }

  #traffic(all, updated, shown) {
    if (!all && !updated) return "No requests at the moment.";
    if (!this.#open) return `${rate(all)} requests a second.`;
    return shown < all * 0.9 ? `${rate(all)} requests a second; about ${rate(shown)} of them are drawn.` : `${rate(all)} requests a second, all of them drawn.`;
  }

  #waiting() {
    const { orders, payments } = this.#queues;
    const dead = (payments?.dead || 0) + (orders?.dead || 0);
    const texts = [
      payments?.open && plural(payments.open, "open payment"), payments?.retrying && `${count(payments.retrying)} retrying`,
      payments?.parked && `${count(payments.parked)} parked`, dead && plural(dead, "dead letter"),
    ];
    return texts.some(Boolean) ? `${texts.filter(Boolean).join(", ")}.` : "";
  }

  #prune(now) {
    for (const dot of this.#dots.values()) {
      const limit = this.#mine.has(dot.id) ? 20 * IDLE_MS : IDLE_MS;
      if (!dot.path.length && now - dot.updatedAt > limit) this.#dots.delete(dot.id);
    }
  }

  #animate() {
    if (this.#drawing) return;
    this.#drawing = true;
    let before = performance.now();
    const frame = (now) => {
      const moving = this.#move(Math.min(100, now - before), now);
      this.#scene.dataset.orders = this.#dots.size;
      before = now;
      this.#draw();
      this.#drawing = moving && !document.hidden;
      if (this.#drawing) requestAnimationFrame(frame);
    };
    requestAnimationFrame(frame);
  }

  // Moves every dot; returns whether any is still moving.
  #move(elapsed, now) {
    let moving = false;
    const waiting = {};
    for (const dot of this.#dots.values()) {
      if (dot.path.length) {
        moving = true;
        this.#step(dot, elapsed);
      } else if (dot.ends) {
        dot.endedAt ??= now;
        if (now - dot.endedAt > FADE_MS) this.#dots.delete(dot.id);
        moving = true;
      } else {
        moving = this.#rest(dot, (waiting[dot.box] = (waiting[dot.box] || 0) + 1) - 1) || moving;
      }
    }
    return moving;
  }

  #step(dot, elapsed) {
    const speed = 1 + Math.max(0, dot.path.length - 3) * 0.25;
    dot.t += this.#reducedMotion.matches ? 1 : (elapsed / SEGMENT_MS) * speed;
    const [fromX, fromY] = dot.from ?? [dot.x, dot.y];
    dot.from = [fromX, fromY];
    const [toX, toY] = this.#layout.places[dot.path[0]];
    const eased = dot.t < 1 ? dot.t * dot.t * (3 - 2 * dot.t) : 1;
    dot.x = fromX + (toX - fromX) * eased;
    dot.y = fromY + (toY - fromY) * eased;
    if (dot.t < 1) return;
    dot.box = dot.path.shift();
    dot.from = null;
    dot.t = 0;
    if (dot.next && dot.path.length < 2) [dot.tone, dot.next] = [dot.next, null];
  }

  // Waiting orders form rows below their box.
  #rest(dot, place) {
    const [x, y] = this.#layout.places[dot.box];
    const [width, height] = this.#layout.box;
    const targetX = x - width / 2 + 14 + (place % 11) * 12;
    const targetY = y + height / 2 + 11 + Math.min(2, Math.floor(place / 11)) * 11;
    const far = Math.abs(targetX - dot.x) + Math.abs(targetY - dot.y);
    const share = this.#reducedMotion.matches ? 1 : 0.2;
    dot.x += (targetX - dot.x) * share;
    dot.y += (targetY - dot.y) * share;
    return far > 0.5;
  }

  #draw() {
    const pen = this.#pen;
    if (!pen || !this.#open) return;
    const [w, h] = this.#layout.size;
    pen.clearRect(0, 0, w, h);
    this.#drawConnections(pen);
    const now = performance.now();
    for (const dot of this.#dots.values()) this.#drawDot(pen, dot, now);
    pen.globalAlpha = 1;
  }

  #drawConnections(pen) {
    const flow = { "client-gateway": "gateway received", "gateway-orders": "orders received", "orders-payments": "event handed to payments", "payments-provider": "payment processed", "orders-mongo": "order stored", "payments-mongo": "payments received" };
    pen.lineCap = "round";
    for (const [one, other] of CONNECTIONS) {
      const busy = this.#rates[flow[`${one}-${other}`]]?.rate || 0;
      pen.beginPath();
      pen.moveTo(...this.#layout.places[one]);
      pen.lineTo(...this.#layout.places[other]);
      pen.strokeStyle = this.#colours.connection;
      pen.lineWidth = 14;
      pen.stroke();
      if (!busy) continue;
      pen.strokeStyle = this.#colours.flow;
      pen.lineWidth = Math.min(13, 2 + 1.7 * Math.log2(1 + busy));
      pen.stroke();
    }
  }

  #drawDot(pen, dot, now) {
    const over = dot.endedAt ? (now - dot.endedAt) / FADE_MS : 0;
    const own = this.#mine.has(dot.id);
    pen.globalAlpha = Math.max(0, 1 - over);
    pen.fillStyle = this.#colours[dot.tone];
    pen.beginPath();
    pen.arc(dot.x, dot.y, own ? 7 : 5, 0, 7);
    pen.fill();
    if (!own) return;
    pen.strokeStyle = this.#colours.ink;
    pen.lineWidth = 2;
    pen.beginPath();
    pen.arc(dot.x, dot.y, 10 + over * 12, 0, 7);
    pen.stroke();
    pen.fillStyle = this.#colours.ink;
    pen.font = "600 12px ui-monospace, monospace";
    pen.fillText(dot.id.slice(-6), dot.x + 14, dot.y + 4);
  }

  #clicked(event) {
    const box = this.#canvas.getBoundingClientRect();
    const [x, y] = [(event.clientX - box.left) / this.#scale, (event.clientY - box.top) / this.#scale];
    let near = null;
    let least = 16;
    for (const dot of this.#dots.values()) {
      const far = Math.hypot(dot.x - x, dot.y - y);
      if (far < least) [near, least] = [dot, far];
    }
    if (near) this.#choose(near.id);
  }
}
