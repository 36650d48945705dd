// Try: a list for somebody, its receipt, and the request to take along.

import { ask } from "./api.js";
import { Copy, Field, html, Part, Trouble, useLoaded, useSettled, useState } from "./kit.js";
import { fieldsOf, learn, List } from "./item.js";
import { Receipt } from "./receipt.js";
import { LANGUAGES, snippet } from "./snippet.js";
import { askedFor, Who } from "./who.js";

export function Try({ abilities, model, who, setWho, budgetMs }) {
  const [k, setK] = useState(10);
  const [budget, setBudget] = useState("");
  const person = askedFor(who);
  const body = useSettled(person && {
    ...person, k, fields: fieldsOf(model), ...(budget ? { budget_ms: budget } : {}),
  });
  const { value, error } = useLoaded(body && ((signal) => recommend(body, signal)), [JSON.stringify(body)]);
  return html`<div class="columns">
    <div>
      <${Part} title="For whom"><${Who} who=${who} setWho=${setWho} abilities=${abilities} model=${model} /><//>
      <${Part} title="How">
        <div class="row">
          <${Field} label="How many"><input type="number" min="1" max="200" value=${k}
            onInput=${(event) => event.target.validity.valid && setK(event.target.valueAsNumber || 10)} /><//>
          <${Field} label="Budget, ms"><input type="number" min="1" max="1000" value=${budget} placeholder=${budgetMs}
            onInput=${(event) => event.target.validity.valid && setBudget(event.target.valueAsNumber || "")} /><//>
        </div>
      <//>
      ${body && html`<${Part} title="Take it along"><${Snippets} body=${body} /><//>`}
    </div>
    <div aria-live="polite">
      <${Trouble} error=${error} />
      ${value && html`<${Part} title="Receipt" name="receipt">
          <${Receipt} answer=${value} budgetMs=${budget || budgetMs} /><//>
        <${Part} title="The list" name="list"><${List} items=${value.items} label="recommended" /><//>`}
    </div>
  </div>`;
}

/** Ask for a list with all that explains it, and keep what it says of items. */
export async function recommend(body, signal) {
  const answer = await ask("POST", "/recommend", { ...body, debug: true }, { signal });
  learn(answer.items);
  return answer;
}

function Snippets({ body }) {
  const [language, setLanguage] = useState(LANGUAGES[0]);
  const text = snippet(language, "/recommend", body);
  return html`<div>
    <div class="row">
      <div class="switch" role="group" aria-label="Language">
        ${LANGUAGES.map((each) => html`<button type="button" key=${each} aria-pressed=${each === language}
          onClick=${() => setLanguage(each)}>${each}</button>`)}
      </div>
      <${Copy} text=${text} />
    </div>
    <pre tabindex="0" aria-label=${`the request in ${language}`}><code>${text}</code></pre>
  </div>`;
}
