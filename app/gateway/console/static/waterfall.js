// How long each stage took, as bars on one scale: the stages in the live feed, else the entries of the timeline.

import { el, ms } from "./show.js";

const STAGES = ["gateway received", "orders received", "order stored", "event handed to payments", "payments received",
  "payment processed", "result handed to orders", "orders received result", "order updated"];

// The rows of a waterfall, each with its module and times, oldest first.
export function waterfallRows({ stages, attempts }, entries) {
  const rows = [];
  for (const stage of stages) {
    const end = Date.parse(stage.at) + (Number(stage.at.slice(23, 26)) || 0) / 1000;
    const number = STAGES.indexOf(stage.stage) + 1;
    rows.push({ name: stage.stage, number, module: stage.module, end, start: end - stage.tookMs, took: stage.tookMs, tone: stage.module, detail: stage.event });
  }
  const seen = new Set(stages.filter((stage) => stage.stage === "payment processed").map((stage) => stage.tookMs.toFixed(1)));
  for (const attempt of attempts) {
    if (seen.has(attempt.tookMs.toFixed(1))) continue;
    const end = Date.parse(attempt.at);
    rows.push({ name: `${attempt.call}: ${attempt.answer}`, module: "provider", end, start: end - attempt.tookMs, took: attempt.tookMs, tone: "provider", detail: attempt.reason });
  }
  if (!stages.length) {
    for (const entry of entries) {
      const end = Date.parse(entry.at);
      rows.push({ name: entry.type, module: entry.actor, end, start: end, took: null, tone: entry.actor === "client" ? "gateway" : "orders" });
    }
  }
  return rows.sort((one, other) => one.end - other.end || (one.number || 0) - (other.number || 0));
}

// A table whose last column is the bar; times are relative to the first row.
export function waterfall(rows, until) {
  const first = Math.min(...rows.map((row) => row.start));
  const last = Math.max(...rows.map((row) => row.end));
  const place = scale(rows, first, last);
  const body = rows.map((row) => el("tr", { class: row.end > until ? "later" : "" },
    el("th", { scope: "row" }, row.number ? el("span", { class: "number" }, row.number) : null, row.name,
      row.detail ? el("span", { class: "detail" }, ` ${row.detail}`) : null),
    el("td", { class: "module" }, row.module),
    el("td", { class: "n" }, row.took === null ? `+${ms(row.end - first)}` : ms(row.took)),
    el("td", { class: "track" }, el("span", {
      class: `span ${row.tone}`, title: `from ${ms(row.start - first)} to ${ms(row.end - first)}`,
      style: { left: `${place(row.start)}%`, width: `max(4px, ${place(row.end) - place(row.start)}%)` },
    }))));
  return el("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": "How long each stage took" },
    el("table", { class: "waterfall" },
      el("thead", {}, el("tr", {}, ...["Stage", "Module", "Took"].map((name, at) => el("th", { scope: "col", class: ["", "module", "n"][at] }, name)),
        el("th", { scope: "col" }, `Time, over ${ms(last - first)}`))),
      el("tbody", {}, body)));
}

// The position of a time, in percent. Long idle intervals are shortened, so that short stages stay visible.
function scale(rows, first, last) {
  const marks = [...new Set(rows.flatMap((row) => [row.start, row.end]))].sort((one, other) => one - other);
  const busy = (from, to) => rows.some((row) => row.start <= from && row.end >= to);
  const whole = last - first || 1;
  const places = [0];
  for (let at = 1; at < marks.length; at += 1) {
    const gap = marks[at] - marks[at - 1];
    places.push(places[at - 1] + (busy(marks[at - 1], marks[at]) ? gap : Math.min(gap, whole * 0.15)));
  }
  const end = places.at(-1) || 1;
  return (time) => (96 * places[marks.indexOf(time)]) / end;
}
