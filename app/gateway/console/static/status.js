// The words and colours of statuses and of changes.

import { el } from "./elements.js";

const TONES = {
  Processing: "busy", Success: "good", Confirm: "good", Declined: "bad", Cancelled: "off",
  Captured: "good", Voided: "off", Refunding: "busy", Refunded: "off", Unknown: "bad",
  ActionRequired: "wait", Pending: "busy", Authorized: "wait", Disputed: "bad",
  succeeded: "good", failed: "bad", pending: "busy", held: "wait",
  Enabled: "good", Failing: "wait", Disabled: "bad",
};
const TYPE_NAMES = {
  OrderCreated: "Placed", OrderUpdated: "Status changed", OrderCancelled: "Cancelled", RefundRequested: "Refund requested", MetadataUpdated: "Metadata changed", PersonalDataErased: "Personal data erased",
  CaptureRequested: "Capture requested", PaymentActionRequired: "Customer must act", PaymentDelayed: "Waits for a bank",
  PaymentAuthorized: "Authorized", PaymentDisputed: "Disputed", PaymentDisputeClosed: "Dispute ended",
  PaymentCaptured: "Captured", PaymentDeclined: "Declined", PaymentVoided: "Voided",
  PaymentRefunded: "Refunded", PaymentRefundFailed: "Refund failed", PaymentParked: "Parked for an operator",
};

// The name of a timeline entry's type; a type without a name of its own is shown as words.
export const typeName = (type) => TYPE_NAMES[type] || type.replace(/(?<=[a-z])(?=[A-Z])/g, " ");

export const tone = (status) => TONES[status] || "custom";

export const chip = (status, label) =>
  el("span", { class: `chip ${tone(status)}`, title: status }, label ? el("span", { class: "sr" }, `${label}: `) : null, status);
