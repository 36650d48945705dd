import { RetortError } from "./error.js";
import { nearest, shown } from "./text.js";

// What a request asks of its list beside the best items, as service/recommendation/rule.py does it, in its order: scores
// with their boosts, diversity, max_per, pins, offset.

const MOST_DIVERSIFIED = 1000;
const DEEPER_FOR_CAPS = 4; // so many times as many are looked at first where max_per may leave some out
const DEEPER = 10; // and then, where that leaves too few
const TITLE = "title";
const TAKEN = ["item_id", "score", "parts", "because", "explored", TITLE]; // in an answer such a name is something else

/**
 * Return checked options as they are used: {offset, boost, caps, diversity, trend}, null where nothing is asked of the list.
 * boost: what is added to each score, Float32Array [n] or null. Throws RetortError.
 */
export function readRules({ offset, boost, max_per, diversity, pin, trend }, filters) {
  const masks = boost.map((each, place) => filters().mask(each.if, `boost.${place}.if`));
  const caps = max_per.map(({ attribute, n }, place) => {
    const { columns } = filters(), column = columns.get(attribute);
    if (column?.kind === "text") return { column, n };
    const texts = [...columns].filter(([, each]) => each.kind === "text").map(([name]) => name);
    const why = `${shown(attribute)} ${column ? "is no text attribute" : "is unknown"}; ${nearest(attribute, texts)}`;
    throw new RetortError("malformed", `max_per.${place}.attribute: ${why}`);
  });
  if (!offset && !masks.length && !caps.length && !diversity && !pin.length && trend === 1) return null;
  return { offset, boost: masks.length ? addUp(masks, boost) : null, caps, diversity, trend };
}

function addUp(masks, boost) {
  const total = new Float32Array(masks[0].length);
  masks.forEach((mask, place) => {
    const added = Math.fround(Math.log(boost[place].by));
    for (let row = 0; row < total.length; row++) if (mask[row]) total[row] += added;
  });
  return total;
}

/** Return the names of fields, each once. Throws RetortError for one that the items do not have. */
export function readFields(fields, filters) {
  if (!fields?.length) return [];
  const known = [TITLE, ...[...filters().columns.keys()].filter((name) => !TAKEN.includes(name))];
  fields.forEach((name, place) => {
    if (known.includes(name)) return;
    const why = `the items have no field ${shown(name)}; ${nearest(name, known)}`;
    throw new RetortError("malformed", `fields.${place}: ${why}`);
  });
  return [...new Set(fields)];
}

/** Return the fields of an item of items.jsonl; null for what it lacks. */
export function pickFields(item, names) {
  const kinds = [item.attributes, item.numbers, item.booleans, { [TITLE]: item.title }];
  const values = new Map(kinds.flatMap((kind) => Object.entries(kind ?? {})));
  return Object.fromEntries(names.map((name) => [name, said(values.get(name))]));
}

/** Return a value, and null for an attribute without one: a filter takes it for lacking, too. */
function said(value) {
  return value === undefined || (Array.isArray(value) && !value.length) ? null : value;
}

/**
 * Return the page {rows, scores} of k items; null if a score is not finite. way: best(k) returns the k best, of(rows)
 * some rows with their scores. placed: position, from 1 on, to row of the pins, which best() leaves out. vectorOf: of a
 * row.
 */
export async function shape(way, rules, k, placed, vectorOf) {
  const last = rules.offset + k;
  const nWanted = last - [...placed.keys()].filter((position) => position <= last).length;
  let depth = rules.caps.length ? last * DEEPER_FOR_CAPS : last;
  if (rules.diversity) depth = Math.max(depth, MOST_DIVERSIFIED);
  let ranked, kept;
  for (; ; depth *= DEEPER) {
    ranked = await way.best(depth);
    if (ranked === null) return null;
    kept = keep(ranked, rules, nWanted, [...placed.values()], vectorOf);
    if (kept.length >= nWanted || ranked.rows.length < depth) break;
  }
  const onPage = [...placed].filter(([position]) => position > rules.offset && position <= last);
  const pinned = await way.of(onPage.map(([, row]) => row));
  return pinned && cut(ranked, kept, pinned, placed, rules.offset, last);
}

/** Return the places in ranked of the first items that the list has beside the pins. */
function keep(ranked, { caps, diversity }, nWanted, pinned, vectorOf) {
  const tallies = caps.map((cap) => new Tally(cap, pinned));
  const kept = [];
  for (const place of diversity ? diversify(ranked, diversity, vectorOf) : ranked.rows.keys()) {
    if (kept.length >= nWanted) break;
    const row = ranked.rows[place];
    if (!tallies.every((tally) => tally.takes(row))) continue;
    kept.push(place);
    for (const tally of tallies) tally.count(row);
  }
  return kept;
}

function cut(ranked, kept, pinned, placed, offset, last) {
  const scoreOf = new Map(pinned.rows.map((row, i) => [row, pinned.scores[i]]));
  const page = { rows: [], scores: [] };
  let nPins = [...placed.keys()].filter((position) => position <= offset).length;
  for (let position = offset + 1; position <= last; position++) {
    const row = placed.get(position), place = kept[position - 1 - nPins];
    if (row !== undefined) nPins += 1;
    else if (place === undefined) continue;
    page.rows.push(row ?? ranked.rows[place]);
    page.scores.push(row === undefined ? ranked.scores[place] : scoreOf.get(row));
  }
  return page;
}

/** How many items of each value of an attribute a list has. */
class Tally {
  /** rows: in the list whatever their values. */
  constructor({ column, n }, rows) {
    Object.assign(this, { column, n, counts: new Map() });
    for (const row of rows) this.count(row);
  }

  takes(row) {
    return this.codes(row).every((code) => (this.counts.get(code) ?? 0) < this.n);
  }

  count(row) {
    for (const code of this.codes(row)) this.counts.set(code, (this.counts.get(code) ?? 0) + 1);
  }

  codes(row) {
    return this.column.codes.subarray(this.column.starts[row], this.column.starts[row + 1]);
  }
}

/**
 * Yield the places of ranked in the order of maximal marginal relevance: the next is the one with the highest
 * (1 - diversity) * relevance - diversity * similarity. See service/recommendation/diversity.py.
 */
function* diversify({ rows, scores }, diversity, vectorOf) {
  const n = Math.min(rows.length, MOST_DIVERSIFIED);
  const spread = scores[0] - scores[n - 1];
  const relevance = Float32Array.from({ length: n }, (_, i) => (spread > 0 ? (scores[i] - scores[n - 1]) / spread : 1));
  const vectors = rows.slice(0, n).map((row) => toUnit(vectorOf(row)));
  const similar = new Float32Array(n), isTaken = new Uint8Array(n);
  for (let taken = 0; taken < n; taken++) {
    let best = -1, most = -Infinity;
    for (let i = 0; i < n; i++) {
      const value = Math.fround((1 - diversity) * relevance[i] - diversity * similar[i]);
      if (!isTaken[i] && value > most) [best, most] = [i, value];
    }
    isTaken[best] = 1;
    yield best;
    for (let i = 0; i < n; i++) if (!isTaken[i]) similar[i] = Math.max(similar[i], dot(vectors[i], vectors[best]));
  }
  for (let place = n; place < rows.length; place++) yield place;
}

function toUnit(vector) {
  const length = Math.sqrt(dot(vector, vector));
  return Float64Array.from(vector, (value) => (length > 0 ? value / length : 0));
}

function dot(a, b) {
  let sum = 0;
  for (let j = 0; j < a.length; j++) sum += a[j] * b[j];
  return sum;
}
