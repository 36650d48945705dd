// What making another version live would change, on users that the service samples: asked for before it is done.

import { ask, givenKey } from "./api.js";
import { html, shown, Trouble, useLoaded } from "./kit.js";

const ASKED = { users: 50, k: 10 };

/** What changes for sampled users. version: that would become live. */
export function Comparison({ version }) {
  const load = (signal) => ask("POST", "/model/compare", { version, ...ASKED }, { isAdmin: true, signal });
  const { value, error, isBusy } = useLoaded(givenKey("admin") ? load : null, [version]);
  if (!givenKey("admin")) return html`<p class="faint">With the admin key it is said here what changes for users.</p>`;
  return html`<section class="comparison" aria-label="What changes" aria-busy=${isBusy}>
    <h3>What changes for users</h3>
    ${isBusy && html`<p class="faint" role="status">The version is loaded beside the live one, and both answer the same
      users. A large one takes a minute.</p>`}
    <${Trouble} error=${error} />
    ${value && html`<${Found} of=${value} />`}
  </section>`;
}

function Found({ of }) {
  if (!of.users) return html`<p class="faint">There is nobody to ask about.</p>`;
  const who = of.source === "store" ? `${of.users} users of the store` : `${of.users} golden histories of the live bundle`;
  const facts = {
    [`Shared of ${of.k}`]: percent(of.overlap), "Another first item": percent(of.first_changes),
    "The same list": percent(of.same), "Different items in all": change(of.coverage),
  };
  if (of.popular.live || of.popular.version) facts["Only popular items"] = change(of.popular);
  return html`<p class="faint">${who}, asked of both versions.</p>
    <dl class="facts">${Object.entries(facts).map(([name, value]) => html`<dt key=${name}>${name}</dt><dd>${value}</dd>`)}</dl>
    <${Movers} label="Come into most lists" items=${of.coming} /><${Movers} label="Leave most lists" items=${of.going} />
    ${of.examples.length > 0 && html`<details><summary>the users whose lists change most</summary>
      ${of.examples.map((each, place) => html`<${Example} of=${each} key=${place} />`)}</details>`}`;
}

const percent = (share) => `${shown(100 * share, 0)} %`;
const change = ({ live, version }) => `${shown(live)} → ${shown(version)}`;
const nameOf = ({ item_id, title }) => title || item_id;

const Movers = ({ label, items }) => items.length > 0 && html`<p><strong>${label}:</strong>${" "}
  ${items.slice(0, 5).map((each) => `${nameOf(each)} (${each.users})`).join(", ")}</p>`;

/** One user: the newest items of the history, and both lists side by side. */
function Example({ of }) {
  const [before, after] = [of.live, of.version].map((list) => list.map((each) => each.item_id));
  return html`<div class="example"><p class="faint">After ${of.history.map(nameOf).join(", ")}</p>
    <div class="columns even">
      <${Short} label="now" items=${of.live} others=${after} /><${Short} label="then" items=${of.version} others=${before} />
    </div></div>`;
}

const Short = ({ label, items, others }) => html`<div><h4>${label}</h4><ol>${items.map((each) => html`
  <li key=${each.item_id} class=${others.includes(each.item_id) ? "" : "new"}>${nameOf(each)}</li>`)}</ol></div>`;
