// A service that is killed during a training, and started again, while its page is open.

import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";

import { newPage, openBrowser } from "../support/browser.mjs";
import { trained } from "../support/catalog.mjs";
import { Server } from "../support/server.mjs";

let server, browser;
before(async () => {
  [server, browser] = await Promise.all([Server.start("restart"), openBrowser()]);
});
after(() => Promise.all([browser?.close(), server?.stop()]));

test("the page of a training goes on by itself after the service was killed", { timeout: 400_000 }, async () => {
  await trained(server, "rex", "dog", 3);
  const training = await server.call("POST", "v1/trainings", { concepts: ["rex"], recipe: { max_train_steps: 400 }, seed: 2 });
  const page = await newPage(browser);
  await page.goto(`${server.url}#/trainings/${training.id}`);
  await page.locator(".job-numbers", { hasText: /Step [1-9]/ }).waitFor({ timeout: 120_000 });

  await server.kill();

  await page.getByText("Connection lost, trying again").first().waitFor({ timeout: 30_000 });
  await sleep(1000);
  await server.again();

  await page.getByText("Connection lost, trying again").first().waitFor({ state: "hidden", timeout: 60_000 });
  await page.locator(".job-numbers", { hasText: "Attempt 2" }).waitFor({ timeout: 120_000 });
  const now = await server.call("GET", `v1/trainings/${training.id}`);
  assert.equal(now.attempt, 2);

  // Stopping works as well, and needs no reload either.
  await page.getByRole("button", { name: "Stop", exact: true }).click();
  await page.getByRole("button", { name: "Stop it" }).click();
  await page.locator(".job-canceled").waitFor({ timeout: 60_000 });
  assert.deepEqual(page.errors.filter((error) => !/Failed to fetch|net::/.test(error)), []);
});
