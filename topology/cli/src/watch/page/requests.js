// Recent requests, and where the time of one went: from the edge through the ten stages to SQL. What is
// shown of a request is its record and what others recorded with the same trace id.

import { h, s } from "./dom.js";
import { clock, time } from "./words.js";

const STAGES = ["tls", "normalise", "authn", "authz", "rate_limit", "route", "request_transform", "dispatch",
  "response_transform", "emit"];

/** The newest first; `open` is the id of the one that is spread out. */
export function requests(records, open) {
  const own = records.filter((record) => record.stages_us).slice(-18).reverse();
  if (own.length === 0) return h("p", { class: "empty" }, "No request in the last seconds.");
  const slowest = Math.max(...own.map((record) => record.latency_us), 1);
  return h("ol", { class: "requests" }, own.map((record) => item(record, records, open, slowest)));
}

function item(record, all, open, slowest) {
  const id = record.request_id;
  const isOpen = id === open;
  const kind = record.status >= 500 ? "bad" : record.status >= 400 ? "warn" : "good";
  const button = h("button", {
    type: "button", class: "request", "data-act": "open", "data-request": id, "aria-expanded": String(isOpen),
  },
  h("span", { class: "when" }, clock(record.timestamp)),
  h("span", { class: `status ${kind}` }, String(record.status)),
  h("span", { class: "what" }, record.endpoint),
  h("span", { class: "where" }, record.gateway_instance),
  h("span", { class: "took" }, time(record.latency_us)),
  bar(0, record.latency_us, slowest, kind));
  return h("li", { "data-key": id }, button, isOpen ? waterfall(record, all) : null);
}

/** A part of a whole; the number is told beside it. */
function bar(from, length, whole, kind) {
  const scale = 1000 / Math.max(whole, 1);
  const width = Math.max(4, length * scale);
  const x = Math.min(from * scale, 1000 - width);
  return s("svg", { class: "track", viewBox: "0 0 1000 10", preserveAspectRatio: "none", "aria-hidden": "true" },
    s("rect", { class: `bar ${kind}`, x: x.toFixed(1), width: width.toFixed(1), height: 10 }));
}

function waterfall(record, all) {
  const steps = [];
  let at = 0;
  const spent = record.stages_us;
  // The handshake came before the request, once for its connection.
  const whole = record.latency_us + (spent.tls ?? 0);
  // A balancer passes bytes: it records the connection, and times no request of it.
  if (record.connection_id) steps.push(step("edge", "skipped", 0, 0, whole, "not timed", ""));
  for (const name of STAGES) {
    const us = spent[name];
    if (us === undefined) {
      steps.push(step(name, "skipped", at, 0, whole, name === "tls" ? "earlier" : "not reached", ""));
      continue;
    }
    const halted = record.halted === name;
    steps.push(step(name, halted ? "bad" : "stage", at, us, whole, halted ? "ended it here" : "", time(us)));
    if (name === "dispatch" && record.upstream_us > 0) {
      const begin = at + Math.max(0, us - record.upstream_us);
      steps.push(step(`service ${record.service ?? ""}`, "service", begin, record.upstream_us, whole, "", time(record.upstream_us)));
      steps.push(...queries(record, all, at, whole));
    }
    at += us;
  }
  const facts = [["trace", record.trace_id], ["route", record.route], ["user", record.userId], ["consumer", record.consumer],
    ["client", record.client], ["connection", record.connection_id], ["bytes", `${record.bytes_in} in, ${record.bytes_out} out`]]
    .filter(([, value]) => value !== null && value !== undefined && value !== "");
  return h("div", { class: "waterfall" },
    h("ol", { class: "steps" }, steps),
    h("dl", {}, facts.map(([name, value]) => [h("dt", {}, name), h("dd", {}, String(value))])));
}

/** What poolers recorded with the same trace. */
function queries(record, all, at, whole) {
  const began = Date.parse(record.timestamp);
  const own = all.filter((one) => !one.stages_us && one.trace_id === record.trace_id && one.latency_us !== undefined);
  return own.map((one) => {
    const from = Math.max(at, (Date.parse(one.timestamp) - began) * 1000);
    const waited = one.wait_us > 0 ? `, ${time(one.wait_us)} of it waited` : "";
    const text = (one.statement || one.database || "query") + waited;
    const kind = one.failed ? "sql bad" : "sql";
    return step(`SQL ${one.pooler_instance ?? ""}`, kind, from, one.latency_us, whole, text, time(one.latency_us));
  });
}

function step(name, kind, from, length, whole, remark, took) {
  return h("li", { class: `step ${kind}` },
    h("span", { class: "name" }, name.replaceAll("_", " ")),
    kind === "skipped" ? h("span", { class: "track" }) : bar(from, length, whole, kind),
    h("span", { class: "took" }, took || remark),
    took && remark ? h("span", { class: "remark" }, remark) : null);
}
