// The page: a stream for the diagram, a stream for the open order, and the visitor's actions.

import { currentUser, followStream, get, hasToken, onUnauthenticated, setServerNow, setToken } from "./api.js";
import { FlowDiagram } from "./flow.js";
import { PaymentStatusList, StateDiagram } from "./machine.js";
import { OrderView } from "./order.js";
import { OrderList } from "./orders.js";
import { OrderForm } from "./place.js";

const by = (id) => document.getElementById(id);
const MAX_SEEN = 4096;

// The stages of an order, derived from its timeline, for visitors who may not read the stream of all orders.
const STAGES_OF = {
  OrderCreated: ["gateway received", "orders received", "order stored", "event handed to payments", "payments received"],
  OrderCancelled: ["event handed to payments", "payments received"],
  CaptureRequested: ["event handed to payments", "payments received"],
  RefundRequested: ["event handed to payments", "payments received"],
  OrderUpdated: [],
};
const OUTCOME = ["payment processed", "result handed to orders", "orders received result", "order updated"];

let ownOnly = false;
const seen = new Set();

const goTo = (id) => { location.hash = id ? `order=${id}` : ""; };
const orderIdOfAddress = () => /^#order=([0-9a-f]{24})$/.exec(location.hash)?.[1] || "";

const diagram = new FlowDiagram(by("scene"), by("flow-note"), by("stage-rows"), goTo);
const states = new StateDiagram(by("machine"));
const paymentStatuses = new PaymentStatusList(by("payment-machine"), by("payment-note"));
const orders = new OrderList(by("filters"), by("orders"), by("orders-none"), by("older"), by("list-note"));
const order = new OrderView(by("order-body"), states, by("machine-note"), paymentStatuses, {
  onChange: () => orders.refresh(),
  onEntry: (entry) => {
    if (!ownOnly || Date.now() - Date.parse(entry.at) > 10_000) return;
    const stages = STAGES_OF[entry.type] ?? OUTCOME;
    for (const stage of stages) diagram.stage({ stage, order_id: entry.orderId, order_status: entry.to });
  },
});
const form = new OrderForm(by("place-form"), by("message"), (id) => {
  diagram.follow(id);
  goTo(id);
  orders.refresh();
});

function connection(state, text) {
  by("connection").dataset.state = state;
  const words = by("connection").querySelector(".text");
  if (words.textContent !== text) words.textContent = text;
}

function onEvent(name, data) {
  if (name === "stages") for (const line of data) if (isNew(line.id)) diagram.stage(line);
  if (name === "statistics" && isNew(`${data.process} ${data.at}`)) diagram.statistics(data);
  if (name === "queues") {
    setServerNow(data.now);
    diagram.queues(data);
  }
}

// A reconnected stream repeats the last seconds.
function isNew(id) {
  if (seen.has(id)) return false;
  seen.add(id);
  if (seen.size > MAX_SEEN) seen.delete(seen.values().next().value);
  return true;
}

function onState(state, problem) {
  if (state === "live") {
    connection("live", "Live");
    orders.refresh();
    order.refresh();
  }
  if (state === "disconnected") connection("disconnected", problem?.status === 429 ? "Too many viewers; waiting" : "Connection lost; reconnecting");
  if (state === "rejected") {
    ownOnly = true;
    connection("restricted", "Your own orders");
    by("flow-note").textContent = "You see only your own orders; the diagram of all orders needs the scope orders:admin.";
    orders.restrictTo(currentUser()?.userId || "");
  }
}

function askForToken(reason) {
  const dialog = by("token-dialog");
  by("token-reason").textContent = `This server needs authentication: ${reason}. The token is kept in this tab and sent with each request.`;
  dialog.showModal();
  return new Promise((resolve) => {
    dialog.addEventListener("close", () => {
      setToken(by("token-form").elements.token.value);
      by("token-form").reset();
      showUser();
      resolve();
    }, { once: true });
  });
}

function showUser() {
  const user = currentUser();
  by("user").hidden = by("forget").hidden = !hasToken();
  if (!user) return;
  by("user").textContent = user.userId + (user.admin ? " (admin)" : "");
  form.actFor(user);
}

function route() {
  const id = orderIdOfAddress();
  by("close-order").hidden = !id;
  orders.mark(id);
  diagram.choose(id);
  if (id && id !== order.id) {
    order.open(id);
    if (matchMedia("(max-width: 900px)").matches) by("order-view").scrollIntoView({ block: "start" });
  }
  if (!id && order.id) order.close();
}

onUnauthenticated(askForToken);
by("forget").addEventListener("click", () => { setToken(""); location.reload(); });
by("close-order").addEventListener("click", () => goTo(""));
by("find").addEventListener("submit", (event) => {
  event.preventDefault();
  goTo(event.target.elements.id.value.trim());
  event.target.reset();
});
addEventListener("hashchange", route);
addEventListener("visibilitychange", () => { if (!document.hidden) { orders.refresh(); order.refresh(); } });

showUser();
route();
get("/state-machine").then((machine) => {
  states.show(machine.transitions);
  paymentStatuses.show(machine.paymentStatuses);
}).catch(() => {});
orders.refresh();
followStream("/console/stream", { event: onEvent, state: onState });
