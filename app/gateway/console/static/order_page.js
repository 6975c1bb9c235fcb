// The page of one order: everything that is known about it, followed live.

import { ORDER_ID } from "./address.js";
import { get } from "./api.js";
import { showAttempts } from "./attempts.js";
import { curlButton } from "./curl.js";
import { by, el, setText } from "./elements.js";
import { serverNow } from "./format.js";
import { showLog } from "./log_lines.js";
import { PaymentStatusList, StateDiagram } from "./machine.js";
import { ActionBar } from "./order_actions.js";
import { showAbout, showCountdown, showHead, showNext, showSentence } from "./order_head.js";
import { showItems } from "./order_items.js";
import { showMoney } from "./order_money.js";
import { OrderWebhooks } from "./order_webhooks.js";
import { showRequests } from "./requests.js";
import { connection, setTitle, start, watchDeskCount } from "./shell.js";
import { followStream } from "./streams.js";
import { Timeline } from "./timeline.js";
import { managesWebhooks } from "./token.js";
import { showWaterfall } from "./waterfall.js";

const REFRESH_MS = 1500;
const id = location.pathname.split("/").at(-1);
const path = `/orders/one/${id}`;

// Everything but the timeline, as it was requested last; null before.
let known = null;
let busy = false;
let again = false;
let due = 0;

const states = new StateDiagram(by("machine"));
const paymentStatuses = new PaymentStatusList(by("payment-machine"), by("payment-note"));
const timeline = new Timeline(by("timeline"), by("slider"), show);
const actions = new ActionBar(by("actions"), by("message"), refresh);
// Servers without webhooks have no section for them.
const webhooks = by("webhooks") && managesWebhooks() ? new OrderWebhooks(by("webhooks"), by("webhook-groups")) : null;

async function refresh() {
  if (busy || document.hidden) {
    again = busy;
    return;
  }
  [busy, again] = [true, false];
  try {
    const [{ order }, explanation, latency, requests] = await Promise.all(
      [get(path), get(`${path}/explain`), optional("/latency", ["waterfall", "attempts", "log"]), optional("/requests", ["requests"])]);
    known = { order, explanation, latency: latency ?? known?.latency, requests: requests?.requests ?? known?.requests };
    show();
    webhooks?.follow(order);
  } catch (error) {
    // The stream reports a lost connection and reconnects.
    if (error.status === 404) missing(error.message);
  } finally {
    busy = false;
    due = performance.now() + REFRESH_MS;
    if (again) refresh();
  }
}

// What the page can do without, such as what payments know while they do not answer: its sections say so meanwhile.
async function optional(part, sections) {
  try {
    const found = await get(path + part);
    for (const section of sections) markUnavailable(by(section), "");
    return found;
  } catch (error) {
    if (!error.status || error.status === 404) throw error;
    for (const section of sections) markUnavailable(by(section), `This cannot be read at the moment: ${error.message}.`);
    return null;
  }
}

function markUnavailable(section, text) {
  const card = section.closest("section");
  const note = card.querySelector(".unavailable") || el("p", { class: "unavailable", role: "status" });
  setText(note, text);
  if (text && !note.isConnected) section.before(note);
  if (!text) note.remove();
}

function show() {
  const { entries, at } = timeline;
  const then = entries[at - 1];
  if (!known || !then) return;
  const now = at === entries.length;
  by("order").hidden = false;
  const { order, explanation, latency, requests } = known;
  setTitle(`${order.productName.slice(0, 40)}, ${order.totalOrderAmount}: ${order.orderStatus} · Order …${id.slice(-6)}`);
  showHead(order, then, now);
  showSentence(explanation, then, at, now);
  showNext(order);
  actions.show(order, explanation, entries);
  showMoney(order);
  showItems(order);
  showAbout(order, entries[0]);
  if (latency) {
    showWaterfall(by("waterfall"), latency, entries, now ? Infinity : Date.parse(then.at));
    showAttempts(by("attempts"), latency.attempts, explanation);
    showLog(by("log"), id, latency.stages);
  }
  if (requests) showRequests(by("requests"), requests);
  const path = entries.slice(0, at);
  states.mark(["(new)", ...path.map((entry) => entry.to)].filter((state, index, all) => state !== all[index - 1]));
  paymentStatuses.mark(path.map((entry) => entry.paymentStatus));
}

function missing(text) {
  by("order").hidden = true;
  by("missing").hidden = false;
  setText(by("missing-text"), `This order cannot be shown: ${text}.`);
  setTitle("No such order");
  connection("restricted", "Nothing to follow");
}

function tick() {
  if (!known) return;
  showCountdown(known.explanation.nextAttemptAt, serverNow());
  if (known.explanation.waitsFor !== "nothing" && performance.now() > due) refresh();
}

function onState(state, problem) {
  if (state === "live") {
    connection("live", "Live");
    refresh();
  }
  if (state === "disconnected") connection("disconnected", problem?.status === 429 ? "Too many viewers; waiting" : "Connection lost; reconnecting");
  if (state === "rejected") missing(problem.message);
}

start("orders");
by("back").href = `/${sessionStorage.getItem("orderflow-list") || ""}`;
by("order-id").textContent = id;
setTitle(`Order …${id.slice(-6)}`);
if (ORDER_ID.test(id)) {
  for (const place of document.querySelectorAll(".curl-of")) curlButton(place, path + place.dataset.part, place.dataset.name);
  get("/state-machine").then((machine) => {
    states.show(machine.transitions);
    paymentStatuses.show(machine.paymentStatuses);
  }).catch(() => {});
  followStream(`${path}/events`, { event: (_, entry) => { if (timeline.add(entry)) refresh(); }, state: onState });
  addEventListener("visibilitychange", refresh);
  setInterval(tick, 100);
  watchDeskCount();
} else missing("an order id has 24 characters, 0 to 9 and a to f");
