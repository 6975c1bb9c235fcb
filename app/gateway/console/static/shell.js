// What all pages share: the connection, the token and its dialog, and the desk's count.

import { get, onUnauthenticated } from "./api.js";
import { by, setText } from "./elements.js";
import { currentUser, hasToken, managesWebhooks, seesAll, setToken } from "./token.js";

const QUEUES_MS = 10_000;

export function connection(state, text) {
  by("connection").dataset.state = state;
  setText(by("connection").querySelector(".text"), text);
}

// Shows how many payments and events wait for a person, beside the link to the desk.
export function showDeskCount({ orders, payments }) {
  showWaiting((payments?.parked || 0) + (payments?.dead || 0) + (orders?.dead || 0));
}

export function showWaiting(waiting) {
  by("desk-count").hidden = !waiting;
  setText(by("desk-count"), waiting ? String(waiting) : "");
}

export function refreshDeskCount() {
  if (document.hidden || !seesAll()) return;
  get("/console/stream").then(({ queues }) => showDeskCount(queues)).catch(() => {});
}

// Requests the desk's count now and then, for pages that do not follow the stream of all orders.
export function watchDeskCount() {
  setInterval(refreshDeskCount, QUEUES_MS);
  refreshDeskCount();
}

export function setTitle(text) {
  const title = `${text} · Orderflow`;
  if (document.title !== title) document.title = title;
}

// Prepares the shared parts; `onUser` is called with the user that the token names, at the start and after each change.
export function start(page, onUser = () => {}) {
  by(`to-${page}`)?.setAttribute("aria-current", "page");
  const showUser = () => {
    const user = currentUser();
    by("user").hidden = by("forget").hidden = !hasToken();
    if (user) by("user").textContent = user.userId + (user.admin ? " (admin)" : "");
    by("to-desk").hidden = !seesAll();
    // Servers without webhooks have no link to them.
    if (by("to-webhooks")) by("to-webhooks").hidden = !managesWebhooks();
    onUser(user);
  };
  onUnauthenticated((reason) => askForToken(reason).then(showUser));
  by("forget").addEventListener("click", () => { setToken(""); location.reload(); });
  showUser();
}

function askForToken(reason) {
  const dialog = by("token-dialog");
  by("token-reason").textContent = `This server needs authentication: ${reason}. The token is kept in this tab and sent with each request.`;
  dialog.showModal();
  return new Promise((resolve) => {
    dialog.addEventListener("close", () => {
      setToken(by("token-form").elements.token.value);
      by("token-form").reset();
      resolve();
    }, { once: true });
  });
}
