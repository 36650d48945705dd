// The demo page: popular items first, then what the choices say. It uses nothing but the public methods.

import { Retort } from "./retort.js";

const byId = (id) => document.getElementById(id);

function say(text, isWrong = false) {
  byId("status").textContent = text;
  byId("status").classList.toggle("is-wrong", isWrong);
}

async function show(retort) {
  const answer = await retort.recommend({ k: 10 });
  const events = (await retort.history()).slice(-10).reverse();
  const [items, chosen] = await Promise.all([
    retort.items(answer.items.map((item) => item.item_id)),
    retort.items(events.map((event) => event.item_id)),
  ]);
  const rows = items.map((item, i) => {
    const row = document.createElement("li"), button = document.createElement("button");
    button.type = "button";
    button.dataset.item = item.item_id;
    button.textContent = item.title ?? item.item_id;
    button.onclick = () => retort.observe(item.item_id).then(() => show(retort)).catch(complain);
    const score = document.createElement("span");
    score.className = "score";
    score.textContent = answer.items[i].score.toFixed(2);
    row.append(button, score);
    return row;
  });
  byId("items").replaceChildren(...rows);
  byId("chosen").replaceChildren(
    ...chosen.map((item, i) => {
      const row = document.createElement("li");
      row.textContent = item?.title ?? events[i].item_id;
      return row;
    }),
  );
  const { level, reasons } = answer.quality;
  const why = reasons.length ? ` (${reasons.join(", ")})` : "";
  say(`Version ${retort.version}, ${retort.n_items} items. ${level}${why}, ${answer.took_ms} ms.`);
}

function complain(error) {
  say(`${error.code ?? error.name}: ${error.message}`, true);
}

navigator.serviceWorker?.register("sw.js").catch(complain); // the page opens offline from the next visit on

try {
  const retort = await Retort.load("bundle/");
  byId("forget").onclick = () => retort.forget().then(() => show(retort)).catch(complain);
  await show(retort);
} catch (error) {
  complain(error);
}
