// A real browser for the page: what the test and the pictures share. PAGE_CLIENTS is the folder that has
// the packages, CHROMIUM the program.

import { createRequire } from "node:module";

const packages = createRequire(`${process.env.PAGE_CLIENTS}/`);
const puppeteer = packages("puppeteer-core");
const browser = await puppeteer.launch({
  executablePath: process.env.CHROMIUM ?? "/usr/bin/chromium",
  args: ["--no-sandbox", "--disable-gpu"],
});

/** What the console said, and what broke; there should be nothing. */
export const complaints = [];

/** The page, seen so. */
export async function open(url, { scheme = "light", width = 1440, height = 1000, scale = 1 } = {}) {
  const context = await browser.createBrowserContext();
  const page = await context.newPage();
  page.on("console", (message) => complaints.push(`console: ${message.text()}`));
  page.on("pageerror", (error) => complaints.push(`error: ${error.message}`));
  await page.setViewport({ width, height, deviceScaleFactor: scale });
  await page.emulateMediaFeatures([
    { name: "prefers-color-scheme", value: scheme },
    { name: "prefers-reduced-motion", value: "reduce" },
  ]);
  await page.goto(url);
  await page.waitForSelector("#endpoints tbody tr");
  return page;
}

/** What axe-core finds. */
export async function faults(page) {
  await page.evaluate(packages("axe-core").source);
  const { violations } = await page.evaluate(() => window.axe.run());
  return violations.map((found) => `${found.id}: ${found.nodes.map((one) => one.target.join(" ")).join(", ")}`);
}

export { browser, packages };
