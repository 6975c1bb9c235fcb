// What the page asks of the server: requests with the token, and streams that resume.

const TOKEN = "orderflow-token";

let token = sessionStorage.getItem(TOKEN) || "";
let ask = async () => {};
let asked = null;
let skew = 0;

export class Problem extends Error {
  constructor(body) {
    super(body.detail || body.title || "the server did not say why");
    this.body = body;
    this.status = body.status;
    this.code = body.code;
  }
}

// Have `how` ask the user for a token when the server wants one.
export function whenUnknown(how) {
  ask = how;
}

export function useToken(given) {
  token = given.trim().replace(/^bearer\s+/i, "");
  if (token) sessionStorage.setItem(TOKEN, token);
  else sessionStorage.removeItem(TOKEN);
}

// Who the token says we are: for show, since the server alone decides. Null where there is none.
export function me() {
  if (!token) return null;
  try {
    const text = atob(token.split(".")[1].replace(/-/g, "+").replace(/_/g, "/"));
    const claims = JSON.parse(new TextDecoder().decode(Uint8Array.from(text, (letter) => letter.charCodeAt(0))));
    const scopes = claims.scope ?? claims.scp ?? [];
    const list = typeof scopes === "string" ? scopes.split(" ") : scopes;
    return { userId: claims.sub || "", admin: list.includes("orders:admin") };
  } catch {
    return { userId: "", admin: false };
  }
}

export const hasToken = () => Boolean(token);

// The server's time, in milliseconds.
export const serverNow = () => Date.now() + skew;

export function setServerNow(now) {
  skew = now - Date.now();
}

async function request(method, path, { body, headers = {}, signal } = {}) {
  for (;;) {
    const sent = { ...headers };
    const used = token;
    if (used) sent.Authorization = `Bearer ${used}`;
    if (body !== undefined) sent["Content-Type"] = "application/json";
    const response = await fetch(path, {
      method, signal, headers: sent, cache: "no-store", credentials: "omit",
      body: body === undefined ? undefined : JSON.stringify(body),
    });
    if (response.status !== 401) return response;
    const problem = await response.json();
    // A late answer to a request without the present token is no reason to ask for another one.
    if (used !== token) continue;
    asked ??= ask(problem.detail).finally(() => { asked = null; });
    await asked;
  }
}

export async function call(method, path, more) {
  const response = await request(method, path, more);
  const text = await response.text();
  let answer = {};
  try {
    answer = JSON.parse(text);
  } catch {
    // Whatever stands between us and the server speaks otherwise.
  }
  if (!response.ok) throw new Problem({ status: response.status, ...answer });
  return answer;
}

export const get = (path, more) => call("GET", path, more);

const sleep = (ms, signal) => new Promise((resolve) => {
  const timer = setTimeout(resolve, ms);
  signal.addEventListener("abort", () => { clearTimeout(timer); resolve(); }, { once: true });
});

// Follow a stream for good: `on.event(name, data)`, `on.state(state, problem)`. Returns what ends it.
// It comes again after each break, from the last id that it has seen; a refusal ends it.
export function follow(path, on) {
  const end = new AbortController();
  const run = async () => {
    let last = "";
    let failures = 0;
    while (!end.signal.aborted) {
      try {
        const headers = { Accept: "text/event-stream", ...(last && { "Last-Event-ID": last }) };
        const response = await request("GET", path, { headers, signal: end.signal });
        if (!response.ok) {
          const problem = new Problem({ status: response.status, ...(await response.json()) });
          if (problem.status < 500 && problem.status !== 429) return on.state("refused", problem);
          throw problem;
        }
        on.state("live");
        failures = 0;
        for await (const event of events(response.body)) {
          if (event.id) last = event.id;
          if (event.data) on.event(event.name, JSON.parse(event.data));
        }
      } catch (error) {
        if (end.signal.aborted) return;
        failures += 1;
        on.state("away", error);
      }
      if (failures) await sleep(Math.min(3000, 250 * 2 ** failures) * (0.7 + 0.6 * Math.random()), end.signal);
    }
  };
  run();
  return () => end.abort();
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

// --- the same by hand ---

const quoted = (text) => `'${text.replace(/'/g, "'\\''")}'`;

// The command that does the same; a token is named, not told.
export function curl(method, path, body) {
  const lines = [`curl -s${method === "GET" ? "" : ` -X ${method}`} ${quoted(location.origin + path)}`];
  if (token) lines.push(`-H "Authorization: Bearer $TOKEN"`);
  if (body !== undefined) lines.push(`-H 'Content-Type: application/json'`, `-d ${quoted(JSON.stringify(body))}`);
  return lines.join(" \\\n  ");
}
