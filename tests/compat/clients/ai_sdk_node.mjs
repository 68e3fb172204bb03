// Vercel's AI SDK: the npm package `ai` with its provider for OpenAI-compatible servers.
import assert from "node:assert";
import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import { APICallError, generateText, Output, stepCountIs, streamText, tool } from "ai";
import { z } from "zod";

const provider = (url) => createOpenAICompatible({
  name: "caracal", baseURL: `${url}/v1`, apiKey: "unused", supportsStructuredOutputs: true,
});
const call = ({ url, model }, prompt) => ({ model: provider(url)(model), prompt, temperature: 0, maxRetries: 0 });
const weather = (f, cities) => tool({
  description: f.WEATHER_DESCRIPTION,
  inputSchema: z.object({ city: z.string() }),
  execute: async ({ city }) => {
    cities.push(city);
    return JSON.parse(f.WEATHER_RESULT);
  },
});

export async function chat(servers, f) {
  assert((await generateText(call(servers, f.QUESTION))).text.includes(f.ANSWER));
}

export async function streaming(servers, f) {
  let text = "";
  for await (const piece of streamText(call(servers, f.QUESTION)).textStream) text += piece;
  assert(text.includes(f.ANSWER));
}

export async function tools(servers, f) {
  const cities = [];
  const more = { tools: { [f.WEATHER]: weather(f, cities) }, stopWhen: stepCountIs(3) };
  const answer = await generateText({ ...call(servers, f.WEATHER_QUESTION), ...more });
  assert.deepStrictEqual(cities, [f.WEATHER_CITY]);
  assert(answer.text.includes(f.WEATHER_ANSWER));
}

export async function forced_tool(servers, f) {
  const more = { tools: { [f.WEATHER]: weather(f, []) }, toolChoice: { type: "tool", toolName: f.WEATHER } };
  const answer = await generateText({ ...call(servers, f.QUESTION), ...more });
  assert.deepStrictEqual(Object.keys(answer.toolCalls[0].input), ["city"]);
}

export async function structured_output(servers, f) {
  const output = Output.object({ schema: z.object({ even: z.boolean() }) });
  const answer = await generateText({ ...call(servers, f.QUESTION), output });
  assert.strictEqual(typeof answer.output.even, "boolean");
}

export async function reasoning({ thinking_url, thinking_model }, f) {
  const answer = await generateText({ model: provider(thinking_url)(thinking_model), prompt: f.QUESTION });
  assert.strictEqual(answer.reasoningText.trim(), f.THOUGHT);
  assert.strictEqual(answer.text.trim(), f.THOUGHT_ANSWER);
}

export async function completions({ url, model }, f) {
  const text = { model: provider(url).completionModel(model), prompt: f.QUESTION, temperature: 0 };
  assert((await generateText({ ...text, maxRetries: 0 })).text.length > 0);
}

export async function seed(servers) {
  const more = { temperature: 1.5, seed: 5, maxOutputTokens: 20 };
  const first = await generateText({ ...call(servers, "hello"), ...more });
  const again = await generateText({ ...call(servers, "hello"), ...more });
  assert.strictEqual(first.text, again.text);
}

export async function errors(servers, f) {
  await assert.rejects(generateText(call(servers, f.TOO_LONG)), (error) => {
    return APICallError.isInstance(error) && error.statusCode === 400 && error.message.includes("4096");
  });
}
