// The live page: listens to what is seen of the stack, shows it, and carries an operator's wishes.

import { h, renew } from "./dom.js";
import * as picture from "./picture.js";
import { requests } from "./requests.js";
import * as tables from "./tables.js";
import { clock } from "./words.js";

const KEPT = 300;
const byId = (id) => document.getElementById(id);

/** All that the page knows. */
const page = {
  stack: null, look: null, tracks: [], records: new Map(),
  chosen: null, open: null, paused: false, token: null,
};

function takeToken() {
  const given = new URLSearchParams(location.hash.slice(1)).get("token");
  if (given) {
    sessionStorage.setItem("token", given);
    // Not to be seen over a shoulder, nor kept in bookmarks.
    history.replaceState(null, "", location.pathname);
  }
  setToken(given ?? sessionStorage.getItem("token"));
}

function setToken(token) {
  page.token = token || null;
  if (page.token) sessionStorage.setItem("token", page.token);
  else sessionStorage.removeItem("token");
  byId("lock").textContent = page.token ? "Actions unlocked" : "Unlock actions";
  if (page.token) given();
}

/** Called with the next token that somebody gives. */
let given = () => {};
const aToken = () => new Promise((done) => { given = done; });

// What comes in.

async function listen() {
  for (let pause = 500; ; pause = Math.min(pause * 2, 5000)) {
    try {
      const headers = page.token ? { authorization: `Bearer ${page.token}` } : {};
      const answer = await fetch("/events", { headers });
      if (answer.status === 401) {
        setToken(null);
        if (!(await askToken())) {
          // Asked once: who does not want to read now is not asked again.
          link("away", "reading needs a token: choose Unlock actions");
          await aToken();
        }
        continue;
      } else if (answer.ok) {
        pause = 500;
        await read(answer.body.pipeThrough(new TextDecoderStream()).getReader());
      }
    } catch {
      // It is away: tried again below, and said on the page.
    }
    link("away", "connection lost; trying again");
    await new Promise((done) => setTimeout(done, pause));
  }
}

async function read(reader) {
  for (let text = ""; ;) {
    const { value, done } = await reader.read();
    if (done) return;
    text += value;
    const parts = text.split("\n\n");
    text = parts.pop();
    for (const part of parts) {
      const [name, data] = part.split("\n");
      take(name.slice("event: ".length), JSON.parse(data.slice("data: ".length)));
    }
  }
}

function take(name, data) {
  if (name === "stack") {
    if (page.stack && JSON.stringify(page.stack) !== JSON.stringify(data)) {
      // The file has changed, and the picture came with the page.
      page.stack = null;
      location.reload();
      return;
    }
    if (!page.stack) picture.prepare(data, choose);
    page.stack = data;
  } else if (name === "tracks") {
    page.tracks = data;
    page.look = null;
  } else if (name === "records") {
    keep(data);
  } else if (name === "look") {
    // What came before it has the first one already.
    if (page.look && page.look.at !== data.at) remember(data);
    page.look = data;
    draw();
  }
}

function remember(look) {
  look.instances.forEach((seen, n) => {
    const track = page.tracks[n];
    if (!track) return;
    const p99 = seen.p99 === null ? null : seen.p99 / 1000;
    for (const [kept, value] of [[track.rate, seen.rate], [track.failing, seen.failing], [track.p99, p99]]) {
      kept.push(value);
      if (kept.length > KEPT) kept.shift();
    }
  });
  if (!page.paused) keep(look.requests);
}

function keep(records) {
  for (const record of records) page.records.set(record.request_id ?? record.span_id, record);
  const extra = page.records.size - 200;
  [...page.records.keys()].slice(0, Math.max(extra, 0)).forEach((id) => page.records.delete(id));
}

// What is shown.

function draw() {
  const { stack, look, chosen } = page;
  if (!stack || !look || document.hidden) return;
  link("live", `live · ${clock(look.at)}`);
  const ready = look.instances.filter((one) => one.state === "ready").length;
  const rest = look.instances.length - ready;
  renew(byId("counts"), h("strong", {}, `${ready} ready`), rest > 0 ? h("strong", { class: "bad" }, `${rest} not ready`) : null);
  picture.show(stack, look, chosen);
  const box = stack.boxes.find((one) => one.id === chosen);
  byId("chosen").textContent = box ? `of ${box.title}` : "all";
  byId("all").hidden = !box;
  renew(byId("instances"), tables.instances(stack, look, page.tracks));
  renew(byId("endpoints"), tables.endpoints(stack, look, chosen));
  renew(byId("routes"), tables.routes(look));
  renew(byId("limited"), tables.limited(look));
  renew(byId("listeners"), tables.listeners(look));
  renew(byId("pools"), tables.pools(look));
  renew(byId("requests"), requests(sorted(), page.open));
  fade();
}

/** Fades the side of what scrolls behind which there is more. */
function fade() {
  for (const one of document.querySelectorAll(".scrolls")) {
    const hidden = one.scrollWidth - one.clientWidth;
    one.classList.toggle("more-left", one.scrollLeft > 4);
    one.classList.toggle("more-right", one.scrollLeft < hidden - 4);
  }
}

function sorted() {
  return [...page.records.values()].sort((a, b) => (a.timestamp < b.timestamp ? -1 : 1));
}

function link(kind, text) {
  const shown = byId("link");
  shown.className = `link ${kind}`;
  // Said aloud when it changes, not each second.
  if (kind === "live") shown.removeAttribute("role");
  else shown.setAttribute("role", "status");
  shown.textContent = text;
  document.body.classList.toggle("stale", kind === "away");
}

function choose(id) {
  page.chosen = page.chosen === id ? null : id;
  draw();
}

function pause(paused) {
  page.paused = paused;
  byId("pause").setAttribute("aria-pressed", String(paused));
  byId("pause").textContent = paused ? "Go on" : "Pause";
}

// What an operator does.

const ACTS = {
  all: () => choose(page.chosen),
  unlock: () => askToken(),
  pause: () => pause(!page.paused),
  open: ({ request }) => {
    page.open = page.open === request ? null : request;
    // One that is read should not move away.
    pause(page.open !== null);
    draw();
  },
  wish: (what) => ask(what),
  cancel: (_, button) => button.closest("dialog").close("no"),
};

document.addEventListener("click", (event) => {
  const button = event.target.closest("[data-act]");
  if (button) ACTS[button.dataset.act](button.dataset, button);
});
document.addEventListener("visibilitychange", draw);
document.addEventListener("scroll", fade, { capture: true, passive: true });
window.addEventListener("resize", fade);

function shown(dialog) {
  return new Promise((done) => {
    dialog.returnValue = "no";
    dialog.addEventListener("close", () => done(dialog.returnValue === "yes"), { once: true });
    dialog.showModal();
  });
}

async function askToken() {
  const field = byId("token");
  field.value = page.token ?? "";
  if (await shown(byId("unlock"))) setToken(field.value.trim());
  field.value = "";
  return page.token !== null;
}

async function ask({ wish, instance, service, endpoint }) {
  if (!page.token && !(await askToken())) return;
  const knows = (seen) => seen.endpoints.some((end) => end.service === service && end.name === endpoint);
  const others = page.look.instances.filter(knows).map((seen) => seen.name);
  const word = wish === "drain" ? "Drain" : "Enable";
  byId("confirm-title").textContent = `${word} ${endpoint}?`;
  byId("confirm-text").textContent = wish === "drain"
    ? `Nothing new of ${service} goes there; what it has may finish.`
    : `It takes its share of ${service} again, as the file has it.`;
  byId("confirm-yes").textContent = word;
  byId("confirm-list").replaceChildren(...others.map((name) => {
    const box = h("input", { type: "checkbox", name: "where", value: name });
    box.checked = true;
    return h("label", {}, box, ` ${name}${name === instance ? "" : " too"}`);
  }));
  if (!(await shown(byId("confirm")))) return;
  const where = [...document.querySelectorAll("#confirm-list input:checked")].map((box) => box.value);
  const said = await Promise.all(where.map((name) => send({ wish, instance: name, service, endpoint })));
  tell(said.join("; ") || "nothing was changed");
}

async function send(wish) {
  try {
    const headers = { authorization: `Bearer ${page.token}` };
    const answer = await fetch(`/wish?${new URLSearchParams(wish)}`.replaceAll("+", "%20"), { method: "POST", headers });
    if (answer.status === 401) {
      setToken(null);
      return "the token is not right: nothing was changed";
    }
    const text = (await answer.text()).trim();
    return answer.ok ? `${wish.wish === "drain" ? "drained" : "enabled"} on ${wish.instance}` : text;
  } catch (error) {
    return String(error.message ?? error);
  }
}

let fading;
function tell(text) {
  const told = byId("told");
  told.textContent = text;
  clearTimeout(fading);
  fading = setTimeout(() => { told.textContent = ""; }, 8000);
}

takeToken();
fade();
listen();
