"""The edge build: bytes over the wire, memory, first and later answers in Node and Chromium, and the service's answers.

    python tests/bench/edge.py BUNDLE... [--items 100000] [--histories 10000] [--answers 500]

--items adds a bundle of so many items drawn at random, int8 and as wide as the first one, whose encoder it takes. For
each bundle a folder is built. Node and Chromium are started anew five times; the medians are told. "First" is from the
call of load() to the end of the first answer, with files from the disk or from localhost ("new") and from the browser's
Cache ("again"). Memory is the resident memory of the Node process, and of Chromium's renderer with the page. A product
is that of one user with an item table, in Node: by onnxruntime, and by a loop of JavaScript. --histories: so many
random requests (a history, exclude, candidates, ...) are answered by Node and by service.library, and compared. Exits
with 1 if an answer differs by more than ties. JSON last.
"""

import argparse
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))

import numpy as np
from rig import machine

from service.bundle import Golden, Item, ItemTable, open_bundle, write_bundle
from service.command.edge import SOURCES
from service.command.web_runtime import MODULE, WASM, find_runtime
from service.library import Retort
from service.model.student import Student
from tests.service.asked import assert_same, questions
from tests.service.browser import Browser
from tests.service.edge.folder import ask, build, values
from tests.service.edge.site import Site

N_STARTS, N_COMPARED = 5, 1000
SHAPES = ((12_600, 64), (100_000, 64), (20_000, 384))
IN_NODE = """
import { pathToFileURL } from "node:url";
const [folder, answers] = process.argv.slice(1);
const { Retort } = await import(pathToFileURL(`${folder}/retort.js`));
const given = [`${folder}/bundle`, Number(answers)];
const value = await (async () => { MEASURE })();
console.log(JSON.stringify({ ...value, mb: process.memoryUsage().rss / 1e6 }));
"""
MEASURE = """
    const [place, n] = given;
    const start = performance.now();
    const retort = await Retort.load(place);
    const loaded = performance.now();
    const cold = await retort.recommend({ k: 100 });
    const ids = cold.items.map((item) => item.item_id);
    const history = (i) => [0, 1, 2].map((j) => ids[(i + j * 7) % ids.length]);
    await retort.recommend({ history: history(0) });
    const first = performance.now(), times = [];
    for (let i = 0; i < n; i++) {
      const begun = performance.now();
      await retort.recommend({ history: history(i) });
      times.push(performance.now() - begun);
    }
    times.sort((a, b) => a - b);
    const at = (share) => times[Math.min(n - 1, Math.floor(share * n))];
    return { load_ms: loaded - start, first_ms: first - start, p50_ms: at(0.5), p99_ms: at(0.99) };
"""
PRODUCT = """
import { readFileSync } from "node:fs";
import { productModel } from "./graph.js";
const [n, dim, ...runtime] = process.argv.slice(2).map((word) => Number(word) || word);
const ort = await import(runtime[0]);
ort.env.wasm.numThreads = 1;
ort.env.wasm.wasmBinary = readFileSync(runtime[1]).buffer;
const whole = new Int8Array(n * dim).map((_, i) => (i * 7919) % 255 - 127), wide = Float32Array.from(whole);
const user = new Float32Array(dim).map((_, i) => (i % 13) - 6), scores = new Float32Array(n);
const rounded = Uint8Array.from(user, (value) => value * 10 + 64);
const median = async (run) => {
  const times = [];
  for (let i = 0; i < 60; i++) {
    const start = performance.now();
    await run();
    times.push(performance.now() - start);
  }
  return times.slice(20).sort((a, b) => a - b)[20];
};
const product = async (operator, columns, type, users) => {
  const session = await ort.InferenceSession.create(productModel(operator, columns, dim, n, 64));
  return median(() => session.run({ users: new ort.Tensor(type, users, [1, dim]) }));
};
const plain = (rows) => () => {
  for (let row = 0, place = 0; row < n; row++) {
    let sum = 0;
    for (let j = 0; j < dim; j++) sum += user[j] * rows[place++];
    scores[row] = sum;
  }
};
console.log(JSON.stringify({
  int8_ms: await product("MatMulInteger", whole, "uint8", rounded),
  float32_ms: await product("MatMul", wide, "float32", user),
  plain_int8_ms: await median(plain(whole)),
  plain_float32_ms: await median(plain(wide)),
}));
"""
PACK = """
import { readFileSync } from "node:fs";
import { brotliCompressSync, constants, gzipSync } from "node:zlib";
const sizes = (path) => {
  const bytes = readFileSync(path);
  const params = { [constants.BROTLI_PARAM_QUALITY]: 11, [constants.BROTLI_PARAM_LGWIN]: 24 };
  return [bytes.length, gzipSync(bytes, { level: 9 }).length, brotliCompressSync(bytes, { params }).length];
};
console.log(JSON.stringify(process.argv.slice(1).map(sizes)));
"""


def main() -> int:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundles", type=Path, nargs="+", metavar="BUNDLE")
    parser.add_argument("--items", type=int)
    parser.add_argument("--histories", type=int, default=10_000)
    parser.add_argument("--answers", type=int, default=500)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        bundles = list(arguments.bundles)
        if arguments.items:
            bundles.append(draw_bundle(bundles[0], arguments.items, Path(place) / "drawn"))
        rows = [measure(bundle, Path(place) / f"edge{n}", arguments) for n, bundle in enumerate(bundles)]
        runtime = bytes_of(sorted((Path(place) / "edge0").glob("*.js*")), Path(place) / "edge0" / "runtime")
        products = {f"{n} x {dim}": time_products(n, dim, Path(place) / "products") for n, dim in SHAPES}
    print(json.dumps({"machine": machine(), "runtime": runtime, "products": products, "bundles": rows}))
    return int(any(row["n_other_answers"] for row in rows))


def draw_bundle(like: Path, n_items: int, out: Path) -> Path:
    """Write a bundle of many items with the encoder of another one; return its path."""
    model = open_bundle(like)
    rng = np.random.default_rng(0)
    integers = np.clip(rng.normal(0, 40, size=(n_items, model.manifest.dim)), -127, 127).astype(np.int8)
    table = ItemTable(integers, rng.uniform(0.5, 1.5, n_items).astype(np.float32) / 100)
    history = [1, 2, 3]
    items = [Item(f"i{row}", float(n_items - row), f"An item drawn at random, number {row}") for row in range(n_items)]
    settings = {"created_at": "2026-01-01T00:00:00+00:00", "max_history": 50, "repeat_consumption": False}
    parts: dict[str, Any] = {"encoder": model.encoder, "table": table, "items": items, "manifest": settings}
    draft = write_bundle(out.with_name("draft"), golden=[Golden(["i1"], 1, [("i1", 0.0)])], **parts)
    scores = table.dense() @ Student(draft).encode([history])[0]
    best = np.argsort(-scores, kind="stable")[:20]
    golden = Golden([f"i{row}" for row in history], 20, [(f"i{row}", float(scores[row])) for row in best])
    return write_bundle(out, golden=[golden], **parts).path


def measure(bundle: Path, out: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    """Return what one bundle costs."""
    folder = build(bundle, out)
    manifest = open_bundle(bundle).manifest
    row: dict[str, Any] = {"n_items": manifest.n_items, "dim": manifest.dim, "format": manifest.format}
    row["bytes"] = bytes_of([], folder / "bundle")
    row["node"] = medians([in_node(folder, arguments.answers) for _ in range(N_STARTS)])
    row |= in_browser(folder, arguments.answers)
    row |= compare(folder, arguments.histories)
    print(json.dumps(row, indent=1), file=sys.stderr)
    return row


def bytes_of(files: Sequence[Path], folder: Path) -> dict[str, int]:
    """Return the bytes of files and of all files of a folder: as they are, by gzip and by brotli."""
    paths = [*files, *(path for path in sorted(folder.iterdir()) if path.is_file())]
    done = subprocess.run(
        ["node", "--input-type=module", "-e", PACK, *map(str, paths)], capture_output=True, check=True
    )
    return dict(zip(("raw", "gzip", "brotli"), map(sum, zip(*json.loads(done.stdout), strict=True)), strict=True))


def time_products(n_items: int, dim: int, place: Path) -> dict[str, float]:
    """Return what the product of one user with a table takes in Node: by onnxruntime and by a loop of JavaScript."""
    place.mkdir(exist_ok=True)
    shutil.copyfile(SOURCES / "graph.js", place / "graph.js")
    (place / "package.json").write_text('{"type": "module"}')
    (place / "product.js").write_text(PRODUCT)
    runtime = [str(find_runtime(None) / name) for name in (MODULE, WASM)]
    command = ["node", str(place / "product.js"), str(n_items), str(dim), *runtime]
    return medians([json.loads(subprocess.run(command, capture_output=True, check=True).stdout) for _ in range(3)])


def medians(runs: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Return the median of each figure."""
    return {name: round(statistics.median(run[name] for run in runs), 2) for name in runs[0]}


def in_node(folder: Path, n_answers: int) -> dict[str, float]:
    """Measure one process of Node."""
    program = IN_NODE.replace("MEASURE", MEASURE)
    command = ["node", "--input-type=module", "-e", program, str(folder), str(n_answers)]
    found: dict[str, float] = json.loads(subprocess.run(command, capture_output=True, check=True).stdout)
    return found


def in_browser(folder: Path, n_answers: int) -> dict[str, Any]:
    """Measure Chromium, each time with a new profile: a first visit, and one with everything in its Cache."""
    runs: dict[str, list[dict[str, float]]] = {"chromium_new": [], "chromium_again": []}
    site = Site(folder)
    body = f"const {{ Retort }} = await import(new URL('retort.js', location.href)); {MEASURE}"
    for _ in range(N_STARTS):
        with Browser() as browser:
            for found in runs.values():
                browser.open(f"{site.url}edge.json")
                value = browser.run(body, "/bundle/", n_answers)["value"]
                found.append({**value, "mb": renderer_mb()})
    site.close()
    return {name: medians(found) for name, found in runs.items()}


def renderer_mb() -> float:
    """Return the resident memory of the largest renderer that this user's Chromium has, in MB."""
    sizes = [0]
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if b"--type=renderer" in (process / "cmdline").read_bytes():
                sizes.append(int((process / "statm").read_text().split()[1]))
        except OSError:
            continue
    return max(sizes) * 4096 / 1e6


def compare(folder: Path, n_histories: int) -> dict[str, int]:
    """Ask Node and the library the same; return how many answers differ, and how many have another order of ties."""
    retort = Retort.load(folder / "bundle")
    n_other = n_ties = 0
    for first in range(0, n_histories, N_COMPARED):
        asked = list(questions(first, min(N_COMPARED, n_histories - first), retort.item_ids))
        for each, answer in zip(asked, values(ask(folder, [("recommend", [each]) for each in asked]))[1:], strict=True):
            expected = retort.recommend(**each)
            try:
                assert_same(answer, expected)
                n_ties += [i["item_id"] for i in answer["items"]] != [i["item_id"] for i in expected["items"]]
            except AssertionError as exc:
                n_other += 1
                print(each, exc, file=sys.stderr)
    return {"n_compared": n_histories, "n_other_answers": n_other, "n_other_order_of_ties": n_ties}


if __name__ == "__main__":
    sys.exit(main())
