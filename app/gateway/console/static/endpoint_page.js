// The page of one endpoint of webhooks: what it is, what can be done with it, and its deliveries.

import { idOfPage, pathOfDelivery } from "./address.js";
import { get } from "./api.js";
import { curlButton } from "./curl.js";
import { DeliveryList } from "./delivery_list.js";
import { by, el, factList, setText } from "./elements.js";
import { isolated, ownerOf, stateOf } from "./endpoint_view.js";
import { dateTime } from "./format.js";
import { followByPolling } from "./polling.js";
import { connection, setTitle, start, watchDeskCount } from "./shell.js";
import {
  changeEndpoint, deleteEndpoint, disableEndpoint, enableEndpoint, replayDeliveries, rotateSecret, sendTestEvent,
} from "./webhook_actions.js";

const REFRESH_MS = 2000;
const id = idOfPage();
const path = `/webhooks/endpoints/${id}`;

let endpoint = null;
let shown = "";

async function load() {
  const [found] = await Promise.all([get(path), deliveries.load()]);
  endpoint = found.endpoint;
  by("missing").hidden = true;
  by("endpoint").hidden = false;
  show();
}

// Rebuilt only when the endpoint has changed, so that focus stays.
function show() {
  const key = JSON.stringify(endpoint);
  if (key === shown) return;
  shown = key;
  setTitle(`${new URL(endpoint.url).host} · Webhook`);
  setText(by("endpoint-title"), endpoint.url);
  by("endpoint-title").title = endpoint.url;
  by("about").replaceChildren(factList([
    ["State", el("span", {}, ...stateOf(endpoint))],
    ["Description", endpoint.description && isolated(endpoint.description)],
    ["Events", el("span", {}, ...endpoint.events.flatMap((pattern) => [el("code", {}, pattern), " "]))],
    ["Orders of", ownerOf(endpoint)],
    ["Created", dateTime(endpoint.createdAt)],
    ["Signature", endpoint.signature],
    ["Public key", endpoint.publicKey && el("code", {}, endpoint.publicKey)],
    ["Former secret", endpoint.formerSecretUntil && `signs as well until ${dateTime(endpoint.formerSecretUntil)}`],
  ]));
  by("actions").replaceChildren(
    button("Send a test event…", tested),
    button("Change…", change),
    endpoint.enabled ? button("Disable…", () => act(disableEndpoint(endpoint), "Disabled: its deliveries are held."))
      : button("Enable…", () => act(enableEndpoint(endpoint), "Enabled: what was held is sent.")),
    button(endpoint.publicKey ? "Rotate the key…" : "Rotate the secret…", () => act(rotateSecret(endpoint), "Rotated.")),
    button("Replay…", replayed),
    button("Delete…", remove));
}

const button = (name, act) => el("button", { type: "button", onclick: act }, name);

// Says what was done, and returns the answer; null if the visitor went back.
async function act(question, ...done) {
  const answer = await question;
  if (!answer) return null;
  by("message").replaceChildren(...done);
  refresh();
  return answer;
}

async function change() {
  const { eventTypes } = await get("/event-types");
  await act(changeEndpoint(endpoint, eventTypes), "Changed.");
}

async function tested() {
  const answer = await act(sendTestEvent(endpoint));
  if (answer) by("message").replaceChildren("The test event is on its way: ", el("a", { href: pathOfDelivery(answer.delivery.id) }, "its delivery"), ".");
}

async function replayed() {
  const answer = await act(replayDeliveries(endpoint));
  if (answer) setText(by("message"), `Sent again: ${answer.count}.`);
}

async function remove() {
  if (await deleteEndpoint(endpoint)) location.assign("/console/webhooks");
}

function missing(text, title) {
  by("endpoint").hidden = true;
  by("missing").hidden = false;
  setText(by("missing-text"), text);
  setTitle(title);
  connection("restricted", "Nothing to follow");
}

start("webhooks");
by("endpoint-id").textContent = id;
setTitle("Webhook");
for (const place of document.querySelectorAll(".curl-of")) curlButton(place, path + place.dataset.part, place.dataset.name);
watchDeskCount();
const deliveries = new DeliveryList(id, () => refresh());
const refresh = followByPolling(load, REFRESH_MS, {
  403: () => missing("Webhooks need the scope webhooks:manage.", "Not allowed"),
  404: (error) => missing(`This endpoint cannot be shown: ${error.message}.`, "No such endpoint"),
});
