// One streamed chat completion: the events of the API as calls of `take`.

import {keyHeaders} from "./key.js";

/** Calls take(chunk) for each event. Throws what went wrong, in one line. */
export async function streamChat(body, take, signal) {
  const answer = await fetch("../v1/chat/completions", {
    method: "POST",
    headers: {...keyHeaders(), "Content-Type": "application/json"},
    body: JSON.stringify(body),
    signal,
  });
  if (!answer.ok) throw new Error(await reason(answer));
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  let text = "";
  for (;;) {
    const {done, value} = await reader.read();
    if (done) throw new Error("the stream ended before its end was announced");
    text += value;
    const events = text.split(/\r?\n\r?\n/);
    text = events.pop();
    for (const event of events) {
      const data = event.split(/\r?\n/).filter((line) => line.startsWith("data:")).map((line) => line.slice(5).trim()).join("\n");
      if (data === "[DONE]") return;
      if (!data) continue;
      const chunk = JSON.parse(data);
      if (chunk.error) throw new Error(chunk.error.message);
      take(chunk);
    }
  }
}

async function reason(answer) {
  try {
    return (await answer.json()).error.message;
  } catch {
    return `the router answers ${answer.status}`;
  }
}
