// What a browser makes of the page: node check.mjs STEP URL [INSTANCE]. Run by `browser.rs`; ends with 1
// and says why when something is not as it should be.

import assert from "node:assert/strict";

import { browser, complaints, faults, open } from "./browser.mjs";

const [step, url, instance] = process.argv.slice(2);
const VIEWS = [
  ["by day", { scheme: "light" }],
  ["by night", { scheme: "dark" }],
  ["on a phone", { scheme: "light", width: 390, height: 844 }],
  ["on a phone by night", { scheme: "dark", width: 390, height: 844 }],
];

// On what is there at this moment: each piece of news draws rows anew, and a pointer would miss them.
const click = (page, selector) => page.$eval(selector, (element) => element.click());

const STEPS = {
  // No rule of axe-core is broken, nothing is wider than the window, and a request can be spread out.
  async looks() {
    for (const [name, view] of VIEWS) {
      const page = await open(url, view);
      await page.waitForSelector(".request");
      await click(page, ".request");
      await page.waitForSelector(".waterfall .step.stage");
      assert.deepEqual(await faults(page), [], name);
      const wide = await page.evaluate(() => document.documentElement.scrollWidth > window.innerWidth);
      assert.equal(wide, false, `${name}: the page scrolls sideways`);
      const cut = await page.evaluate(() => [...document.querySelectorAll("#wiring .flow")]
        .filter((text) => text.getBBox().x < 0).map((text) => text.textContent));
      assert.deepEqual(cut, [], name);
      const wider = await page.evaluate(() => [...document.querySelectorAll("#wiring .title")].filter((title) => {
        const [box, told] = [".box", ".part"].map((of) => title.parentElement.querySelector(of).getBBox());
        const end = title.getBBox().x + title.getBBox().width;
        return end > (told.width > 0 ? told.x : box.x + box.width);
      }).map((title) => title.textContent));
      assert.deepEqual(wider, [], `${name}: titles leave their boxes`);
      const wiring = await page.evaluate(() => {
        const picture = document.getElementById("picture");
        return [picture.scrollWidth > picture.clientWidth, picture.classList.contains("more-right")];
      });
      assert.equal(wiring[0], wiring[1], `${name}: what scrolls is faded at its side`);
    }
  },

  // A pooler's box has its table; what a balancer does not count is a dash, not a hole.
  async tables() {
    const page = await open(url);
    await page.waitForFunction(() => document.querySelectorAll("#pools tbody tr").length > 0);
    await page.$eval("[id='pool:data']", (box) => box.dispatchEvent(new MouseEvent("click")));
    await page.waitForFunction(() => document.getElementById("chosen").textContent === "of data");
    assert.match(await page.$eval("#endpoints tbody", (one) => one.textContent), /app/);
    await page.$eval("[id='service:game']", (box) => box.dispatchEvent(new MouseEvent("click")));
    await page.waitForFunction(() => document.getElementById("chosen").textContent === "of game");
    const empty = await page.evaluate(() => [...document.querySelectorAll("#endpoints td.number")]
      .filter((cell) => cell.textContent === "").length);
    assert.equal(empty, 0, "cells without a word");
  },

  // Whose reading needs a token and who does not want to give one is asked once.
  async asked() {
    const page = await (await browser.createBrowserContext()).newPage();
    await page.setRequestInterception(true);
    const tokens = [];
    page.on("request", (request) => {
      if (new URL(request.url()).pathname !== "/events") return request.continue();
      tokens.push(request.headers().authorization ?? null);
      return request.respond({ status: 401, body: "a token is needed" });
    });
    await page.goto(url);
    await page.waitForSelector("#unlock[open]");
    await page.keyboard.press("Escape");
    await page.waitForFunction(() => document.getElementById("link").textContent.includes("needs a token"));
    assert.deepEqual([tokens, await page.$("#unlock[open]")], [[null], null]);
    await page.click("#lock");
    await page.waitForSelector("#unlock[open]");
    await page.type("#token", "guess");
    const again = page.waitForRequest((request) => request.headers().authorization === "Bearer guess");
    await page.keyboard.press("Enter");
    await again;
    assert.deepEqual(tokens, [null, "Bearer guess"]);
  },

  // Without a token the page asks for one and changes nothing, also when it is wrong.
  async guest() {
    const page = await open(url);
    const drain = "button[data-wish=drain]";
    await click(page, drain);
    await page.waitForSelector("#unlock[open]");
    await page.keyboard.press("Escape");
    await page.waitForSelector("#unlock:not([open])");
    await click(page, drain);
    await page.waitForSelector("#unlock[open]");
    await page.type("#token", "guess");
    await page.keyboard.press("Enter");
    await page.waitForSelector("#confirm[open]");
    await page.click("#confirm-yes");
    await page.waitForFunction(() => document.getElementById("told").textContent.includes("not right"));
    assert.equal(await page.$("button[data-wish=enable]"), null);
    // The browser says that of a 401 by itself.
    complaints.splice(0, 1).forEach((said) => assert.match(said, /401/));
  },

  // With the token, and with the keyboard alone: choose a box, drain its first endpoint, enable it.
  async operator() {
    const page = await open(url);
    assert.equal(new URL(page.url()).hash, "", "the token does not stay in the address");
    const press = async (key, times = 1) => {
      for (let n = 0; n < times; n += 1) await page.keyboard.press(key);
    };
    const tabTo = async (selector) => {
      for (let n = 0; n < 80; n += 1) {
        await press("Tab");
        if (await page.evaluate((wanted) => document.activeElement.matches(wanted), selector)) return;
      }
      assert.fail(`${selector} is not reached by keyboard`);
    };
    await tabTo("[id='service:game']");
    await press("Enter");
    await page.waitForFunction(() => document.getElementById("chosen").textContent === "of game");
    assert.equal((await page.$$("#endpoints tbody tr")).length, 3);
    await tabTo("button[data-wish=drain]");
    await press("Enter");
    await page.waitForSelector("#confirm[open]");
    await page.focus("#confirm-yes");
    await press("Enter");
    await page.waitForSelector("button[data-wish=enable]");
    await page.waitForFunction(() => document.querySelector("#endpoints .state.warn")?.textContent === "draining");
    await page.focus("button[data-wish=enable]");
    await press("Enter");
    await page.waitForSelector("#confirm[open]");
    await page.focus("#confirm-yes");
    await press("Enter");
    await page.waitForFunction(() => !document.querySelector("button[data-wish=enable]"));
  },

  // An instance that was killed shows as dead, by more than a colour.
  async dead() {
    const page = await open(url);
    const row = await page.waitForSelector(`tr.dead[data-key="${instance}"]`);
    assert.match(await row.evaluate((one) => one.textContent), /dead/);
    await page.waitForSelector("#wiring .line.bad");
    assert.match(await page.$eval("#counts", (one) => one.textContent), /1 not ready/);
    assert.deepEqual(await faults(page), []);
  },
};

try {
  await STEPS[step]();
  assert.deepEqual(complaints, []);
} catch (error) {
  console.error(`${step}: ${error.message}`);
  process.exitCode = 1;
} finally {
  await browser.close();
}
