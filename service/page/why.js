// Why: what each score is made of, which item of the history carried it, and what the list is without one.

import { ask } from "./api.js";
import { html, Part, shown, Trouble, useEffect, useLoaded, useSettled, useState } from "./kit.js";
import { fieldsOf, List, titleOf, useTitles } from "./item.js";
import { recommend } from "./try.js";
import { Funnel } from "./receipt.js";
import { askedFor, Who } from "./who.js";

const MOST_HISTORY = 200;
const PARTS = ["taste", "neighbours", "trend", "popularity", "boost"];
const tone = (name) => `tone-${Math.max(0, PARTS.indexOf(name))}`;

export function Why({ abilities, model, who, setWho }) {
  const [out, setOut] = useState([]);
  const person = askedFor(who), key = JSON.stringify(person);
  useEffect(() => setOut([]), [key]);
  const stored = useLoaded(person?.user_id && ((signal) => historyOf(person.user_id, signal)), [key]);
  const history = who.kind === "history" ? who.history : (stored.value ?? []);
  useTitles(history, model);
  const extra = { k: 10, fields: fieldsOf(model), ...(abilities.takes("explain") ? { explain: true } : {}) };
  const asked = useSettled(person && { ...person, ...extra });
  const changed = useSettled(out.length ? { ...extra, explain: undefined, exclude: out,
    history: history.filter((each) => !out.includes(each)) } : null);
  const whole = useLoaded(asked && ((signal) => recommend(asked, signal)), [JSON.stringify(asked)]);
  const less = useLoaded(changed && ((signal) => recommend(changed, signal)), [JSON.stringify(changed)]);
  const answer = changed ? less.value : whole.value;
  const ids = changed && whole.value ? whole.value.items.map((each) => each.item_id) : null;
  const toggle = (itemId) => setOut(out.includes(itemId) ? out.filter((each) => each !== itemId) : [...out, itemId]);
  return html`<div class="columns">
    <div>
      <${Part} title="For whom"><${Who} who=${who} setWho=${setWho} abilities=${abilities} model=${model} /><//>
      <${Part} title="What if this had not been" name="without">
        <p class="faint">Choose an item of the history to see the list without it.</p>
        <ul class="chips">
          ${[...new Set(history)].map((each) => html`<li key=${each}><button type="button" class="chip"
            aria-pressed=${out.includes(each)} onClick=${() => toggle(each)}>${titleOf(each)}</button></li>`)}
        </ul>
        <${Trouble} error=${stored.error} />
      <//>
      ${answer?.debug && html`<${Part} title="How many were left" name="funnel"><${Funnel} funnel=${answer.debug.funnel} /><//>`}
    </div>
    <div aria-live="polite">
      <${Trouble} error=${changed ? less.error : whole.error} />
      ${answer && html`<${Part} title=${changed ? "The list without it" : "The list and its reasons"} name="reasons">
        <${Legend} parts=${answer.debug?.parts} />
        ${answer.explanation && html`<p class="faint">Which items of the history carried it was left out:
          ${" "}<code>${answer.explanation.left_out}</code></p>`}
        <${List} items=${answer.items} before=${ids} label="with reasons" foot=${(item, place) => html`
          <${Score} parts=${answer.debug?.parts?.[place]} all=${answer.debug?.parts} />
          <${Because} because=${item.because} />`} />
      <//>`}
    </div>
  </div>`;
}

/** Return the ids of a user's stored history, the oldest first, each once. */
async function historyOf(userId, signal) {
  const user = await ask("GET", `/users/${encodeURIComponent(userId)}`, undefined, { signal });
  return [...new Set(user.history.map((each) => each.item_id))].slice(-MOST_HISTORY);
}

function Legend({ parts }) {
  if (!parts?.length) {
    return html`<p class="faint">This model's score is one number: how well the item fits the history.</p>`;
  }
  return html`<ul class="legend">${Object.keys(parts[0]).map((name) => html`<li key=${name}>
    <span class=${`swatch ${tone(name)}`}></span>${name}</li>`)}</ul>`;
}

/** The parts of one score as bars from zero, to the left where they take away. all: of the whole list, for the scale. */
function Score({ parts, all }) {
  if (!parts) return null;
  const scale = Math.max(...all.flatMap((each) => Object.values(each).map(Math.abs)), 1e-9);
  return html`<ul class="score" aria-label="parts of the score">
    ${Object.entries(parts).map(([name, value]) => html`<li key=${name}>
      <span class="score-name">${name}</span>
      <span class="score-track"><span class=${`score-bar ${tone(name)}`}
        style=${{ left: `${value < 0 ? 50 - (50 * -value) / scale : 50}%`, width: `${(50 * Math.abs(value)) / scale}%` }}>
        </span></span>
      <span class="number">${shown(value, 3)}</span></li>`)}
  </ul>`;
}

function Because({ because }) {
  if (!because?.length) return null;
  return html`<p class="because">Because of ${because.map(({ item_id, share, without }, place) => html`
    ${place ? ", " : ""}<strong>${titleOf(item_id)}</strong> (${shown(100 * share, 0)} %; without it
    ${" "}${without?.rank ? `at ${without.rank}` : "not in the list"})`)}</p>`;
}
