// The request of a screen as text to be pasted: curl, Python, JavaScript. A key is named, never shown.

import { address, givenKey } from "./api.js";

const KEY = "RETORT_API_KEY";

export const LANGUAGES = ["curl", "Python", "JavaScript"];

/** Return a POST request in one of LANGUAGES. */
export function snippet(language, path, body) {
  const url = address(path), isKeyed = Boolean(givenKey("key") || givenKey("admin"));
  if (language === "curl") return curl(url, body, isKeyed);
  return language === "Python" ? python(url, body, isKeyed) : javascript(url, body, isKeyed);
}

function curl(url, body, isKeyed) {
  const key = isKeyed ? ` \\\n  -H "Authorization: Bearer $${KEY}"` : "";
  const text = JSON.stringify(body).replaceAll("'", "'\\''");
  return `curl -s '${url}' \\\n  -H 'Content-Type: application/json'${key} \\\n  -d '${text}'`;
}

function python(url, body, isKeyed) {
  const key = isKeyed ? `,\n    headers={"Authorization": f"Bearer {os.environ['${KEY}']}"}` : "";
  return `${isKeyed ? "import os\n\n" : ""}import httpx

answer = httpx.post(
    "${url}",
    json=${literal(body)}${key},
)
answer.raise_for_status()
for item in answer.json()["items"]:
    print(item["item_id"], item["score"])`;
}

function javascript(url, body, isKeyed) {
  const key = isKeyed ? `\n    Authorization: \`Bearer \${process.env.${KEY}}\`,` : "";
  return `const answer = await fetch("${url}", {
  method: "POST",
  headers: {
    "Content-Type": "application/json",${key}
  },
  body: JSON.stringify(${JSON.stringify(body)}),
});
if (!answer.ok) throw new Error(await answer.text());
console.log((await answer.json()).items);`;
}

/** Return a value as Python writes it. */
export function literal(value) {
  if (value === null) return "None";
  if (value === true) return "True";
  if (value === false) return "False";
  if (Array.isArray(value)) return `[${value.map(literal).join(", ")}]`;
  if (typeof value !== "object") return JSON.stringify(value);
  return `{${Object.entries(value).map(([name, each]) => `${JSON.stringify(name)}: ${literal(each)}`).join(", ")}}`;
}
