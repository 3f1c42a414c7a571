// Back and forward, reloads and addresses that lead nowhere: what was seen is there again, where it was.

import assert from "node:assert/strict";
import { after, before, test } from "node:test";

import { newPage, openBrowser, settled } from "../support/browser.mjs";
import { Server } from "../support/server.mjs";
import { root } from "../support/tools.mjs";

let server, browser, page;
before(async () => {
  [server, browser] = await Promise.all([Server.start("navigation"), openBrowser()]);
  for (let seed = 1; seed <= 5; seed++) {
    const { id } = await server.call("POST", "v1/samples", { prompt: `a house on hill ${seed}`, n: 16, num_inference_steps: 1, seed });
    await server.ended(`v1/samples/${id}`);
  }
  page = await newPage(browser, { viewport: { width: 900, height: 500 } });
}, { timeout: 240_000 });
after(() => Promise.all([browser?.close(), server?.stop()]));

const FAR = 900;
const isFar = () => page.waitForFunction((far) => Math.abs(scrollY - far) < 3, FAR, { timeout: 10_000 });

test("a picture opens over the list, which stays where it was", { timeout: 120_000 }, async () => {
  await page.goto(`${server.url}#/images`);
  await settled(page);
  await page.getByRole("checkbox").first().check();
  await page.evaluate((far) => scrollTo(0, far), FAR);
  await page.waitForTimeout(200);
  await page.locator(".images-tile a").nth(8).evaluate((link) => link.click());
  await page.locator("dialog[open] .one-picture img").waitFor();
  await isFar();
  await page.keyboard.press("ArrowRight");
  await page.keyboard.press("Escape");
  await page.locator("dialog").waitFor({ state: "detached" });

  await isFar();
  await page.getByText("1 marked").waitFor();
  assert.match(page.url(), /#\/images$/);
});

test("back comes back to the same place, and so does a reload", { timeout: 120_000 }, async () => {
  await page.getByRole("link", { name: "Queue", exact: true }).first().click();
  await page.getByRole("heading", { name: "Queue" }).waitFor();
  await page.waitForFunction(() => document.activeElement?.tagName === "H1", null, { timeout: 10_000 });
  assert.equal(await page.evaluate(() => scrollY), 0);
  await page.goBack();
  await page.getByRole("heading", { name: "Images" }).waitFor();
  await isFar();
  await page.goForward();
  await page.getByRole("heading", { name: "Queue" }).waitFor();
  await page.goBack();
  await isFar();
  await page.reload();
  await page.locator(".images-tile").first().waitFor();
  await isFar();
  assert.deepEqual(page.errors, []);
});

/** Waits until the browser has what it was given. */
const isStored = () =>
  page.waitForFunction(
    () =>
      new Promise((done) => {
        const request = indexedDB.open("vstar", 1);
        request.onsuccess = () => {
          const count = request.result.transaction("files").objectStore("files").count();
          count.onsuccess = () => (request.result.close(), done(count.result > 0));
        };
      }),
    null,
    { timeout: 10_000 },
  );

test("photos that were chosen for a new concept are there after a reload, and in this tab alone", { timeout: 60_000 }, async () => {
  const photos = ["1.jpg", "2.jpg"].map((name) => `${root}demo/concepts/dog/${name}`);
  await page.goto(`${server.url}#/concepts/new`);
  await page.getByLabel("Name").fill("Rex");
  await page.locator("input[type=file]").setInputFiles(photos);
  await page.locator(".staged li").nth(1).waitFor();
  await isStored();
  await page.reload();
  await page.locator(".staged li").nth(1).waitFor();
  assert.equal(await page.getByLabel("Name").inputValue(), "Rex");
  const other = await page.context().newPage();
  await other.goto(`${server.url}#/concepts/new`);
  await other.getByLabel("Name").waitFor();
  await other.waitForTimeout(300);
  assert.equal(await other.locator(".staged li").count(), 0);
  await other.close();

  await page.getByLabel("Kind").fill("dog");
  await page.getByRole("button", { name: "Create and check the photos" }).click();
  await page.waitForURL(/#\/concepts\/rex/);
  await page.goto(`${server.url}#/concepts/new`);
  await page.getByLabel("Name").waitFor();
  await page.waitForTimeout(300);
  assert.equal(await page.locator(".staged li").count(), 0);
  assert.deepEqual(page.errors, []);
});

test("an address that leads nowhere says so", { timeout: 60_000 }, async () => {
  for (const [address, heading] of [["/concepts/50%", "There is no such concept"], ["/nowhere", "There is no such page"], ["/trainings/trn_0", "There is no such training"]]) {
    await page.goto(`${server.url}#${address}`);
    await page.getByRole("heading", { name: heading }).waitFor();
    assert.match(await page.title(), new RegExp(heading));
  }
  assert.deepEqual(page.errors, []);
});
