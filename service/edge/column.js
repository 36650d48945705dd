// What is known of the items: a column for each attribute, as service/catalogue/column.py keeps them, and masks of them.
//
// A mask is a Uint8Array [n], 1 for the items that something is true of.

const ABSENT = -1;

export const COMPARISONS = new Map([
  ["gt", (a, b) => a > b],
  ["gte", (a, b) => a >= b],
  ["lt", (a, b) => a < b],
  ["lte", (a, b) => a <= b],
  ["eq", (a, b) => a === b],
]);

/** A text attribute. The numbers of row i's texts are codes[starts[i]] to codes[starts[i + 1] - 1]. */
class TextColumn {
  kind = "text";

  constructor(n) {
    this.numberOf = new Map();
    this.starts = new Int32Array(n + 1);
    this.codes = [];
  }

  /** Take what a row has. Rows come in ascending order. */
  take(row, texts) {
    for (const text of new Set(texts)) {
      if (!this.numberOf.has(text)) this.numberOf.set(text, this.numberOf.size);
      this.codes.push(this.numberOf.get(text));
    }
    this.starts[row + 1] = this.codes.length;
  }

  finish() {
    const { starts } = this;
    for (let row = 1; row < starts.length; row++) starts[row] = Math.max(starts[row], starts[row - 1]);
    this.codes = Int32Array.from(this.codes);
  }

  having(texts) {
    const wanted = new Uint8Array(this.numberOf.size);
    for (const text of texts) if (this.numberOf.has(text)) wanted[this.numberOf.get(text)] = 1;
    return this.fill((start, end) => {
      for (let place = start; place < end; place++) if (wanted[this.codes[place]]) return true;
      return false;
    });
  }

  lacking() {
    return this.fill((start, end) => start === end);
  }

  fill(holds) {
    const mask = new Uint8Array(this.starts.length - 1);
    for (let row = 0; row < mask.length; row++) mask[row] = holds(this.starts[row], this.starts[row + 1]) ? 1 : 0;
    return mask;
  }
}

/** A number attribute, NaN where an item has none. */
class NumberColumn {
  kind = "number";

  constructor(n) {
    this.numbers = new Float64Array(n).fill(NaN);
  }

  take(row, number) {
    this.numbers[row] = number;
  }

  finish() {}

  having(numbers) {
    const wanted = new Set(numbers);
    return Uint8Array.from(this.numbers, (number) => (wanted.has(number) ? 1 : 0));
  }

  /** bounds: [name of COMPARISONS, number], all of which must hold. */
  between(bounds) {
    const tests = bounds.map(([name, bound]) => [COMPARISONS.get(name), bound]);
    return Uint8Array.from(this.numbers, (number) => (tests.every(([test, bound]) => test(number, bound)) ? 1 : 0));
  }

  lacking() {
    return Uint8Array.from(this.numbers, (number) => (Number.isNaN(number) ? 1 : 0));
  }
}

/** A boolean attribute: 1 yes, 0 no, -1 where an item has none. */
class BooleanColumn {
  kind = "boolean";

  constructor(n) {
    this.states = new Int8Array(n).fill(ABSENT);
  }

  take(row, boolean) {
    this.states[row] = boolean ? 1 : 0;
  }

  finish() {}

  having(booleans) {
    return Uint8Array.from(this.states, (state) => (state !== ABSENT && booleans.includes(state === 1) ? 1 : 0));
  }

  lacking() {
    return Uint8Array.from(this.states, (state) => (state === ABSENT ? 1 : 0));
  }
}

const KINDS_OF_COLUMN = [["attributes", TextColumn], ["numbers", NumberColumn], ["booleans", BooleanColumn]];

/** Return the columns of items by name, a Map. items: an iterable of n, as items.jsonl has them. */
export function makeColumns(items, n) {
  const columns = KINDS_OF_COLUMN.map(() => new Map());
  let row = 0;
  for (const item of items) {
    KINDS_OF_COLUMN.forEach(([field, Column], place) => {
      for (const [name, value] of Object.entries(item[field] ?? {})) {
        if (!columns[place].has(name)) columns[place].set(name, new Column(n));
        columns[place].get(name).take(row, value);
      }
    });
    row += 1;
  }
  const all = new Map(columns.flatMap((own) => [...own]));
  for (const column of all.values()) column.finish();
  return all;
}
