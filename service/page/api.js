// The way to the service: one function that asks, with the key that the user gave, and what its description says it can.

const NAMES = { key: "retort-key", admin: "retort-admin-key" };

/** An answer that is no success. status: 0 where none came. code, message: of the service's error. */
export class ServiceError extends Error {
  constructor(status, code, message, details = []) {
    super(message);
    this.status = status;
    this.code = code;
    this.details = details;
  }

  get needsKey() {
    return ["no_key", "wrong_key", "wrong_scope", "admin_key_needed"].includes(this.code);
  }
}

/** Return a key that was given in this window, or an empty text. name: key or admin. */
export const givenKey = (name) => sessionStorage.getItem(NAMES[name]) ?? "";

/** Keep a key until this window is closed; an empty text forgets it. */
export function keepKey(name, key) {
  if (key) sessionStorage.setItem(NAMES[name], key);
  else sessionStorage.removeItem(NAMES[name]);
}

/** Keep the admin key that an address brings as `#admin=KEY`, and take it out of the address. Returns whether it did. */
export function takeKey() {
  const brought = new URLSearchParams(location.hash.slice(1)).get("admin");
  if (!brought) return false;
  keepKey("admin", brought);
  history.replaceState(null, "", location.pathname + location.search);
  return true;
}

/** Ask the service, and return what its JSON says. isAdmin: send the admin key. Throws ServiceError. */
export async function ask(method, path, body, { isAdmin = false, signal } = {}) {
  const headers = {};
  const key = (isAdmin && givenKey("admin")) || givenKey("key") || givenKey("admin");
  if (key) headers.Authorization = `Bearer ${key}`;
  if (body !== undefined) headers["Content-Type"] = "application/json";
  const options = { method, headers, signal, body: body === undefined ? undefined : JSON.stringify(body) };
  let answer;
  try {
    answer = await fetch(address(path), options);
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ServiceError(0, "unreachable", "The service does not answer.");
  }
  const said = await answer.json().catch(() => ({}));
  if (answer.ok) return said;
  const { code = "unknown", message = answer.statusText, details } = said.error ?? {};
  throw new ServiceError(answer.status, code, message, details);
}

/** Return the whole URL of a path of the service, which may lie below another path. */
export const address = (path) => new URL(path.replace(/^\//, ""), document.baseURI.split("#")[0]).href;

/** What the service can do, as its OpenAPI document says. */
export class Abilities {
  constructor(document) {
    this.document = document;
  }

  /** Whether there is a route, such as "POST /similar". */
  has(route) {
    const [method, path] = route.split(" ");
    const bare = (each) => each.replace(/\{[^}]*\}/g, "{}");
    const found = Object.entries(this.document.paths).find(([each]) => bare(each) === bare(path));
    return Boolean(found?.[1][method.toLowerCase()]);
  }

  /** Whether POST /recommend takes a field. */
  takes(field) {
    return field in (this.document.components.schemas.RecommendRequest?.properties ?? {});
  }
}
