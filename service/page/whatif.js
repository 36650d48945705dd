// What if: the same question with rules, beside the list without them.

import { ask } from "./api.js";
import { Field, html, Part, Trouble, useLoaded, useSettled, useState } from "./kit.js";
import { fieldsOf, knownItem, List } from "./item.js";
import { recommend } from "./try.js";
import { Funnel } from "./receipt.js";
import { askedFor, Who } from "./who.js";

const SIGNS = { text: ["is", "is not"], number: ["≥", "≤", "<", ">", "is"], boolean: ["is"] };
const RANGES = { "≥": "gte", "≤": "lte", "<": "lt", ">": "gt", is: "eq" };
const MOST_TREND = 3;
const PLAIN = { filters: [], boosts: [], caps: [], diversity: 0, trend: 1, isSeenOut: "" };

/** Return a condition {name, sign, value} as a filter. kinds: of GET /model. */
export function filterOf({ name, sign, value }, kinds) {
  if (kinds[name] === "number") return { [name]: { [RANGES[sign]]: Number(value) } };
  if (kinds[name] === "boolean") return { [name]: value === "true" };
  const values = value.split(",").map((each) => each.trim()).filter(Boolean);
  return sign === "is not" ? { not: { [name]: values } } : { [name]: values };
}

const isWhole = ({ name, value }) => name && value !== "";

/** Return the rules that the controls say, as fields of a request. */
export function rulesOf({ filters, boosts, caps, diversity, trend, isSeenOut }, kinds) {
  const rules = {};
  const parts = filters.filter(isWhole).map((each) => filterOf(each, kinds));
  if (parts.length) rules.filter = joined(parts);
  const boost = boosts.filter((each) => isWhole(each) && each.by > 0)
    .map((each) => ({ if: filterOf(each, kinds), by: each.by }));
  if (boost.length) rules.boost = boost;
  const named = caps.filter((each) => each.name && each.n > 0);
  if (named.length) rules.max_per = named.map(({ name, n }) => ({ attribute: name, n }));
  if (diversity) rules.diversity = diversity;
  if (trend !== 1) rules.trend = trend;
  if (isSeenOut) rules.exclude_seen = isSeenOut === "yes";
  return rules;
}

/** Return filters as one that asks for all of them: names under `not`, ranges of one number, are put together. */
function joined(parts) {
  const all = {};
  for (const part of parts) {
    for (const [name, value] of Object.entries(part)) {
      const isObject = (each) => typeof each === "object" && !Array.isArray(each);
      if (!(name in all)) all[name] = value;
      else if (isObject(all[name]) && isObject(value)) all[name] = { ...all[name], ...value };
      else if (Array.isArray(all[name])) all[name] = all[name].filter((each) => value.includes(each));
      else all[name] = value;
    }
  }
  return all;
}

export function WhatIf({ abilities, model, who, setWho }) {
  const [rules, setRules] = useState(PLAIN);
  const person = askedFor(who);
  const plain = useSettled(person && { ...person, k: 10, fields: fieldsOf(model) });
  const said = useSettled(rulesOf(rules, model.attributes));
  const ruled = plain && { ...plain, ...said };
  const before = useLoaded(plain && ((signal) => recommend(plain, signal)), [JSON.stringify(plain)]);
  const after = useLoaded(ruled && ((signal) => recommend(ruled, signal)), [JSON.stringify(ruled)]);
  const ids = before.value?.items.map((each) => each.item_id) ?? [];
  const left = new Set(after.value?.items.map((each) => each.item_id));
  return html`<div>
    <div class="columns">
      <${Part} title="For whom"><${Who} who=${who} setWho=${setWho} abilities=${abilities} model=${model} /><//>
      <${Part} title="What if" name="rules" aside=${html`<button type="button" class="quiet"
        onClick=${() => setRules(PLAIN)}>Start over</button>`}>
        <${Rules} rules=${rules} setRules=${setRules} model=${model} />
        <${Scenario} abilities=${abilities} rules=${rulesOf(rules, model.attributes)} />
      <//>
    </div>
    <${Trouble} error=${after.error ?? before.error} />
    <div class="columns even" aria-live="polite">
      ${before.value && html`<${Part} title="As it is" name="before"><${List} items=${before.value.items}
        label="as it is" foot=${(item) => after.value && !left.has(item.item_id) && html`<p class="gone">gone</p>`} /><//>`}
      ${after.value && html`<${Part} title="With the rules" name="after"><${List} items=${after.value.items} before=${ids}
        label="what if" /><${Funnel} funnel=${after.value.debug?.funnel} /><//>`}
    </div>
    ${ruled && html`<details><summary>The request</summary><pre tabindex="0"><code>${JSON.stringify(ruled, null, 1)}</code></pre></details>`}
  </div>`;
}

function Rules({ rules, setRules, model }) {
  const kinds = model.attributes, names = Object.keys(kinds);
  const texts = names.filter((each) => kinds[each] === "text");
  const set = (part) => setRules({ ...rules, ...part });
  if (!names.length) {
    return html`<p class="faint">The items of this model have no attributes to filter, boost or cap by.</p>
      <${Whole} rules=${rules} set=${set} model=${model} />`;
  }
  const first = { name: names[0], sign: SIGNS[kinds[names[0]]][0], value: kinds[names[0]] === "boolean" ? "true" : "" };
  return html`<div>
    <${Rows} title="Filter" what="filter" rows=${rules.filters} fresh=${first} set=${(filters) => set({ filters })}
      row=${(each, change) => html`<${Condition} each=${each} change=${change} kinds=${kinds} />`} />
    <${Rows} title="Boost" what="boost" rows=${rules.boosts} fresh=${{ ...first, by: 2 }} set=${(boosts) => set({ boosts })}
      row=${(each, change) => html`<${Condition} each=${each} change=${change} kinds=${kinds} />
        <${Field} label="times"><input type="number" min="0.01" step="0.01" value=${each.by}
          onInput=${(event) => change({ by: event.target.valueAsNumber || 0 })} /><//>`} />
    ${texts.length > 0 && html`<${Rows} title="At most" what="cap" rows=${rules.caps} fresh=${{ name: texts[0], n: 1 }}
      set=${(caps) => set({ caps })} row=${(each, change) => html`
        <${Field} label="items"><input type="number" min="1" max="1000" value=${each.n}
          onInput=${(event) => change({ n: event.target.valueAsNumber || 0 })} /><//>
        <${Choice} label="of one" value=${each.name} of=${texts} set=${(name) => change({ name })} />`} />`}
    <${Whole} rules=${rules} set=${set} model=${model} />
  </div>`;
}

/** The controls of the whole list; that of the trend where the scores have one. */
const Whole = ({ rules, set, model }) => html`<div class="row">
  <${Field} label=${`Diversity ${rules.diversity}`}><input type="range" min="0" max="1" step="0.05" name="diversity"
    value=${rules.diversity} onInput=${(event) => set({ diversity: event.target.valueAsNumber })} /><//>
  ${model.parts.includes("trend") && html`<${Field} label=${`Trend × ${rules.trend}`}>
    <input type="range" min="0" max=${MOST_TREND} step="0.25" name="trend" value=${rules.trend}
      title="0 leaves the trend out, 1 is as trained" onInput=${(event) => set({ trend: event.target.valueAsNumber })} /><//>`}
  <${Field} label="Seen items"><select value=${rules.isSeenOut} onChange=${(event) => set({ isSeenOut: event.target.value })}>
    <option value="">as the model says</option><option value="yes">left out</option><option value="no">shown again</option>
  </select><//>
</div>`;

/** Rows of one kind, each of which can be changed and taken out. */
function Rows({ title, what, rows, fresh, set, row }) {
  const change = (place) => (part) => set(rows.map((each, own) => (own === place ? { ...each, ...part } : each)));
  return html`<fieldset><legend>${title}</legend>
    ${rows.map((each, place) => html`<div class="row" key=${place}>${row(each, change(place))}
      <button type="button" class="quiet" aria-label=${`take this ${what} out`}
        onClick=${() => set(rows.filter((_, own) => own !== place))}>×</button></div>`)}
    <button type="button" class="quiet" onClick=${() => set([...rows, fresh])}>+ ${what}</button>
  </fieldset>`;
}

const Choice = ({ label, value, of, set }) => html`<${Field} label=${label}>
  <select value=${value} onChange=${(event) => set(event.target.value)}>
    ${of.map((each) => html`<option key=${each} value=${each}>${each}</option>`)}</select><//>`;

function Condition({ each, change, kinds }) {
  const kind = kinds[each.name];
  const rename = (name) => change({ name, sign: SIGNS[kinds[name]][0], value: kinds[name] === "boolean" ? "true" : "" });
  const type = (event) => change({ value: event.target.value });
  return html`<${Choice} label="attribute" value=${each.name} of=${Object.keys(kinds)} set=${rename} />
    <${Choice} label="how" value=${each.sign} of=${SIGNS[kind]} set=${(sign) => change({ sign })} />
    ${kind === "boolean" ? html`<${Choice} label="value" value=${each.value} of=${["true", "false"]}
        set=${(value) => change({ value })} />`
      : html`<${Field} label=${kind === "number" ? "value" : "values, with commas"}>
        <input type=${kind === "number" ? "number" : "text"} step="any" value=${each.value} onInput=${type}
          list=${kind === "text" ? `values-${each.name}` : undefined} /><//>`}
    ${kind === "text" && html`<${Values} name=${each.name} />`}`;
}

/** The values of an attribute that were seen in lists, offered while one types. */
function Values({ name }) {
  const ids = [...document.querySelectorAll("[data-item]")].map((each) => each.dataset.item);
  const values = new Set(ids.flatMap((each) => knownItem(each)?.[name] ?? []));
  return html`<datalist id=${`values-${name}`}>
    ${[...values].sort().map((each) => html`<option key=${each} value=${each}></option>`)}</datalist>`;
}

/** The rules as a scenario, which every request can name. */
function Scenario({ abilities, rules }) {
  const [state, setState] = useState({});
  if (!abilities.has("PUT /scenarios/{name}")) return null;
  const save = async (event) => {
    event.preventDefault();
    const name = new FormData(event.target).get("name").trim();
    if (!name) return;
    try {
      await ask("PUT", `/scenarios/${encodeURIComponent(name)}`, rules, { isAdmin: true });
      setState({ done: name });
    } catch (error) {
      setState({ error });
    }
  };
  return html`<form class="row" onSubmit=${save}>
    <${Field} label="Save as scenario"><input name="name" maxlength="64" autocomplete="off" /><//>
    <button type="submit">Save</button>
    ${state.done && html`<p role="status">Requests may now say <code>"scenario": "${state.done}"</code>.</p>`}
    <${Trouble} error=${state.error} />
  </form>`;
}
