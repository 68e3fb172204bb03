// One answer on the page. What the model writes is put into text nodes only.

import {h, setShown, setText} from "./dom.js";
import {number} from "./format.js";

/** Text with ``` fences as nodes: code in <pre>, everything else as it is. Links, HTML and emphasis stay text. */
export function rendered(text) {
  const nodes = [];
  text.split(/^```/m).forEach((part, i) => {
    if (i % 2 === 0) {
      const words = part.replace(/^\n|\n$/g, "");
      if (words) nodes.push(h("p", {class: "text"}, words));
      return;
    }
    const [language, ...lines] = part.split("\n");
    nodes.push(h("pre", {class: "code mono", tabindex: "0", "aria-label": `Code ${language.trim()}`.trim()}, h("code", {}, lines.join("\n").replace(/\n$/, ""))));
  });
  return nodes;
}

function pretty(json) {
  try {
    return JSON.stringify(JSON.parse(json), null, 2);
  } catch {
    return json;
  }
}

function fold(kind, title) {
  const label = h("summary", {}, title), text = document.createTextNode("");
  return {label, text, element: h("details", {class: kind, open: true}, label, h("div", {class: "text mono"}, text))};
}

export class Answer {
  constructor() {
    this.content = this.reasoning = "";
    this.calls = []; // {id, name, arguments}
    this.folds = [];
    this.text = document.createTextNode("");
    this.body = h("div", {class: "content"}, h("p", {class: "text"}, this.text));
    this.thoughts = fold("reasoning", "Reasoning");
    this.thoughts.element.hidden = true;
    this.tools = h("div", {class: "tools"});
    this.note = h("span", {class: "quiet figures-line"});
    this.copy = h("button", {type: "button", onclick: () => this.copied()}, "Copy");
    this.footer = h("footer", {hidden: true}, this.copy, this.note);
    this.element = h("article", {class: "turn answer", "aria-label": "Answer", "aria-busy": "true"}, this.thoughts.element, this.body, this.tools, this.footer);
    this.started = performance.now();
    this.first = NaN;
    this.usage = null;
    this.finish = this.fingerprint = "";
  }

  take(chunk) {
    this.usage = chunk.usage ?? this.usage;
    this.fingerprint = chunk.system_fingerprint ?? this.fingerprint;
    const choice = chunk.choices[0];
    if (!choice) return;
    const {content, reasoning, tool_calls: calls} = choice.delta;
    if (Number.isNaN(this.first) && (content || reasoning || calls)) this.first = performance.now();
    if (content) {
      this.content += content;
      this.text.appendData(content);
    }
    if (reasoning) {
      this.reasoning += reasoning;
      this.thoughts.text.appendData(reasoning);
      this.thoughts.element.hidden = false;
    }
    for (const call of calls ?? []) this.takeCall(call);
    this.finish = choice.finish_reason ?? this.finish;
  }

  takeCall({index, id, function: {name, arguments: text}}) {
    if (!this.calls[index]) {
      this.calls[index] = {id, name, arguments: ""};
      this.folds[index] = fold("tool", "");
      setText(this.folds[index].label, `Tool call: ${name}`);
      this.tools.append(this.folds[index].element);
    }
    this.calls[index].arguments += text ?? "";
    this.folds[index].text.appendData(text ?? "");
  }

  /** Shows the answer as a whole: code as code, arguments indented, figures. */
  end(problem = "") {
    this.body.replaceChildren(...rendered(this.content));
    this.calls.forEach((call, i) => (this.folds[i].text.data = pretty(call.arguments)));
    if (this.reasoning) setText(this.thoughts.label, `Reasoning, ${this.reasoning.length.toLocaleString("en")} characters`);
    if (this.reasoning && this.content) this.thoughts.element.open = false;
    if (problem) this.body.append(h("p", {class: "problem", role: "alert"}, problem));
    setText(this.note, this.figures());
    setShown(this.copy, Boolean(this.content));
    this.footer.hidden = false;
    this.element.setAttribute("aria-busy", "false");
  }

  figures() {
    const now = performance.now(), tokens = this.usage?.completion_tokens;
    const seconds = (now - this.first) / 1000;
    return [
      this.finish && `ended by ${this.finish}`,
      tokens && `${tokens} tokens`,
      tokens > 1 && seconds > 0 && `${number((tokens - 1) / seconds)} tokens/s`,
      this.first > 0 && `first after ${Math.round(this.first - this.started)} ms`,
      this.fingerprint,
    ].filter(Boolean).join(" · ");
  }

  message() {
    const message = {role: "assistant", content: this.content};
    if (this.calls.length) {
      message.tool_calls = this.calls.map(({id, name, arguments: text}) => ({id, type: "function", function: {name, arguments: text}}));
    }
    return message;
  }

  async copied() {
    let done = true;
    try {
      await navigator.clipboard.writeText(this.content);
    } catch {
      done = false; // no clipboard without TLS: the text is marked, so that the keyboard copies it
      getSelection().selectAllChildren(this.body);
    }
    setText(this.copy, done ? "Copied" : "Selected");
    setTimeout(() => setText(this.copy, "Copy"), 1500);
  }
}
