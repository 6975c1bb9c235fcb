// Addresses of pages, and the request for a list of orders.

export const ORDER_ID = /^[0-9a-f]{24}$/;

export const pathOfOrder = (id) => `/console/orders/${id}`;

export const pathOfEndpoint = (id, orderId = "") => `/console/webhooks/${id}${orderId ? `?orderId=${orderId}` : ""}`;

export const pathOfDelivery = (id) => `/console/deliveries/${id}`;

// The id at the end of this page's address. What has another character is no id, and names no other path.
export function idOfPage() {
  const id = location.pathname.split("/").at(-1);
  return /^\w[\w.]*$/.test(id) ? id : "";
}

// What is shown alone, without other filters and in one page.
const SHOWN_ALONE = new Set(["stuck", "deadLetter"]);

export const isShownAlone = ({ show }) => SHOWN_ALONE.has(show);

// The request for the orders of a view; `owner` is the only user whose orders the visitor may see, empty for all.
export function requestOf(view, owner, limit) {
  const query = new URLSearchParams({ limit });
  if (view.show) query.set(view.show, "true");
  if (!isShownAlone(view)) {
    for (const [name, value] of filtersOf(view, owner)) query.set(name, value);
    if (view.cursor) query.set("cursor", view.cursor);
  }
  return `/orders?${query}`;
}

// The request for all orders of a view as a file, which nothing that is shown alone has.
export function exportOf(view, owner, format) {
  const query = new URLSearchParams({ ...Object.fromEntries(filtersOf(view, owner)), format });
  if (view.show) query.set(view.show, "true");
  return `/orders/export?${query}`;
}

const filtersOf = (view, owner) =>
  Object.entries({
    userId: owner || view.userId,
    status: view.status,
    paymentStatus: view.paymentStatus,
    createdFrom: view.createdFrom,
    createdTo: view.createdTo,
    sort: view.first && "createdAt",
  }).filter(([, value]) => value);
