// The picture: rooms, the pipes between them, and orders on their way. Figures count every stage; dots are a sample.

import { count, ms, rate, svg } from "./show.js";

const STAGES = {
  "gateway received": { way: ["client", "gateway"] },
  "orders received": { way: ["gateway", "orders"] },
  "order stored": { way: ["orders", "mongo", "orders"] },
  "event handed to payments": { way: ["orders", "payments"] },
  "payments received": { way: ["payments", "mongo", "payments", "provider"] },
  "payment processed": { way: ["provider", "payments"] },
  "result handed to orders": { way: ["payments", "orders"] },
  "orders received result": { way: ["orders"] },
  "order updated": { way: ["orders", "mongo"], ends: true },
};
export const STAGE_NAMES = Object.keys(STAGES);

const PIPES = [
  ["client", "gateway"], ["gateway", "orders"], ["orders", "payments"], ["payments", "provider"],
  ["orders", "mongo"], ["payments", "mongo"],
];
const NAMES = {
  client: "Client", gateway: "Gateway", orders: "Orders", payments: "Payments", provider: "Provider", mongo: "MongoDB",
};
// The stage that a figure at a pipe shows, and where its first line stands.
const WIDE = {
  size: [1200, 330], room: [142, 92],
  places: {
    client: [85, 92], gateway: [342, 92], orders: [599, 92], payments: [858, 92], provider: [1115, 92], mongo: [728, 272],
  },
  labels: [
    { stage: "gateway received", at: [213, 44], arrow: "→" },
    { stage: "orders received", at: [470, 44], arrow: "→" },
    { stage: "event handed to payments", at: [728, 44], arrow: "→" },
    { stage: "result handed to orders", at: [728, 120], arrow: "←" },
    { stage: "payment processed", at: [986, 44], arrow: "⇄" },
    { stage: "order stored", at: [462, 206], name: "stored" },
    { stage: "order updated", at: [590, 206], name: "updated" },
  ],
};
const NARROW = {
  size: [380, 600], room: [134, 88],
  places: {
    client: [78, 56], gateway: [78, 212], orders: [78, 376], payments: [302, 376], provider: [302, 212], mongo: [190, 546],
  },
  labels: [
    { stage: "gateway received", at: [90, 121], arrow: "→", anchor: "start" },
    { stage: "orders received", at: [90, 281], arrow: "→", anchor: "start" },
    { stage: "event handed to payments", at: [190, 330], arrow: "→" },
    { stage: "result handed to orders", at: [190, 404], arrow: "←" },
    { stage: "payment processed", at: [290, 281], arrow: "⇄", anchor: "end" },
    { stage: "order stored", at: [56, 450], name: "stored" },
    { stage: "order updated", at: [56, 510], name: "updated" },
  ],
};
const MOST = 160;
const HOP_MS = 420;
const WINDOW_MS = 3000;
const FORGOTTEN_MS = 45_000;
const ENDING_MS = 900;

const AROUND = {};
for (const [one, other] of PIPES) {
  (AROUND[one] ??= []).push(other);
  (AROUND[other] ??= []).push(one);
}

// The rooms on the way from one to another, without the first.
function route(from, to) {
  const seen = { [from]: [] };
  const queue = [from];
  while (queue.length) {
    const room = queue.shift();
    if (room === to) return seen[room];
    for (const next of AROUND[room]) if (!(next in seen)) { seen[next] = [...seen[room], next]; queue.push(next); }
  }
  return [];
}

// Counts and durations of each stage over the last seconds, of all processes.
class Figures {
  #statistics = [];

  add(statistics, now) {
    this.#statistics.push({ ...statistics, seen: now });
  }

  at(now) {
    this.#statistics = this.#statistics.filter((one) => now - one.seen < WINDOW_MS);
    const found = {};
    for (const one of this.#statistics) {
      for (const [stage, told] of Object.entries(one.stages)) {
        const sum = (found[stage] ??= { count: 0, p50: 0, p99: 0 });
        sum.p50 += told.p50 * told.count;
        sum.count += told.count;
        sum.p99 = Math.max(sum.p99, told.p99);
      }
    }
    for (const sum of Object.values(found)) {
      sum.p50 /= sum.count || 1;
      sum.rate = sum.count / (WINDOW_MS / 1000);
    }
    return found;
  }
}

export class Picture {
  #scene; #note; #rows; #choose;
  #layout = WIDE; #canvas; #pen; #scale = 1;
  #texts = {}; #labels = {}; #rates = {}; #colours = {};
  #dots = new Map(); #figures = new Figures(); #drawing = false; #sampled = [];
  #queues = {}; #mine = new Set(); #chosen = "";
  #still = matchMedia("(prefers-reduced-motion: reduce)");

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
    setInterval(() => this.#tell(), 1000);
    this.#fit();
  }

  // A stage of one order; nothing to draw where nobody looks.
  stage(line) {
    const known = STAGES[line.stage];
    if (!known || document.hidden) return;
    let dot = this.#dots.get(line.order_id);
    if (!dot) {
      if (line.stage === "gateway received") this.#sampled.push(performance.now());
      if (line.stage === "order updated" || line.stage === "orders received result") return;
      if (this.#dots.size >= MOST && !this.#mine.has(line.order_id)) return;
      const [x, y] = this.#layout.places[known.way[0]];
      dot = { id: line.order_id, room: known.way[0], last: known.way[0], path: [], x, y, tone: "busy", t: 0 };
      this.#dots.set(line.order_id, dot);
    }
    const [first, ...rest] = known.way;
    dot.path.push(...route(dot.last, first), ...rest);
    dot.last = known.way.at(-1);
    dot.heard = performance.now();
    if (line.stage === "payment processed") dot.next = ["not attempted", "unknown"].includes(line.answer) ? "trouble" : "busy";
    if (known.ends) {
      dot.next = { Success: "good", Declined: "bad", Cancelled: "off" }[line.order_status] || "good";
      dot.ends = true;
    }
    this.#animate();
  }

  statistics(statistics) {
    this.#figures.add(statistics, performance.now());
  }

  queues(queues) {
    this.#queues = queues;
  }

  // Orders that were placed here are always drawn, and marked.
  follow(orderId) {
    this.#mine.add(orderId);
  }

  choose(orderId) {
    this.#chosen = orderId;
    this.#draw();
  }

  // How many orders are drawn, for whoever wants to be sure that they are few.
  get size() {
    return this.#dots.size;
  }

  #fit() {
    const width = this.#scene.clientWidth;
    if (!width) return;
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
    const drawing = this.#rooms(w, h);
    drawing.addEventListener("click", (event) => this.#clicked(event));
    this.#scene.replaceChildren(canvas, drawing);
    this.#scene.style.aspectRatio = `${w} / ${h}`;
    for (const dot of this.#dots.values()) [dot.x, dot.y] = this.#layout.places[dot.room];
    this.#readColours();
    this.#tell();
  }

  #rooms(w, h) {
    const [width, height] = this.#layout.room;
    const drawing = svg("svg", { viewBox: `0 0 ${w} ${h}` });
    for (const [name, [x, y]] of Object.entries(this.#layout.places)) {
      const left = x - width / 2;
      const lines = [0, 1].map((line) => svg("text", { x, y: y + 8 + 19 * line, class: "room-line" }));
      this.#texts[name] = lines;
      drawing.append(svg("g", { class: `room room-${name}` },
        svg("rect", { x: left, y: y - height / 2, width, height, rx: 16 }),
        svg("text", { x, y: y - height / 2 + 29, class: "room-name" }, NAMES[name]), ...lines));
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
    const names = ["busy", "good", "bad", "off", "trouble", "pipe", "ink", "flow"];
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

  #tell() {
    if (document.hidden) return;
    const now = performance.now();
    const found = this.#figures.at(now);
    this.#rates = found;
    for (const [at, stage] of STAGE_NAMES.entries()) {
      const told = found[stage];
      const [each, middle, slow] = [...this.#rows.rows[at].cells].slice(1);
      each.textContent = told ? rate(told.rate) : "0";
      middle.textContent = told ? ms(told.p50) : "–";
      slow.textContent = told ? ms(told.p99) : "–";
    }
    for (const [stage, { lines: [each, middle, slow], before }] of Object.entries(this.#labels)) {
      const told = found[stage];
      each.textContent = told ? `${before} ${rate(told.rate)}/s` : "";
      middle.textContent = told ? `p50 ${ms(told.p50)}` : "";
      slow.textContent = told ? `p99 ${ms(told.p99)}` : "";
    }
    this.#tellRooms(found);
    this.#tellNote(found, now);
    this.#prune(now);
    this.#draw();
  }

  #tellRooms(found) {
    const { orders, payments } = this.#queues;
    const placed = found["order stored"]?.rate || 0;
    const words = {
      client: [placed ? `${rate(placed)} orders/s` : "POST /orders"],
      gateway: ["HTTP in and out"],
      orders: orders ? [`outbox ${count(orders.open)}`, orders.dead ? `dead letters ${count(orders.dead)}` : orders.due ? `overdue ${count(orders.due)}` : ""] : [""],
      payments: payments
        ? [`open ${count(payments.open)}`, [payments.retrying && `retry ${count(payments.retrying)}`, payments.parked && `parked ${count(payments.parked)}`, payments.dead && `dead ${count(payments.dead)}`].filter(Boolean).join(" · ")]
        : [""],
      provider: ["takes the money"],
      mongo: ["keeps the record"],
    };
    for (const [name, lines] of Object.entries(this.#texts)) {
      lines.forEach((line, at) => { line.textContent = words[name][at] || ""; });
      lines[1].classList.toggle("alarm", name === "orders" ? Boolean(orders?.dead || orders?.due) : name === "payments" && Boolean(payments?.parked || payments?.dead));
    }
  }

  #tellNote(found, now) {
    this.#sampled = this.#sampled.filter((at) => now - at < WINDOW_MS);
    const all = found["gateway received"]?.rate || 0;
    const shown = Math.min(all, this.#sampled.length / (WINDOW_MS / 1000));
    const updated = found["order updated"]?.rate || 0;
    if (!all && !updated) this.#note.textContent = "Quiet. Place an order and watch it.";
    else if (shown < all * 0.9) this.#note.textContent = `${rate(all)} requests a second; about ${rate(shown)} of them are drawn.`;
    else this.#note.textContent = `${rate(all)} requests a second, each drawn.`;
  }

  #prune(now) {
    for (const dot of this.#dots.values()) {
      const patience = this.#mine.has(dot.id) ? 20 * FORGOTTEN_MS : FORGOTTEN_MS;
      if (!dot.path.length && now - dot.heard > patience) this.#dots.delete(dot.id);
    }
  }

  #animate() {
    if (this.#drawing) return;
    this.#drawing = true;
    let before = performance.now();
    const frame = (now) => {
      const moving = this.#move(Math.min(100, now - before), now);
      before = now;
      this.#draw();
      this.#drawing = moving && !document.hidden;
      if (this.#drawing) requestAnimationFrame(frame);
    };
    requestAnimationFrame(frame);
  }

  // Move every dot on; tells whether any is still under way.
  #move(elapsed, now) {
    let moving = false;
    const waiting = {};
    for (const dot of this.#dots.values()) {
      if (dot.path.length) {
        moving = true;
        this.#step(dot, elapsed);
      } else if (dot.ends) {
        dot.endedAt ??= now;
        if (now - dot.endedAt > ENDING_MS) this.#dots.delete(dot.id);
        moving = true;
      } else {
        moving = this.#rest(dot, (waiting[dot.room] = (waiting[dot.room] || 0) + 1) - 1) || moving;
      }
    }
    return moving;
  }

  #step(dot, elapsed) {
    const hurry = 1 + Math.max(0, dot.path.length - 3) * 0.25;
    dot.t += this.#still.matches ? 1 : (elapsed / HOP_MS) * hurry;
    const [fromX, fromY] = dot.from ?? [dot.x, dot.y];
    dot.from = [fromX, fromY];
    const [toX, toY] = this.#layout.places[dot.path[0]];
    const eased = dot.t < 1 ? dot.t * dot.t * (3 - 2 * dot.t) : 1;
    dot.x = fromX + (toX - fromX) * eased;
    dot.y = fromY + (toY - fromY) * eased;
    if (dot.t < 1) return;
    dot.room = dot.path.shift();
    dot.from = null;
    dot.t = 0;
    if (dot.next && dot.path.length < 2) [dot.tone, dot.next] = [dot.next, null];
  }

  // Waiting orders stand in a row below their room.
  #rest(dot, place) {
    const [x, y] = this.#layout.places[dot.room];
    const [width, height] = this.#layout.room;
    const wantedX = x - width / 2 + 14 + (place % 11) * 12;
    const wantedY = y + height / 2 + 11 + Math.min(2, Math.floor(place / 11)) * 11;
    const far = Math.abs(wantedX - dot.x) + Math.abs(wantedY - dot.y);
    const share = this.#still.matches ? 1 : 0.2;
    dot.x += (wantedX - dot.x) * share;
    dot.y += (wantedY - dot.y) * share;
    return far > 0.5;
  }

  #draw() {
    const pen = this.#pen;
    if (!pen) return;
    const [w, h] = this.#layout.size;
    pen.clearRect(0, 0, w, h);
    this.#drawPipes(pen);
    const now = performance.now();
    for (const dot of this.#dots.values()) this.#drawDot(pen, dot, now);
    pen.globalAlpha = 1;
  }

  #drawPipes(pen) {
    const flow = { "client-gateway": "gateway received", "gateway-orders": "orders received", "orders-payments": "event handed to payments", "payments-provider": "payment processed", "orders-mongo": "order stored", "payments-mongo": "payments received" };
    pen.lineCap = "round";
    for (const [one, other] of PIPES) {
      const busy = this.#rates[flow[`${one}-${other}`]]?.rate || 0;
      pen.beginPath();
      pen.moveTo(...this.#layout.places[one]);
      pen.lineTo(...this.#layout.places[other]);
      pen.strokeStyle = this.#colours.pipe;
      pen.lineWidth = 14;
      pen.stroke();
      if (!busy) continue;
      pen.strokeStyle = this.#colours.flow;
      pen.lineWidth = Math.min(13, 2 + 1.7 * Math.log2(1 + busy));
      pen.stroke();
    }
  }

  #drawDot(pen, dot, now) {
    const over = dot.endedAt ? (now - dot.endedAt) / ENDING_MS : 0;
    const own = this.#mine.has(dot.id) || dot.id === this.#chosen;
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
