// Numbers and states as people read them. Not for elements: `tables` and `picture` make those.

/** `0`, `3.2`, `410`, `1.2k`, `3.4M`. */
export function short(number) {
  if (number === null || number === undefined) return "";
  if (number === 0) return "0";
  if (number < 0.05) return "<0.1";
  if (number < 9.95) return number.toFixed(1).replace(/\.0$/, "");
  if (number < 999.5) return String(Math.round(number));
  for (const [size, unit] of [[1e3, "k"], [1e6, "M"], [1e9, "G"], [1e12, "T"]]) {
    const part = number / size;
    if (part < 999.5) return (part < 9.95 ? part.toFixed(1) : Math.round(part)) + unit;
  }
  return number.toExponential(1);
}

/** A rate with its unit. */
export function rate(number, unit) {
  if (number === null || number === undefined) return "";
  if (unit === "bytes") return `${short(number)}B/s`;
  return `${short(number)} ${UNITS[unit] ?? unit}/s`;
}

const UNITS = { requests: "req", packets: "pkt", queries: "sql", connections: "conn", flows: "flow" };

/** Microseconds: `870 µs`, `1.2 ms`, `3.4 s`. */
export function time(us) {
  if (us === null || us === undefined) return "";
  if (us < 1000) return `${Math.round(us)} µs`;
  if (us < 1e6) return `${(us / 1e3).toFixed(us < 1e4 ? 1 : 0)} ms`;
  return `${(us / 1e6).toFixed(1)} s`;
}

/** `14:03:59`, of the reader's clock. */
export function clock(at) {
  return new Date(at).toLocaleTimeString("en-GB");
}

/** What a state means: its mark, and the word for it. */
export const STATES = {
  ready: ["good", "ready"],
  waiting: ["warn", "not ready"],
  draining: ["warn", "draining"],
  dead: ["bad", "dead"],
  unknown: ["none", "not known"],
  up: ["good", "up"],
  starting: ["warn", "starting"],
  full: ["warn", "full"],
  down: ["bad", "down"],
};

/** The worst of some marks; parts of a whole that still has others are a warning. */
export function joint(marks) {
  const known = marks.filter((mark) => mark !== "none");
  if (known.length === 0) return "none";
  if (known.every((mark) => mark === "bad")) return "bad";
  return known.every((mark) => mark === "good") ? "good" : "warn";
}

/** The worst of what several say of the same thing. */
export function worst(marks) {
  return ["bad", "warn", "good"].find((mark) => marks.includes(mark)) ?? "none";
}
