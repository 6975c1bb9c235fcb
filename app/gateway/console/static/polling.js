// Follows something that has no stream: it is requested again and again while the page is looked at.

import { connection } from "./shell.js";

// Calls `load()` now and every `ms` milliseconds, never twice at a time. `refused` has a function by status of a problem.
// Returns a function that loads at once, or again after what is loading.
export function followByPolling(load, ms, refused = {}) {
  let busy = false;
  let again = false;
  const refresh = async () => {
    if (busy || document.hidden) {
      again = busy;
      return;
    }
    [busy, again] = [true, false];
    try {
      await load();
      connection("live", "Live");
    } catch (error) {
      if (refused[error.status]) refused[error.status](error);
      else connection("disconnected", "Connection lost; reconnecting");
    } finally {
      busy = false;
      if (again) refresh();
    }
  };
  addEventListener("visibilitychange", refresh);
  setInterval(refresh, ms);
  refresh();
  return refresh;
}
