// The wiring, live: marks at boxes and rows, lines as wide as their traffic. The lines and boxes
// themselves came with the page, as `aqueduct graph` draws them.

import { renew, s } from "./dom.js";
import { STATES, joint, rate, worst } from "./words.js";

/** Makes the boxes buttons; `choose` is told the id of one that was pressed. */
export function prepare(stack, choose) {
  for (const box of stack.boxes) {
    const group = document.getElementById(box.id);
    if (!group) continue;
    group.setAttribute("tabindex", "0");
    group.setAttribute("role", "button");
    group.addEventListener("click", () => choose(box.id));
    group.addEventListener("keydown", (event) => {
      if (event.key !== "Enter" && event.key !== " ") return;
      event.preventDefault();
      choose(box.id);
    });
  }
}

/** Of a box, for those who do not see its mark. */
const WORDS = { good: "well", warn: "partly well", bad: "down", none: "not watched" };

/** Shows a look. */
export function show(stack, look, chosen) {
  const seen = new Map(look.instances.map((one) => [one.name, one]));
  for (const box of stack.boxes) drawBox(box, stack, seen, look, chosen);
  const ends = new Map();
  stack.lines.forEach((line, n) => drawLine(line, n, look, stack, ends));
  const wiring = document.getElementById("wiring");
  if (!wiring.querySelector(".flows")) wiring.append(s("g", { class: "flows" }));
  renew(wiring.querySelector(".flows"), labels(ends));
}

/** The endpoints of a service as those see them that lead to it; who leads to a balancer in between sees that. */
function views(look, stack, box, service) {
  const leads = new Set(stack.lines.filter((line) => line.to === box.id).map((line) => line.from));
  const from = new Set(stack.instances.filter((one) => leads.has(one.of)).map((one) => one.name));
  const own = look.instances.filter((one) => from.has(one.name));
  return own.flatMap((one) => one.endpoints.filter((end) => end.service === service));
}

function drawBox(box, stack, seen, look, chosen) {
  const group = document.getElementById(box.id);
  if (!group) return;
  const [kind, name] = [box.id.slice(0, box.id.indexOf(":")), box.id.slice(box.id.indexOf(":") + 1)];
  const own = stack.instances.filter((one) => one.of === box.id).map((one) => seen.get(one.name));
  let marks = own.filter(Boolean).map((one) => STATES[one.state][0]);
  let rows = [];
  if (kind === "service") {
    const known = new Map(box.rows.filter((row) => row.id.includes(":")).map((row) => [row.id, []]));
    for (const end of views(look, stack, box, name)) {
      known.set(end.address, [...(known.get(end.address) ?? []), STATES[end.condition]?.[0] ?? "none"]);
    }
    const each = new Map([...known].map(([address, seen]) => [address, worst(seen)]));
    // A row that stands for several, those that were discovered or are too many, has the mark of all of them.
    const shown = new Set(box.rows.map((row) => row.id));
    const hidden = [...each].filter(([address]) => !shown.has(address)).map(([, one]) => one);
    rows = box.rows.map((row) => each.get(row.id) ?? joint(hidden));
    marks = [...each.values()];
  }
  const mark = joint(marks);
  const well = marks.filter((one) => one === "good").length;
  const told = mark === "none" ? "" : `${well}/${marks.length}`;
  const area = group.querySelector(".box");
  const [x, y, width] = ["x", "y", "width"].map((side) => Number(area.getAttribute(side)));
  let live = group.querySelector(".live");
  if (!live) group.append((live = s("g", { class: "live" })));
  const right = x + width;
  renew(live,
    mark === "none" ? null : sign(mark, right - 15, y + 15.5, 5),
    s("text", { class: "part", "text-anchor": "end", x: right - 25, y: y + 19.5 }, told),
    s("text", { class: "spoken", x: x + 14, y: y + 20 }, WORDS[mark]),
    rows.map((row, n) => (row === "none" ? null : sign(row, x + 7.5, y + 57 + 22 * n, 3))));
  group.classList.toggle("chosen", chosen === box.id);
  group.setAttribute("aria-pressed", String(chosen === box.id));
}

/** A disc, a triangle or a cross: shapes tell what colours tell. */
export function sign(mark, x, y, size) {
  const shapes = {
    good: `M${x - size} ${y}a${size} ${size} 0 1 0 ${2 * size} 0a${size} ${size} 0 1 0 ${-2 * size} 0z`,
    warn: `M${x} ${y - size}L${x + size * 1.1} ${y + size * 0.9}H${x - size * 1.1}z`,
    bad: `M${x - size} ${y - size}L${x + size} ${y + size}M${x + size} ${y - size}L${x - size} ${y + size}`,
  };
  return s("path", { class: `mark ${mark}`, d: shapes[mark] ?? "" });
}

function drawLine(line, n, look, stack, ends) {
  const path = document.getElementById(`line-${n}`);
  if (!path) return;
  const flow = look.lines[n];
  const weight = !flow ? 0 : flow.unit === "bytes" ? flow.rate / 1000 : flow.rate;
  const width = Math.min(flow ? 1.5 + 1.9 * Math.log10(1 + weight) : 1.5, 11);
  path.style.strokeWidth = `${width.toFixed(2)}px`;
  path.classList.toggle("busy", weight > 0);
  path.classList.toggle("bad", isDead(line.from, look, stack) || isDead(line.to, look, stack));
  const title = path.querySelector("title");
  title.dataset.text ??= title.textContent;
  const told = flow && flow.rate > 0 ? rate(flow.rate, flow.unit) : "";
  title.textContent = told ? `${title.dataset.text}: ${told}` : title.dataset.text;
  if (!told || line.from.startsWith("clients:")) return;
  // What several lines bring to one place is told once.
  const end = arrival(path.getAttribute("d"));
  const known = ends.get(end.place);
  if (!known) ends.set(end.place, { ...end, ...flow, width });
  else if (known.unit === flow.unit) known.rate += flow.rate;
}

/** Where a line ends, and whether it comes from above. */
function arrival(d) {
  const numbers = d.match(/-?[\d.]+/g).map(Number);
  const [x, y, before] = [numbers.at(-2), numbers.at(-1), numbers.at(-5)];
  return { x, y, above: before < y - 1, place: `${x} ${y}` };
}

/** Beside the end of each line, on the side that the line does not come from. */
function labels(ends) {
  return [...ends.values()].map((end) => {
    const y = end.above ? end.y + end.width / 2 + 11 : end.y - end.width / 2 - 4;
    const text = rate(end.rate, end.unit);
    // Other lines pass behind it.
    const width = text.length * 6.7 + 8;
    return s("g", {},
      s("rect", { class: "ground", x: (end.x - 1 - width).toFixed(1), y: (y - 10.5).toFixed(1), width: width.toFixed(1), height: 14, rx: 3 }),
      s("text", { class: "flow", "text-anchor": "end", x: end.x - 5, y: y.toFixed(1) }, text));
  });
}

function isDead(id, look, stack) {
  const own = stack.instances.filter((one) => one.of === id);
  const states = own.map((one) => look.instances.find((seen) => seen.name === one.name)?.state);
  return states.length > 0 && states.every((state) => state === "dead");
}
