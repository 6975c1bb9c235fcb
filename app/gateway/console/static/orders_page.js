// The page of all orders: the table, the live picture, and the dialog that places an order.

import { pathOfOrder } from "./address.js";
import { get } from "./api.js";
import { by, el } from "./elements.js";
import { FlowDiagram } from "./flow.js";
import { FlowPanel } from "./flow_panel.js";
import { setServerNow } from "./format.js";
import { OrderList } from "./order_list.js";
import { PlaceDialog } from "./place.js";
import { connection, setTitle, showDeskCount, start } from "./shell.js";
import { stagesOf } from "./stages.js";
import { followStream } from "./streams.js";
import { currentUser, seesAll } from "./token.js";

const MAX_SEEN = 4096;
const seen = new Set();
let ownOnly = false;

const openOrder = (id) => location.assign(pathOfOrder(id));

// Addresses of earlier releases.
const earlier = /^#order=([0-9a-f]{24})$/.exec(location.hash);
if (earlier) location.replace(pathOfOrder(earlier[1]));

const diagram = new FlowDiagram(by("scene"), by("flow-note"), by("stage-rows"), openOrder);
const panel = new FlowPanel(by("flow"), diagram);
const dialog = new PlaceDialog((id) => {
  panel.follow(id);
  orders.refresh();
});
const orders = new OrderList({
  onPlace: () => dialog.open(),
  onChanged: (changed) => {
    if (ownOnly) for (const stage of changed.flatMap(stagesOf)) diagram.stage(stage);
  },
});

function onEvent(name, data) {
  if (name === "stages") onStages(data.filter((line) => isNew(line.id)));
  if (name === "statistics" && isNew(`${data.process} ${data.at}`)) diagram.statistics(data);
  if (name === "queues") {
    setServerNow(data.now);
    showDeskCount(data);
    diagram.queues(data);
  }
}

function onStages(lines) {
  for (const line of lines) diagram.stage(line);
  if (lines.some((line) => line.stage === "order stored" || line.stage === "order updated")) orders.refresh();
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
  }
  if (state === "disconnected") connection("disconnected", problem?.status === 429 ? "Too many viewers; waiting" : "Connection lost; reconnecting");
  if (state === "rejected") showOwnOnly();
}

function showOwnOnly() {
  ownOnly = true;
  connection("restricted", "Your own orders");
  diagram.restrict("Only your own orders move here: the stages of all orders need the scope orders:admin.");
  orders.restrictTo(currentUser()?.userId || "");
}

// Offers the statuses that have a name of their own.
function suggestStatuses({ transitions, paymentStatuses }) {
  const named = new Set(transitions.map(({ to }) => to).filter((status) => !status.startsWith("(")));
  by("statuses").replaceChildren(...[...named].map((value) => el("option", { value })));
  orders.offerPaymentStatuses(paymentStatuses.map(({ status }) => status));
}

start("orders", (user) => dialog.actFor(user));
setTitle("Orders");
get("/state-machine").then(suggestStatuses).catch(() => {});
by("place").addEventListener("click", () => dialog.open());
if (seesAll()) followStream("/console/stream", { event: onEvent, state: onState });
else showOwnOnly();
