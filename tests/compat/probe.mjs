// `node probe.mjs MODULE SERVERS`: what probe.py does, for a client of Node. features.json is made of features.py.
import { readFileSync } from "node:fs";

const shared = JSON.parse(readFileSync(new URL("features.json", import.meta.url)));
const [module, given] = process.argv.slice(2);
const client = await import(new URL(module, import.meta.url));
const servers = JSON.parse(given);

for (const feature of Object.keys(shared.FEATURES)) {
  if (!client[feature]) continue;
  let why = "";
  try {
    await client[feature](servers, shared);
  } catch (error) {
    console.error(error);
    why = `${error.name}: ${String(error.message).split("\n")[0]}`.slice(0, 200);
  }
  console.log(JSON.stringify([feature, why]));
}
