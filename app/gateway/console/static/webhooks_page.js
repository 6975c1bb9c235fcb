// The page of all endpoints of webhooks.

import { pathOfEndpoint } from "./address.js";
import { get } from "./api.js";
import { curlButton } from "./curl.js";
import { arrangeValues, by, el, setText } from "./elements.js";
import { isolated, ownerOf, stateOf } from "./endpoint_view.js";
import { typeReference } from "./event_types.js";
import { dateTime } from "./format.js";
import { ListAddress } from "./list_address.js";
import { followByPolling } from "./polling.js";
import { connection, setTitle, start, watchDeskCount } from "./shell.js";
import { addEndpoint } from "./webhook_actions.js";

const NONE = "No endpoint yet. Add one: it is told what becomes of orders from then on.";
const PAGE_SIZE = 25;
const REFRESH_MS = 3000;

let types = null;

const address = new ListAddress(by("endpoints").closest("section"), location.pathname, [], openPage);

function request() {
  const { cursor } = address.view;
  return `/webhooks/endpoints?${new URLSearchParams({ limit: PAGE_SIZE, ...(cursor && { cursor }) })}`;
}

function openPage() {
  curlButton(by("endpoints-curl"), request(), "endpoints");
  refresh();
}

async function load() {
  const asked = request();
  const page = await get(asked);
  types ??= await showTypes();
  by("missing").hidden = true;
  by("webhooks").hidden = by("add").hidden = false;
  if (asked === request()) show(page);
}

function show({ endpoints, hasMore, nextCursor }) {
  arrangeValues(by("endpoints").tBodies[0], endpoints, row);
  by("endpoints").hidden = !endpoints.length;
  by("endpoints-none").hidden = endpoints.length > 0;
  setText(by("endpoints-none"), address.view.cursor ? "No endpoint is newer." : NONE);
  address.showPager(hasMore ? nextCursor : "", true);
}

async function showTypes() {
  const { eventTypes } = await get("/event-types");
  by("types").replaceChildren(...eventTypes.map(typeReference));
  return eventTypes;
}

const row = (endpoint) => el("tr", {},
  el("th", { scope: "row", class: "address" },
    el("a", { class: "url", href: pathOfEndpoint(endpoint.id), title: endpoint.url }, endpoint.url),
    endpoint.description ? el("span", { class: "note description" }, isolated(endpoint.description)) : null),
  el("td", { class: "events" }, ...endpoint.events.flatMap((pattern) => [el("code", {}, pattern), " "])),
  el("td", { class: "state" }, ...stateOf(endpoint)),
  el("td", { class: "whose", title: endpoint.userId || "" }, ownerOf(endpoint)),
  el("td", { class: "time" }, el("time", { datetime: endpoint.createdAt, title: endpoint.createdAt }, dateTime(endpoint.createdAt))));

function refused() {
  by("webhooks").hidden = by("add").hidden = true;
  by("missing").hidden = false;
  setText(by("missing"), "Webhooks need the scope webhooks:manage.");
  connection("restricted", "Not allowed");
}

async function add() {
  const answer = await addEndpoint(types);
  if (!answer) return;
  by("message").replaceChildren("Added. ", el("a", { href: pathOfEndpoint(answer.endpoint.id) }, "Open the endpoint"), " to send it a test event.");
  refresh();
}

start("webhooks");
setTitle("Webhooks");
for (const place of document.querySelectorAll(".curl-of")) curlButton(place, place.dataset.path, place.dataset.name);
by("add").addEventListener("click", () => { if (types) add(); });
watchDeskCount();
const refresh = followByPolling(load, REFRESH_MS, { 400: () => location.replace(location.pathname), 403: refused });
curlButton(by("endpoints-curl"), request(), "endpoints");
