// A thousand concepts and ten thousand images: the pages hold the tiles that are seen, and find any of them.
// WEB_IMAGES is another number of images.

import assert from "node:assert/strict";
import { after, before, test } from "node:test";

import { isQuickAndSmall, newPage, openBrowser, settled } from "../support/browser.mjs";
import { photos } from "../support/catalog.mjs";
import { Server } from "../support/server.mjs";

const IMAGES = Number(process.env.WEB_IMAGES ?? 10_000);
/** Images of one request, drawn in one step each. */
const AT_ONCE = 16;

let server, browser;
before(async () => {
  [server, browser] = await Promise.all([Server.start("many"), openBrowser()]);
  const [photo] = photos("vase", 1);
  const names = Array.from({ length: 1000 }, (_, index) => `thing-${String(index).padStart(4, "0")}`);
  for (let at = 0; at < names.length; at += 20) {
    await Promise.all(
      names.slice(at, at + 20).map(async (handle) => {
        const concept = await server.call("POST", "v1/concepts", { handle, class_noun: "vase", modifier_token: `<${handle}>` });
        const form = new FormData();
        form.append("files", new Blob([photo.bytes], { type: photo.type }), photo.name);
        if (at >= names.length - 200) await server.call("POST", `v1/concepts/${concept.id}/images`, form);
      }),
    );
  }
  const samples = [];
  for (let drawn = 0; drawn < IMAGES; drawn += AT_ONCE) {
    const seed = 1000 + drawn;
    samples.push(await server.call("POST", "v1/samples", { prompt: `house number ${seed}`, n: Math.min(AT_ONCE, IMAGES - drawn), num_inference_steps: 1, seed }));
    if (samples.length >= 8) await server.ended(`v1/samples/${samples.shift().id}`);
  }
  for (const { id } of samples) await server.ended(`v1/samples/${id}`);
}, { timeout: 3_600_000 });
after(() => Promise.all([browser?.close(), server?.stop()]));

test("a gallery of a thousand concepts is quick, small, and complete", { timeout: 180_000 }, async () => {
  await isQuickAndSmall(browser, server.url, ".concept-card img");
  const page = await newPage(browser);
  await page.goto(server.url);
  await page.locator(".concept-card").first().waitFor();
  await settled(page);
  const tiles = () => page.locator(".concept-card").count();
  assert.ok((await tiles()) < 120, `${await tiles()} tiles`);

  for (let turn = 0; turn < 60; turn++) {
    await page.mouse.wheel(0, 4000);
    await page.waitForTimeout(60);
  }
  await page.getByText("thing-0000").waitFor();
  assert.ok((await tiles()) < 120, `${await tiles()} tiles at the end`);
  await page.getByLabel("Search concepts").fill("thing-0517");
  await page.getByText("thing-0517").first().waitFor();
  assert.equal(await tiles(), 1);
  assert.deepEqual(page.errors, []);
});

test("all images are there, and the page holds those in sight", { timeout: 600_000 }, async () => {
  await isQuickAndSmall(browser, `${server.url}#/images`, ".virtual-tile img");
  const page = await newPage(browser);
  await page.goto(`${server.url}#/images`);
  await page.locator(".virtual-tile img").first().waitFor();
  const tiles = () => page.locator(".virtual-tile").count();
  assert.ok((await tiles()) < 250, `${await tiles()} tiles`);

  const shown = () => page.locator(".virtual-tile").first().getAttribute("aria-setsize").then(Number);
  for (let turn = 0; turn < 2000 && (await shown()) < IMAGES; turn++) {
    await page.mouse.wheel(0, 20_000);
    await page.waitForTimeout(50);
  }
  assert.equal(await shown(), IMAGES);
  assert.ok((await tiles()) < 250, `${await tiles()} tiles at the end`);
  assert.deepEqual(page.errors, []);
});
