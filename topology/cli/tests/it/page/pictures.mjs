// Makes the pictures of docs/pictures from a stack that runs: node pictures.mjs AQUEDUCT OUT [SECONDS]. Called
// by `make pictures`. The stack is the documented one, with traffic on all of its ways for so long.

import { spawn } from "node:child_process";
import { chmodSync, mkdtempSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join, resolve } from "node:path";
import { setTimeout as pause } from "node:timers/promises";

import { browser, open, packages } from "./browser.mjs";

const [program, out, seconds = "320"] = process.argv.slice(2);
const aqueduct = resolve(program);
const [COLUMNS, ROWS] = [132, 34];
const state = mkdtempSync(join(tmpdir(), "pictures-"));
// PostgreSQL runs as a user of its own.
chmodSync(state, 0o755);
const { Terminal } = packages("@xterm/headless");
const { SerializeAddon } = packages("@xterm/addon-serialize");

/** `up` in a terminal; what it draws goes into one that we can read. */
function up() {
  const terminal = new Terminal({ cols: COLUMNS, rows: ROWS, allowProposedApi: true, scrollback: 2000 });
  const reader = new SerializeAddon();
  terminal.loadAddon(reader);
  const command = `stty cols ${COLUMNS} rows ${ROWS}; exec ${aqueduct} up --state ${state}`;
  // On the path it is called by its name alone in what it prints.
  const env = { ...process.env, PATH: `${dirname(aqueduct)}:${process.env.PATH}` };
  const child = spawn("script", ["--quiet", "--flush", "--return", "--command", command, "/dev/null"], { env });
  const ended = new Promise((done) => child.once("exit", done));
  let told = "";
  child.stdout.on("data", (bytes) => {
    told += bytes;
    terminal.write(bytes);
  });
  return { child, ended, reader, told: () => told };
}

async function until(stack, pattern) {
  for (let n = 0; n < 600; n += 1) {
    const found = pattern.exec(stack.told());
    if (found) return found[0];
    if (stack.child.exitCode !== null) break;
    await pause(200);
  }
  throw new Error(`\`up\` did not say ${pattern}:\n${stack.told()}`);
}

function replay(...args) {
  return spawn(aqueduct, ["replay", ...args, "--seconds", seconds], { stdio: "ignore" });
}

/** Players and requests of several kinds, some of which limits refuse. */
function traffic() {
  const https = (path, rate) =>
    replay("https", "--url", `https://localhost:8443${path}`, "--rate", String(rate), "--state", state);
  return [
    replay("udp", "--target", "127.0.0.1:7777", "--players", "40", "--rate", "64"),
    https("/api/user/profile", 7), https("/api/feed/", 5), https("/api/search", 2), https("/api/v2/user/7", 2),
    https("/static/avatar.jpg", 1),
  ];
}

async function picture(url, name, view, prepare = async () => {}) {
  const page = await open(url, view);
  await page.waitForSelector(".request");
  await pause(3000);
  await page.evaluate(() => scrollTo(0, 0));
  await prepare(page);
  await page.screenshot({ path: join(out, `${name}.png`) });
  // An open one goes on drawing.
  await page.close();
}

/** The slowest that was answered, spread out. */
async function spread(page) {
  const rows = await page.$$(".request");
  await rows[1].click();
  await page.waitForSelector(".waterfall");
}

async function terminalPicture(stack) {
  const page = await browser.newPage();
  const html = stack.reader.serializeAsHTML({ includeGlobalBackground: true, onlySelection: false, scrollback: 0 });
  writeFileSync(join(state, "terminal.html"), html);
  await page.setContent(`<style>body{margin:0;background:#0d1117;padding:14px 18px;width:max-content}
    pre,div{font:14px/1.3 "DejaVu Sans Mono",monospace!important;background:#0d1117!important}</style>${html}`);
  const body = await page.$("body");
  await body.screenshot({ path: join(out, "terminal.png") });
}

/** A replay's report, with a game server killed in the middle. */
async function reportPicture() {
  const file = join(state, "report.html");
  const options = ["--players", "200", "--rate", "64", "--seconds", "20", "--kill", "game-2@8s", "--state", state];
  const child = spawn(aqueduct, ["replay", "udp", "--target", "127.0.0.1:7777", ...options, "--html", file]);
  await new Promise((done) => child.once("exit", done));
  const page = await browser.newPage();
  await page.setViewport({ width: 1100, height: 900 });
  await page.goto(`file://${file}`);
  await page.screenshot({ path: join(out, "report.png"), fullPage: true });
}

const stack = up();
try {
  const url = await until(stack, /http:\/\/127\.0\.0\.1:\d+\/#token=[0-9a-f]+/);
  const running = traffic();
  await pause(Math.max(Number(seconds) - 25, 10) * 1000);
  const size = { width: 1600, height: 1000 };
  await picture(url, "page-light", { scheme: "light", ...size });
  await picture(url, "page-dark", { scheme: "dark", ...size }, async (page) => {
    await spread(page);
    await page.evaluate(() => scrollBy(0, document.getElementById("h-requests").getBoundingClientRect().top - 70));
  });
  await picture(url, "page-phone", { scheme: "light", width: 390, height: 844, scale: 2 });
  await terminalPicture(stack);
  running.forEach((child) => child.kill());
  await reportPicture();
} finally {
  if (stack.child.exitCode === null) stack.child.stdin.write("q");
  await stack.ended;
  await browser.close();
}
