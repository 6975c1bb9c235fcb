// How long each stage took, as bars on one scale: the stages in the live feed, else the entries of the timeline.

import { el } from "./elements.js";
import { ms } from "./format.js";
import { STAGE_NAMES } from "./stages.js";
import { typeName } from "./status.js";

let shown = "";

export function showWaterfall(container, latency, entries, until) {
  const rows = waterfallRows(latency, entries);
  const key = JSON.stringify([rows, until]);
  if (key === shown) return;
  shown = key;
  container.replaceChildren(rows.length ? waterfall(rows, until) : el("p", { class: "note" }, "No stages are known."),
    ...(latency.stages.length ? [] : [el("p", { class: "note" }, "Its stages are no longer in the live feed; these are the calls to the provider and the entries of its timeline.")]));
}

// The rows of a waterfall, each with its module and times, oldest first.
function waterfallRows({ stages, attempts }, entries) {
  const rows = [];
  for (const stage of stages) {
    const end = Date.parse(stage.at) + (Number(stage.at.slice(23, 26)) || 0) / 1000;
    const number = STAGE_NAMES.indexOf(stage.stage) + 1;
    rows.push({ name: stage.stage, number, module: stage.module, end, start: end - stage.tookMs, took: stage.tookMs, tone: stage.module, detail: stage.event ? typeName(stage.event) : number === 1 ? `request ${stage.requestId}` : "" });
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
      rows.push({ name: typeName(entry.type), module: entry.actor, end, start: end, took: null, tone: entry.actor === "client" ? "gateway" : "orders" });
    }
  }
  rows.sort((one, other) => one.end - other.end || (one.number || 0) - (other.number || 0));
  return withoutEarlyStarts(rows);
}

// Some stages count from a time of the database, whose clock may differ: none began before its request.
function withoutEarlyStarts(rows) {
  let began = -Infinity;
  return rows.map((row) => {
    if (row.number === 1) began = row.start;
    return { ...row, start: Math.max(row.start, Math.min(began, row.end)) };
  });
}

// A table whose last column is the bar; times are relative to the first row.
function waterfall(rows, until) {
  const first = Math.min(...rows.map((row) => row.start));
  const last = Math.max(...rows.map((row) => row.end));
  const place = scale(rows, first, last);
  const body = rows.map((row) => el("tr", { class: row.end > until ? "later" : "" },
    el("th", { scope: "row" }, row.number ? el("span", { class: "number" }, row.number) : null, row.name,
      row.detail ? el("span", { class: "detail" }, row.detail) : null),
    el("td", { class: "module" }, row.module),
    el("td", { class: "n" }, row.took === null ? `+${ms(row.end - first)}` : ms(row.took)),
    el("td", { class: "track" }, el("span", {
      class: `span ${row.tone}`, title: `from ${ms(row.start - first)} to ${ms(row.end - first)}`,
      style: { left: `${place(row.start)}%`, width: `max(4px, ${place(row.end) - place(row.start)}%)` },
    }))));
  const names = ["Stage", "Module", "Took", `Time, over ${ms(last - first)}`];
  return el("table", { class: "waterfall" },
    el("thead", {}, el("tr", {}, ...names.map((name, at) => el("th", { scope: "col", class: ["", "module", "n", ""][at] }, name)))),
    el("tbody", {}, body));
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
