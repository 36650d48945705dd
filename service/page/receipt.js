// The receipt of an answer: how good it could be made, by which version, and where the time went.

import { html, Pieces, shown } from "./kit.js";

const MEANINGS = {
  cold_user: "nothing is known of this user, so the list is what is popular",
  stale_profile: "the history is as it was when the store last answered",
  store_timeout: "the store did not answer in time",
  store_error: "the store answered with an error",
  breaker_open: "the store is left alone for a while, after it failed",
  deadline: "the budget ran out before the model was done",
  model_error: "the model failed",
  nonfinite_scores: "the model gave no numbers",
  stale_trend: "the trend is older than it should be",
  not_enough_items: "fewer items are left than were asked for",
};

/** answer: of POST /recommend with debug. budgetMs: that it had. */
export function Receipt({ answer, budgetMs }) {
  const { quality, debug } = answer;
  const stages = Object.entries(debug?.stages_ms ?? {}).map(([name, value]) => ({ name, value }));
  const isWithin = answer.took_ms <= budgetMs;
  const text = `${shown(answer.took_ms)} ms of a budget of ${shown(budgetMs)} ms`;
  return html`<div class="receipt">
    <p><span class=${`level ${quality.level}`}>${quality.level}</span>
      ${" "}<span class=${isWithin ? "" : "late"}>${text}</span></p>
    ${quality.reasons.map((each) => html`<p class="faint" key=${each}><code>${each}</code> ${MEANINGS[each] ?? ""}</p>`)}
    <${Pieces} pieces=${stages} whole=${Math.max(budgetMs, answer.took_ms)} label=${`Time by stage: ${text}`} />
    <ul class="legend">
      ${stages.map(({ name, value }, place) => html`<li key=${name}>
        <span class=${`swatch tone-${place % 8}`}></span>${name} ${shown(value)} ms</li>`)}
    </ul>
    <dl class="facts">
      <dt>Model</dt><dd><code>${answer.model_version}</code></dd>
      ${debug?.experiment && html`<dt>Trial</dt><dd>${debug.experiment.kind}, ${shown(debug.experiment.share)} %:
        answered by the ${debug.experiment.answered_by} version</dd>`}
      <dt>Answer</dt><dd><code>${answer.recommendation_id}</code></dd>
      ${answer.ignored_ids.length > 0 && html`<dt>Unknown ids</dt><dd>${answer.ignored_ids.join(", ")}</dd>`}
      ${answer.dropped_pins?.length > 0 && html`<dt>Dropped pins</dt><dd>${answer.dropped_pins.join(", ")}</dd>`}
    </dl>
  </div>`;
}

const STEPS = { catalogue: "in the catalogue", filter: "the filter lets through", seen: "not seen, not excluded",
  rules: "after the rules", returned: "returned" };

/** How many items were left after each step. */
export function Funnel({ funnel }) {
  if (!funnel) return null;
  return html`<ul class="funnel" aria-label="funnel">
    ${Object.entries(STEPS).map(([name, text]) => html`<li key=${name}>
      <span class="funnel-text">${text}</span>
      <span class="funnel-track"><span class="funnel-bar"
        style=${{ width: `${(100 * funnel[name]) / Math.max(1, funnel.catalogue)}%` }}></span></span>
      <span class="number">${shown(funnel[name])}</span></li>`)}
  </ul>`;
}
