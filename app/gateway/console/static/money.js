// What the amounts of an order say beside its payment's status.

// A payment whose outcome is unknown and waits for an operator: nothing of it is on its way.
const isParked = ({ paymentStatus }) => paymentStatus === "Unknown";

// Whether it is unknown if anything was captured.
export const isUncounted = (order) => isParked(order) && !order.captured.value;

// What goes back by itself, and what does not before an operator has decided or a dispute has ended.
export function onItsWay(order) {
  const { pending, blocked } = order;
  const nothing = { value: 0, currency: pending.currency };
  const held = blocked || nothing;
  return isParked(order) ? { pending: nothing, blocked: { ...held, value: held.value + pending.value } } : { pending, blocked: held };
}

// Whether the refund of a cancelled order is known to have failed.
export const cannotBeGivenBack = (order) =>
  isParked(order) && order.orderStatus === "Cancelled" && (order.refunds || []).some(({ id, status }) => /^cancel(-|$)/.test(id) && status === "failed");
