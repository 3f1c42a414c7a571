// As a person would: photos are dropped, looked at, learned from, and the first image of the concept is drawn.

import assert from "node:assert/strict";
import { after, before, test } from "node:test";

import { LOOKS, drop, isAccessible, newPage, openBrowser, settled } from "../support/browser.mjs";
import { photos } from "../support/catalog.mjs";
import { Server } from "../support/server.mjs";
import { root } from "../support/tools.mjs";

let server, browser;
before(async () => {
  [server, browser] = await Promise.all([Server.start("story"), openBrowser()]);
});
after(() => Promise.all([browser?.close(), server?.stop()]));

const shot = (page, name) => page.screenshot({ path: `${root}target/web/screenshots/story-${name}.png`, fullPage: true });

test("from dropped photos to the first image of the concept", { timeout: 400_000 }, async () => {
  const page = await newPage(browser, LOOKS.light);
  await page.goto(server.url);

  // An empty service says what to do.
  await page.getByRole("link", { name: "Make the first concept" }).click();
  await page.getByLabel("Name").fill("Rex");
  await page.getByLabel("Kind", { exact: true }).fill("dog");
  const tooSmall = { name: "icon.png", type: "image/png", bytes: Buffer.from("iVBORw0KGgoAAAANSUhEUgAAAAgAAAAICAIAAABLbSncAAAAEklEQVR4nGP4z8CAFWEXHbQSACj/P8Fu7N9hAAAAAElFTkSuQmCC", "base64") };
  await drop(page, ".drop", [...photos("dog", 6), tooSmall]);
  await page.getByText("7 photos").waitFor();
  await shot(page, "1-new-concept");
  await page.getByRole("button", { name: "Create and check the photos" }).click();

  // Each photo has its verdict, and the one that will not do says why.
  await page.locator(".photo-grid li").nth(5).waitFor();
  const refused = page.locator(".upload", { hasText: "icon.png" });
  await refused.getByText(/pixels/).first().waitFor();
  await settled(page);
  await isAccessible(page, "photos");
  await shot(page, "2-photos");
  assert.equal(await page.locator(".photo-grid li").count(), 6);

  // What a training takes is said before it begins.
  await page.getByRole("link", { name: "Start a training" }).click();
  await page.getByLabel("Steps", { exact: true }).fill("12");
  await page.getByText("6 of rex").waitFor();
  await shot(page, "3-training-form");
  await page.getByRole("button", { name: "Start the training" }).click();
  await page.getByRole("heading", { name: "Training rex" }).waitFor();
  await page.getByRole("link", { name: "See the version" }).waitFor({ timeout: 180_000 });
  await page.locator(".chart canvas").waitFor();
  await settled(page);
  await shot(page, "4-training");

  // The concept is in prompts now.
  await page.getByRole("link", { name: "See the version" }).click();
  await page.getByRole("link", { name: "Use in the studio" }).click();
  await page.waitForFunction(() => /<rex> dog/.test(document.querySelector("textarea")?.value ?? ""));
  await page.getByRole("button", { name: "Draw", exact: true }).click();
  const image = page.locator(".result-grid .picture img").first();
  await image.waitFor({ timeout: 120_000 });
  await page.waitForFunction(() => {
    const shown = document.querySelector(".result-grid .picture img");
    return shown instanceof HTMLImageElement && shown.naturalWidth > 0;
  });
  await settled(page);
  await shot(page, "5-first-image");

  // All of it is there after a reload.
  const address = page.url();
  await page.reload();
  await page.locator(".result-grid .picture img").first().waitFor();
  assert.equal(page.url(), address);
  const { data: samples } = await server.call("GET", "v1/samples");
  assert.match(samples[0].prompt, /<rex> dog/);
  assert.equal(samples[0].deltas.length, 1);
  assert.deepEqual(page.errors, []);
});
