// The placement as a map: a row for each layer, a column for each expert worker, the darker the more experts.

import {byId, setText} from "./dom.js";
import {byName, count, ranges} from "./format.js";

const LABEL_WIDTH = 34, LABEL_HEIGHT = 18, MIN_CELL = 4, MAX_CELL_WIDTH = 150;
const IDS_SHOWN = 220; // characters

function bytes(text) {
  return Uint8Array.from(atob(text), (char) => char.charCodeAt(0));
}

/** Of each layer: experts of each worker, and how many experts have no worker. */
function read(placement) {
  const names = placement.workers;
  const order = names.map((_, i) => i).sort((a, b) => byName(names[a], names[b]));
  const column = new Map(order.map((worker, i) => [worker, i]));
  const layers = placement.layers.map(([replicas, workers]) => {
    const replicasOf = bytes(replicas), flat = bytes(workers), view = new DataView(flat.buffer);
    const held = names.map(() => []);
    let at = 0, unplaced = 0;
    replicasOf.forEach((times, expert) => {
      if (times === 0) unplaced++;
      for (let i = 0; i < times; i++, at += 2) held[column.get(view.getUint16(at, true))].push(expert);
    });
    return {held, unplaced, experts: replicasOf.length};
  });
  return {names: order.map((i) => names[i]), layers};
}

export class ExpertMap {
  constructor() {
    this.canvas = byId("map");
    this.map = null;
    this.placement = null;
    this.states = new Map();
    this.cell = null; // {layer, column}: what is pointed at
    this.colours = null;
    this.canvas.addEventListener("pointermove", (event) => this.point(this.at(event)));
    this.canvas.addEventListener("pointerleave", () => document.activeElement !== this.canvas && this.point(null));
    this.canvas.addEventListener("keydown", (event) => this.key(event));
    this.canvas.addEventListener("focus", () => this.map && !this.cell && this.point({layer: 0, column: 0}));
    byId("find").addEventListener("submit", (event) => {
      event.preventDefault();
      this.find(Number(byId("find-layer").value), Number(byId("find-expert").value));
    });
    new ResizeObserver(() => this.draw()).observe(this.canvas.parentElement);
  }

  /** Says which workers have an expert, and marks the first of them. */
  find(layer, expert) {
    const row = this.map?.layers[layer];
    if (!row || expert >= row.experts) {
      setText(byId("found"), "There is no such expert.");
      return;
    }
    const holders = this.map.names.filter((_, i) => row.held[i].includes(expert));
    setText(byId("found"), holders.length ? `At ${holders.join(", ")}.` : "At no worker.");
    const {share} = this.geometry();
    this.point(holders.length ? {layer, column: Math.floor(this.map.names.indexOf(holders[0]) / share) * share} : null);
  }

  restyle() {
    this.colours = null;
    this.draw();
  }

  show(placement, state) {
    const before = JSON.stringify([...this.states]);
    this.states = new Map(state.workers.filter((w) => w.role === "expert").map((w) => [w.id, w.state]));
    if (placement === this.placement && before === JSON.stringify([...this.states])) return;
    if (placement !== this.placement && placement) {
      this.map = read(placement);
      this.cell = this.cell && this.cell.layer < this.map.layers.length && this.cell.column < this.map.names.length ? this.cell : null;
    }
    this.placement = placement;
    this.summarize();
    this.draw();
    this.detail();
  }

  summarize() {
    if (!this.map) {
      setText(byId("map-summary"), "No placement table has been published yet.");
      return;
    }
    const {names, layers} = this.map;
    const experts = layers.reduce((sum, layer) => sum + layer.experts, 0);
    const unplaced = layers.reduce((sum, layer) => sum + layer.unplaced, 0);
    const gone = names.filter((name) => !this.states.has(name));
    const replicas = layers.reduce((sum, layer) => sum + layer.held.reduce((n, ids) => n + ids.length, 0), 0);
    const parts = [
      `${count(layers.length, "layer")} of ${count(layers[0]?.experts ?? 0, "expert")} on ${count(names.length, "worker")}, epoch ${this.placement.epoch}`,
      replicas > experts - unplaced ? `${count(replicas - experts + unplaced, "further replica")}` : "",
      unplaced ? `${count(unplaced, "expert")} on no worker` : "",
      gone.length ? `${gone.slice(0, 3).join(", ")}${gone.length > 3 ? " …" : ""} gone` : "",
    ];
    setText(byId("map-summary"), parts.filter(Boolean).join("; "));
    const most = this.most();
    setText(byId("map-legend"), `Shade: experts of a layer at a worker, 0 to ${most}. Hatched: the worker drains, joins or is gone.`);
    this.canvas.setAttribute("aria-label", `Experts by layer and worker: ${parts[0]}. Arrow keys move between cells.`);
  }

  most() {
    return Math.max(1, ...this.map.layers.flatMap((layer) => layer.held.map((ids) => ids.length)));
  }

  /** Columns that fit: with more workers than pixels allow, several share a column. */
  geometry() {
    const width = this.canvas.parentElement.clientWidth;
    const workers = this.map.names.length, room = width - LABEL_WIDTH;
    const share = Math.max(1, Math.ceil((workers * MIN_CELL) / Math.max(room, MIN_CELL)));
    const columns = Math.ceil(workers / share);
    const cellWidth = Math.min(MAX_CELL_WIDTH, Math.floor(room / columns));
    const layers = this.map.layers.length;
    const cellHeight = layers > 64 ? 5 : layers > 40 ? 8 : layers > 8 ? 11 : 16;
    return {width, share, columns, cellWidth, cellHeight, height: LABEL_HEIGHT + layers * cellHeight};
  }

  palette() {
    const style = getComputedStyle(this.canvas);
    const probe = document.createElement("span");
    this.canvas.parentElement.append(probe);
    const colour = (name) => {
      probe.style.color = `var(${name})`;
      return getComputedStyle(probe).color;
    };
    const found = {empty: colour("--map-empty"), low: colour("--map-low"), high: colour("--map-high"), text: colour("--quiet"), mark: colour("--accent"), back: colour("--panel"), font: style.fontFamily};
    probe.remove();
    return found;
  }

  draw() {
    if (!this.map || !this.map.layers.length || !this.canvas.parentElement.clientWidth) return;
    this.colours ??= this.palette();
    const grid = this.geometry(), ratio = devicePixelRatio || 1, {canvas, colours} = this;
    canvas.width = Math.round(grid.width * ratio);
    canvas.height = Math.round(grid.height * ratio);
    canvas.style.width = `${grid.width}px`;
    canvas.style.height = `${grid.height}px`;
    const ink = canvas.getContext("2d");
    ink.scale(ratio, ratio);
    ink.font = `10px ${colours.font}`;
    const most = this.most(), gap = grid.cellWidth > 6 ? 1 : 0;
    this.map.layers.forEach((layer, row) => {
      const y = LABEL_HEIGHT + row * grid.cellHeight;
      for (let column = 0; column < grid.columns; column++) {
        const ids = layer.held.slice(column * grid.share, (column + 1) * grid.share);
        const mean = ids.reduce((n, each) => n + each.length, 0) / ids.length;
        ink.fillStyle = mean ? mix(colours.low, colours.high, mean / most) : colours.empty;
        ink.fillRect(LABEL_WIDTH + column * grid.cellWidth, y, grid.cellWidth - gap, grid.cellHeight - 1);
      }
    });
    this.labels(ink, grid);
    this.hatch(ink, grid);
    this.cursor(ink, grid);
  }

  labels(ink, grid) {
    ink.fillStyle = this.colours.text;
    ink.textBaseline = "middle";
    ink.textAlign = "right";
    const every = Math.ceil(12 / grid.cellHeight);
    for (let row = 0; row < this.map.layers.length; row += every) ink.fillText(String(row), LABEL_WIDTH - 6, LABEL_HEIGHT + (row + 0.5) * grid.cellHeight);
    ink.textAlign = "left";
    const step = Math.ceil(64 / grid.cellWidth);
    for (let column = 0; column < grid.columns; column += step) ink.fillText(this.map.names[column * grid.share], LABEL_WIDTH + column * grid.cellWidth, 8, step * grid.cellWidth - 4);
  }

  /** Columns of workers that do not serve are struck through. */
  hatch(ink, grid) {
    ink.strokeStyle = this.colours.back;
    ink.lineWidth = 2;
    this.map.names.forEach((name, i) => {
      if (this.states.get(name) === "serving" || !this.states.size) return;
      const x = LABEL_WIDTH + Math.floor(i / grid.share) * grid.cellWidth;
      ink.save();
      ink.beginPath();
      ink.rect(x, LABEL_HEIGHT, grid.cellWidth - 1, grid.height - LABEL_HEIGHT);
      ink.clip();
      ink.beginPath();
      for (let y = LABEL_HEIGHT - grid.cellWidth; y < grid.height; y += 7) {
        ink.moveTo(x, y + grid.cellWidth);
        ink.lineTo(x + grid.cellWidth, y);
      }
      ink.stroke();
      ink.restore();
    });
  }

  cursor(ink, grid) {
    if (!this.cell) return;
    const x = LABEL_WIDTH + Math.floor(this.cell.column / grid.share) * grid.cellWidth;
    ink.strokeStyle = this.colours.mark;
    ink.lineWidth = 2;
    ink.strokeRect(x - 1, LABEL_HEIGHT + this.cell.layer * grid.cellHeight - 1, grid.cellWidth + 1, grid.cellHeight + 1);
  }

  at(event) {
    if (!this.map) return null;
    const grid = this.geometry();
    const column = Math.floor((event.offsetX - LABEL_WIDTH) / grid.cellWidth) * grid.share;
    const layer = Math.floor((event.offsetY - LABEL_HEIGHT) / grid.cellHeight);
    const inside = column >= 0 && column < this.map.names.length && layer >= 0 && layer < this.map.layers.length;
    return inside ? {layer, column} : null;
  }

  key(event) {
    const [across, down] = {ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1]}[event.key] ?? [0, 0];
    if (!this.map || (!across && !down)) return;
    event.preventDefault();
    const {share} = this.geometry();
    const last = Math.floor((this.map.names.length - 1) / share) * share;
    const from = this.cell ?? {layer: 0, column: 0};
    this.point({
      layer: Math.min(this.map.layers.length - 1, Math.max(0, from.layer + down)),
      column: Math.min(last, Math.max(0, from.column + across * share)),
    });
  }

  point(cell) {
    if (cell?.layer === this.cell?.layer && cell?.column === this.cell?.column) return;
    this.cell = cell;
    this.draw();
    this.detail();
  }

  detail() {
    if (!this.map || !this.cell) {
      setText(byId("map-detail"), "Point at a cell, or focus the map and use the arrow keys.");
      return;
    }
    const {share} = this.geometry(), {layer, column} = this.cell;
    const names = this.map.names.slice(column, column + share), held = this.map.layers[layer].held.slice(column, column + share);
    const total = held.reduce((n, ids) => n + ids.length, 0);
    const ids = names.length === 1 ? ranges(held[0]) : held.map((each, i) => `${names[i]} ${each.length}`).join(", ");
    const cut = ids.length > IDS_SHOWN ? `${ids.slice(0, IDS_SHOWN)} …` : ids;
    const who = names.length === 1 ? `${names[0]} (${this.states.get(names[0]) ?? "gone"})` : `${names[0]} … ${names.at(-1)}`;
    setText(byId("map-detail"), `layer ${layer} · ${who} · ${count(total, "expert")}${cut ? `: ${cut}` : ""}`);
  }
}

const channels = (colour) => colour.match(/[\d.]+/g).slice(0, 3).map(Number);

function mix(low, high, share) {
  const [a, b] = [channels(low), channels(high)];
  return `rgb(${a.map((value, i) => Math.round(value + (b[i] - value) * share)).join(" ")})`;
}
