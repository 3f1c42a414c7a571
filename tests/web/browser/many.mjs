// A thousand concepts: the gallery holds the tiles that are seen, and finds any of them.

import assert from "node:assert/strict";
import { after, before, test } from "node:test";

import { newPage, openBrowser, settled } from "../support/browser.mjs";
import { photos } from "../support/catalog.mjs";
import { Server } from "../support/server.mjs";

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
        if (at < 200) await server.call("POST", `v1/concepts/${concept.id}/images`, form);
      }),
    );
  }
}, { timeout: 600_000 });
after(() => Promise.all([browser?.close(), server?.stop()]));

test("a gallery of a thousand concepts is quick, small, and complete", { timeout: 180_000 }, async () => {
  const page = await newPage(browser);
  const begun = performance.now();
  await page.goto(server.url);
  await page.locator(".concept-card").first().waitFor();
  const first = performance.now() - begun;
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
  console.log(`first view of 1,000 concepts: ${first.toFixed(0)} ms`);
  assert.ok(first < 1500, `${first} ms`);
  assert.deepEqual(page.errors, []);
});
