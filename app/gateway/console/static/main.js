// The page: one stream for the picture, one for the order that is shown, and what the visitor does.

import { follow, get, hasToken, me, setServerNow, useToken, whenUnknown } from "./api.js";
import { Machine } from "./machine.js";
import { OrderView } from "./order.js";
import { Orders } from "./orders.js";
import { Picture } from "./picture.js";
import { Place } from "./place.js";

const by = (id) => document.getElementById(id);
const SEEN = 4096;

// The stages of an order, derived from its timeline, for visitors who may not read the stream of all orders.
const STAGES_OF = {
  OrderCreated: ["gateway received", "orders received", "order stored", "event handed to payments", "payments received"],
  OrderCancelled: ["event handed to payments", "payments received"],
  RefundRequested: ["event handed to payments", "payments received"],
  OrderUpdated: [],
};
const OUTCOME = ["payment processed", "result handed to orders", "orders received result", "order updated"];

let ownOnly = false;
const seen = new Set();

const goTo = (id) => { location.hash = id ? `order=${id}` : ""; };
const wanted = () => /^#order=([0-9a-f]{24})$/.exec(location.hash)?.[1] || "";

const picture = new Picture(by("scene"), by("flow-note"), by("stage-rows"), goTo);
const machine = new Machine(by("machine"));
const orders = new Orders(by("filters"), by("orders"), by("orders-none"), by("older"), by("list-note"));
const order = new OrderView(by("order-body"), machine, by("machine-note"), {
  told: () => orders.refresh(),
  changed: (entry) => {
    if (!ownOnly || Date.now() - Date.parse(entry.at) > 10_000) return;
    const stages = STAGES_OF[entry.type] ?? OUTCOME;
    for (const stage of stages) picture.stage({ stage, order_id: entry.orderId, order_status: entry.to });
  },
});
const place = new Place(by("place-form"), by("said"), (id) => {
  picture.follow(id);
  goTo(id);
  orders.refresh();
});

function connection(state, text) {
  by("connection").dataset.state = state;
  const words = by("connection").querySelector(".text");
  if (words.textContent !== text) words.textContent = text;
}

function onEvent(name, data) {
  if (name === "stages") for (const line of data) if (fresh(line.id)) picture.stage(line);
  if (name === "statistics" && fresh(`${data.process} ${data.at}`)) picture.statistics(data);
  if (name === "queues") {
    setServerNow(data.now);
    picture.queues(data);
  }
}

// After a break the last seconds are told again.
function fresh(id) {
  if (seen.has(id)) return false;
  seen.add(id);
  if (seen.size > SEEN) seen.delete(seen.values().next().value);
  return true;
}

function onState(state, problem) {
  if (state === "live") {
    connection("live", "Live");
    orders.refresh();
    order.refresh();
  }
  if (state === "away") connection("away", problem?.status === 429 ? "Too many watch; waiting" : "Connection lost; coming back");
  if (state === "refused") {
    ownOnly = true;
    connection("own", "Your own orders");
    by("flow-note").textContent = "You see your own orders alone; the picture of all needs the scope orders:admin.";
    orders.only(me()?.userId || "");
  }
}

function askForToken(why) {
  const dialog = by("token-dialog");
  by("token-why").textContent = `This server asks who you are: ${why}. A token stays in this tab and is sent with each request.`;
  dialog.showModal();
  return new Promise((resolve) => {
    dialog.addEventListener("close", () => {
      useToken(by("token-form").elements.token.value);
      by("token-form").reset();
      showWho();
      resolve();
    }, { once: true });
  });
}

function showWho() {
  const who = me();
  by("who").hidden = by("forget").hidden = !hasToken();
  if (!who) return;
  by("who").textContent = who.userId + (who.admin ? " (admin)" : "");
  place.actFor(who);
}

function route() {
  const id = wanted();
  by("close-order").hidden = !id;
  orders.mark(id);
  picture.choose(id);
  if (id && id !== order.id) {
    order.open(id);
    if (matchMedia("(max-width: 900px)").matches) by("order-view").scrollIntoView({ block: "start" });
  }
  if (!id && order.id) order.close();
}

whenUnknown(askForToken);
by("forget").addEventListener("click", () => { useToken(""); location.reload(); });
by("close-order").addEventListener("click", () => goTo(""));
by("find").addEventListener("submit", (event) => {
  event.preventDefault();
  goTo(event.target.elements.id.value.trim());
  event.target.reset();
});
addEventListener("hashchange", route);
addEventListener("visibilitychange", () => { if (!document.hidden) { orders.refresh(); order.refresh(); } });

showWho();
route();
get("/state-machine").then(({ transitions }) => machine.show(transitions)).catch(() => {});
orders.refresh();
follow("/console/stream", { event: onEvent, state: onState });
