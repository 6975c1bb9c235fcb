// What an operator does: each step has a confirmation, a reason and the operator's name.

import { ask, selectField, textField } from "./dialog.js";
import { el, factList } from "./elements.js";
import { hasToken } from "./token.js";

const NAME_KEY = "orderflow-operator";
const CHOOSE = ["", "choose what the provider shows"];
const OUTCOMES = {
  captured: "captured: the money was taken",
  declined: "declined: nothing was taken",
  voided: "voided: it will never be taken",
  refunded: "refunded: it was taken and went back",
};
// How each call can end. Others, such as one that reads the provider's record, may end in any way.
const OUTCOMES_OF_CALLS = {
  open: ["declined"],
  charge: ["captured", "declined", "voided"],
  void: ["captured", "declined", "voided"],
  capture: ["captured", "voided"],
  refund: ["refunded"],
};
// What an outcome that was recorded can be corrected to, by the payment's status since.
const CORRECTIONS = {
  Captured: ["declined", "voided", "refunded"],
  Declined: ["captured", "voided"],
  Voided: ["captured", "declined"],
  Refunded: ["captured"],
};

// The outcomes that a parked payment can be resolved as.
export const outcomesOf = (pendingCall) => OUTCOMES_OF_CALLS[pendingCall] || Object.keys(OUTCOMES);

// The outcomes that an earlier resolution can be corrected to.
export const correctionsOf = (paymentStatus) => CORRECTIONS[paymentStatus] || Object.keys(OUTCOMES);

// Whether the refund that a parked payment waits for can be dropped: that of a cancellation cannot.
export const dropsRefund = ({ pendingCall, refundId = "" }) => pendingCall === "refund" && Boolean(refundId) && !/^cancel(-|$)/.test(refundId);

const outcomeField = (outcomes) => selectField("outcome", "Outcome", [CHOOSE, ...outcomes.map((name) => [name, OUTCOMES[name]])]);

// Whether an actor of a timeline is an operator.
export const isOperator = (actor) => actor.startsWith("operator");

const nameField = () => (hasToken() ? [] : [textField("operator", "Your name", { maxlength: "100", value: savedName(), hint: "It is on the order's timeline." })]);
const reasonField = () => textField("reason", "Reason", { hint: "Why this is right, such as where you looked. It is on the order's timeline." });

function checkPerson({ operator, reason }) {
  return {
    operator: operator === undefined || operator.trim() ? "" : "Write your name.",
    reason: reason.trim() ? "" : "Write a reason.",
  };
}

function person({ operator, reason }) {
  return { ...(operator !== undefined && { operator: operator.trim() }), reason: reason.trim() };
}

// Asks, sends, and remembers the name for the next time. Resolves with the answer, null if the operator went back.
async function decide(orderId, { fields = [], check = () => ({}), body = () => ({}), path, ...question }) {
  let name = "";
  const answer = await ask({
    ...question,
    fields: [...fields, reasonField(), ...nameField()],
    check: (values) => {
      name = values.operator || "";
      return { ...check(values), ...checkPerson(values) };
    },
    request: (values) => ["POST", path(values), { ...body(values), ...person(values) }],
  });
  if (answer && name) saveName(name.trim());
  return answer;
}

const parked = (orderId, step) => () => `/operations/parked/${orderId}/${step}`;

export const retry = (orderId) => decide(orderId, {
  title: "Try this payment again?",
  lead: [el("p", {}, "The provider is asked again, with the same key: it charges nothing twice.")],
  submit: () => "Retry",
  path: parked(orderId, "retry"),
});

// `facts` are names and texts by which the payment is found at the provider.
export const resolve = (id, outcomes, facts, correcting = false) => decide(id, {
  title: correcting ? "Correct the resolution" : "Resolve this payment",
  lead: [el("p", {}, "Look the payment up at the provider by its key, then say what it shows. The order follows, and no call is made."),
    el("p", {}, "A refund without its reference counts as given back by other means: pay it out after this was accepted, not before."),
    factList([["Order", id], ...facts])],
  fields: [outcomeField(outcomes), textField("reference", "Reference at the provider (optional)", { maxlength: "255" })],
  danger: true,
  check: ({ outcome }) => ({ outcome: outcome ? "" : "Choose an outcome." }),
  submit: ({ outcome }) => (outcome ? `Resolve as ${outcome}` : "Resolve"),
  body: ({ outcome, reference }) => ({ outcome, ...(reference.trim() && { reference: reference.trim() }) }),
  path: parked(id, "resolve"),
});

// Asks for the order first: what was resolved before is no longer on the desk.
export const correct = () => decide("", {
  title: "Correct a resolution",
  lead: [el("p", {}, "What was resolved wrongly is resolved again, with what the provider really shows. Both are on the order's timeline.")],
  fields: [textField("order", "Order id", { maxlength: "24", spellcheck: "false" }), outcomeField(Object.keys(OUTCOMES)),
    textField("reference", "Reference at the provider (optional)", { maxlength: "255" })],
  danger: true,
  check: ({ order, outcome }) => ({
    order: /^[0-9a-f]{24}$/.test(order.trim()) ? "" : "An order id has 24 characters, 0 to 9 and a to f.",
    outcome: outcome ? "" : "Choose an outcome.",
  }),
  submit: ({ outcome }) => (outcome ? `Correct to ${outcome}` : "Correct"),
  body: ({ outcome, reference }) => ({ outcome, ...(reference.trim() && { reference: reference.trim() }) }),
  path: ({ order }) => `/operations/parked/${order.trim()}/resolve`,
});

export const dropRefund = (orderId, refundId) => decide(orderId, {
  title: "Drop this refund?",
  lead: [el("p", {}, "It counts as failed: the amount can be refunded again. Drop it only if the provider shows that it was not made."), el("p", { class: "note" }, `Refund ${refundId}`)],
  danger: true,
  submit: () => "Drop the refund",
  body: () => ({ refundId }),
  path: parked(orderId, "drop-refund"),
});

export const replay = (orderId, module) => decide(orderId, {
  title: "Deliver this event again?",
  lead: [el("p", {}, "The order's events are delivered from this one on. If the cause is not removed, it becomes a dead letter again.")],
  submit: () => "Replay",
  body: () => ({ module }),
  path: () => `/operations/dead-letters/${orderId}/replay`,
});

function savedName() {
  try {
    return localStorage.getItem(NAME_KEY) || "";
  } catch {
    return "";
  }
}

function saveName(name) {
  try {
    localStorage.setItem(NAME_KEY, name);
  } catch {
    // Storage is blocked: the name is asked for again.
  }
}
