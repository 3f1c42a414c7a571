# Two cores and no GPU are enough. `make demo` shows the whole job, `make test` checks it.

SHELL := /bin/bash
CARGO ?= cargo

.PHONY: demo test build fmt openapi sqlx postgres s3-server

## Teaches two concepts from the photos of the repository and draws them: look at demo-out/sheet.png.
demo: build
	./target/release/vstar demo --out demo-out $(DEMO_ARGS)

## Every test, on a private Postgres that is thrown away afterwards.
test: build s3-server
	./target/release/vstar with-postgres -- $(CARGO) test --release --no-fail-fast

build: postgres
	$(CARGO) build --release

## Installs Postgres where no binaries are found.
postgres:
	@.ci/postgres

## Installs the S3 server of the tests where it is not there.
s3-server:
	@.ci/s3-server

fmt:
	$(CARGO) fmt

## Writes the API's description anew.
openapi:
	$(CARGO) run --release --quiet -- openapi > openapi/openapi.json

## Writes .sqlx anew, after a change of a query or a migration.
sqlx: build
	./target/release/vstar with-postgres -- .ci/prepare-queries
