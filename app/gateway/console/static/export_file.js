// All orders of a list as a file.

import { Problem, request } from "./api.js";
import { el } from "./elements.js";

// Saves what the server answers as the file `name`. Throws a Problem if it refuses, or another error if the answer is not whole.
export async function saveFile(path, name) {
  const response = await request("GET", path);
  if (!response.ok) throw new Problem({ status: response.status, ...(await response.json()) });
  const href = URL.createObjectURL(await response.blob());
  el("a", { href, download: name }).click();
  // The browser has taken it when other tasks have run.
  setTimeout(() => URL.revokeObjectURL(href), 10_000);
}
