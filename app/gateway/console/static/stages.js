// The nine stages of an order, and those that a change of an order has been through.

export const STAGE_NAMES = [
  "gateway received", "orders received", "order stored", "event handed to payments", "payments received",
  "payment processed", "result handed to orders", "orders received result", "order updated",
];

const PLACED = STAGE_NAMES.slice(0, 5);
const SETTLED = STAGE_NAMES.slice(5);

// The stages that an order of the list has been through, for visitors who may not read the stages of all orders.
export function stagesOf({ id, version, orderStatus }) {
  const stages = version === 1 ? PLACED : orderStatus === "Processing" ? [] : version === 2 ? [...PLACED, ...SETTLED] : SETTLED;
  return stages.map((stage) => ({ stage, order_id: id, order_status: orderStatus }));
}
