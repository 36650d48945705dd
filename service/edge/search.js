import { RetortError } from "./error.js";
import { productModel } from "./graph.js";

// The best rows of the item table for a user vector, exactly.
//
// An int8 table is multiplied as it is, with users rounded to 7 bits. How far off that may be is known for each row; all
// rows that may be among the best are scored again. Equal scores are ordered by row, as in the service.

const HALF = 63; // users are -63..63, 64 more in the graph: their products fit where 8 bits would overflow
const MIDDLE = 64;
const LEAST = 1e-20;
const SLACK = 1e-6; // what float32 may round off a score, as a share of it

export class Search {
  /** table: {n, dim, embeddings, scales, biases}. runtime: of onnxruntime. */
  static async open(table, runtime) {
    const search = new Search();
    const { n, dim, embeddings } = table;
    const columns = turn(embeddings, n, dim);
    const isWhole = embeddings instanceof Int8Array;
    const operator = isWhole ? "MatMulInteger" : "MatMul";
    search.session = await runtime.load(productModel(operator, columns, dim, n, MIDDLE), "the item table");
    const norms = lengths(table), hidden = new Uint8Array(n), rough = new Float32Array(n);
    let longest = 0;
    for (const norm of norms) longest = Math.max(longest, norm);
    Object.assign(search, { table, runtime, isWhole, norms, longest, hidden, rough });
    return search;
  }

  /**
   * Return the k best rows {rows, scores} that are not hidden; null if a score is not finite. user: Float32Array [dim].
   * added: {logs, weight, values, boost} or null, what is added to the scores of all rows, of some, and again of all.
   * allowed: the mask of those that may be among them, or null.
   */
  async best(user, k, hidden, added, allowed) {
    const { products, unit, lost } = await this.multiply(user);
    if (allowed) for (let row = 0; row < allowed.length; row++) this.hidden[row] = 1 - allowed[row];
    for (const row of hidden) this.hidden[row] = 1;
    const isFinite = this.roughen(products, unit, added);
    const rows = isFinite ? this.within(k, lost) : [];
    if (allowed) this.hidden.fill(0);
    else for (const row of hidden) this.hidden[row] = 0;
    return isFinite ? this.rank(user, rows, k, added) : null;
  }

  /** Return the k best of some rows, scored one by one; null if a score is not finite. */
  rank(user, rows, k, added) {
    const scored = rows.map((row) => [row, this.score(user, row, added)]);
    if (!scored.every(([, score]) => Number.isFinite(score))) return null;
    const best = scored.sort((a, b) => b[1] - a[1] || a[0] - b[0]).slice(0, k);
    return { rows: best.map(([row]) => row), scores: best.map(([, score]) => score) };
  }

  score(user, row, added) {
    const { dim, embeddings, scales, biases } = this.table;
    let sum = 0;
    for (let j = 0, place = row * dim; j < dim; j++) sum += user[j] * embeddings[place++];
    sum = Math.fround(sum);
    if (scales) sum = Math.fround(sum * scales[row]);
    if (biases) sum = Math.fround(sum + biases[row]);
    if (!added) return sum;
    const trend = added.logs ? Math.fround(added.logs[row] * added.weight) : 0;
    const total = Math.fround(trend + Math.fround(added.values.get(row) ?? 0));
    return Math.fround(sum + (added.boost ? Math.fround(total + added.boost[row]) : total));
  }

  /** Return the vector of a row, but for its length. */
  vector(row) {
    const { dim, embeddings } = this.table;
    return embeddings.subarray(row * dim, (row + 1) * dim);
  }

  /** Return the products of a user with all items, what one is worth, and how much rounding took off the user. */
  async multiply(user) {
    const { dim } = this.table;
    let squares = 0, most = LEAST;
    for (const value of user) {
      squares += value * value;
      most = Math.max(most, Math.abs(value));
    }
    if (!this.isWhole) {
      const products = await this.runtime.run(this.session, "scores", { users: ["float32", user, [1, dim]] });
      return { products, unit: 1, lost: 1e-6 * Math.sqrt(squares) };
    }
    const unit = most / HALF;
    const whole = new Uint8Array(dim);
    let off = 0;
    user.forEach((value, j) => {
      const rounded = Math.round(value / unit);
      off += (value / unit - rounded) ** 2;
      whole[j] = rounded + MIDDLE;
    });
    const products = await this.runtime.run(this.session, "scores", { users: ["uint8", whole, [1, dim]] });
    return { products, unit, lost: unit * Math.sqrt(off) + 1e-6 * Math.sqrt(squares) };
  }

  /** Write the rough scores of all rows; return whether all are finite. Hidden rows get the lowest. */
  roughen(products, unit, added) {
    const { n, scales, biases } = this.table;
    const { rough, hidden } = this;
    const logs = added?.logs ?? null, weight = added?.weight ?? 0, boost = added?.boost ?? null;
    let total = 0;
    for (let row = 0; row < n; row++) {
      let score = products[row] * unit;
      if (scales !== null) score *= scales[row];
      if (biases !== null) score += biases[row];
      if (logs !== null) score += weight * logs[row];
      if (boost !== null) score += boost[row];
      rough[row] = score;
      total += Math.abs(score);
    }
    for (const [row, value] of added?.values ?? []) rough[row] += value;
    for (let row = 0; row < n; row++) if (hidden[row]) rough[row] = -Infinity;
    return Number.isFinite(total);
  }

  /** Return every row that may be among the k best: its rough score is at most lost × its length off. */
  within(k, lost) {
    const { rough, norms, longest } = this;
    const n = rough.length;
    const heap = new Greatest(k);
    for (let row = 0; row < n; row++) {
      const score = rough[row];
      if (score <= heap.least) continue;
      const least = score - lost * norms[row] - SLACK * Math.abs(score);
      if (least > heap.least) heap.push(least);
    }
    const rows = [];
    const most = lost * longest;
    const cut = heap.least - most - SLACK * (Math.abs(heap.least) + most); // most rows are sorted out by this alone
    for (let row = 0; row < n; row++) {
      const score = rough[row];
      if (score < cut || score === -Infinity) continue;
      if (score + lost * norms[row] + SLACK * Math.abs(score) >= heap.least) rows.push(row);
    }
    return rows;
  }
}

/** Return the rows of a table [n, dim] as columns, [dim, n]. */
function turn(rows, n, dim) {
  const columns = new rows.constructor(n * dim);
  for (let row = 0, place = 0; row < n; row++) {
    for (let j = 0; j < dim; j++) columns[j * n + row] = rows[place++];
  }
  return columns;
}

/** Return the length of each item's vector. */
function lengths({ n, dim, embeddings, scales }) {
  const norms = new Float32Array(n);
  for (let row = 0, place = 0; row < n; row++) {
    let squares = 0;
    for (const end = place + dim; place < end; place++) squares += embeddings[place] * embeddings[place];
    norms[row] = Math.sqrt(squares) * (scales === null ? 1 : scales[row]);
  }
  return norms;
}

/** The k greatest of the numbers that were pushed, of which the least is at hand. */
export class Greatest {
  constructor(k) {
    this.heap = [];
    this.k = k;
    this.least = -Infinity; // of the k greatest, once there are so many
  }

  push(value) {
    const { heap } = this;
    let place = heap.length;
    if (place < this.k) {
      for (heap.push(value); place > 0; ) {
        const parent = (place - 1) >> 1;
        if (heap[parent] <= value) break;
        heap[place] = heap[parent];
        place = parent;
      }
      heap[place] = value;
    } else {
      place = 0;
      for (let child = 1; child < heap.length; child = 2 * place + 1) {
        if (child + 1 < heap.length && heap[child + 1] < heap[child]) child += 1;
        if (heap[child] >= value) break;
        heap[place] = heap[child];
        place = child;
      }
      heap[place] = value;
    }
    if (heap.length === this.k) this.least = heap[0];
  }
}
