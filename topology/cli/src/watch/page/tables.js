// Tables of what is seen: instances with their last five minutes, endpoints, routes, limits, listeners,
// pools. Each function makes the elements of one look.

import { h, s } from "./dom.js";
import { sign } from "./picture.js";
import { STATES, rate, short, time } from "./words.js";

/** A mark and its word. */
export function state(word, why) {
  const [mark, text] = STATES[word] ?? ["none", word];
  const icon = s("svg", { class: "icon", viewBox: "0 0 12 12", "aria-hidden": "true" },
    mark === "none" ? null : sign(mark, 6, 6, 4));
  return h("span", { class: `state ${mark}`, title: why || null }, icon, text);
}

/** Columns are `[title, class]`; a title of a number's column is to the right. */
function table(columns, rows, empty) {
  if (rows.length === 0) return h("p", { class: "empty" }, empty);
  const head = columns.map(([title, kind]) => {
    return h("th", { scope: "col", class: kind ?? "" }, kind?.includes("unseen") ? h("span", { class: "said" }, title) : title);
  });
  return h("table", {}, h("thead", {}, h("tr", {}, head)), h("tbody", {}, rows));
}

function row(key, columns, cells, kind) {
  const made = cells.map((cell, n) =>
    n === 0
      ? h("th", { scope: "row", class: columns[n][1] ?? "" }, cell)
      : h("td", { class: columns[n][1] ?? "" }, cell));
  return h("tr", { "data-key": key, class: kind ?? null }, made);
}

/** A line of five minutes, its newest sample at the right; gaps stay gaps. */
export function spark(samples, kind) {
  const [width, height, kept] = [96, 22, 300];
  const most = Math.max(...samples.map((value) => value ?? 0), 0);
  const top = most || 1;
  const at = (n) => ((kept - samples.length + n) * width) / (kept - 1);
  let line = "";
  let area = "";
  let first = null;
  samples.forEach((value, n) => {
    if (value === null) {
      if (first !== null) area += `V${height}H${first}z`;
      first = null;
      return;
    }
    const point = `${at(n).toFixed(1)} ${(height - 1.5 - (value / top) * (height - 4)).toFixed(1)}`;
    line += `${first === null ? "M" : "L"}${point}`;
    area += first === null ? `M${at(n).toFixed(1)} ${height}L${point}` : `L${point}`;
    first ??= at(n).toFixed(1);
  });
  if (first !== null) area += `V${height}H${first}z`;
  return s("svg", { class: `spark ${kind}${most > 0 ? "" : " calm"}`, viewBox: `0 0 ${width} ${height}`, "aria-hidden": "true" },
    s("path", { class: "area", d: area }), s("path", { class: "trace", d: line }));
}

/** A number with its five minutes beside it. */
function trend(text, line) {
  return h("span", { class: "trend" }, h("span", {}, text), line);
}

/** A number, or a dash for what this kind of instance does not count. */
function counted(text, why) {
  return text === "" ? h("span", { class: "none", title: why }, "–") : text;
}

const INSTANCES = [["Instance"], ["Tier", "roomy"], ["State"], ["Open", "number"], ["Work", "number"],
  ["p50", "number roomy"], ["p99", "number"], ["Failing", "number"]];

/** Every instance with its sparklines. */
export function instances(stack, look, tracks) {
  const rows = stack.instances.map((one, n) => {
    const [seen, track] = [look.instances[n], tracks[n]];
    const unit = seen.unit ?? "requests";
    const failing = seen.failing > 0 ? rate(seen.failing, "").replace(" ", "") : "0";
    const times = "nothing was timed in the last seconds";
    return row(one.name, INSTANCES, [
      one.name, one.tier, [state(seen.state, seen.why), seen.why ? h("span", { class: "why" }, seen.why) : null],
      short(seen.connections), trend(rate(seen.rate, unit), spark(track.rate, "work")), counted(time(seen.p50), times),
      trend(counted(time(seen.p99), times), spark(track.p99, "slow")),
      trend(seen.failing === null ? "" : failing, spark(track.failing, "failing")),
    ], seen.state === "dead" ? "dead" : null);
  });
  return table(INSTANCES, rows, "The file has no instances.");
}

const ENDPOINTS = [["Endpoint"], ["Service"], ["Seen by"], ["State"], ["Weight", "number"], ["Sessions", "number"],
  ["Queue", "number"], ["Rate", "number"], ["Errors", "number"], ["p99", "number"], ["Last check"],
  ["Action", "action unseen"]];

const NO_LINE = { "l4-nlb": "a balancer has no line: it connects at once or refuses" };
const NOT_TIMED = { "l4-nlb": "a balancer does not see answers, so it times none" };

/** Endpoints as each instance sees them; of the chosen box alone, if there is one; of a pooler its pools. */
export function endpoints(stack, look, chosen) {
  const [kind, name] = (chosen ?? "").split(/:(.*)/s);
  if (kind === "pool" || kind === "servers") {
    const own = stack.instances.filter((one) => one.of === `pool:${name}`).map((one) => one.name);
    return pools({ instances: look.instances.filter((seen) => own.includes(seen.name)) });
  }
  const rows = [];
  for (const seen of look.instances) {
    const { of, tier } = stack.instances.find((one) => one.name === seen.name) ?? {};
    const line = NO_LINE[tier] ?? "max-requests bounds nothing here, so nobody waits";
    const why = "nothing yet";
    for (const end of seen.endpoints) {
      if (chosen && chosen !== of && chosen !== `service:${end.service}` && chosen !== `gateway:${end.service}`) continue;
      const key = `${seen.name} ${end.service} ${end.name}`;
      const drained = end.condition === "draining";
      const button = h("button", {
        type: "button", "data-act": "wish", "data-wish": drained ? "enable" : "drain", "data-instance": seen.name,
        "data-service": end.service, "data-endpoint": end.name,
        "aria-label": `${drained ? "Enable" : "Drain"} ${end.name} of ${end.service} on ${seen.name}`,
      }, drained ? "Enable" : "Drain");
      const ago = end.ago === null ? "" : ` · ${time(end.ago * 1000)} ago`;
      rows.push(row(key, ENDPOINTS, [
        end.name, end.service, seen.name, state(end.condition), end.weight, short(end.active),
        counted(short(end.queue), line), counted(rate(end.rate, end.unit), why), counted(short(end.errors), why),
        counted(time(end.p99), NOT_TIMED[tier] ?? why),
        end.check ? `${end.check}${ago}` : "", button,
      ], end.condition === "down" ? "dead" : null));
    }
  }
  return table(ENDPOINTS, rows, "Nothing is known of endpoints here.");
}

const ROUTES = [["Route"], ["Rate", "number"], ["p50", "number"], ["p99", "number"], ["Errors", "number"]];

/** The busiest routes of all gateways; times are the slowest gateway's. */
export function routes(look) {
  const sums = new Map();
  for (const route of look.instances.flatMap((seen) => seen.routes)) {
    const sum = sums.get(route.name) ?? { rate: 0, total: 0, errors: 0, p50: null, p99: null };
    sums.set(route.name, {
      rate: sum.rate + route.rate, total: sum.total + route.total, errors: sum.errors + route.errors,
      p50: Math.max(sum.p50 ?? 0, route.p50 ?? 0), p99: Math.max(sum.p99 ?? 0, route.p99 ?? 0),
    });
  }
  const busiest = [...sums].sort(([a, x], [b, y]) => y.rate - x.rate || y.total - x.total || a.localeCompare(b));
  const rows = busiest.slice(0, 12).map(([name, sum]) => row(name, ROUTES, [
    name || "no route matched", rate(sum.rate, "requests"), time(sum.p50), time(sum.p99), short(sum.errors),
  ]));
  return table(ROUTES, rows, "No request yet.");
}

const LIMITED = [["Limit"], ["Key"], ["Refused", "number"]];

/** Whom limits refused most. */
export function limited(look) {
  const sums = new Map();
  for (const one of look.instances.flatMap((seen) => seen.limited)) {
    const key = JSON.stringify([one.limit, one.key]);
    sums.set(key, (sums.get(key) ?? 0) + one.refused);
  }
  const most = [...sums].sort((a, b) => b[1] - a[1]).slice(0, 12);
  const rows = most.map(([key, count]) => {
    const [limit, whose] = JSON.parse(key);
    return row(key, LIMITED, [limit ?? "", h("code", {}, whose), short(count)]);
  });
  return table(LIMITED, rows, "Nobody was refused.");
}

const LISTENERS = [["Listener"], ["Instance"], ["Flows", "number"], ["New", "number"], ["Packets", "number"],
  ["Bytes", "number"], ["Refused", "number"]];

/** Listeners of balancers. */
export function listeners(look) {
  const rows = look.instances.flatMap((seen) => seen.listeners.map((one) =>
    row(`${seen.name} ${one.name}`, LISTENERS, [
      one.name, seen.name, short(one.flows), one.connections ? rate(one.connections, "connections") : "",
      one.packets ? rate(one.packets, "packets") : "", rate(one.bytes, "bytes"), short(one.refused),
    ])));
  return table(LISTENERS, rows, "There is no balancer.");
}

const POOLS = [["Database"], ["User"], ["Queries", "number"], ["Active", "number"], ["Waiting", "number"],
  ["Idle", "number"], ["Servers", "number"], ["Failed", "number"], ["Waited", "number"]];

/** Pools, with those who wait for a server. */
export function pools(look) {
  const rows = look.instances.flatMap((seen) => seen.pools.map((pool) => {
    const [active, waiting, idle] = pool.clients;
    return row(`${seen.name} ${pool.database} ${pool.user}`, POOLS, [
      pool.database, pool.user, rate(pool.rate, "queries"), short(active),
      waiting > 0 ? h("strong", { class: "warn" }, short(waiting)) : "0", short(idle),
      `${short(pool.servers[0])} of ${short(pool.servers[0] + pool.servers[1])}`,
      pool.failing > 0 ? h("strong", { class: "warn" }, short(pool.failed)) : short(pool.failed), `${short(pool.waited)} s`,
    ]);
  }));
  return table(POOLS, rows, "There is no pooler, or nobody has used it yet.");
}
