# Two cores and no GPU are enough. `make demo` shows the whole job, `make test` checks it.

SHELL := /bin/bash
CARGO ?= cargo

.PHONY: demo demo-quick tables test test-stores test-faults test-load test-clients test-schema test-isa test-aarch64 test-web mutants build check-cuda gpu-check fmt openapi sqlx check-sqlx postgres s3-server object-stores webhook-libraries

## Teaches four concepts from the photos of the repository and generates images of them: look at demo-out/sheet.png.
demo: build
	./target/release/vstar demo --out demo-out $(DEMO_ARGS)

## The same in short: every part of it runs, and nothing is learnt.
demo-quick: build
	rm -rf target/demo-quick
	./target/release/vstar demo --out target/demo-quick --recipe '{"max_train_steps": 5}'

## Makes the tables of the paper in tables-out/tables.md, with sheets. Stopped, it goes on where it was. TABLES_ARGS="--only pairs" makes one.
tables: build
	./target/release/vstar tables --out tables-out $(TABLES_ARGS)

## Every test, on a private Postgres that is thrown away afterwards.
test: build object-stores webhook-libraries
	./target/release/vstar with-postgres -- $(CARGO) test --release --no-fail-fast
	@$(MAKE) test-isa

ISA_TESTS ?= ops::

## Every golden case, and the engine's operations, once under each narrower instruction set that this CPU has. ISA_TESTS= runs every test of
## the engine, which takes long without vector instructions.
test-isa: build
	for set in $$(./target/release/vstar instruction-sets | sed '$$d'); do \
	  echo "instruction set $$set"; \
	  VSTAR_ISA=$$set $(CARGO) test --release --test golden || exit 1; \
	  VSTAR_ISA=$$set $(CARGO) test --release --test engine -- $(ISA_TESTS) || exit 1; \
	done

## The engine's tests and the golden cases of sd1, compiled for AArch64, in an emulator: it takes hours. Debian 13's QEMU 10 takes two thirds
## of the time of Debian 12's 7.2 (63 and 95 s for one training). AARCH64_TESTS=ops chooses some.
test-aarch64:
	@.ci/aarch64 setup
	.ci/aarch64 run $(CARGO) test --release --lib engine::
	.ci/aarch64 run $(CARGO) test --release --test engine -- $(AARCH64_TESTS)
	.ci/aarch64 run $(CARGO) test --release --test golden -- sd1/

## The object store alone, on a folder, SeaweedFS, moto and azurite, with connections that fail.
test-stores: build object-stores
	./target/release/vstar with-postgres -- $(CARGO) test --release --test object_store -- --nocapture

## Every fault of docs/reliability.md as often as it says there: about two hours. FAULTS="store disk" chooses some by name. Stopped, it
## goes on where it was.
test-faults: build object-stores
	VSTAR_FAULT_ROUNDS=all VSTAR_FAULT_RESUME=1 $(CARGO) test --release --test faults -- $(FAULTS)
	@cat target/faults/table.md

LOAD ?= polling uploads streams latency

## Many clients, uploads and listeners at once, against a server of its own. LOAD="polling uploads" chooses some by name.
test-load: build
	$(CARGO) test --release --test load -- $(LOAD)
	@cat target/load/table.md

## Makes clients of the API with other people's tools, and does the main job with them. It needs Node.
test-clients: build
	tests/clients/run

WEB ?= all

## The studio in Chromium, as a person would use it; its types against the API's description. WEB=short is what .ci/run does, WEB=story
## one of tests/web/browser. Screenshots of every page are in target/web/screenshots. It needs Node.
test-web: build
	tests/web/run $(WEB)

## Sends the API what its description allows, and what it forbids: 20,000 calls and more. SCHEMA_EXAMPLES=10 is a short round.
test-schema: build
	tests/clients/schema/run

## Breaks the program in ways that have gone unnoticed before, one at a time: each must fail the test that is named for it.
mutants: build object-stores
	tests/mutants/run

build: postgres
	$(CARGO) build --release

## Compiles and links for CUDA, without a GPU: the program is target/cuda/release/vstar.
check-cuda:
	@.ci/cuda setup
	.ci/cuda run $(CARGO) build --release --target-dir target/cuda --features cuda,cudnn
	.ci/cuda run $(CARGO) clippy --release --target-dir target/cuda --features cuda,cudnn --all-targets -- -D warnings
	@# Without a GPU, the program starts all the same and says what is missing.
	target/cuda/release/vstar bench text --model models/tiny --device cuda:0 --repeat 1 2>&1 | grep -E 'driver|"engine"'

## Fills target/gpu-check with what a GPU machine needs to tell the whole truth, and prints the command to run there.
gpu-check:
	@.ci/gpu-check

## Installs Postgres where no binaries are found.
postgres:
	@.ci/postgres

## Installs the S3 server of the tests where it is not there.
s3-server:
	@.ci/s3-server

## Installs the servers of object stores that the tests run against, where they are not there.
object-stores:
	@.ci/object-stores

## Installs the libraries that the tests verify webhooks with, where they are not there.
webhook-libraries:
	@.ci/webhook-libraries

fmt:
	$(CARGO) fmt

## Writes the API's description anew.
openapi:
	$(CARGO) run --release --quiet -- openapi > openapi/openapi.json

## Writes .sqlx anew, after a change of a query or a migration.
sqlx: build
	./target/release/vstar with-postgres -- .ci/prepare-queries

## Fails if .sqlx is out of date.
check-sqlx: build
	./target/release/vstar with-postgres -- .ci/prepare-queries target/sqlx
	diff -r .sqlx target/sqlx || { echo '.sqlx is out of date: run make sqlx' >&2; exit 1; }
