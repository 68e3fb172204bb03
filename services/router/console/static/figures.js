// The line of figures above everything else.

import {byId, h, setText} from "./dom.js";
import {count, duration, number, percent} from "./format.js";

const cells = new Map();

function show(name, value, note = "") {
  let cell = cells.get(name);
  if (!cell) {
    cell = {value: h("span", {class: "value"}), note: h("span", {class: "note"})};
    cells.set(name, cell);
    byId("figures").append(h("div", {}, h("dt", {}, name), h("dd", {}, cell.value, cell.note)));
  }
  setText(cell.value, value);
  setText(cell.note, note);
}

const sum = (workers, name) => workers.reduce((total, worker) => total + worker[name], 0);

function ofRole(state, role) {
  const all = state.workers.filter((worker) => worker.role === role);
  const serving = all.filter((worker) => worker.state === "serving").length;
  return [all, all.length === serving ? "serving" : `${serving} serving`];
}

export function showFigures({state, rates}) {
  const [routers] = ofRole(state, "router");
  const [attention, attentionNote] = ofRole(state, "attention");
  const [experts, expertNote] = ofRole(state, "expert");
  show("Routers", number(routers.length), state.leader ? `${state.leader} leads` : "no leader");
  show("Attention", number(attention.length), attentionNote);
  show("Experts", number(experts.length), expertNote);
  show("Epoch", String(state.epoch), `${number(sum(experts, "loaded"))} loaded`);
  const perSecond = attention.map((worker) => rates.get(`attention/${worker.id}`)?.generation_tokens ?? 0);
  show("Tokens/s", rates.size ? number(perSecond.reduce((a, b) => a + b, 0)) : "–", "last 6 seconds");
  show("Sequences", number(sum(attention, "running")), `running, ${number(sum(attention, "waiting"))} waiting`);
  const pages = sum(attention, "kv_pages_total");
  show("KV pages", percent(pages ? sum(attention, "kv_pages_used") / pages : NaN), `of ${count(pages, "page")}`);
  const {exposed_us: exposed, round_trip_us: trip, zero_share: zero} = state.layers;
  const mean = (list) => (list.length ? list.reduce((a, b) => a + b, 0) / list.length : NaN);
  show("Zero experts", percent(mean(zero)), "of choices, lately");
  show("Exposed", duration(mean(exposed) / 1e6), `${percent(mean(exposed) / mean(trip))} of the round trip`);
}
