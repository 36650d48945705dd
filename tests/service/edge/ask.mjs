// Answers requests of stdin, one JSON a line, from an edge folder: node ask.mjs FOLDER. Prints one JSON a line.
//
// A line is {"method": "recommend", "given": [...]}; the first line that is printed tells what was loaded.

import { createInterface } from "node:readline";
import { pathToFileURL } from "node:url";

const folder = process.argv[2];

async function tell(work) {
  try {
    console.log(JSON.stringify({ value: (await work()) ?? null }));
  } catch (error) {
    console.log(JSON.stringify({ error: { code: error.code ?? null, message: error.message } }));
  }
}

let retort;
await tell(async () => {
  const { Retort } = await import(pathToFileURL(`${folder}/retort.js`));
  retort = await Retort.load(process.argv[3] ?? `${folder}/bundle`, JSON.parse(process.argv[4] ?? "{}"));
  return { version: retort.version, n_items: retort.n_items };
});
for await (const line of createInterface({ input: process.stdin })) {
  const { method, given } = JSON.parse(line);
  await tell(() => retort[method](...given));
}
