// What can be done with endpoints of webhooks and with deliveries: each action asks before it does anything.

import { copyable } from "./curl.js";
import { ask, selectField, tell, textField } from "./dialog.js";
import { el } from "./elements.js";
import { eventField, eventsError, pickedEvents } from "./event_types.js";
import { inputTime, localInput } from "./format.js";
import { seesAll } from "./token.js";

const HOUR_MS = 3_600_000;
const MAX_OVERLAP_HOURS = 168;
const SCHEMES = [["", "v1: HMAC-SHA256, with a shared secret"], ["v1a", "v1a: Ed25519, with a public key"]];

const text = (...children) => el("p", {}, ...children);
const pathOf = ({ id }, part = "") => `/webhooks/endpoints/${id}${part}`;

// These requests have no Idempotency-Key: none is repeated without the visitor.
const question = (options) => ask({ keyed: false, ...options });

const urlField = (attributes = {}) =>
  textField("url", "Address", { maxlength: "2048", inputmode: "url", spellcheck: "false", placeholder: "https://shop.example/webhooks", ...attributes });
const descriptionField = (value = "") => textField("description", "Description (optional)", { maxlength: "200", value });

const checkEndpoint = (values) => ({ url: values.url.trim() ? "" : "Write an address.", events: eventsError(values) });

export async function addEndpoint(types) {
  const answer = await question({
    title: "Add an endpoint",
    fields: [urlField(), descriptionField(), eventField(types, ["*"]), selectField("signature", "Signature", SCHEMES),
      ...(seesAll() ? [textField("userId", "User (optional)", { maxlength: "128", hint: "Whose orders are told. Empty: those of all users." })] : [])],
    submit: () => "Add the endpoint",
    check: checkEndpoint,
    request: (values) => ["POST", "/webhooks/endpoints", {
      url: values.url.trim(), events: pickedEvents(values),
      ...filled({ description: values.description, signature: values.signature, userId: values.userId }),
    }],
  });
  if (answer) await showSecret(answer.endpoint, "The endpoint is added");
  return answer;
}

// Members that are not empty.
const filled = (members) =>
  Object.fromEntries(Object.entries(members).map(([name, value]) => [name, value?.trim()]).filter(([, value]) => value));

export const changeEndpoint = (endpoint, types) => question({
  title: "Change this endpoint",
  fields: [urlField({ value: endpoint.url }), descriptionField(endpoint.description), eventField(types, endpoint.events)],
  submit: () => "Change",
  check: checkEndpoint,
  request: (values) => ["PATCH", pathOf(endpoint), changed(endpoint, {
    url: values.url.trim(), description: values.description.trim(), events: pickedEvents(values),
  })],
});

const changed = (endpoint, members) =>
  Object.fromEntries(Object.entries(members).filter(([name, value]) => JSON.stringify(value) !== JSON.stringify(endpoint[name])));

export const disableEndpoint = (endpoint) => question({
  title: "Disable this endpoint?",
  lead: [text("Nothing is sent while it is disabled: its deliveries are held, and sent when it is enabled.")],
  submit: () => "Disable",
  request: () => ["PATCH", pathOf(endpoint), { enabled: false }],
});

export const enableEndpoint = (endpoint) => question({
  title: "Enable this endpoint?",
  lead: [text("What was held is sent at once.")],
  submit: () => "Enable",
  request: () => ["PATCH", pathOf(endpoint), { enabled: true }],
});

export async function rotateSecret(endpoint) {
  const answer = await question({
    title: endpoint.publicKey ? "Give this endpoint a new key?" : "Give this endpoint a new secret?",
    lead: [text("The former one signs as well for some hours, so that the receiver can change over.")],
    fields: [textField("overlapHours", "Hours that the former one signs as well", {
      value: "24", inputmode: "decimal", maxlength: "8", hint: "24 by default, at most 168, and 0 where it has leaked.",
    })],
    danger: true,
    check: ({ overlapHours }) => ({ overlapHours: isOverlap(overlapHours) ? "" : `Write a number from 0 to ${MAX_OVERLAP_HOURS}.` }),
    submit: () => "Rotate",
    request: ({ overlapHours }) => ["POST", pathOf(endpoint, "/rotate-secret"), { overlapHours: Number(overlapHours) }],
  });
  if (answer) await showSecret(answer.endpoint, "The secret is rotated");
  return answer;
}

const isOverlap = (hours) => /^\d+(\.\d+)?$/.test(hours.trim()) && Number(hours) <= MAX_OVERLAP_HOURS;

export const sendTestEvent = (endpoint) => question({
  title: "Send a test event?",
  lead: [text("An ", el("code", {}, "endpoint.test"), " is sent to this endpoint, whatever events it wants.")],
  submit: () => "Send",
  request: () => ["POST", pathOf(endpoint, "/test")],
});

export const replayDeliveries = (endpoint) => question({
  title: "Send deliveries again",
  lead: [text("What this endpoint has not taken of a time is sent again, at once.")],
  fields: [timeField("since", "Recorded since", Date.now() - 24 * HOUR_MS), timeField("until", "and before", Date.now() + HOUR_MS)],
  check: ({ since, until }) => ({
    since: since ? "" : "Write a date and a time.",
    until: !until ? "Write a date and a time." : since && until <= since ? "This is not after the beginning." : "",
  }),
  submit: () => "Replay",
  request: ({ since, until }) => ["POST", pathOf(endpoint, "/replay"), { since: inputTime(since), until: inputTime(until) }],
});

const timeField = (name, label, at) => textField(name, label, { type: "datetime-local", step: "1", value: localInput(at) });

export const deleteEndpoint = (endpoint) => question({
  title: "Delete this endpoint?",
  lead: [text(el("span", { class: "url" }, endpoint.url)), text("What was not delivered to it is deleted as well.")],
  danger: true,
  submit: () => "Delete the endpoint",
  request: () => ["DELETE", pathOf(endpoint)],
});

export const retryDelivery = ({ id, status }) => question({
  title: "Send this delivery again?",
  lead: [text(status === "succeeded" ? "The receiver has taken it already: it knows it by its webhook-id." : "It is sent at once, with the same webhook-id.")],
  submit: () => "Retry",
  request: () => ["POST", `/webhooks/deliveries/${id}/retry`],
});

// Shows the secret that an answer has. It is nowhere in the page afterwards.
function showSecret({ secret, publicKey }, title) {
  return tell({
    title,
    lead: secret
      ? [text("This is its secret, with which the receiver verifies what it is sent. ", el("strong", {}, "It is shown now and never again.")), copyable(secret, "Secret")]
      : [text("No secret is shared: the receiver verifies with its public key."), copyable(publicKey, "Public key")],
    done: secret ? "I have copied it" : "Done",
  });
}
