// Reads the cluster's state each second while the page can be seen, and the placement when its epoch has changed.

import {askForKey, keyHeaders} from "./key.js";

const EVERY_MS = 1000;
const WINDOW_MS = 6000; // rates are means over so long
const TIMEOUT_MS = 8000;
const SUMS = {attention: ["prompt_tokens", "generation_tokens", "preemptions"], expert: ["launches", "rows", "assignments"]};

function named(state) {
  state.workers = state.workers.map((row) => {
    const names = [...state.fields, ...state.counts[row[1]]];
    return Object.fromEntries(names.map((name, i) => [name, row[i]]));
  });
  return state;
}

/** Calls show({state, rates, placement, events, error}) after each look. */
export class Poll {
  constructor(show) {
    this.show = show;
    this.state = this.placement = null;
    this.events = [];
    this.tag = "";
    this.placementTag = "";
    this.history = []; // [time, {worker and boot: counts}]
    this.timer = 0;
    this.running = false;
    document.addEventListener("visibilitychange", () => (document.hidden ? this.pause() : this.look()));
  }

  pause() {
    clearTimeout(this.timer);
    this.timer = 0;
    this.history = [];
  }

  async look() {
    if (this.running) return;
    this.running = true;
    clearTimeout(this.timer);
    let error = "";
    try {
      await this.read();
    } catch (problem) {
      error = problem.name === "TimeoutError" ? "the router does not answer" : problem.message;
    }
    this.running = false;
    this.show({state: this.state, rates: this.rates(), placement: this.placement, events: this.events, error});
    if (!document.hidden) this.timer = setTimeout(() => this.look(), EVERY_MS);
  }

  async read() {
    const known = this.state ? `?source=${this.state.source}&after=${this.state.last_event}` : "";
    const answer = await this.get(`api/state${known}`, this.tag);
    if (answer.status !== 304) {
      const fresh = named(await answer.json());
      if (this.state?.source !== fresh.source) this.events = [];
      this.events = [...this.events, ...fresh.events].slice(-300);
      this.tag = answer.headers.get("etag") ?? "";
      this.state = fresh;
    }
    this.remember();
    if (this.state.table && this.state.table !== this.placement?.epoch) await this.readPlacement();
  }

  async readPlacement() {
    const answer = await this.get("api/placement", this.placementTag);
    if (answer.status === 304) return;
    this.placementTag = answer.headers.get("etag") ?? "";
    this.placement = await answer.json();
  }

  async get(path, tag) {
    const headers = {...keyHeaders(), ...(tag ? {"If-None-Match": tag} : {})};
    const answer = await fetch(path, {headers, cache: "no-store", signal: AbortSignal.timeout(TIMEOUT_MS)});
    if ((answer.status === 401 || answer.status === 403) && askForKey()) return this.get(path, tag);
    if (!answer.ok && answer.status !== 304) throw new Error(`the router answers ${answer.status}`);
    return answer;
  }

  remember() {
    const now = performance.now();
    const counts = new Map(this.state.workers.map((worker) => [`${worker.role}/${worker.id}/${worker.boot}`, worker]));
    this.history.push([now, counts]);
    while (this.history.length > 2 && this.history[1][0] <= now - WINDOW_MS) this.history.shift();
  }

  /** What workers count, per second: {role/id: {rows: 12.5}}; empty before the second look. */
  rates() {
    const found = new Map();
    if (this.history.length < 2) return found;
    const [[from, before], [to, after]] = [this.history[0], this.history.at(-1)];
    for (const [key, worker] of after) {
      const old = before.get(key);
      if (!old || !SUMS[worker.role]) continue;
      const seconds = (to - from) / 1000;
      const per = SUMS[worker.role].map((name) => [name, Math.max(0, worker[name] - old[name]) / seconds]);
      found.set(`${worker.role}/${worker.id}`, Object.fromEntries(per));
    }
    return found;
  }
}
