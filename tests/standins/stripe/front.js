// Stands before localstripe: the idempotency layer of stripe-stateful-mock, the members that localstripe does not know, and what
// a test makes happen at Stripe's side (POST /_standin/…). Each part says what Stripe does that localstripe does not.
"use strict";
const http = require("http");
const Module = require("module");
const load = Module.createRequire(`${process.argv[2]}/`);
const express = load("express");
const bodyParser = load("body-parser");
const qs = load("qs");
const { auth } = load("stripe-stateful-mock/dist/api/auth");
const { idempotencyRoute } = load("stripe-stateful-mock/dist/api/idempotency");
load("loglevel").setLevel("silent");
const [target, listenFd] = [Number(process.argv[3]), Number(process.argv[4])];

const disputes = []; // localstripe has none
const refundChanges = new Map(); // its refunds never fail
const held = new Set(); // payment methods whose bank has not answered; localstripe debits at once
const failures = []; // answers to give instead of its own
const inFlight = new Set();

const error = (status, code, message, more = {}) =>
  ({ status, body: { error: { type: "invalid_request_error", code, message, ...more } } });

const form = (body) => qs.stringify(body, { arrayFormat: "indices" });

function ask(method, path, authorization, body, encode = form) {
  return new Promise((resolve, reject) => {
    const data = body === undefined ? undefined : encode(body);
    const headers = { authorization };
    if (data !== undefined) {
      headers["content-type"] = encode === form ? "application/x-www-form-urlencoded" : "application/json";
      headers["content-length"] = Buffer.byteLength(data);
    }
    // A connection of its own: one that is kept may be closed by the other side at the same moment.
    const asked = http.request({ agent: false, host: "127.0.0.1", port: target, method, path, headers }, (answer) => {
      let text = "";
      answer.on("data", (chunk) => (text += chunk));
      answer.on("end", () => {
        let json;
        try {
          json = JSON.parse(text);
        } catch {
          json = { error: { type: "api_error", message: text } };
        }
        resolve({ status: answer.statusCode, body: json });
      });
    });
    asked.on("error", reject);
    asked.end(data);
  });
}

// localstripe makes a refund of what a partial capture releases, as Stripe did until its API of March 2025.
const isRelease = (refund) => refund.payment_intent === null || refund.payment_intent === undefined;
const changed = (refund) => ({ ...refund, ...(refundChanges.get(refund.id) || {}) });
const counts = (refund) => !["failed", "canceled"].includes(refund.status);
const sum = (list) => list.reduce((total, one) => total + one.amount, 0);

async function refundsOf(intentId, authorization) {
  const { body } = await ask("GET", `/v1/refunds?payment_intent=${intentId}&limit=1000`, authorization);
  return (body.data || []).map(changed);
}

// The amounts that localstripe's PaymentIntents lack.
async function complete(intent, authorization) {
  const charge = intent.latest_charge;
  const paid = charge && charge.status === "succeeded";
  const refunds = paid ? await refundsOf(intent.id, authorization) : [];
  const captured = paid && charge.captured ? intent.amount - sum(refunds.filter(isRelease)) : 0;
  const given = refunds.filter((refund) => !isRelease(refund) && counts(refund));
  const own = disputes.filter((dispute) => dispute.payment_intent === intent.id);
  if (paid && held.has(intent.payment_method)) {
    return { ...intent, status: "processing", amount_received: 0, amount_capturable: 0, latest_charge: null };
  }
  return {
    ...intent,
    amount_received: captured,
    amount_capturable: intent.status === "requires_capture" ? intent.amount : 0,
    latest_charge: charge && {
      ...charge, amount_captured: captured, amount_refunded: sum(given), disputed: own.length > 0,
    },
  };
}

async function completeAnswer(answer, path, authorization) {
  if (answer.status === 200 && answer.body.object === "payment_intent") {
    return { ...answer, body: await complete(answer.body, authorization) };
  }
  return answer.status === 200 && answer.body.object === "refund" ? { ...answer, body: changed(answer.body) } : answer;
}

// Stripe's confirm takes the payment method and an address to return to.
async function confirm(req, id, authorization) {
  const { payment_method: method } = req.body;
  if (method) {
    const known = await ask("GET", `/v1/payment_methods/${method}`, authorization);
    if (known.status !== 200) {
      return error(400, "resource_missing", `No such PaymentMethod: '${method}'`, { param: "payment_method" });
    }
    const intent = await ask("GET", `/v1/payment_intents/${id}`, authorization);
    if (["requires_confirmation", "requires_payment_method"].includes(intent.body.status)) {
      // Another card after a decline: localstripe would not try it.
      const members = { payment_method: known.body.id, latest_charge: null };
      await ask("POST", `/v1/payment_intents/${id}`, authorization, members, JSON.stringify);
    }
  }
  return ask("POST", `/v1/payment_intents/${id}/confirm`, authorization, {});
}

// Stripe refunds no more than it has captured, and no disputed charge.
async function refund(req, authorization) {
  const { payment_intent: id, amount } = req.body;
  const intent = await complete((await ask("GET", `/v1/payment_intents/${id}`, authorization)).body, authorization);
  const own = disputes.filter((dispute) => dispute.payment_intent === id && dispute.status !== "won");
  if (own.length) {
    return error(400, "charge_disputed", "The charge has been charged back");
  }
  if (Number(amount) > intent.amount_received - intent.latest_charge.amount_refunded) {
    return error(400, "charge_already_refunded", "The refund is greater than the amount that is left on the charge");
  }
  return ask("POST", "/v1/refunds", authorization, req.body);
}

// Stripe captures only what is authorized, and does not cancel what a bank is at work on.
async function endIntent(req, id, verb, authorization) {
  const intent = await complete((await ask("GET", `/v1/payment_intents/${id}`, authorization)).body, authorization);
  if (verb === "capture" ? intent.status !== "requires_capture" : intent.status === "processing") {
    return error(400, "payment_intent_unexpected_state", `The PaymentIntent has the status ${intent.status}`);
  }
  return ask("POST", req.path, authorization, req.body);
}

async function listIntents(req, authorization) {
  const { created, expand, ...query } = req.query;
  const answer = await ask("GET", `/v1/payment_intents?${qs.stringify(query)}`, authorization);
  const recent = answer.body.data.filter((intent) => intent.created >= Number((created || {}).gte || 0));
  const data = await Promise.all(recent.map((intent) => complete(intent, authorization)));
  // localstripe's next page begins after the last element, which the filter must not remove.
  return { ...answer, body: { ...answer.body, data, has_more: answer.body.has_more && recent.length > 0 } };
}

async function pass(req) {
  const authorization = req.header("authorization");
  const [, intentId, verb] = /^\/v1\/payment_intents\/(\w+)(?:\/(\w+))?$/.exec(req.path) || [];
  if (req.method === "GET" && req.path === "/v1/disputes") {
    const data = disputes.filter((dispute) => dispute.payment_intent === req.query.payment_intent);
    return { status: 200, body: { object: "list", url: "/v1/disputes", has_more: false, data } };
  }
  if (req.method === "GET" && req.path === "/v1/payment_intents") {
    return listIntents(req, authorization);
  }
  if (req.method === "GET" && req.path === "/v1/refunds") {
    const listed = await ask("GET", req.url, authorization);
    const data = (listed.body.data || []).filter((one) => !isRelease(one)).map(changed);
    return { ...listed, body: { ...listed.body, data } };
  }
  if (req.method === "GET") {
    return ask("GET", req.url, authorization);
  }
  if (req.path === "/v1/payment_intents") {
    const { automatic_payment_methods, ...known } = req.body;
    return ask("POST", req.path, authorization, known);
  }
  if (verb === "confirm") {
    return confirm(req, intentId, authorization);
  }
  if (verb === "capture" || verb === "cancel") {
    return endIntent(req, intentId, verb, authorization);
  }
  return req.path === "/v1/refunds" ? refund(req, authorization) : ask("POST", req.path, authorization, req.body);
}

const app = express();
app.use(bodyParser.urlencoded({ extended: true }));
app.post("/_standin/disputes", (req, res) => {
  const known = disputes.find((dispute) => dispute.id === req.body.id);
  const dispute = { object: "dispute", balance_transactions: [], ...known, ...req.body, amount: Number(req.body.amount) };
  known ? Object.assign(known, dispute) : disputes.push(dispute);
  res.json(dispute);
});
app.post("/_standin/refunds/:id", (req, res) => {
  refundChanges.set(req.params.id, req.body);
  res.json(req.body);
});
app.post("/_standin/banks", (req, res) => {
  req.body.answers === "later" ? held.add(req.body.payment_method) : held.delete(req.body.payment_method);
  res.json(req.body);
});
// The next request to a path that ends in `path` is answered with `status`, before or after it had its effect.
app.post("/_standin/failures", (req, res) => {
  failures.push(req.body);
  res.json(req.body);
});
app.use(auth.authRoute);
// Where a duplicate arrives while the first request is under way, the idempotency layer fails and Stripe says 409.
app.use((req, res, next) => {
  const key = req.header("idempotency-key");
  if (!key || req.method !== "POST") {
    return next();
  }
  if (inFlight.has(key)) {
    return res.status(409).send({ error: { type: "invalid_request_error", code: "idempotency_key_in_use", message: "in use" } });
  }
  inFlight.add(key);
  res.on("close", () => inFlight.delete(key));
  return next();
});
app.use(idempotencyRoute);
app.use(async (req, res, next) => {
  try {
    const at = failures.findIndex((failure) => req.method === "POST" && req.path.endsWith(failure.path));
    const [failure] = at < 0 ? [] : failures.splice(at, 1);
    let answer = failure && failure.when === "before" ? undefined : await pass(req);
    if (failure) {
      const headers = failure.retry_after ? { "retry-after": failure.retry_after } : {};
      res.set(headers);
      answer = error(Number(failure.status), failure.code, "made to fail", { type: "api_error" });
    }
    answer = await completeAnswer(answer, req.path, req.header("authorization"));
    res.status(answer.status).send(answer.body);
  } catch (failed) {
    next(failed);
  }
});
app.use((failed, req, res, next) => {
  const { statusCode = 500, error: body = { type: "api_error", message: String(failed.stack) } } = failed;
  res.status(statusCode).send({ error: body });
});
app.listen({ fd: listenFd });
