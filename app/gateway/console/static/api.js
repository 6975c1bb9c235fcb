// HTTP to the server: requests with the token, and streams that reconnect.

const TOKEN_KEY = "orderflow-token";

let token = sessionStorage.getItem(TOKEN_KEY) || "";
let requestToken = async () => {};
let pendingToken = null;
let clockOffset = 0;

export class Problem extends Error {
  constructor(body) {
    super(body.detail || body.title || "the server gave no reason");
    this.body = body;
    this.status = body.status;
    this.code = body.code;
  }
}

// Sets the function that asks the user for a token when the server rejects a request with 401.
export function onUnauthenticated(handler) {
  requestToken = handler;
}

export function setToken(text) {
  token = text.trim().replace(/^bearer\s+/i, "");
  if (token) sessionStorage.setItem(TOKEN_KEY, token);
  else sessionStorage.removeItem(TOKEN_KEY);
}

// The user that the token names, for display only: the server decides. Null without a token.
export function currentUser() {
  if (!token) return null;
  try {
    const text = atob(token.split(".")[1].replace(/-/g, "+").replace(/_/g, "/"));
    const claims = JSON.parse(new TextDecoder().decode(Uint8Array.from(text, (char) => char.charCodeAt(0))));
    const scopes = claims.scope ?? claims.scp ?? [];
    const list = typeof scopes === "string" ? scopes.split(" ") : scopes;
    return { userId: claims.sub || "", admin: list.includes("orders:admin") };
  } catch {
    return { userId: "", admin: false };
  }
}

export const hasToken = () => Boolean(token);

// The server's time, in milliseconds.
export const serverNow = () => Date.now() + clockOffset;

export function setServerNow(now) {
  clockOffset = now - Date.now();
}

async function request(method, path, { body, headers = {}, signal } = {}) {
  for (;;) {
    const allHeaders = { ...headers };
    const usedToken = token;
    if (usedToken) allHeaders.Authorization = `Bearer ${usedToken}`;
    if (body !== undefined) allHeaders["Content-Type"] = "application/json";
    const response = await fetch(path, {
      method, signal, headers: allHeaders, cache: "no-store", credentials: "omit",
      body: body === undefined ? undefined : JSON.stringify(body),
    });
    if (response.status !== 401) return response;
    const problem = await response.json();
    // The token has changed since this request was sent: repeat it instead of asking the user again.
    if (usedToken !== token) continue;
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

const sleep = (ms, signal) => new Promise((resolve) => {
  const timer = setTimeout(resolve, ms);
  signal.addEventListener("abort", () => { clearTimeout(timer); resolve(); }, { once: true });
});

// Follows a stream and calls `on.event(name, data)` and `on.state(state, problem)`. Returns a function that ends it.
// It reconnects after each failure, from the last event id; a rejection by the server ends it.
export function followStream(path, on) {
  const abort = new AbortController();
  const run = async () => {
    let lastEventId = "";
    let failures = 0;
    while (!abort.signal.aborted) {
      try {
        const headers = { Accept: "text/event-stream", ...(lastEventId && { "Last-Event-ID": lastEventId }) };
        const response = await request("GET", path, { headers, signal: abort.signal });
        if (!response.ok) {
          const problem = new Problem({ status: response.status, ...(await response.json()) });
          if (problem.status < 500 && problem.status !== 429) return on.state("rejected", problem);
          throw problem;
        }
        on.state("live");
        failures = 0;
        for await (const event of events(response.body)) {
          if (event.id) lastEventId = event.id;
          if (event.data) on.event(event.name, JSON.parse(event.data));
        }
      } catch (error) {
        if (abort.signal.aborted) return;
        failures += 1;
        on.state("disconnected", error);
      }
      if (failures) await sleep(Math.min(3000, 250 * 2 ** failures) * (0.7 + 0.6 * Math.random()), abort.signal);
    }
  };
  run();
  return () => abort.abort();
}

async function* events(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let text = "";
  let event = { name: "message", id: "", data: "" };
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    text += value;
    let end;
    while ((end = text.indexOf("\n")) >= 0) {
      const line = text.slice(0, end);
      text = text.slice(end + 1);
      if (line === "") {
        yield event;
        event = { name: "message", id: "", data: "" };
      } else if (line.startsWith("id: ")) event.id = line.slice(4);
      else if (line.startsWith("event: ")) event.name = line.slice(7);
      else if (line.startsWith("data: ")) event.data += line.slice(6);
    }
  }
}

const quoted = (text) => `'${text.replace(/'/g, "'\\''")}'`;

// The curl command of a request; it names the token as $TOKEN and does not contain it.
export function curl(method, path, body) {
  const lines = [`curl -s${method === "GET" ? "" : ` -X ${method}`} ${quoted(location.origin + path)}`];
  if (token) lines.push(`-H "Authorization: Bearer $TOKEN"`);
  if (body !== undefined) lines.push(`-H 'Content-Type: application/json'`, `-d ${quoted(JSON.stringify(body))}`);
  return lines.join(" \\\n  ");
}
