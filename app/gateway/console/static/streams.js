// Server-sent events of the server, in streams that reconnect.

import { Problem, request } from "./api.js";

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
