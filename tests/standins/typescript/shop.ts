// What README and docs/api.md do with curl, with the client that is made of the OpenAPI document. Run by a test.

import assert from "node:assert/strict";
import createClient from "openapi-fetch";
import type { components, paths } from "./orderflow.js";

const baseUrl = process.env.ORDERFLOW_URL ?? "";
const orderflow = createClient<paths>({ baseUrl });
const ORDER: components["schemas"]["NewOrder"] = {
  userId: "user-7",
  productId: "1",
  productName: "Espresso machine",
  totalOrderAmount: "RM 99",
};

// Place an order, wait for its payment, and repeat the request.
const header = { "Idempotency-Key": "typescript", Prefer: "wait=20" };
const placed = await orderflow.POST("/orders", { params: { header }, body: ORDER });
const again = await orderflow.POST("/orders", { params: { header }, body: ORDER });
const orderId = placed.data?.created.id ?? assert.fail(placed.error?.detail);
assert.equal(placed.response.status, 201);
assert.equal(placed.data?.order?.orderStatus, "Success");
assert.equal(again.data?.created.id, orderId);
assert.equal(again.response.headers.get("Idempotent-Replayed"), "true");

// Read it, and again only if it has changed.
const found = await orderflow.GET("/orders/one/{orderId}", { params: { path: { orderId } } });
const order = found.data?.order ?? assert.fail();
assert.deepEqual(order.total, { value: 9900, currency: "MYR" });
const tag = found.response.headers.get("ETag") ?? assert.fail();
const same = await orderflow.GET("/orders/one/{orderId}", {
  params: { path: { orderId }, header: { "If-None-Match": tag } },
});
assert.equal(same.response.status, 304);
const status = await orderflow.GET("/orders/status/{orderId}", { params: { path: { orderId }, query: { wait: 5 } } });
assert.equal(status.data?.orderStatus, "Success");

// Refund a part, then cancel the order.
const refunded = await orderflow.POST("/orders/one/{orderId}/refunds", {
  params: { path: { orderId }, header: { "Idempotency-Key": "r", "If-Match": tag } },
  body: { amount: "RM 10", reason: "scratched" },
});
assert.equal(refunded.data?.refund.amount.value, 1000);
const stale = await orderflow.PUT("/orders", {
  params: { header: { "If-Match": tag } },
  body: { orderId, orderStatus: "Cancelled" },
});
assert.equal(stale.error?.code, "precondition_failed");
const cancelled = await orderflow.PUT("/orders", { body: { orderId, orderStatus: "Cancelled" } });
assert.equal(cancelled.data?.message, "Update order success");
const refused = await orderflow.PUT("/orders", { body: { orderId, orderStatus: "Confirm" } });
assert.equal(refused.response.status, 409);
assert.deepEqual(refused.error?.allowed, []);

// Follow its way, and ask why.
const timeline = await orderflow.GET("/orders/one/{orderId}/events", { params: { path: { orderId } } });
// As text it would be the stream of server-sent events.
assert.ok(typeof timeline.data === "object");
assert.ok(timeline.data.events.some(({ type }) => type === "OrderCancelled"));
const told = await orderflow.GET("/orders/one/{orderId}/explain", { params: { path: { orderId } } });
assert.equal(told.data?.orderStatus, "Cancelled");

// List in pages, select by time, from the oldest.
await orderflow.POST("/orders", { body: { ...ORDER, totalOrderAmount: { value: 500, currency: "JPY" } } });
const query = { limit: 1, createdFrom: order.createdAt, sort: "createdAt" } as const;
const seen: string[] = [];
for (let cursor: string | undefined = undefined; ; ) {
  const page: { orders: { id: string }[]; nextCursor?: string } = (
    await orderflow.GET("/orders/{userId}", {
      params: { path: { userId: "user-7" }, query: { ...query, ...(cursor === undefined ? {} : { cursor }) } },
    })
  ).data ?? assert.fail();
  seen.push(...page.orders.map(({ id }) => id));
  if (page.nextCursor === undefined) break;
  cursor = page.nextCursor;
}
assert.equal(seen.length, 2);
assert.equal(seen[0], orderId);

// Export them, read as they come.
const exported = await orderflow.GET("/orders/export", {
  params: { query: { userId: "user-7", sort: "createdAt", format: "ndjson" } },
  parseAs: "stream",
});
let text = "";
for await (const piece of exported.data ?? assert.fail()) text += Buffer.from(piece).toString();
assert.deepEqual(text.trim().split("\n").map((line) => JSON.parse(line).id), seen);
const csv = await orderflow.GET("/orders/export", {
  params: { query: { userId: "user-7", format: "csv", after: seen[1] ?? assert.fail() } },
  parseAs: "text",
});
assert.equal(csv.data?.slice(0, 24), orderId);

// Be told what becomes of orders.
const types = await orderflow.GET("/event-types");
assert.ok(types.data?.eventTypes.some(({ name }) => name === "order.succeeded"));
const endpoint = await orderflow.POST("/webhooks/endpoints", {
  body: { userId: "user-7", url: "https://shop.example/webhooks", events: ["order.*"] },
});
assert.equal(endpoint.response.status, 201);
const endpoints = await orderflow.GET("/webhooks/endpoints", { params: { query: { userId: "user-7", limit: 1 } } });
assert.equal(endpoints.data?.endpoints[0]?.id, endpoint.data?.endpoint.id);
assert.equal(endpoints.data?.hasMore, false);

// An error says what it is.
const unknown = await orderflow.GET("/orders/one/{orderId}", { params: { path: { orderId: "nothing" } } });
assert.equal(unknown.error?.code, "order_not_found");
console.log("done");
