// The chat: one conversation, kept in this page alone.

import {Answer} from "./answer.js";
import {byId, h, setText} from "./dom.js";
import {streamChat} from "./stream.js";

const EXAMPLE = [
  {
    type: "function",
    function: {
      name: "get_weather",
      description: "The weather of a city.",
      parameters: {type: "object", properties: {city: {type: "string"}}, required: ["city"]},
    },
  },
];

export class Chat {
  constructor() {
    this.model = ""; // the served one
    this.messages = [];
    this.abort = null;
    this.log = byId("conversation");
    byId("composer").addEventListener("submit", (event) => {
      event.preventDefault();
      this.send();
    });
    byId("prompt").addEventListener("keydown", (event) => {
      if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
      event.preventDefault();
      this.send();
    });
    byId("chat").addEventListener("keydown", (event) => event.key === "Escape" && this.stop());
    byId("stop").addEventListener("click", () => this.stop());
    byId("fresh").addEventListener("click", () => this.reset());
    byId("options").addEventListener("submit", (event) => event.preventDefault());
    byId("example-tool").addEventListener("click", () => (byId("tools").value = JSON.stringify(EXAMPLE, null, 2)));
  }

  reset() {
    this.stop();
    this.messages = [];
    this.log.replaceChildren(byId("empty") ?? this.empty);
    setText(byId("chat-status"), "");
    byId("prompt").focus();
  }

  stop() {
    this.abort?.abort();
  }

  /** The fields of the request that are filled in. Throws what is wrong with one. */
  options() {
    const found = {};
    const numbers = {temperature: "temperature", "max-tokens": "max_tokens", seed: "seed"};
    for (const [id, name] of Object.entries(numbers)) {
      const field = byId(id);
      if (!field.checkValidity()) {
        field.reportValidity();
        throw new Error(`${name} is not valid`);
      }
      if (field.value !== "") found[name] = Number(field.value);
    }
    if (byId("thinking").value) found.enable_thinking = byId("thinking").value === "true";
    const tools = byId("tools").value.trim();
    if (!tools) return found;
    try {
      found.tools = JSON.parse(tools);
    } catch (error) {
      throw new Error(`the tools are not JSON: ${error.message}`);
    }
    return found;
  }

  async send() {
    const text = byId("prompt").value;
    if (this.abort || !text.trim()) return;
    this.say("user", text);
    byId("prompt").value = "";
    await this.answer();
  }

  say(role, text) {
    this.messages.push({role, content: text});
    this.append(h("article", {class: "turn said", "aria-label": "You"}, h("p", {class: "text"}, text)));
  }

  append(element) {
    this.empty ??= byId("empty");
    this.empty.remove();
    this.log.append(element);
    this.log.scrollTop = this.log.scrollHeight;
  }

  async answer() {
    const answer = new Answer();
    let problem = "";
    this.busy(new AbortController());
    this.append(answer.element);
    try {
      const system = byId("system").value;
      const messages = system.trim() ? [{role: "system", content: system}, ...this.messages] : this.messages;
      const model = this.model ? {model: this.model} : {};
      const body = {...model, messages, stream: true, stream_options: {include_usage: true}, ...this.options()};
      await streamChat(body, (chunk) => this.take(answer, chunk), this.abort.signal);
    } catch (error) {
      problem = error.name === "AbortError" ? "" : error.message;
      answer.finish = error.name === "AbortError" ? "you" : "an error";
    }
    answer.end(problem);
    this.keep(answer, problem);
    this.busy(null);
    setText(byId("chat-status"), problem ? "Failed." : "Done.");
    this.log.scrollTop = this.log.scrollHeight;
    if (!answer.calls.length) byId("prompt").focus();
  }

  take(answer, chunk) {
    const atEnd = this.log.scrollHeight - this.log.scrollTop - this.log.clientHeight < 40;
    answer.take(chunk);
    if (atEnd) this.log.scrollTop = this.log.scrollHeight;
  }

  /** Adds an answer to what the next request says. One without anything takes its question back with it. */
  keep(answer, problem) {
    if (!answer.content && !answer.calls.length) {
      if (problem) this.messages.pop();
      else this.messages.push({role: "assistant", content: ""});
      return;
    }
    this.messages.push(answer.message());
    if (answer.calls.length && answer.finish === "tool_calls") this.askResults(answer);
  }

  /** A form for the results of an answer's tool calls; sending it goes on with the conversation. */
  askResults(answer) {
    const fields = answer.calls.map(({name}) => h("textarea", {rows: "2", class: "mono", "aria-label": `Result of ${name}`}));
    const form = h(
      "form", {class: "results", onsubmit: (event) => {
        event.preventDefault();
        if (this.abort) return;
        answer.calls.forEach(({id}, i) => this.messages.push({role: "tool", tool_call_id: id, content: fields[i].value}));
        fields.forEach((field) => (field.readOnly = true));
        form.lastChild.remove();
        this.answer();
      }},
      ...fields.map((field, i) => h("label", {}, `Result of ${answer.calls[i].name} `, field)),
      h("button", {type: "submit"}, "Send results"),
    );
    answer.tools.append(form);
    fields[0].focus();
  }

  busy(abort) {
    this.abort = abort;
    byId("send").disabled = Boolean(abort);
    byId("stop").disabled = !abort;
    if (abort) setText(byId("chat-status"), "Answering …");
  }
}
