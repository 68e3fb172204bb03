// Zero experts and the wait for experts, by layer.

import {byId, h, setText} from "./dom.js";
import {duration, percent} from "./format.js";

const COLUMNS = ["Layer", "Zero experts", "Exposed", "Round trip"];

function bar(kind) {
  const fill = h("span", {class: `fill ${kind}`, "aria-hidden": "true"}), text = h("span", {class: "bar-text"});
  return {cell: h("td", {class: "bar"}, fill, text), fill, text};
}

function set(bar, share, text) {
  bar.fill.style.width = `${Math.round(100 * Math.min(1, Math.max(0, share || 0)))}%`;
  setText(bar.text, text);
}

export class Layers {
  constructor() {
    this.rows = [];
    this.body = h("tbody");
    this.note = h("p", {class: "quiet"}, "No step has run yet.");
    const head = COLUMNS.map((name) => h("th", {scope: "col"}, name));
    this.table = h("table", {class: "layers"}, h("caption", {class: "hidden"}, "Layers"), h("thead", {}, h("tr", {}, ...head)), this.body);
    byId("layers").append(this.note, h("div", {class: "scroll", tabindex: "0", role: "group", "aria-label": "Layers"}, this.table));
  }

  show({layers}) {
    const depth = layers.zero_share.length;
    if (this.rows.length !== depth) this.build(depth);
    setText(this.note, depth ? "Of the last ten seconds in which steps ran; mean of the attention workers." : "No step has run yet.");
    const longest = Math.max(...layers.round_trip_us, 1);
    this.rows.forEach((row, i) => {
      set(row.zero, layers.zero_share[i], percent(layers.zero_share[i]));
      set(row.exposed, layers.exposed_us[i] / longest, duration(layers.exposed_us[i] / 1e6));
      set(row.trip, layers.round_trip_us[i] / longest, duration(layers.round_trip_us[i] / 1e6));
    });
  }

  build(depth) {
    this.rows = Array.from({length: depth}, () => ({zero: bar("zero"), exposed: bar("exposed"), trip: bar("trip")}));
    this.body.replaceChildren(
      ...this.rows.map((row, i) => h("tr", {}, h("th", {scope: "row"}, String(i)), row.zero.cell, row.exposed.cell, row.trip.cell)),
    );
  }
}
