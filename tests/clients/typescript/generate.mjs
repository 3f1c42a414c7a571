// Makes the types from the description; files are Blobs.
import fs from "node:fs";
import openapiTS, { astToString } from "openapi-typescript";
import ts from "typescript";

const [description, types] = process.argv.slice(2);
const blob = ts.factory.createTypeReferenceNode("Blob");
const nodes = await openapiTS(new URL(description, `file://${process.cwd()}/`), {
  transform: (schema) => (schema.format === "binary" ? blob : undefined),
});
fs.writeFileSync(types, astToString(nodes));
