import { readArray } from "./array.js";
import { RetortError } from "./error.js";
import { Kept, readBytes } from "./file.js";
import { readRule } from "./score.js";

// A bundle of the service, formats 1 and 2: opened, every file of it checked by size and sha256.

const FORMATS = [1, 2];
const MANIFEST = "manifest.json";
const REQUIRED = ["user_encoder.onnx", "item_embeddings.npy", "items.jsonl", "golden.jsonl"];
const SUM_FILES = {
  neighbours: ["neighbours.npy", "neighbour_weights.npy", "neighbour_scales.npy"],
  trend: ["trend_counts.npy"],
};

/** Return {manifest, encoder, table, parts, items, golden} of the bundle in a folder. Throws RetortError. */
export async function openBundle(folder) {
  const [text, isFresh] = await readManifest(folder);
  const manifest = parseManifest(text);
  const kept = await Kept.open(folder, manifest.version);
  const names = Object.keys(manifest.files);
  const found = await Promise.all(names.map((name) => kept.read(name, manifest.files[name], "bundle_corrupt")));
  const files = Object.fromEntries(names.map((name, i) => [name, found[i]]));
  const bundle = parseFiles(manifest, files);
  if (isFresh) {
    await kept.keep(MANIFEST, text);
    await kept.forgetOthers();
  }
  return bundle;
}

/** Return the manifest's bytes, and whether they are from the folder: what is kept is enough where that is away. */
async function readManifest(folder) {
  try {
    const text = await readBytes(new URL(MANIFEST, folder));
    if (text !== null) return [text, true];
  } catch (error) {
    if (!(error instanceof TypeError)) throw error;
    const text = await (await Kept.open(folder, null))?.kept(MANIFEST);
    if (text) return [text, false];
    throw new RetortError("bundle_missing", `${folder.href}: cannot be reached, and nothing of it is kept here`);
  }
  throw new RetortError("bundle_missing", `${folder.href}: no ${MANIFEST} here`);
}

function parseManifest(text) {
  const wrong = (why) => new RetortError("bundle_corrupt", `${MANIFEST}: ${why}`);
  const [manifest] = parseLines(MANIFEST, [text]);
  if (!FORMATS.includes(manifest?.format)) {
    throw new RetortError(
      "bundle_format",
      `${MANIFEST}: format ${JSON.stringify(manifest?.format)}; this retort.js reads formats ${FORMATS.join(" and ")}`,
    );
  }
  for (const name of ["dim", "max_history", "n_items"]) {
    if (!Number.isInteger(manifest[name]) || manifest[name] < 1) throw wrong(`field ${name} must be positive`);
  }
  if (!/^[0-9a-f]{16}$/.test(manifest.version)) throw wrong("field version is not one");
  if (typeof manifest.repeat_consumption !== "boolean") throw wrong("field repeat_consumption is missing");
  const entries = Object.entries(manifest.files ?? {});
  for (const [name, entry] of entries) {
    if (!/^\w+\.(npy|onnx|jsonl)$/.test(name)) throw wrong(`${name.slice(0, 100)} is not an allowed file name`);
    if (!/^[0-9a-f]{64}$/.test(entry?.sha256) || !Number.isInteger(entry.size)) throw wrong(`files.${name} has no sum`);
  }
  const missing = REQUIRED.find((name) => !(name in (manifest.files ?? {})));
  if (missing) throw wrong(`${missing} is not listed`);
  return manifest;
}

function parseFiles(manifest, files) {
  const { n_items: n, dim } = manifest;
  const vector = (name) => (name in files ? readArray(name, files[name], ["<f4"], [n]).data : null);
  const name = "item_embeddings.npy";
  const embeddings = readArray(name, files[name], ["<f4", "<f2", "|i1"], [n, dim]).data;
  const scales = vector("item_scales.npy");
  if (embeddings instanceof Int8Array !== (scales !== null)) {
    throw new RetortError("bundle_corrupt", "item_scales.npy: belongs to an int8 table, and only to one");
  }
  const input = "input_embeddings.npy";
  const inputs = input in files ? readArray(input, files[input], ["<f4"], [n, dim]).data : null;
  const table = { n, dim, embeddings, scales, biases: vector("item_biases.npy"), inputs };
  const items = parseItems(files["items.jsonl"], n);
  const golden = parseLines("golden.jsonl", splitLines(files["golden.jsonl"]));
  return { manifest, encoder: files["user_encoder.onnx"], table, parts: parseParts(manifest, files), items, golden };
}

function parseParts(manifest, files) {
  const { score } = manifest;
  for (const [part, names] of Object.entries(SUM_FILES)) {
    const odd = names.find((name) => name in files !== part in Object(score));
    if (odd) throw new RetortError("bundle_corrupt", `${odd}: belongs to a part of the score, and only to that`);
  }
  if (!("score" in manifest)) return null; // format 2 may have other things than a sum
  const rule = readRule(score);
  const n = manifest.n_items;
  let neighbours = null, counts = null;
  if (rule.neighbours) {
    const [of, by, unit] = SUM_FILES.neighbours;
    const { data: rows, shape } = readArray(of, files[of], ["<i4"], [n, null]);
    if (!rows.every((row) => row >= -1 && row < n)) throw new RetortError("bundle_corrupt", `${of}: no such row`);
    const weights = readArray(by, files[by], ["|i1"], shape).data;
    neighbours = { rows, weights, scales: readArray(unit, files[unit], ["<f4"], [n]).data, width: shape[1] };
  }
  if (rule.trend) {
    const [name] = SUM_FILES.trend;
    counts = readArray(name, files[name], ["<f4"], [1, n]).data;
    if (!counts.every((count) => count >= 0)) throw new RetortError("bundle_corrupt", `${name}: a count is negative`);
  }
  return { rule, neighbours, counts };
}

/** Return {ids, popularity, lines, rowOf}: lines are the bytes of each item, parsed when they are asked for. */
function parseItems(text, n) {
  const lines = splitLines(text);
  const items = parseLines("items.jsonl", lines);
  if (items.length !== n) throw new RetortError("bundle_corrupt", `items.jsonl: ${items.length} items, not ${n}`);
  const ids = items.map((item) => item.item_id);
  const popularity = Float64Array.from(items, (item) => item.popularity);
  const rowOf = new Map(ids.map((id, row) => [id, row]));
  if (rowOf.size !== n || !ids.every((id) => typeof id === "string") || !popularity.every(Number.isFinite)) {
    throw new RetortError("bundle_corrupt", "items.jsonl: not items, or the same one twice");
  }
  return { ids, popularity, lines, rowOf };
}

function splitLines(text) {
  const lines = [];
  for (let start = 0, end; start < text.length; start = end + 1) {
    end = text.indexOf(10, start);
    if (end < 0) end = text.length;
    lines.push(text.subarray(start, end));
  }
  return lines;
}

/** Return the parsed JSON of each line. */
export function parseLines(name, lines) {
  const decoder = new TextDecoder("utf-8", { fatal: true });
  return lines.map((line, number) => {
    try {
      return JSON.parse(decoder.decode(line));
    } catch (error) {
      throw new RetortError("bundle_corrupt", `${name}:${number + 1}: not JSON: ${error.message}`);
    }
  });
}
