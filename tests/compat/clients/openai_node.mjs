// openai, the npm package.
import assert from "node:assert";
import OpenAI, { BadRequestError, APIError } from "openai";
import { zodResponseFormat } from "openai/helpers/zod";
import { z } from "zod";

const client = (url) => new OpenAI({ baseURL: `${url}/v1`, apiKey: "unused", maxRetries: 0 });
const question = (f) => [{ role: "user", content: f.QUESTION }];
const tool = (f) => ({
  type: "function",
  function: { name: f.WEATHER, description: f.WEATHER_DESCRIPTION, parameters: f.WEATHER_SCHEMA },
});

export async function chat({ url, model }, f) {
  const answer = await client(url).chat.completions.create({ model, messages: question(f), temperature: 0 });
  assert(answer.choices[0].message.content.includes(f.ANSWER));
}

export async function streaming({ url, model }, f) {
  const call = { model, messages: question(f), temperature: 0, stream: true };
  let text = "";
  for await (const piece of await client(url).chat.completions.create(call)) {
    text += piece.choices[0]?.delta.content ?? "";
  }
  assert(text.includes(f.ANSWER));
}

export async function tools({ url, model }, f) {
  const messages = [{ role: "user", content: f.WEATHER_QUESTION }];
  const call = { model, messages, tools: [tool(f)], temperature: 0 };
  const { message } = (await client(url).chat.completions.create(call)).choices[0];
  const used = message.tool_calls[0];
  assert.deepStrictEqual(JSON.parse(used.function.arguments), { city: f.WEATHER_CITY });
  messages.push(message, { role: "tool", tool_call_id: used.id, content: f.WEATHER_RESULT });
  const answer = await client(url).chat.completions.create(call);
  assert(answer.choices[0].message.content.includes(f.WEATHER_ANSWER));
}

export async function forced_tool({ url, model }, f) {
  const tool_choice = { type: "function", function: { name: f.WEATHER } };
  const call = { model, messages: question(f), tools: [tool(f)], tool_choice, temperature: 0 };
  const used = (await client(url).chat.completions.create(call)).choices[0].message.tool_calls[0];
  assert.deepStrictEqual(Object.keys(JSON.parse(used.function.arguments)), ["city"]);
}

export async function structured_output({ url, model }, f) {
  const response_format = zodResponseFormat(z.object({ even: z.boolean() }), "parity");
  const call = { model, messages: question(f), response_format, temperature: 0 };
  const answer = await client(url).chat.completions.parse(call);
  assert.strictEqual(typeof answer.choices[0].message.parsed.even, "boolean");
}

export async function reasoning({ thinking_url, thinking_model }, f) {
  const call = { model: thinking_model, messages: question(f) };
  const { message } = (await client(thinking_url).chat.completions.create(call)).choices[0];
  assert.strictEqual(message.reasoning_content.trim(), f.THOUGHT);
  assert.strictEqual(message.content.trim(), f.THOUGHT_ANSWER);
}

export async function completions({ url, model }, f) {
  const answer = await client(url).completions.create({ model, prompt: f.COMPLETION_PROMPT, temperature: 0 });
  assert(answer.choices[0].text.includes(f.ANSWER));
}

export async function logprobs({ url, model }, f) {
  const call = { model, messages: question(f), temperature: 0, logprobs: true, top_logprobs: 2 };
  const tokens = (await client(url).chat.completions.create(call)).choices[0].logprobs.content;
  assert(tokens.length > 0 && tokens.every((token) => token.logprob <= 0 && token.top_logprobs.length === 2));
}

export async function responses({ url, model }, f) {
  const answer = await client(url).responses.create({ model, input: f.QUESTION, temperature: 0 });
  assert(answer.output_text.includes(f.ANSWER));
}

export async function seed({ url, model }) {
  const messages = [{ role: "user", content: "hello" }];
  const call = { model, messages, temperature: 1.5, seed: 5, max_tokens: 20 };
  const first = await client(url).chat.completions.create(call);
  const again = await client(url).chat.completions.create(call);
  assert.strictEqual(first.choices[0].message.content, again.choices[0].message.content);
}

export async function errors({ url, model }, f) {
  const messages = [{ role: "user", content: f.TOO_LONG }];
  await assert.rejects(client(url).chat.completions.create({ model, messages }), (error) => {
    return error instanceof BadRequestError && error.code === "context_length_exceeded";
  });
}

export async function embeddings({ url, model }) {
  await assert.rejects(client(url).embeddings.create({ model, input: "a" }), (error) => {
    return error instanceof APIError && error.status === 501;
  });
}
