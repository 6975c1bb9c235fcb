// Parts that show endpoints of webhooks and deliveries, on several pages.

import { el } from "./elements.js";
import { dateTime, ms } from "./format.js";
import { chip } from "./status.js";

// A text that somebody has chosen: its direction does not change that of the text around it.
export const isolated = (text) => el("bdi", {}, text);

const endpointState = ({ enabled, failingSince }) => (!enabled ? "Disabled" : failingSince ? "Failing" : "Enabled");

// The state of an endpoint and why.
export const stateOf = (endpoint) => [chip(endpointState(endpoint), "State"), ...reasons(endpoint).flatMap((reason) => [" ", el("span", { class: "note why" }, reason)])];

const reasons = ({ disabledReason, failingSince }) =>
  [disabledReason, failingSince && `every attempt has failed since ${dateTime(failingSince)}`].filter(Boolean);

export const ownerOf = ({ userId }) => (userId ? isolated(userId) : el("span", { class: "note" }, "all users"));

// What became of an attempt.
export const attemptText = ({ status, error, tookMs }) => `${status ? `answered ${status}` : error} after ${ms(tookMs)}`;

// The state in which an attempt left the delivery: statuses from 200 to 299 are a success.
export const succeeded = ({ status }) => status >= 200 && status < 300;
