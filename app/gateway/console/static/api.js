// HTTP to the server: requests with the token, and their problems.

import { currentToken } from "./token.js";

const MAX_ATTEMPTS = 8;

let requestToken = async () => {};
let pendingToken = null;

export class Problem extends Error {
  constructor(body) {
    super(body.detail || body.title || "the server gave no reason");
    this.body = body;
    this.status = body.status;
    this.code = body.code;
    this.errors = body.errors || [];
  }
}

// Sets the function that asks the user for a token when the server rejects a request with 401.
export function onUnauthenticated(handler) {
  requestToken = handler;
}

export async function request(method, path, { body, headers = {}, signal } = {}) {
  for (;;) {
    const allHeaders = { ...headers };
    const usedToken = currentToken();
    if (usedToken) allHeaders.Authorization = `Bearer ${usedToken}`;
    if (body !== undefined) allHeaders["Content-Type"] = "application/json";
    const response = await fetch(path, {
      method, signal, headers: allHeaders, cache: "no-store", credentials: "omit",
      body: body === undefined ? undefined : JSON.stringify(body),
    });
    if (response.status !== 401) return response;
    const problem = await response.json();
    // The token has changed since this request was sent: repeat it instead of asking the user again.
    if (usedToken !== currentToken()) continue;
    pendingToken ??= requestToken(problem.detail).finally(() => { pendingToken = null; });
    await pendingToken;
  }
}

export async function call(method, path, options) {
  const response = await request(method, path, options);
  const text = await response.text();
  let members = {};
  try {
    members = JSON.parse(text);
  } catch {
    // A proxy may answer with something other than JSON.
  }
  if (!response.ok) throw new Problem({ status: response.status, ...members });
  return members;
}

export const get = (path, options) => call("GET", path, options);

// A new Idempotency-Key: a POST that carries it may be repeated and has one effect.
export const newKey = () =>
  `console-${Array.from(crypto.getRandomValues(new Uint8Array(16)), (byte) => byte.toString(16).padStart(2, "0")).join("")}`;

// Sends a POST with an Idempotency-Key, and repeats it while the server is unavailable.
export async function postWithRetries(path, body, key, onRetry) {
  // The live feed never leaves out orders of requests whose id begins with console-.
  const headers = { "Idempotency-Key": key, "X-Request-Id": key };
  for (let attempt = 1; ; attempt += 1) {
    try {
      return await call("POST", path, { body, headers });
    } catch (error) {
      const transient = !(error instanceof Problem) || error.status === 503;
      if (!transient || attempt >= MAX_ATTEMPTS) throw error;
      onRetry("The server is unavailable; trying again with the same key…");
      await new Promise((resolve) => setTimeout(resolve, 500 * attempt));
    }
  }
}
