import { makeColumns } from "./column.js";
import { RetortError } from "./error.js";
import { Filters } from "./filter.js";
import { randomName } from "./request.js";
import { Sum } from "./score.js";
import { Greatest, Search } from "./search.js";
import { compare } from "./text.js";

// A loaded bundle, which answers as the service does.

const REASONS = ["cold_user", "model_error", "nonfinite_scores", "stale_trend", "not_enough_items"];
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
    const ignored = new Set();
    const allowed = options.filter === null ? null : this.filters().mask(options.filter);
    const named = options.candidates && [...new Set(this.find(options.candidates, ignored))];
    const candidates = named && allowed ? named.filter((row) => allowed[row]) : named;
    const excluded = this.find(options.exclude, ignored);
    const history = this.find(options.history ?? known.ids, options.history ? ignored : new Set());
    const hidden = options.exclude_seen ? [...excluded, ...history] : excluded;
    const gap = options.history || known.lastAt === null ? NaN : Math.log1p(Math.max(0, now - known.lastAt));
    const asked = { history, gap, k: options.k, hidden, candidates, allowed, logs: this.logsAt(now) };
    const { ranked, reasons } = await this.answer(asked);
    if (this.sum?.rule.trend && this.sum.rule.trend.as_of < now - STALE_TREND_S) reasons.push("stale_trend");
    if (ranked.rows.length < options.k) reasons.push("not_enough_items");
    const isFull = !reasons.some((reason) => REASONS.indexOf(reason) < 3);
    return {
      recommendation_id: randomName(),
      user_id: null,
      model_version: this.manifest.version,
      items: ranked.rows.map((row, i) => ({ item_id: this.items.ids[row], score: brief(ranked.scores[i]) })),
      quality: {
        level: isFull ? "full" : "fallback",
        reasons: reasons.sort((a, b) => REASONS.indexOf(a) - REASONS.indexOf(b)),
      },
      ignored_ids: [...ignored],
      took_ms: Math.round((performance.now() - start) * 1000) / 1000,
    };
  }

  /** Return {item_id, title, attributes, popularity} of ids, null where one is not known. */
  describe(ids) {
    const decoder = new TextDecoder();
    return ids.map((id) => {
      const row = this.items.rowOf.get(id);
      return row === undefined ? null : JSON.parse(decoder.decode(this.items.lines[row]));
    });
  }

  /** Return what makes masks of filters; the columns are made when the first is asked for. */
  filters() {
    this.madeFilters ??= new Filters(makeColumns(this.readItems(), this.items.ids.length), this.items.ids.length);
    return this.madeFilters;
  }

  *readItems() {
    const decoder = new TextDecoder();
    for (const line of this.items.lines) yield JSON.parse(decoder.decode(line));
  }

  async answer(asked) {
    let reason = "cold_user";
    if (asked.history.length) {
      try {
        const ranked = await this.rank(asked);
        if (ranked !== null) return { ranked, reasons: [] };
        reason = "nonfinite_scores";
      } catch (error) {
        if (!(error instanceof RetortError)) throw error;
        reason = "model_error";
      }
    }
    return { ranked: this.popular(asked), reasons: [reason] };
  }

  /** Return the k best of all items, or of the candidates; null if a score is not finite. */
  async rank({ history, gap, k, hidden, candidates, allowed, logs }) {
    let user = await this.encode(history);
    if (!user.every(Number.isFinite)) return null;
    let added = null;
    if (this.sum) {
      const weights = this.sum.weigh(history, gap);
      user = user.map((value) => value * weights.taste);
      added = { logs, weight: weights.trend, values: this.sum.speak(history) };
    }
    if (candidates === null) return this.search.best(user, k, hidden, added, allowed);
    const without = new Set(hidden);
    return this.search.rank(user, candidates.filter((row) => !without.has(row)), k, added);
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
   * Return the k most popular rows: by the trend where there is one, else as in training. Those that tie in the trend
   * are in the order of their popularity, and those that tie in this too in the order of their ids.
   */
  popular({ k, hidden, candidates, allowed, logs }) {
    const { ids, popularity } = this.items;
    const worth = logs ?? popularity;
    const without = new Set(hidden);
    const isFree = (row) => !without.has(row) && (!allowed || allowed[row]);
    const rows = (candidates ?? Array.from(ids.keys())).filter(isFree);
    const greatest = new Greatest(k);
    for (const row of rows) if (worth[row] > greatest.least) greatest.push(worth[row]);
    const best = rows
      .filter((row) => worth[row] >= greatest.least)
      .sort((a, b) => worth[b] - worth[a] || popularity[b] - popularity[a] || compare(ids[a], ids[b]))
      .slice(0, k);
    return { rows: best, scores: best.map((row) => worth[row]) };
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
    const ranked = await this.rank({
      history, gap, k: golden.items.length, hidden: [], candidates: null, allowed: null, logs,
    });
    return ranked !== null && this.isGolden(golden, ranked);
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
