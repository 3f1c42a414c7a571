// Every page in light, in dark and at 375 pixels: looked at by axe, and drawn to target/web/screenshots for people.

import assert from "node:assert/strict";
import { after, before, test } from "node:test";

import { LOOKS, fits, isAccessible, isQuickAndSmall, newPage, openBrowser, settled } from "../support/browser.mjs";
import { everything } from "../support/catalog.mjs";
import { Server } from "../support/server.mjs";
import { isShort, root } from "../support/tools.mjs";

let server, browser, made, pages;
before(async () => {
  [server, browser] = await Promise.all([Server.start("pages"), openBrowser()]);
  made = await everything(server);
  pages = {
    concepts: "/concepts",
    "concept-new": "/concepts/new",
    "concept-photos": "/concepts/rex?tab=photos",
    "concept-train": "/concepts/rex?tab=train",
    "concept-versions": "/concepts/rex?tab=versions",
    training: `/trainings/${made.training.id}`,
    studio: `/studio?sample=${made.sample.id}`,
    compose: "/compose?concepts=rex,tom",
    images: "/images",
    evaluations: "/evaluations",
    evaluation: `/evaluations/${made.evaluation.id}`,
    "evaluation-images": `/evaluations/${made.evaluation.id}?tab=images`,
    "evaluation-files": `/evaluations/${made.evaluation.id}?tab=files`,
    vote: `/preference/${made.study.id}`,
    queue: "/queue",
    settings: "/settings",
    webhooks: "/settings?tab=webhooks",
    webhook: `/settings?tab=webhooks&endpoint=${made.endpoint.id}`,
    limits: "/settings?tab=limits",
    merge: `/merges/${made.merge.id}`,
  };
}, { timeout: 300_000 });
after(() => Promise.all([browser?.close(), server?.stop()]));

// The short round leaves out light, which the other tests are in.
for (const [look, options] of Object.entries(LOOKS).filter(([name]) => !isShort || name !== "light")) {
  test(`every page, ${look}`, { timeout: 400_000 }, async () => {
    const page = await newPage(browser, options);
    const found = [];
    for (const [name, address] of Object.entries(pages)) {
      await page.goto(`${server.url}#${address}`);
      await page.waitForFunction((wanted) => location.hash.startsWith(`#${wanted}`) && document.querySelector("main h1, main .empty h2"), address.split("?")[0]);
      await settled(page);
      await page.screenshot({ path: `${root}target/web/screenshots/${name}-${look}.png`, fullPage: true });
      for (const check of [isAccessible, fits]) await check(page, `${name}, ${look}`).catch((error) => found.push(error.message));
    }
    assert.deepEqual(found, []);
    assert.deepEqual(page.errors, []);
  });
}

test("all of the frame is reached by keyboard, and the focus is seen", { timeout: 120_000 }, async () => {
  const page = await newPage(browser);
  await page.goto(`${server.url}#/concepts`);
  await settled(page);

  await page.keyboard.press("Tab");
  assert.equal(await page.evaluate(() => document.activeElement?.textContent), "Skip to the page");
  const reached = new Set();
  for (let presses = 0; presses < 40; presses++) {
    await page.keyboard.press("Tab");
    const { text, seen } = await page.evaluate(() => {
      const at = document.activeElement;
      const style = at ? getComputedStyle(at) : null;
      return { text: at?.getAttribute("aria-label") ?? at?.textContent?.trim() ?? "", seen: style?.outlineStyle !== "none" || at === document.body };
    });
    reached.add(text);
    assert.ok(seen, `the focus on ${text} is not seen`);
  }
  for (const name of ["Concepts", "Studio", "Compose", "Images", "Evaluations", "Queue", "Settings", "New concept", "Search concepts"]) {
    assert.ok(reached.has(name), `${name} is not reached: ${[...reached]}`);
  }

  // A dialog keeps the focus, and Escape gives it back.
  await page.goto(`${server.url}#/concepts/rex`);
  const rename = page.getByRole("button", { name: "Rename" });
  await rename.focus();
  await page.keyboard.press("Enter");
  await page.locator("dialog[open]").waitFor();
  assert.ok(await page.evaluate(() => document.querySelector("dialog")?.contains(document.activeElement)));
  await page.keyboard.press("Escape");
  await page.locator("dialog[open]").waitFor({ state: "detached" });
});

test("the first view comes within a second and 300 kB", { timeout: 120_000 }, async () => {
  await isQuickAndSmall(browser, server.url, ".concept-card");
});
