// The operator's desk: parked payments and dead letters, and what can be done with each.

import { pathOfOrder } from "./address.js";
import { get } from "./api.js";
import { correct, dropRefund, dropsRefund, outcomesOf, replay, resolve, retry } from "./desk_actions.js";
import { arrange, by, el, factList, setText } from "./elements.js";
import { dateTime, duration, money, plural } from "./format.js";
import { followByPolling } from "./polling.js";
import { connection, refreshDeskCount, setTitle, showWaiting, start } from "./shell.js";

const REFRESH_MS = 3000;
const PAGE_SIZE = 50;

let pages = 1;
let shownTarget = null;

async function load() {
  const [parked, dead] = await Promise.all([parkedPages(), get(`/operations/dead-letters?limit=${PAGE_SIZE}`)]);
  by("missing").hidden = true;
  by("desk").hidden = false;
  showParked(parked);
  showDead(dead);
  showTarget();
  const waiting = parked.parked.length + dead.deadLetters.length;
  // A whole list is counted itself, since the counts of the queues may be a second older.
  if (parked.hasMore || dead.hasMore) refreshDeskCount();
  else showWaiting(waiting);
  setTitle(waiting ? `Desk (${waiting})` : "Desk");
}

// Scrolls to the case that the address names, once it is there.
function showTarget() {
  const target = location.hash && by(location.hash.slice(1));
  if (!target || target === shownTarget) return;
  shownTarget = target;
  target.scrollIntoView({ block: "start" });
}

async function parkedPages() {
  const found = { parked: [], hasMore: false };
  for (let page = 0, cursor = ""; page < pages && (page === 0 || cursor); page += 1) {
    const next = await get(`/operations/parked?limit=${PAGE_SIZE}${cursor ? `&cursor=${encodeURIComponent(cursor)}` : ""}`);
    found.parked.push(...next.parked);
    found.hasMore = next.hasMore;
    cursor = next.nextCursor || "";
  }
  return found;
}

function refused() {
  by("desk").hidden = true;
  by("correct").hidden = true;
  by("missing").hidden = false;
  setText(by("missing"), "The desk is for operators: it needs the scope orders:admin.");
  connection("restricted", "No operator");
}

function showParked({ parked, hasMore }) {
  showCases(by("parked"), parked, contentOf, parkedCase);
  by("parked-none").hidden = parked.length > 0;
  by("parked-more").hidden = !hasMore;
  setText(by("parked-note"), parked.length ? `${plural(parked.length, "payment")}${hasMore ? " and more" : ""}, oldest orders first` : "");
}

function showDead({ deadLetters, hasMore }) {
  showCases(by("dead"), deadLetters, contentOf, deadCase);
  by("dead-none").hidden = deadLetters.length > 0;
  setText(by("dead-note"), deadLetters.length ? `${plural(deadLetters.length, "event")}${hasMore ? " and more" : ""}` : "");
}

// Cases are kept while they are the same, so that focus stays; only their ages change.
function showCases(list, cases, keyOf, make) {
  const known = new Map([...list.children].map((item) => [item.dataset.key, item]));
  const items = cases.map((one) => {
    const item = known.get(keyOf(one)) || make(one);
    item.dataset.key = keyOf(one);
    setText(item.querySelector(".age"), duration(one.ageSeconds));
    return item;
  });
  arrange(list, items);
}

const parkedCase = (one) => oneCase(one, `parked since ${dateTime(one.since)}`, one.reason, [
  ["Payment", one.paymentStatus],
  ["Pending call", one.pendingCall],
  ["Refund", one.refundId && el("code", {}, one.refundId)],
  ["Provider key", one.providerKey && el("code", {}, one.providerKey)],
  ["Reference", one.providerReference && el("code", {}, one.providerReference)],
  ["Attempts", String(one.attempts)],
  ["Last answer", one.lastAnswer],
  ["Last call ends", one.callEnds && `${dateTime(one.callEnds)}: until then it may still reach the provider, and nothing can be resolved or dropped`],
], [
  button("Retry…", () => act(retry(one.orderId), "Tried again")),
  dropsRefund(one) ? button("Drop refund…", () => act(dropRefund(one.orderId, one.refundId), "Refund dropped")) : null,
  button("Resolve…", () => act(resolve(one.orderId, outcomesOf(one.pendingCall), [
    ["Amount", money(one.amount)], ["User", one.userId], ["Provider key", one.providerKey], ["Reference", one.providerReference], ["Last answer", one.lastAnswer],
  ]), "Resolved")),
]);

const deadCase = (one) => oneCase(one, `since ${dateTime(one.at)}`, one.reason, [
  ["Event", one.event],
  ["From", one.module],
  ["Failures", String(one.failures)],
], [button("Replay…", () => act(replay(one.orderId, one.module), "Replayed"))]);

function oneCase({ orderId, userId, amount }, since, reason, facts, buttons) {
  return el("li", { class: "case", id: `case-${orderId}` },
    el("div", { class: "case-head" },
      el("h3", {}, el("a", { href: pathOfOrder(orderId) }, el("code", {}, orderId))),
      amount ? el("strong", {}, money(amount)) : null,
      userId ? el("span", { class: "note who" }, `for ${userId}`) : null,
      el("span", { class: "note" }, since, ", for ", el("span", { class: "age" }))),
    el("p", { class: "reason" }, reason),
    factList(facts),
    el("div", { class: "actions" }, ...buttons));
}

// Two looks at the same case differ in its age only.
const contentOf = (one) => JSON.stringify({ ...one, ageSeconds: 0 });

const button = (name, act) => el("button", { type: "button", onclick: act }, name);

async function act(question, done) {
  const answer = await question;
  if (!answer) return;
  const what = answer.paymentStatus ? `: the payment is ${answer.paymentStatus}` : answer.replayedIn ? ` in ${answer.replayedIn.join(" and ")}` : "";
  by("message").textContent = `${done}${what}.`;
  refresh();
}

start("desk");
setTitle("Desk");
by("correct").addEventListener("click", () => act(correct(), "Corrected"));
by("parked-more").addEventListener("click", () => { pages += 1; refresh(); });
const refresh = followByPolling(load, REFRESH_MS, { 403: refused });
