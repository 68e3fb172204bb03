// The counts of workers asked for: changed here by whoever has the token, else the command that does it.

import {byId, h, setShown, setText} from "./dom.js";
import {askForKey, keyHeaders} from "./key.js";

const KEY = "caracal-console-token";
const TITLES = {attention: "Attention workers", expert: "Expert workers"};

export class Scale {
  constructor(token) {
    if (token) sessionStorage.setItem(KEY, token);
    this.about = null;
    this.fields = {};
    this.note = h("p", {class: "quiet"}, "Asking whether this page may scale …");
    this.command = h("pre", {class: "command mono", tabindex: "0", "aria-label": "Command"});
    this.result = h("p", {role: "status", class: "result"});
    this.form = h("form", {class: "scale-form", hidden: true, onsubmit: (event) => this.submit(event)});
    this.unlock = h(
      "form", {class: "unlock", hidden: true, onsubmit: (event) => this.enter(event)},
      h("label", {}, "Token ", (this.token = h("input", {type: "password", autocomplete: "off", spellcheck: "false"}))),
      h("button", {type: "submit"}, "Unlock"),
    );
    byId("scale").append(this.note, this.form, this.command, this.unlock, this.result);
  }

  headers() {
    const token = sessionStorage.getItem(KEY);
    return {...keyHeaders(), ...(token ? {Authorization: `Bearer ${token}`} : {})};
  }

  /** Reads what this page may do; returns what the router says about itself, or null. */
  async ask() {
    try {
      const answer = await fetch("api/about", {headers: this.headers(), cache: "no-store"});
      if ((answer.status === 401 || answer.status === 403) && askForKey()) return this.ask();
      if (!answer.ok) return null;
      this.about = await answer.json();
    } catch {
      return null;
    }
    this.build(this.about.scale);
    return this.about;
  }

  build({possible, allowed, roles, maximum, command}) {
    byId("scale").dataset.allowed = String(allowed);
    setText(this.note, allowed ? "This page may change the counts." : possible ? "Read only: this page has no valid token." : "Read only: change the counts with a command.");
    setShown(this.form, allowed);
    setShown(this.unlock, possible && !allowed);
    setShown(this.command, !allowed);
    setText(this.command, roles.map((role) => command.replaceAll("ROLE", role).replaceAll("COUNT", "N")).join("\n"));
    if (!allowed || this.form.children.length) return;
    for (const role of roles) {
      this.fields[role] = h("input", {type: "number", min: "1", max: String(maximum), step: "1", required: true});
      this.form.append(h("label", {}, `${TITLES[role] ?? role} `, this.fields[role]));
    }
    this.form.append(h("button", {type: "submit", class: "primary"}, "Apply"));
  }

  show(state) {
    for (const [role, field] of Object.entries(this.fields)) {
      const asked = state.desired[role];
      if (asked !== undefined && (field.value === "" || (field !== document.activeElement && field.dataset.asked !== String(asked)))) field.value = asked;
      field.dataset.asked = String(asked ?? "");
    }
    if (!this.waiting) return;
    const open = Object.entries(this.waiting).map(([role, wanted]) => {
      const of = state.workers.filter((worker) => worker.role === role);
      const serving = of.filter((worker) => worker.state === "serving").length;
      return serving === wanted && of.length === wanted ? "" : `${role}: ${serving} of ${wanted} serving`;
    });
    setText(this.result, open.filter(Boolean).join(", ") || "Reached.");
    if (!open.some(Boolean)) this.waiting = null;
  }

  async enter(event) {
    event.preventDefault();
    sessionStorage.setItem(KEY, this.token.value.trim());
    this.token.value = "";
    await this.ask();
    setText(this.result, this.about?.scale.allowed ? "" : "The token is wrong.");
  }

  async submit(event) {
    event.preventDefault();
    const every = Object.entries(this.fields);
    const changed = every.filter(([, field]) => field.value !== field.dataset.asked);
    const wanted = Object.fromEntries((changed.length ? changed : every).map(([role, field]) => [role, Number(field.value)]));
    setText(this.result, "Asking …");
    try {
      const answer = await fetch("api/scale", {
        method: "POST",
        headers: {...this.headers(), "Content-Type": "application/json"},
        body: JSON.stringify(wanted),
      });
      const body = await answer.json();
      if (!answer.ok) throw new Error(body.error?.message ?? `status ${answer.status}`);
      this.waiting = body.desired;
      setText(this.result, "Asked for; workers start and drain now.");
    } catch (error) {
      this.waiting = null;
      setText(this.result, `Not changed: ${error.message}`);
    }
  }
}
