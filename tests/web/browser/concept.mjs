// A concept over its life: caption and mask of a photo, what a training draws of itself, versions in and out of use, deletion.

import assert from "node:assert/strict";
import { after, before, test } from "node:test";

import { LOOKS, isAccessible, newPage, openBrowser, settled } from "../support/browser.mjs";
import { trained } from "../support/catalog.mjs";
import { Server } from "../support/server.mjs";

let server, browser;
before(async () => {
  [server, browser] = await Promise.all([Server.start("concept"), openBrowser()]);
  await trained(server, "rex", "dog", 4);
});
after(() => Promise.all([browser?.close(), server?.stop()]));

const photo = async () => (await server.call("GET", "v1/concepts/rex/images?order=asc&limit=1")).data[0];

test("a caption and a mask that was painted with the keyboard", { timeout: 120_000 }, async () => {
  const page = await newPage(browser, LOOKS.light);
  await page.goto(`${server.url}#/concepts/rex?tab=photos`);
  await page.locator(".photo-tile").first().click();
  await page.getByLabel(/^Caption/).fill("a {} on a lawn");
  await page.getByRole("button", { name: "Save the caption" }).click();
  await page.getByText("a <rex> dog on a lawn").waitFor();

  await page.getByRole("button", { name: "Mark the subject" }).click();
  const canvas = page.locator(".mask canvas");
  await canvas.focus();
  for (const key of ["Space", "ArrowRight", "Space", "ArrowDown", "Space"]) await page.keyboard.press(key);
  await isAccessible(page, "mask");
  await page.keyboard.press("Escape");
  await page.getByText("Leave without saving?").waitFor();
  await page.getByRole("button", { name: "Stay" }).click();
  await page.getByRole("button", { name: "Save the mask" }).click();
  await page.getByRole("button", { name: "Remove the mask" }).waitFor();

  // What is painted and not saved is gone, and the photo is still there after a reload.
  await page.getByRole("button", { name: "Change the mask" }).click();
  await page.getByRole("button", { name: "Invert" }).click();
  await page.getByRole("button", { name: "Cancel" }).click();
  const dimmed = await canvas.evaluate((/** @type {HTMLCanvasElement} */ shown) => new Promise((done) => setTimeout(() => done(shown.getContext("2d")?.getImageData(4, 4, 1, 1).data[0]), 1000)));
  await page.getByRole("button", { name: "Change the mask" }).click();
  await page.getByRole("button", { name: "Invert" }).click();
  const bright = await canvas.evaluate((/** @type {HTMLCanvasElement} */ shown) => shown.getContext("2d")?.getImageData(4, 4, 1, 1).data[0]);
  assert.ok(dimmed < bright, `${dimmed} below ${bright}: the corner is outside of the saved mask`);
  await page.getByRole("button", { name: "Cancel" }).click();
  await page.reload();
  await page.getByRole("button", { name: "Change the mask" }).waitFor();

  const { caption, mask } = (await photo()).photo;
  assert.equal(caption, "a {} on a lawn");
  const png = new Uint8Array(await (await fetch(new URL(mask.url, server.url))).arrayBuffer());
  const [middle, corner] = await page.evaluate(async (/** @type {number[]} */ bytes) => {
    const bitmap = await createImageBitmap(new Blob([new Uint8Array(bytes)]));
    const context = new OffscreenCanvas(bitmap.width, bitmap.height).getContext("2d");
    context?.drawImage(bitmap, 0, 0);
    return [[bitmap.width / 2, bitmap.height / 2], [2, 2]].map(([x, y]) => context?.getImageData(x, y, 1, 1).data[0]);
  }, [...png]);
  assert.deepEqual([middle, corner], [255, 0], "white where the brush was, black elsewhere");
  assert.deepEqual(page.errors, []);
});

test("a training shows what it draws, before it has ended and afterwards", { timeout: 240_000 }, async () => {
  const page = await newPage(browser, LOOKS.light);
  await page.goto(`${server.url}#/concepts/rex?tab=train`);
  await page.getByLabel("Steps", { exact: true }).fill("60");
  await page.getByLabel("Prompts, one a line").fill("photo of a {}");
  await page.getByText("in about").or(page.getByText("as soon as")).first().waitFor();
  await page.getByRole("button", { name: "Start the training" }).click();

  await page.getByRole("button", { name: "Stop" }).waitFor();
  await page.locator('.drawing img[alt$="before the training"]').waitFor();
  assert.ok(await page.getByRole("button", { name: "Stop" }).isVisible(), "the first image came while it was running");
  await page.getByRole("link", { name: "See the version" }).waitFor({ timeout: 180_000 });
  await page.locator('.drawing img[alt$="after 60 steps"]').waitFor();
  await settled(page);
  assert.equal(await page.locator(".drawing img").count(), 6, "before, and five rounds");
  await page.reload();
  await page.locator('.drawing img[alt$="after 60 steps"]').waitFor();
  assert.deepEqual(page.errors, []);
});

test("versions are taken into use and back, and a concept goes with what depends on it", { timeout: 240_000 }, async () => {
  const page = await newPage(browser, LOOKS.light);
  const first = (await server.call("GET", "v1/concepts/rex")).current_delta;
  await page.goto(`${server.url}#/concepts/rex?tab=versions`);
  await page.getByRole("button", { name: "Use this one" }).click();
  await page.getByText("Version 2 is in use").waitFor();
  assert.notEqual((await server.call("GET", "v1/concepts/rex")).current_delta, first);

  // A version that is not in use is tried with itself.
  await page.getByRole("link", { name: "Try version 1 in the studio" }).click();
  await page.getByRole("button", { name: "Draw", exact: true }).click();
  await page.locator(".result-grid .picture img").first().waitFor({ timeout: 120_000 });
  assert.equal((await server.call("GET", "v1/samples?limit=1")).data[0].deltas[0].delta, first);
  await page.goto(`${server.url}#/concepts/rex?tab=versions`);
  await page.getByRole("button", { name: "Roll back" }).click();
  await page.getByText("Back to version 1").waitFor();
  assert.equal((await server.call("GET", "v1/concepts/rex")).current_delta, first);

  await trained(server, "tom", "cat", 4);
  const merge = await server.call("POST", "v1/merges", { concepts: [{ concept: "rex" }, { concept: "tom" }] });
  await server.ended(`v1/merges/${merge.id}`);
  await page.getByRole("button", { name: "Delete the concept" }).click();
  const dialog = page.getByRole("dialog");
  await dialog.getByText("6 photos").waitFor();
  await dialog.getByRole("button", { name: "Delete", exact: true }).click();
  await dialog.getByText(merge.id).first().waitFor();
  await isAccessible(page, "what depends on it");
  assert.equal((await server.call("GET", "v1/concepts/rex")).handle, "rex", "nothing is deleted before the second answer");
  await dialog.getByRole("button", { name: "Delete all of it" }).click();
  await page.getByText(/^Deleted rex with/).waitFor();
  await page.waitForURL(/#\/concepts$/);
  assert.deepEqual((await server.call("GET", "v1/concepts")).data.map((/** @type {any} */ one) => one.handle), ["tom"]);
  assert.deepEqual(page.errors, []);
});
