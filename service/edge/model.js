import { makeColumns } from "./column.js";
import { RetortError } from "./error.js";
import { Filters } from "./filter.js";
import { randomName } from "./request.js";
import { pickFields, readFields, readRules, shape } from "./rule.js";
import { Sum } from "./score.js";
import { Greatest, Search } from "./search.js";
import { compare } from "./text.js";

// A loaded bundle, which answers as the service does.

const REASONS = ["cold_user", "model_error", "nonfinite_scores", "stale_trend", "not_enough_items"];
const DECODER = new TextDecoder();
const STALE_TREND_S = 6 * 3600;
const FADE_EVERY_S = 30;
const GOLDEN_TOLERANCE = 1e-4;
const GOLDEN_AT_LOAD = 4; // the command that wrote the folder has held the model against all of them

export class Model {
  /** Load an opened bundle, and hold it against a few of its golden answers. */
  static async open(bundle, runtime) {
    const model = new Model();
    const sum = bundle.parts && new Sum(bundle.parts);
    const encoder = await runtime.load(bundle.encoder, "user_encoder.onnx");
    const search = await Search.open(bundle.table, runtime);
    Object.assign(model, { ...bundle, sum, encoder, search, runtime, logs: null, fadedAt: -Infinity });
    await model.check(GOLDEN_AT_LOAD);
    return model;
  }

  /** Answer checked options. known: {ids, lastAt} of the stored history, where no other is given. */
  async recommend(options, known, now) {
    const start = performance.now();
    const rules = readRules(options, () => this.filters());
    const allowed = options.filter === null ? null : this.filters().mask(options.filter);
    const fields = readFields(options.fields, () => this.filters());
    const ignored = new Set();
    const asked = { ...this.ask(options, known, now, allowed, ignored), boost: rules?.boost ?? null };
    const pins = this.place(options.pin, asked, ignored);
    asked.hidden = [...asked.hidden, ...pins.placed.values()];
    const { ranked, reasons } = await this.answer(asked, rules, pins.placed);
    if (this.sum?.rule.trend && this.sum.rule.trend.as_of < now - STALE_TREND_S) reasons.push("stale_trend");
    if (ranked.rows.length < options.k) reasons.push("not_enough_items");
    const isFull = !reasons.some((reason) => REASONS.indexOf(reason) < 3);
    return {
      recommendation_id: this.manifest.version.slice(0, 8) + randomName().slice(8), // as the service names it
      user_id: null,
      model_version: this.manifest.version,
      items: ranked.rows.map((row, i) => this.write(row, ranked.scores[i], fields)),
      quality: {
        level: isFull ? "full" : "fallback",
        reasons: reasons.sort((a, b) => REASONS.indexOf(a) - REASONS.indexOf(b)),
      },
      ignored_ids: [...ignored],
      ...(pins.dropped.length ? { dropped_pins: pins.dropped } : {}),
      took_ms: Math.round((performance.now() - start) * 1000) / 1000,
    };
  }

  /** Turn the ids of options into rows. ignored: takes those that are not known. */
  ask(options, known, now, allowed, ignored) {
    const named = options.candidates && [...new Set(this.find(options.candidates, ignored))];
    const candidates = named && allowed ? named.filter((row) => allowed[row]) : named;
    const excluded = this.find(options.exclude, ignored);
    const history = this.find(options.history ?? known.ids, options.history ? ignored : new Set());
    const hidden = options.exclude_seen ? [...excluded, ...history] : excluded;
    const gap = options.history || known.lastAt === null ? NaN : Math.log1p(Math.max(0, now - known.lastAt));
    return { history, gap, k: options.k, excluded, hidden, candidates, allowed, logs: this.logsAt(now) };
  }

  /** Return {placed, dropped}: position to row of the pins that may stand, and the ids of those that may not. */
  place(pin, { excluded, candidates, allowed }, ignored) {
    const placed = new Map(), dropped = [];
    for (const { item_id } of pin) if (!this.items.rowOf.has(item_id)) ignored.add(item_id);
    for (const { item_id, position } of [...pin].sort((a, b) => a.position - b.position)) {
      const row = this.items.rowOf.get(item_id);
      if (row === undefined) continue;
      const isOut = excluded.includes(row) || (allowed && !allowed[row]) || (candidates && !candidates.includes(row));
      if (isOut) dropped.push(item_id);
      else placed.set(position, row);
    }
    return { placed, dropped };
  }

  write(row, score, fields) {
    const more = fields.length ? pickFields(this.read(row), fields) : {};
    return { item_id: this.items.ids[row], score: brief(score), ...more };
  }

  /** Return {item_id, title, attributes, popularity} of ids, null where one is not known. */
  describe(ids) {
    return ids.map((id) => {
      const row = this.items.rowOf.get(id);
      return row === undefined ? null : this.read(row);
    });
  }

  read(row) {
    return JSON.parse(DECODER.decode(this.items.lines[row]));
  }

  /** Return what makes masks of filters; the columns are made when the first is asked for. */
  filters() {
    this.madeFilters ??= new Filters(makeColumns(this.readAll(), this.items.ids.length), this.items.ids.length);
    return this.madeFilters;
  }

  *readAll() {
    for (const row of this.items.lines.keys()) yield this.read(row);
  }

  async answer(asked, rules, placed) {
    let reason = "cold_user";
    if (asked.history.length) {
      try {
        const ranked = await this.page(await this.byModel(asked), asked.k, rules, placed);
        if (ranked !== null) return { ranked, reasons: [] };
        reason = "nonfinite_scores";
      } catch (error) {
        if (!(error instanceof RetortError)) throw error;
        reason = "model_error";
      }
    }
    return { ranked: await this.page(this.byPopularity(asked), asked.k, rules, placed), reasons: [reason] };
  }

  page(way, k, rules, placed) {
    if (way === null) return null;
    return rules === null ? way.best(k) : shape(way, rules, k, placed, (row) => this.search.vector(row));
  }

  /**
   * Return how the model ranks: best(k) of all items or of the candidates, of(rows) of some; null if that user's vector
   * is not finite. Both return null if a score is not.
   */
  async byModel({ history, gap, hidden, candidates, allowed, logs, boost }) {
    let user = await this.encode(history);
    if (!user.every(Number.isFinite)) return null;
    let added = boost && { logs: null, weight: 0, values: new Map(), boost };
    if (this.sum) {
      const weights = this.sum.weigh(history, gap);
      user = user.map((value) => value * weights.taste);
      added = { logs, weight: weights.trend, values: this.sum.speak(history), boost };
    }
    const without = new Set(hidden);
    const rows = candidates?.filter((row) => !without.has(row));
    return {
      best: (k) => (rows ? this.search.rank(user, rows, k, added) : this.search.best(user, k, hidden, added, allowed)),
      of: (some) => this.search.rank(user, some, some.length, added),
    };
  }

  /** Return the user vector of a history, rows, the oldest first. */
  async encode(history) {
    const { dim, embeddings, scales, inputs } = this.table;
    const recent = history.slice(-this.manifest.max_history);
    const time = Math.max(1, recent.length);
    const vectors = new Float32Array(time * dim);
    recent.forEach((row, i) => {
      for (let j = 0; j < dim; j++) {
        const value = inputs ? inputs[row * dim + j] : embeddings[row * dim + j] * (scales?.[row] ?? 1);
        vectors[i * dim + j] = value;
      }
    });
    const user = await this.runtime.run(this.encoder, "user", {
      history: ["float32", vectors, [1, time, dim]],
      length: ["int64", BigInt64Array.of(BigInt(recent.length)), [1]],
    });
    if (!(user instanceof Float32Array) || user.length !== dim) {
      throw new RetortError("model", "user_encoder.onnx: it returns another shape or type");
    }
    return user;
  }

  /**
   * Return how popularity ranks, see byModel(): by the trend where there is one, else as in training. Those that tie in
   * the trend are in the order of their popularity, and those that tie in this too in the order of their ids.
   */
  byPopularity({ hidden, candidates, allowed, logs, boost }) {
    const { ids, popularity } = this.items;
    const plain = logs ?? popularity;
    const worth = boost ? plain.map((each, row) => each + boost[row]) : plain;
    const without = new Set(hidden);
    const isFree = (row) => !without.has(row) && (!allowed || allowed[row]);
    const rows = (candidates ?? Array.from(ids.keys())).filter(isFree);
    const of = (some) => ({ rows: some, scores: some.map((row) => worth[row]) });
    const best = (k) => {
      const greatest = new Greatest(k);
      for (const row of rows) if (worth[row] > greatest.least) greatest.push(worth[row]);
      const found = rows
        .filter((row) => worth[row] >= greatest.least)
        .sort((a, b) => worth[b] - worth[a] || popularity[b] - popularity[a] || compare(ids[a], ids[b]));
      return of(found.slice(0, k));
    };
    return { best, of };
  }

  /** Return the logs of the trend's counts, which fade from time to time; null where there is no trend. */
  logsAt(now) {
    if (!this.sum?.rule.trend) return null;
    if (!(Math.abs(now - this.fadedAt) < FADE_EVERY_S)) {
      this.logs = this.sum.logsAt(now);
      this.fadedAt = now;
    }
    return this.logs;
  }

  find(ids, ignored) {
    const rows = [];
    for (const id of ids) {
      const row = this.items.rowOf.get(id);
      if (row === undefined) ignored.add(id);
      else rows.push(row);
    }
    return rows;
  }

  /**
   * Hold the model against its golden answers, or against some, evenly chosen; return how many. Throws unless each is
   * reproduced: the scores of its items, and no better items.
   */
  async check(most = Infinity) {
    const step = Math.max(1, Math.floor(this.golden.length / most));
    let checked = 0;
    for (let number = 0; number < this.golden.length && checked < most; number += step) {
      if (!(await this.isReproduced(this.golden[number]))) {
        throw new RetortError("model", `golden answer ${number + 1} is not reproduced by this runtime; it is not used`);
      }
      checked += 1;
    }
    return checked;
  }

  async isReproduced(golden) {
    const history = this.find(golden.history, new Set());
    const gap = (golden.gap_s ?? null) === null ? NaN : Math.log1p(golden.gap_s);
    const changed = Object.entries(golden.counts ?? {}).map(([id, count]) => [this.items.rowOf.get(id), count]);
    const logs = this.sum?.rule.trend ? this.sum.logsAt(golden.now, changed) : null;
    const way = await this.byModel({ history, gap, hidden: [], candidates: null, allowed: null, logs, boost: null });
    const ranked = await way?.best(golden.items.length);
    return ranked && this.isGolden(golden, ranked);
  }

  isGolden(golden, ranked) {
    let most = 1e-6;
    for (const score of this.search.rough) most = Math.max(most, Math.abs(score));
    return golden.items.every(([, score], i) => Math.abs(score - ranked.scores[i]) <= GOLDEN_TOLERANCE * most);
  }
}

/** Return a score as the service writes it: the shortest number that is the same in float32. */
function brief(score) {
  const single = Math.fround(score);
  for (let digits = 6; digits < 9; digits++) {
    const short = Number(single.toPrecision(digits));
    if (Math.fround(short) === single) return short;
  }
  return Number(single.toPrecision(9));
}
