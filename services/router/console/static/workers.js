// Three tables of workers, one a role: filtered, sorted by a click on a header, and cut at CAP rows.

import {byId, h, setShown, setText} from "./dom.js";
import {byName, count, duration, number, percent} from "./format.js";

const CAP = 16;
const ORDER = ["quarantined", "refused", "frozen", "draining", "joining", "serving"]; // what is not usual comes first
const kv = (w) => (w.kv_pages_total ? w.kv_pages_used / w.kv_pages_total : NaN);
const address = {name: "metrics", value: (w) => w.metrics, show: (w) => w.metrics, text: true};
const host = {name: "host", value: (w) => w.host, show: (w) => w.host, text: true};
const epoch = {name: "epoch", value: (w) => w.epoch, show: (w) => String(w.epoch)};
const plain = (name, field) => ({name, value: (w) => w[field], show: (w) => number(w[field])});
const rate = (name, field) => ({name, value: (w, r) => r?.[field] ?? 0, show: (w, r) => (r ? number(r[field]) : "–")});

const ROLES = {
  router: {title: "Routers", columns: [{name: "leads", value: (w) => w.leading, show: (w) => (w.leading ? "leads" : ""), text: true}, epoch, address]},
  attention: {
    title: "Attention workers",
    columns: [
      plain("running", "running"),
      plain("waiting", "waiting"),
      {name: "KV", value: kv, show: (w) => percent(kv(w))},
      rate("tokens/s", "generation_tokens"),
      {name: "zero", value: (w) => w.zero_share, show: (w) => percent(w.zero_share)},
      {name: "exposed", value: (w) => w.exposed_s_per_layer, show: (w) => (w.round_trip_s_per_layer ? duration(w.exposed_s_per_layer) : "–")},
      plain("preempted", "preemptions"),
      epoch,
      address,
    ],
  },
  expert: {
    title: "Expert workers",
    columns: [
      plain("experts", "loaded"),
      {name: "capacity", value: (w) => w.capacity || Infinity, show: (w) => (w.capacity ? number(w.capacity) : "any")},
      rate("rows/s", "rows"),
      rate("launches/s", "launches"),
      plain("rejected", "rejected"),
      epoch,
      host,
      address,
    ],
  },
};

const idColumn = {name: "worker", value: (w) => w.id, show: (w) => w.id, text: true};
const stateColumn = {name: "state", value: (w) => ORDER.indexOf(w.state), show: (w) => w.state};

class Table {
  constructor(role, redraw) {
    this.columns = [idColumn, stateColumn, ...ROLES[role].columns];
    this.sort = {column: stateColumn, down: false};
    this.all = false;
    this.rows = new Map(); // by worker id
    this.redraw = redraw;
    this.heading = h("h3", {id: `workers-${role}`}, ROLES[role].title);
    this.summary = h("p", {class: "quiet"});
    this.buttons = this.columns.map((column) => h("button", {type: "button", onclick: () => this.sortBy(column)}, column.name));
    this.heads = this.columns.map((column, i) => h("th", {scope: "col", class: i === 0 ? "first" : column.text ? "text" : null}, this.buttons[i]));
    this.body = h("tbody");
    const table = h("table", {class: "workers", "aria-labelledby": `workers-${role}`}, h("thead", {}, h("tr", {}, ...this.heads)), this.body);
    this.more = h("button", {type: "button", hidden: true, onclick: () => this.toggle()});
    this.box = h("div", {class: "across", tabindex: "0", role: "group", "aria-labelledby": `workers-${role}`}, table);
    this.element = h("div", {class: "role", "data-role": role}, h("div", {class: "role-title"}, this.heading, this.summary), this.box, this.more);
  }

  sortBy(column) {
    this.sort = {column, down: this.sort.column === column ? !this.sort.down : !(column.text || column === stateColumn)};
    this.redraw();
  }

  toggle() {
    this.all = !this.all;
    this.redraw();
  }

  show(every, chosen, rates) {
    const {column, down} = this.sort;
    const keyed = chosen.map((worker) => [column.value(worker, rates.get(`${worker.role}/${worker.id}`)), worker]);
    keyed.sort(([a, x], [b, y]) => (down ? -1 : 1) * compare(a, b) || byName(x.id, y.id));
    const shown = keyed.slice(0, this.all ? keyed.length : CAP).map(([, worker]) => worker);
    this.heads.forEach((head, i) => {
      if (this.columns[i] === column) head.setAttribute("aria-sort", down ? "descending" : "ascending");
      else head.removeAttribute("aria-sort");
    });
    setText(this.summary, summary(every));
    for (const id of [...this.rows.keys()]) if (!shown.some((worker) => worker.id === id)) this.rows.delete(id);
    const rows = shown.map((worker) => this.row(worker, rates.get(`${worker.role}/${worker.id}`)));
    if (rows.some((row, i) => row !== this.body.children[i]) || rows.length !== this.body.children.length) this.body.replaceChildren(...rows);
    setShown(this.more, keyed.length > CAP);
    this.box.classList.toggle("scroll", this.all && keyed.length > CAP);
    setText(this.more, this.all ? `Show ${CAP}` : `Show all ${keyed.length}`);
    setShown(this.element, every.length > 0);
  }

  row(worker, rate) {
    let row = this.rows.get(worker.id);
    if (!row) {
      row = h("tr", {}, ...this.columns.map((column, i) => h(i === 0 ? "th" : "td", {scope: i === 0 ? "row" : null, class: i === 0 || column.text ? "text" : null})));
      row.children[1].append(h("span", {class: "dot", "aria-hidden": "true"}), h("span"));
      this.rows.set(worker.id, row);
    }
    row.dataset.state = worker.state;
    this.columns.forEach((column, i) => setText(i === 1 ? row.children[1].lastChild : row.children[i], column.show(worker, rate)));
    return row;
  }
}

function compare(a, b) {
  if (typeof a === "string") return byName(a, b);
  return (Number.isNaN(a) ? -1 : a) - (Number.isNaN(b) ? -1 : b);
}

function summary(workers) {
  const parts = ORDER.toReversed().map((state) => [state, workers.filter((worker) => worker.state === state).length]);
  const some = parts.filter(([, n]) => n).map(([state, n]) => `${n} ${state}`);
  return some.length ? some.join(", ") : "none";
}

export class Workers {
  constructor() {
    this.look = null;
    const redraw = () => this.look && this.show(this.look);
    this.tables = Object.fromEntries(Object.keys(ROLES).map((role) => [role, new Table(role, redraw)]));
    byId("workers").append(...Object.values(this.tables).map((table) => table.element));
    byId("filter-text").addEventListener("input", redraw);
    byId("filter-state").addEventListener("change", redraw);
    byId("worker-filter").addEventListener("submit", (event) => event.preventDefault());
  }

  show(look) {
    this.look = look;
    const words = byId("filter-text").value.trim().toLowerCase(), state = byId("filter-state").value;
    const fits = (worker) =>
      (!state || worker.state === state) && [worker.id, worker.host, worker.metrics].some((text) => text.toLowerCase().includes(words));
    let found = 0;
    for (const [role, table] of Object.entries(this.tables)) {
      const every = look.state.workers.filter((worker) => worker.role === role);
      const chosen = every.filter(fits);
      found += chosen.length;
      table.show(every, chosen, look.rates);
    }
    setText(byId("filter-count"), words || state ? `${found} of ${count(look.state.workers.length, "worker")}` : "");
  }
}
