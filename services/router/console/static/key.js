// The API key that routers with keys ask for: an admin's. It stays in this tab.

const KEY = "caracal-api-key";
let asked = false;

export function keyHeaders() {
  const key = sessionStorage.getItem(KEY);
  return key ? {"x-api-key": key} : {};
}

/** Asks for a key, once, after the router has rejected a request; returns whether there is another one to try. */
export function askForKey() {
  if (asked) return false;
  asked = true;
  const key = window.prompt("This cluster needs the API key of an admin.")?.trim();
  if (!key) return false;
  sessionStorage.setItem(KEY, key);
  return true;
}
