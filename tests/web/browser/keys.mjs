// A service that asks for keys: the page asks for one, keeps it in memory alone, and makes others.

import assert from "node:assert/strict";
import { after, before, test } from "node:test";

import { isAccessible, newPage, openBrowser, settled } from "../support/browser.mjs";
import { trained } from "../support/catalog.mjs";
import { Server } from "../support/server.mjs";

let server, browser, key;
before(async () => {
  [server, browser] = await Promise.all([Server.start("keys", ["--auth", "keys"]), openBrowser()]);
  key = server.firstKey;
  await trained(server, "rex", "dog", 3, key);
});
after(() => Promise.all([browser?.close(), server?.stop()]));

const signIn = async (page, text) => {
  await page.getByLabel("API key or client token").fill(text);
  await page.getByRole("button", { name: "Sign in" }).click();
};

test("the page asks for a key, and forgets it on a reload", { timeout: 120_000 }, async () => {
  const page = await newPage(browser);
  await page.goto(server.url);

  await signIn(page, `${key.slice(0, -1)}x`);
  await page.getByText("The server does not accept this key.").waitFor();
  for (let turn = 0; turn < 3; turn++) await page.keyboard.press("Escape"); // there is nothing to see without a key
  await isAccessible(page, "sign in");
  await signIn(page, key);
  await page.locator(".concept-card img").first().waitFor();
  await settled(page);

  const kept = await page.evaluate(() => JSON.stringify([{ ...localStorage }, { ...sessionStorage }, document.cookie]));
  assert.ok(!kept.includes(key), kept);
  const cover = await page.locator(".concept-card img").first().evaluate((image) => ({ src: image.src, width: image.naturalWidth }));
  assert.match(cover.src, /^blob:/);
  assert.ok(cover.width > 0);
  await page.reload();
  await page.getByLabel("API key or client token").waitFor();
  assert.deepEqual(page.errors, []);
});

test("a key is made, shown once, rotated and withdrawn", { timeout: 120_000 }, async () => {
  const page = await newPage(browser);
  await page.goto(`${server.url}#/settings`);
  await signIn(page, key);
  const dialog = page.locator("dialog[open]");

  await page.getByRole("button", { name: "New key" }).click();
  await dialog.getByRole("button", { name: "Create the key" }).click();
  await dialog.locator(".field-wrong", { hasText: "Name" }).waitFor(); // without a name it is refused beside the field
  await dialog.getByLabel("Name").fill("web frontend");
  await dialog.getByRole("button", { name: "Create the key" }).click();
  const secret = (await dialog.locator(".secret code").textContent()).trim();
  await isAccessible(page, "a secret");
  await dialog.getByRole("button", { name: "I have saved it" }).click();
  const row = page.locator(".settings-row", { hasText: "web frontend" });
  await row.waitFor();
  assert.equal((await server.call("GET", "v1/me", undefined, secret)).key.name, "web frontend");
  assert.ok(!(await page.content()).includes(secret), "it is not shown again");

  await row.getByRole("button", { name: "Rotate" }).click();
  await dialog.getByLabel("The old secret stays valid for").fill("0,5");
  await dialog.getByRole("button", { name: "Rotate" }).click();
  const second = (await dialog.locator(".secret code").textContent()).trim();
  await dialog.getByRole("button", { name: "I have saved it" }).click();
  assert.notEqual(second, secret);
  const { previous_secret_until: until } = (await server.call("GET", "v1/me", undefined, secret)).key;
  const minutes = (Date.parse(until) - Date.now()) / 60_000;
  assert.ok(minutes > 25 && minutes <= 30, `half an hour, written with a comma: ${minutes}`);

  await row.getByRole("button", { name: "Revoke web frontend" }).click();
  await dialog.getByRole("button", { name: "Revoke it" }).click();
  await row.waitFor({ state: "detached" });
  await assert.rejects(server.call("GET", "v1/me", undefined, second), /unauthenticated/);
  assert.deepEqual(page.errors, []);
});

test("a webhook is made, tested, and its delivery sent again", { timeout: 120_000 }, async () => {
  const page = await newPage(browser);
  await page.goto(`${server.url}#/settings?tab=webhooks`);
  await signIn(page, key);
  const dialog = page.locator("dialog[open]");

  await page.getByRole("button", { name: "New webhook" }).first().click();
  await dialog.getByLabel("Address").fill("ftp://example.com");
  await dialog.getByRole("button", { name: "Create" }).click();
  await dialog.locator(".field-wrong", { hasText: "Address" }).waitFor();
  await dialog.getByLabel("Address").fill("http://127.0.0.1:9/vstar-events");
  await dialog.getByRole("button", { name: "Create" }).click();
  assert.match((await dialog.locator(".secret code").textContent()).trim(), /^whsec_/);
  await dialog.getByRole("button", { name: "I have saved it" }).click();

  await page.getByRole("button", { name: "Send a test" }).click();
  const delivery = page.locator(".delivery", { hasText: "webhook.test" }).first();
  await delivery.getByText("Attempt 1").waitFor({ timeout: 60_000 });
  await delivery.getByRole("button", { name: "Send it again" }).click();
  await page.getByText("Sent again").waitFor();
  assert.deepEqual(page.errors, []);
});
