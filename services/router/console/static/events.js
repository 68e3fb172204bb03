// What has happened, the newest first.

import {byId, h, setText} from "./dom.js";
import {clock, count} from "./format.js";

const SHOWN = 60;

export class Events {
  constructor() {
    this.newest = "";
    this.all = false;
    this.events = [];
    this.note = h("p", {class: "quiet"});
    this.list = h("ol", {class: "event-list scroll", tabindex: "0", "aria-label": "Events, the newest first"});
    this.more = h("button", {type: "button", hidden: true, onclick: () => this.toggle()});
    byId("events").append(this.note, this.list, this.more);
  }

  toggle() {
    this.all = !this.all;
    this.newest = "";
    this.show(this.events);
  }

  show(events) {
    this.events = events;
    const newest = `${events.length}/${events.at(-1)?.[0]}/${events.at(-1)?.[1]}`;
    if (newest === this.newest) return;
    this.newest = newest;
    const shown = events.slice(this.all ? 0 : -SHOWN).reverse();
    setText(this.note, events.length ? `${count(events.length, "event")} since this router began to watch, at most 300.` : "None yet.");
    this.list.replaceChildren(
      ...shown.map(([, at, kind, text]) =>
        h("li", {"data-kind": kind}, h("time", {datetime: new Date(at).toISOString()}, clock(at)), h("span", {class: "kind"}, kind), h("span", {}, text)),
      ),
    );
    this.more.hidden = events.length <= SHOWN;
    this.more.textContent = this.all ? `Show ${SHOWN}` : `Show all ${events.length}`;
  }
}
