// Numbers as people type them: a comma for the point, and seeds that no double can hold.

import assert from "node:assert/strict";
import { after, before, test } from "node:test";

import { newPage, openBrowser, settled } from "../support/browser.mjs";
import { Server } from "../support/server.mjs";

let server, browser, page;
before(async () => {
  [server, browser] = await Promise.all([Server.start("numbers"), openBrowser()]);
  page = await newPage(browser);
  await page.goto(`${server.url}#/studio`);
  await settled(page);
  await page.locator("textarea").first().fill("a house on a hill");
});
after(() => Promise.all([browser?.close(), server?.stop()]));

const draw = () => page.getByRole("button", { name: "Draw", exact: true });

test("a seed that would be rounded is refused beside its field, and stays as it was typed", { timeout: 120_000 }, async () => {
  const seed = page.getByLabel("Seed", { exact: true });
  for (const wrong of ["9007199254740993", "5400121572116419000", "-1", "1e3"]) {
    await seed.fill(wrong);
    await page.locator(".seed .field-error").waitFor();
    assert.equal(await seed.inputValue(), wrong);
    assert.ok(await draw().isDisabled(), wrong);
  }
  await seed.fill("9007199254740991");
  await page.locator(".seed .field-error").waitFor({ state: "detached" });
  assert.deepEqual((await server.call("GET", "v1/samples")).data, [], "nothing was drawn");
});

test("the largest seed and a comma reach the service as they are", { timeout: 180_000 }, async () => {
  await page.getByLabel("Seed", { exact: true }).fill("9007199254740991");
  await page.getByLabel("Steps", { exact: true }).first().fill("3");
  await page.getByLabel("Guidance", { exact: true }).first().fill("4,5");
  await draw().click();
  await page.locator(".result-grid .picture img").first().waitFor({ timeout: 120_000 });

  const [sample] = (await server.call("GET", "v1/samples")).data;
  assert.equal(sample.seed, 9007199254740991);
  assert.equal(sample.guidance_scale, 4.5);
  const manifest = await server.call("GET", `v1/images/${sample.images[0].id}/manifest`);
  assert.equal(manifest.seed, 9007199254740991);

  // The picture gives its settings back, the seed unrounded.
  const png = Buffer.from(await (await fetch(new URL(sample.images[0].url, server.url))).arrayBuffer());
  await page.getByRole("button", { name: "Start afresh" }).click();
  await page.locator("input[type=file][accept='image/png']").first().setInputFiles({ name: "house.png", mimeType: "image/png", buffer: png });
  await page.waitForFunction(() => [...document.querySelectorAll("input")].some((input) => input.value === "9007199254740991"));
  assert.deepEqual(page.errors, []);
});
