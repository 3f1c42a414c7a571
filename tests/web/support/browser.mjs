// Chromium, and what is asked of every page.

import assert from "node:assert/strict";

import { axeSource, chromium } from "./tools.mjs";

export const openBrowser = () => chromium.launch({ executablePath: process.env.CHROMIUM ?? "/usr/bin/chromium", args: ["--no-sandbox"] });

/** The widths and themes that every page is looked at in. */
export const LOOKS = {
  light: { viewport: { width: 1280, height: 860 }, colorScheme: "light" },
  dark: { viewport: { width: 1280, height: 860 }, colorScheme: "dark" },
  phone: { viewport: { width: 375, height: 740 }, colorScheme: "light", hasTouch: true },
};

/**
 * A new tab whose errors are kept: what a script throws, what the policy forbids, and files that are missing.
 *
 * @param {any} browser @param {any} [options]
 */
export async function newPage(browser, options = LOOKS.light) {
  const context = await browser.newContext(options);
  const page = await context.newPage();
  page.setDefaultTimeout(60_000);
  /** @type {string[]} */
  const errors = [];
  page.on("pageerror", (/** @type {any} */ error) => errors.push(String(error.stack ?? error)));
  page.on("console", (/** @type {any} */ message) => {
    const text = message.text();
    // A request that is refused is a console message as well, and some of the tests ask for one.
    if (message.type() === "error" && !text.startsWith("Failed to load resource")) errors.push(text);
  });
  page.on("response", (/** @type {any} */ response) => {
    if (response.status() >= 400 && response.url().includes("/assets/")) errors.push(`${response.status()} ${response.url()}`);
  });
  page.errors = errors;
  // Requests that are on their way; a stream of events never ends, and counts for nothing.
  page.pending = new Set();
  page.on("request", (/** @type {any} */ request) => request.url().endsWith("/events") || page.pending.add(request));
  for (const end of ["requestfinished", "requestfailed"]) page.on(end, (/** @type {any} */ request) => page.pending.delete(request));
  return page;
}

/** Waits until nothing is grey any more and all pictures in sight are there. @param {any} page */
export async function settled(page) {
  await page.waitForSelector("main h1, main .empty h2");
  for (let quiet = 0, tries = 0; quiet < 3 && tries < 150; tries++) {
    await page.waitForTimeout(80);
    quiet = page.pending.size === 0 ? quiet + 1 : 0;
  }
  await page.waitForFunction(() => !document.querySelector("main .skeleton, main .picture-waiting img[src]"), null, { timeout: 15_000 }).catch(() => {});
  await page.evaluate(() => document.fonts.ready);
  await animated(page);
}

/** Waits until what moves or fades in has arrived. @param {any} page */
const animated = (page) =>
  page.evaluate(() => Promise.all(document.getAnimations().map((each) => (each.effect?.getComputedTiming().iterations === Infinity ? null : each.finished.catch(() => {})))));

/** Fails if axe finds something serious. @param {any} page @param {string} name */
export async function isAccessible(page, name) {
  const before = page.errors.length;
  await animated(page); // what is half transparent has too little contrast
  await page.evaluate(axeSource);
  const found = await page.evaluate(async () => {
    const { violations } = await /** @type {any} */ (globalThis).axe.run(document, { resultTypes: ["violations"] });
    return violations.filter((/** @type {any} */ one) => ["serious", "critical"].includes(one.impact)).map((/** @type {any} */ one) => `${one.id}: ${one.nodes.map((/** @type {any} */ node) => node.html.slice(0, 120)).join(" | ")}`);
  });
  // axe tries inline styles, which the policy forbids: those messages are its own.
  await page.waitForTimeout(100);
  page.errors.push(...page.errors.splice(before).filter((/** @type {string} */ error) => !error.startsWith("Applying inline style")));
  assert.deepEqual(found, [], name);
}

/** Fails if the page is wider than its window. @param {any} page @param {string} name */
export async function fits(page, name) {
  const over = await page.evaluate(() => document.documentElement.scrollWidth - document.documentElement.clientWidth);
  assert.ok(over <= 0, `${name} is ${over} pixels wider than the window`);
}

/** Drops files on an element, as from a folder. @param {any} page @param {string} selector @param {{name: string, type: string, bytes: Buffer}[]} files */
export async function drop(page, selector, files) {
  const sent = files.map(({ name, type, bytes }) => ({ name, type, base64: bytes.toString("base64") }));
  const transfer = await page.evaluateHandle((/** @type {any[]} */ all) => {
    const made = new DataTransfer();
    for (const { name, type, base64 } of all) made.items.add(new File([Uint8Array.from(atob(base64), (letter) => letter.charCodeAt(0))], name, { type }));
    return made;
  }, sent);
  for (const event of ["dragenter", "dragover", "drop"]) await page.dispatchEvent(selector, event, { dataTransfer: transfer });
}

/**
 * Fails if the first view of an address takes more than a second or 300 kB, with nothing cached.
 *
 * @param {any} browser @param {string} address @param {string} selector of what is waited for
 */
export async function isQuickAndSmall(browser, address, selector) {
  /** @type {number[]} */
  const times = [];
  let bytes = 0;
  // Other work on the machine makes single views slow, so one that is quick enough shows what the service can do.
  for (let round = 0; round < 8 && (round < 3 || Math.min(...times) >= 1000); round++) {
    const page = await newPage(browser);
    const session = await page.context().newCDPSession(page);
    await session.send("Network.enable");
    bytes = 0;
    session.on("Network.loadingFinished", (/** @type {any} */ { encodedDataLength }) => (bytes += encodedDataLength));
    const begun = performance.now();
    await page.goto(address);
    await page.locator(selector).first().waitFor();
    times.push(performance.now() - begun);
    await settled(page);
    await page.context().close();
  }
  console.log(`first view of ${new URL(address).hash || "/"}: ${times.map((ms) => ms.toFixed(0)).join(", ")} ms, ${(bytes / 1000).toFixed(0)} kB`);
  assert.ok(bytes < 300_000, `${bytes} bytes`);
  assert.ok(Math.min(...times) < 1000, `${times} ms`);
}
